"""Functions for trainings of a few steps."""


def with_dropout(model, share: float):
    """`model` with the dropout rate `share` in its decoder."""
    for module in model.decoder.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = share
    return model


def logged(trainer, name):
    """The logged values of `name` by step."""
    return {line["step"]: line[name] for line in trainer.state.log_history if name in line}
