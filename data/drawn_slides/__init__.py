"""Small histology-like slides drawn from a seed, with questions whose answers can be seen in them.

The built-in data set: a new machine without network trains on it. A slide has one of four stains, nuclei of one shape
and one density, and findings in some of the eight border cells of a 3 x 3 grid. The questions follow PathVQA's
statistics: 7.6 questions per image, half of them yes/no, short lower-case sentences. No answer follows from its
question.

    python -m mmjepa.data.drawn_slides slides --num_train 2000 --num_validation 200
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image, Value

from .painting import draw_slide
from .questions import ask_questions

SPLITS = ("train", "validation", "test")
FEATURES = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
EXAMPLE_QUESTION = "where is the gland?"


def _rows(split: str, num_slides: int, seed: int, image_size: int) -> Iterator[dict]:
    for index in range(num_slides):
        # Each slide has its own generator: more slides never change the earlier ones.
        rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
        image, facts = draw_slide(rng, image_size)
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=3)
        encoded = {"bytes": file.getvalue(), "path": None}
        for question, answer in ask_questions(rng, facts):
            yield {"image": encoded, "question": question, "answer": answer}


def drawn_slides(
    num_train: int, num_validation: int, num_test: int = 0, seed: int = 0, image_size: int = 96
) -> DatasetDict:
    """Drawn slides with PathVQA's columns `image`, `question` and `answer`, one row per question.

    Rows about one slide are adjacent and repeat its encoded bytes. A split of no slides is left out. The same seed
    draws the same bytes, whatever the number of slides.

    Raises:
        ValueError: `image_size` is below 32 pixels, where the shapes of nuclei can't be told apart.
    """
    if image_size < 32:
        raise ValueError(f"image_size is {image_size}: slides have at least 32 pixels a side, the default is 96.")
    numbers = dict(zip(SPLITS, (num_train, num_validation, num_test), strict=True))
    return DatasetDict(
        {
            split: Dataset.from_list(list(_rows(split, number, seed, image_size)), features=FEATURES)
            for split, number in numbers.items()
            if number
        }
    )


def write_drawn_slides(folder: str | Path, **arguments: int) -> None:
    """Writes `drawn_slides(**arguments)` as an ordinary `datasets` folder, which `load_from_disk` reads.

    Also writes `example.png`, the first slide of the validation split with the question `EXAMPLE_QUESTION`, if there
    is one.
    """
    slides = drawn_slides(**arguments)
    slides.save_to_disk(folder)
    for row in slides.cast_column("image", Image(decode=False)).get("validation", []):
        if row["question"] == EXAMPLE_QUESTION:
            Path(folder, "example.png").write_bytes(row["image"]["bytes"])
            break
