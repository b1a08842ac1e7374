"""MMJepa answers questions about pathology images.

`import mmjepa` is quick: its classes, and with them PyTorch, are imported where they are first used. From then on
transformers' Auto classes load its checkpoints with this code, without asking whether the code inside the checkpoint
may be run.
"""

from importlib import import_module

MODULES = {
    "MMJepaConfig": "configuration_mmjepa",
    "MMJepaForConditionalGeneration": "modeling_mmjepa",
    "MMJepaProcessor": "processing_mmjepa",
}


def __getattr__(name: str):
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{MODULES[name]}", __name__), name)


def register_auto_classes() -> None:
    """Makes the package known to transformers' Auto classes; those of models need PyTorch."""
    import transformers

    from .configuration_mmjepa import AUTO_MODEL_CLASSES, MMJepaConfig
    from .processing_mmjepa import MMJepaProcessor

    transformers.AutoConfig.register(MMJepaConfig.model_type, MMJepaConfig, exist_ok=True)
    transformers.AutoProcessor.register(MMJepaConfig, MMJepaProcessor, exist_ok=True)
    if transformers.utils.is_torch_available():
        from .modeling_mmjepa import MMJepaForConditionalGeneration

        for model_class in AUTO_MODEL_CLASSES:
            getattr(transformers, model_class).register(MMJepaConfig, MMJepaForConditionalGeneration, exist_ok=True)


__all__ = ["MMJepaConfig", "MMJepaForConditionalGeneration", "MMJepaProcessor"]  # noqa: F822
