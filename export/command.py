"""The command line of both exports."""

import argparse
from collections.abc import Callable

from ..evaluation.loading import load_model_and_processor
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor


def export_saved_model(
    export: Callable[[MMJepaForConditionalGeneration, MMJepaProcessor, str], None],
    result: str,
    argv: list[str] | None = None,
) -> None:
    """Exports a model to a folder; the command line names both.

    Args:
        export: is called with the model, its processor and the folder.
        result: what it writes, for `--help`.
        argv: by default the process's own arguments.
    """
    parser = argparse.ArgumentParser(description=f"Writes a saved model as {result}.")
    parser.add_argument("model", help="A folder or Hub id of a saved MMJepa.")
    parser.add_argument("folder", help=f"Where to write {result}.")
    arguments = parser.parse_args(argv)
    export(*load_model_and_processor(arguments.model), arguments.folder)
