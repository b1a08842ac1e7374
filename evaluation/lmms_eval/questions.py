"""What the tasks of lmms-eval in this folder ask, and how they score the answers."""

from typing import Any

from datasets import Dataset, Image, concatenate_datasets
from PIL import Image as Pillow

from mmjepa.data.images import image_hashes
from mmjepa.evaluation.controls import other_images
from mmjepa.metrics.vqa_answers.rules import is_yes_no
from mmjepa.metrics.vqa_answers.vqa_answers import is_right

SEED = 0  # of the shuffled images: every model is asked about the same ones


def text_of(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, str]) -> str:
    """The question between what the task, or a model's own settings in it, put before and after."""
    return lmms_eval_specific_kwargs["pre_prompt"] + doc["question"] + lmms_eval_specific_kwargs["post_prompt"]


def images_of(doc: dict[str, Any]) -> list[Pillow.Image]:
    """The question's image."""
    return [doc["image"].convert("RGB")]


def black_images_of(doc: dict[str, Any]) -> list[Pillow.Image]:
    """A black image of the same size."""
    return [Pillow.new("RGB", doc["image"].size)]


def with_other_images(rows: Dataset) -> Dataset:
    """The same questions, each about an image that is not its own, as in this project's own control."""
    images = rows.select_columns("image")
    keys = image_hashes(images.cast_column("image", Image(decode=False)))
    first_rows = {key: row for row, key in reversed(list(enumerate(keys)))}
    others = other_images([first_rows[key] for key in keys], SEED)
    return concatenate_datasets([rows.remove_columns("image"), images.select(others)], axis=1)


def scores_of(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the answer is right, by this project's rule, and the same under the name of the question's group."""
    score = float(is_right(results[0], doc["answer"]))
    return {"accuracy": score, "yes_no_accuracy" if is_yes_no(doc["answer"]) else "open_accuracy": score}
