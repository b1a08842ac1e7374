"""Images that a model is asked about, from files, folders and tables without answers -> rows, images still encoded."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import PIL.Image
from datasets import Dataset, concatenate_datasets, load_dataset

from .images import image_paths
from .loading import REQUIRED_COLUMNS, TABLE_SUFFIXES, find_columns, load_table, with_own_columns

TABLES = (*TABLE_SUFFIXES, ".parquet")


def load_new_rows(
    sources: Sequence[str], questions: Sequence[str] = (), columns: Mapping[str, str] | None = None
) -> tuple[Dataset, list[str | None]]:
    """Rows as those of `load_rows`, whose answer is "" where there is none, and what each row's image is called.

    An image is called by its path: of a table as it stands there, else as `sources` give it. An image of a table that
    has no path is called None.

    Args:
        sources: images, folders that are searched for images, and tables (.csv, .json, .jsonl, .parquet) with a column
            of images and, if they have them, of questions and answers. Image paths are relative to the table.
        questions: asked about each image that has no question.
        columns: as for `load_rows`; a table may lack the answers'.

    Raises:
        ValueError: a source is missing or holds no image, a table has no column of images, or an image has no question
            and `questions` is empty.
    """
    parts, names = [], []
    for source in sources:
        rows, own_names = load_source(Path(source), columns or {})
        parts.append(rows)
        names += own_names
    rows = concatenate_datasets(parts)
    asked = list(rows["question"])
    if "" in asked and not questions:
        raise ValueError(
            f"{names[asked.index('')] or 'an image'} comes without a question: say what is asked about such images "
            "with --predict_question."
        )
    order = [row for row, question in enumerate(asked) for _ in ([question] if question else questions)]
    texts = [text for question in asked for text in ([question] if question else questions)]
    rows = rows.select(order).remove_columns("question").add_column("question", texts)
    return rows, [names[row] for row in order]


def load_source(source: Path, columns: Mapping[str, str]) -> tuple[Dataset, list[str | None]]:
    if source.is_file() and source.suffix in TABLES:
        return load_new_table(source, columns)
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if is_image_file(path))
    if not files:
        raise ValueError(
            f"{source} is missing or holds no image: give images, folders of images or tables ({', '.join(TABLES)})."
        )
    paths, nothing = [str(path) for path in files], [""] * len(files)
    rows = Dataset.from_dict({"image": paths, "question": nothing, "answer": nothing})
    return with_own_columns(rows, {}, Path.cwd(), str(source)), paths


def is_image_file(path: Path) -> bool:
    """Whether a file has the name of an image that Pillow opens, and is not hidden."""
    image_format = PIL.Image.registered_extensions().get(path.suffix.lower())
    return image_format in PIL.Image.OPEN and not path.name.startswith(".")


def load_new_table(path: Path, columns: Mapping[str, str]) -> tuple[Dataset, list[str | None]]:
    """The rows of a table, which may lack questions and answers, and its images' paths as they stand there."""
    if path.suffix == ".parquet":
        rows = load_dataset("parquet", data_files=str(path), split="train")
    else:
        rows = load_table(path)
    # A name of the answers' column is the data set's that the model was trained on.
    own = {name: column for name, column in columns.items() if name != "answer" or column in rows.column_names}
    found = {name: column for column, name in find_columns(rows.column_names, own, path.name, ("image",)).items()}
    for name in ("question", "answer"):
        if name not in found:
            rows = rows.add_column(name, [""] * len(rows))
    rows_here = with_own_columns(rows, own, path.parent.absolute(), path.name)
    return rows_here.select_columns(list(REQUIRED_COLUMNS)), image_paths(rows, found["image"])
