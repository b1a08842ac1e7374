"""Images, folders and tables to ask a model about, without answers -> rows, images still encoded."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import PIL.Image
from datasets import Dataset, concatenate_datasets

from .columns import REQUIRED_COLUMNS, find_columns
from .errors import DataError
from .paths import ImageRoots
from .rows import with_own_columns
from .table_files import TABLE_SUFFIXES
from .tables import load_table

TABLES = (*TABLE_SUFFIXES, ".parquet")
COLUMNS = [*REQUIRED_COLUMNS, "image_file"]


def load_new_rows(
    sources: Sequence[str],
    questions: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    allow_outside_images: bool = False,
    image_folder: str | None = None,
) -> Dataset:
    """Rows like those of `load_rows`, with image, question, answer and image_file; a missing answer is "".

    If a table has lists of right answers, all rows have a column answers.

    Args:
        sources: images, folders that are searched for images, and tables (.csv, .json, .jsonl, .parquet) with a column
            of images and, if they have them, of questions and answers. Image paths are relative to the table.
        questions: asked about each image that has no question.
        columns: as for `load_rows`; a table may have no column of answers.
        allow_outside_images, image_folder: as for `load_rows`, of the images of tables.

    Raises:
        DataError: a source is missing or holds no image, a table has no column of images, or an image has no question
            and `questions` is empty.
    """
    parts = [load_source(Path(source), columns or {}, allow_outside_images, image_folder) for source in sources]
    if any("answers" in part.column_names for part in parts):
        parts = [part if "answers" in part.column_names else with_answer_lists(part) for part in parts]
    rows = concatenate_datasets(parts)
    asked = rows["question"][:]
    if "" in asked and not questions:
        name = rows[asked.index("")]["image_file"] or "an image"
        raise DataError(
            f"{name} comes without a question: say what is asked about such images with --predict_question."
        )
    order = [row for row, question in enumerate(asked) for _ in ([question] if question else questions)]
    texts = [text for question in asked for text in ([question] if question else questions)]
    return rows.select(order).remove_columns("question").add_column("question", texts)


def load_source(
    source: Path, columns: Mapping[str, str], allow_outside_images: bool, image_folder: str | None
) -> Dataset:
    """The rows of an image, a folder of images or a table; DataError if there is no image."""
    if source.is_file() and source.suffix in TABLES:
        return load_new_table(source, columns, allow_outside_images, image_folder)
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if is_image_file(path))
    if not files:
        raise DataError(
            f"{source} is missing or holds no image: give images, folders of images or tables ({', '.join(TABLES)})."
        )
    paths, nothing = [str(path) for path in files], [""] * len(files)
    rows = Dataset.from_dict({"image": paths, "question": nothing, "answer": nothing})
    roots = ImageRoots.of(Path.cwd(), allow_outside=True)  # the user named the files
    return with_own_columns(rows, {}, roots, str(source))


def is_image_file(path: Path) -> bool:
    """Whether the file's name ends like an image that Pillow opens and the file is not hidden."""
    image_format = PIL.Image.registered_extensions().get(path.suffix.lower())
    return image_format in PIL.Image.OPEN and not path.name.startswith(".")


def load_new_table(
    path: Path, columns: Mapping[str, str], allow_outside_images: bool, image_folder: str | None
) -> Dataset:
    """The rows of a table, which may lack questions and answers."""
    rows = load_table(path)
    # The column of answers may be named for the data set of the training; a table without it is no error.
    own = {name: column for name, column in columns.items() if name != "answer" or column in rows.column_names}
    found = find_columns(rows, own, path.name, ("image",)).values()
    for name in ("question", "answer"):
        if name not in found:
            rows = rows.add_column(name, [""] * len(rows))
    roots = ImageRoots.of(path.parent.absolute(), allow_outside_images, image_folder)
    own_rows = with_own_columns(rows, own, roots, path.name)
    return own_rows.select_columns([*COLUMNS, *(["answers"] if "answers" in own_rows.column_names else [])])


def with_answer_lists(rows: Dataset) -> Dataset:
    """`rows` with a column answers, a list of the one answer of each row."""
    return rows.add_column("answers", [[answer] for answer in rows["answer"][:]])
