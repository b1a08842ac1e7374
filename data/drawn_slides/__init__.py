"""Small histology-like slides drawn from a seed, with questions whose answers can be seen in them.

The built-in data set: a new machine without network trains on it. A slide has one of four stains, nuclei of one shape
and one density, and findings in some of the eight border cells of a 3 x 3 grid. The questions follow PathVQA's
statistics: 7.6 questions per image, half of them yes/no, short lower-case sentences. No answer follows from its
question.

    python -m mmjepa.data.drawn_slides slides --num_train 2000 --num_validation 200
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from .painting import draw_slide
from .questions import ask_questions

SPLITS = ("train", "validation", "test")
EXAMPLE_QUESTION = "where is the gland?"


def drawn_slides(
    split: str, num_slides: int, seed: int = 0, image_size: int = 96
) -> Iterator[tuple[PILImage.Image, list[tuple[str, str]]]]:
    """The slides of a split, each with its questions and answers.

    The same seed draws the same slides, whatever their number.

    Raises:
        ValueError: `image_size` is below 32 pixels, where the shapes of nuclei can't be told apart.
    """
    if image_size < 32:
        raise ValueError(f"image_size is {image_size}: slides have at least 32 pixels a side, the default is 96.")
    for index in range(num_slides):
        # Each slide has its own generator: more slides never change the earlier ones.
        rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
        image, facts = draw_slide(rng, image_size)
        yield image, ask_questions(rng, facts)


def write_drawn_slides(
    folder: str | Path, num_train: int, num_validation: int, num_test: int = 0, seed: int = 0, image_size: int = 96
) -> None:
    """Writes a table per split, with PathVQA's columns `image`, `question` and `answer`, and a file per slide.

    Rows about one slide are adjacent. A split without slides has no table. The last file is `example.png`, the first
    slide of the validation split with the question `EXAMPLE_QUESTION`, if there is one.

    Raises:
        ValueError: as for `drawn_slides`.
    """
    folder, example = Path(folder), None
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split, number in zip(SPLITS, (num_train, num_validation, num_test), strict=True):
        rows = []
        for index, (image, asked) in enumerate(drawn_slides(split, number, seed, image_size)):
            name = f"images/{split}_{index:05d}.png"
            image.save(folder / name, compress_level=3)
            rows += [(name, *pair) for pair in asked]
            if split == "validation" and example is None and EXAMPLE_QUESTION in dict(asked):
                example = image
        if number:
            with open(folder / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("image", "question", "answer"), *rows])
    if example is not None:
        example.save(folder / "example.png", compress_level=3)
