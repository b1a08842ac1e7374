"""MMJepa answers questions about pathology images.

`import mmjepa` is quick: its classes, and with them PyTorch, are imported where they are first used. From then on
transformers' Auto classes load its checkpoints with this code, without asking whether the code inside the checkpoint
may be run.
"""

from importlib import import_module
from importlib.metadata import version

MODULES = {
    "MMJepaConfig": "configuration_mmjepa",
    "MMJepaForConditionalGeneration": "modeling_mmjepa",
    "MMJepaProcessor": "processing_mmjepa",
}


def __getattr__(name: str):
    if name == "__version__":
        return version("mmjepa")  # setup.cfg has it
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # All of them: each makes its class known to the Auto classes.
    modules = {module: import_module(f".{module}", __name__) for module in MODULES.values()}
    return getattr(modules[MODULES[name]], name)


__all__ = ["MMJepaConfig", "MMJepaForConditionalGeneration", "MMJepaProcessor"]  # noqa: F822
