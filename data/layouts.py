"""The layouts in which publishers of this field give their data sets, told by their columns.

Nothing is read differently for a layout: a data set in another one needs no line here. Names of columns are in
`columns.py`, those of choices in `choices.py`, those of tables in `split_names.py`, and where a column divides a table
into splits, `splits_said` in `tables.py` says it.
"""

from collections.abc import Collection
from typing import NamedTuple


class Layout(NamedTuple):
    """A publisher's layout: the columns, in lower case, that only its tables have together."""

    name: str
    columns: frozenset[str]


def layout(name: str, *columns: str) -> Layout:
    """A line of `LAYOUTS`."""
    return Layout(name, frozenset(columns))


# The first that fits counts.
LAYOUTS = (
    layout("VQA-RAD", "image_name", "question", "answer", "phrase_type"),
    layout("VQA-RAD as in MEVF", "image_name", "question", "answer", "answer_type", "qid"),
    layout("SLAKE", "img_name", "question", "answer", "q_lang"),
    layout("PMC-VQA", "figure_path", "question", "answer", "choice a"),
    layout("OmniMedVQA", "image_path", "question", "gt_answer", "option_a"),
    layout("Quilt-VQA", "image", "question", "answer", "answer_type", "context"),
    layout("Kvasir-VQA", "source", "question", "answer", "img_id"),
    layout("VLMEvalKit", "index", "image", "question", "answer", "a", "b"),
    layout("PubMedVision", "image", "conversations", "modality", "body_part"),
    layout("LLaVA-Med", "image", "conversatons"),
    layout("LLaVA", "image", "conversations"),
    layout("VQA-Med, lines of image|question|answer", "img_id", "question", "answer"),
)


def layout_of(column_names: Collection[str]) -> str | None:
    """The name of the layout that a table has; None if it is none of these."""
    names = {name.lower() for name in column_names}
    return next((layout.name for layout in LAYOUTS if layout.columns <= names), None)
