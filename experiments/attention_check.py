"""Checks whether attention maps show what answers are read from.

    python -m mmjepa.experiments.attention_check runs/drawn_slides --model runs/demo

Two tables are printed. **Places**: of the "where" questions that a ninth of the image answers ("upper left"), how many
have their right ninth as the one with most attention. **Deletion**: how far the probability of the model's answer
falls if a part of the image is covered with the image's mean colour: what was looked at most, as much at random, and
what was looked at least (the deletion test of Petsiuk et al. 2018, arXiv 1806.07421, of parts of equal size).
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from torch.nn import functional as F

from ..data.images import VqaData, prepare
from ..data.rows import load_rows
from ..evaluation.answerer import Answerer, evaluating
from ..evaluation.asking import load_saved
from ..evaluation.attention import PLACES, attention_maps, ninths
from ..evaluation.controls import right_answers_of_row, rows_are_correct, with_answers
from ..evaluation.intervals import mean_interval
from ..evaluation.shares import batches
from ..metrics.vqa_answers.rules import normalize_answer
from ..metrics.vqa_answers.vqa_answers import question_kind
from ..reporting.table import markdown_table, percent

SEEDS = range(5)  # of the parts that are covered at random
BATCH_SIZE = 128  # questions at once


@dataclass
class Looks:
    """The model's answers to R questions and where it looked while it wrote them.

    rows: of the questions, with image_id, question, answer and prediction.
    probabilities (R,): of the predictions.
    maps (R, h, w): of `attention_maps`.
    """

    rows: list[dict]
    probabilities: np.ndarray
    maps: torch.Tensor


def look(answerer: Answerer, data: VqaData) -> Looks:
    """Answers all questions of `data`. ValueError if the decoder of this model looks at no patches."""
    rows, image_ids = data.questions.to_list(), list(data.questions["image_id"])
    questions = [row["question"] for row in rows]
    features = answerer.encode_all_images(data.pixels)
    predictions = answerer.answer_questions(questions, features, image_ids)
    probabilities = answerer.answer_probabilities(questions, predictions, features, image_ids)
    model, processor = answerer.model, answerer.processor
    maps = []
    for batch in batches(range(len(rows)), answerer.batch_size):
        asked, answered = ([texts[row] for row in batch] for texts in (questions, predictions))
        pixel_values = pixels_of(answerer, data, [image_ids[row] for row in batch])  # (B, 3, H, W)
        with evaluating(model):
            looked_at = model.get_image_features(pixel_values)
        grid = model.encoder.patch_grid(pixel_values)
        found = attention_maps(model, processor, asked, answered, looked_at, grid)  # (B, h, w)
        if found is None:
            raise ValueError("the visual tokens of this model read no patches: give one with visual_prefix patches.")
        maps.append(found)
    rows = [row | {"prediction": text} for row, text in zip(rows, predictions, strict=True)]
    return Looks(rows, np.array(probabilities), torch.cat(maps))


def pixels_of(answerer: Answerer, data: VqaData, image_ids: Sequence[int]) -> torch.Tensor:
    """The images of B questions (B, 3, H, W), normalised."""
    ids, places = np.unique(image_ids, return_inverse=True)
    pixels = data.pixels[ids.tolist()]["pixels"].to(answerer.model.device)  # (I, 3, H, W)
    return answerer.normalized(pixels)[places]


def place_table(looks: Looks) -> list[dict[str, str]]:
    """For the "where" questions that a ninth answers: whether it has most attention, and what needs no map.

    No row where there is no such question.
    """
    truths = [normalize_answer(right_answers_of_row(row)[0]) for row in looks.rows]
    asked = [
        number
        for number, (row, truth) in enumerate(zip(looks.rows, truths, strict=True))
        if question_kind(row["question"]) == "where" and truth in PLACES
    ]
    if not asked:
        return []
    right = np.array([PLACES.index(truths[number]) for number in asked])  # (W,)
    shares = ninths(looks.maps[asked]).numpy()  # (W, 9)
    correct = np.array(rows_are_correct([looks.rows[number] for number in asked]))
    ((_, most_common),) = Counter(right.tolist()).most_common(1)
    table = []
    for name, kept in (("all", np.ones_like(correct)), ("answered right", correct), ("answered wrong", ~correct)):
        if kept.any():
            found = shares[kept].argmax(axis=1) == right[kept]
            table.append(
                {
                    "where": name,
                    "questions": str(kept.sum()),
                    "right ninth first": str(found.sum()),
                    "in %": percent(found.mean()),
                    "its share of the map, %": percent(shares[kept][np.arange(kept.sum()), right[kept]].mean()),
                }
            )
    floors = {"a ninth at random": 1 / len(PLACES), "the ninth that is right most often": most_common / len(asked)}
    return table + [
        {"where": name, "questions": "-", "right ninth first": "-", "in %": percent(share)}
        | {"its share of the map, %": percent(1 / len(PLACES))}
        for name, share in floors.items()
    ]


def deletion_table(answerer: Answerer, data: VqaData, looks: Looks) -> list[dict[str, str]]:
    """How far covering a ninth, and two ninths, of the patches lowers the probabilities, by kind of question."""
    kinds = np.array([question_kind(row["question"]) for row in looks.rows])
    image_ids = [row["image_id"] for row in looks.rows]
    by_attention = looks.maps.flatten(1).argsort(dim=1, descending=True)  # (R, P)
    num_patches = by_attention.shape[1]
    table = []
    for ninth in (1, 2):
        count = max(1, round(ninth * num_patches / 9))
        falls = {
            "looked at most": probability_falls(answerer, data, looks, by_attention[:, :count]),
            "at random": np.mean(
                [
                    probability_falls(answerer, data, looks, random_patches(by_attention.shape, seed)[:, :count])
                    for seed in SEEDS
                ],
                axis=0,
            ),
            "looked at least": probability_falls(answerer, data, looks, by_attention[:, -count:]),
        }
        for kind in ("all", *sorted(set(kinds))):
            kept = np.ones(len(kinds), bool) if kind == "all" else kinds == kind
            difference = np.where(kept, falls["looked at most"] - falls["at random"], np.nan)
            mean, low, high = mean_interval(difference, image_ids, seed=0, least=-1)
            table.append(
                {"covered": f"{count} of {num_patches} patches", "questions": kind.replace("_", " ")}
                | {"number": str(kept.sum())}
                | {name: percent(fall[kept].mean()) for name, fall in falls.items()}
                | {"most - random (95 %)": f"{percent(mean)} ({percent(low)} to {percent(high)})"}
            )
    return table


def random_patches(shape: Sequence[int], seed: int) -> torch.Tensor:
    """For each of R questions its P patches in a random order (R, P)."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)


def probability_falls(answerer: Answerer, data: VqaData, looks: Looks, patches: torch.Tensor) -> np.ndarray:
    """How far the probability of each of R predictions falls (R,) if `patches` (R, K) of its image are covered."""
    grid = looks.maps.shape[1:]
    covered: list[float] = []
    for batch in batches(range(len(looks.rows)), answerer.batch_size):
        rows = [looks.rows[number] for number in batch]
        pixel_values = pixels_of(answerer, data, [row["image_id"] for row in rows])  # (B, 3, H, W)
        pixel_values = cover(pixel_values, patches[list(batch)], grid)
        with evaluating(answerer.model):
            features = answerer.model.get_image_features(pixel_values)
        questions, predictions = ([row[name] for row in rows] for name in ("question", "prediction"))
        covered += answerer.answer_probabilities(questions, predictions, features, range(len(rows)))
    return looks.probabilities - np.array(covered)


def cover(pixel_values: torch.Tensor, patches: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Images (B, 3, H, W) with `patches` (B, K), places in a `grid` of h x w, in the mean colour of each image."""
    height, width = grid
    mask = torch.zeros(len(patches), height * width).scatter(1, patches, 1.0)  # (B, P)
    mask = F.interpolate(mask.view(-1, 1, height, width), pixel_values.shape[2:], mode="nearest")  # (B, 1, H, W)
    colours = pixel_values.mean(dim=(2, 3), keepdim=True)  # (B, 3, 1, 1)
    return torch.where(mask.to(pixel_values.device) > 0, colours, pixel_values)


def read_questions(dataset_name: str, split: str) -> Dataset:
    """The rows of a split that have a question and an answer. ValueError where there are none."""
    rows = load_rows(dataset_name, wanted=[split])
    asked = with_answers(rows[split]) if split in rows else []
    if len(asked) == 0:
        raise ValueError(f"{dataset_name} has no split {split} with questions and answers: name another --split.")
    return asked


def main(argv: list[str] | None = None) -> None:
    """Prints how much of the attention the images have, and both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_name", help="a folder, a table or a Hub id, as for training")
    parser.add_argument("--model", default="runs/demo", help="folder or Hub id of a saved model")
    parser.add_argument("--split", default="validation", help="the split whose questions are asked")
    args = parser.parse_args(argv)
    disable_progress_bars()
    model, processor = load_saved(args.model)
    data = prepare(read_questions(args.dataset_name, args.split), processor.image_processor)
    answerer = Answerer(model, processor, BATCH_SIZE)
    looks = look(answerer, data)
    shares = looks.maps.sum(dim=(1, 2)).numpy()
    low, middle, high = np.quantile(shares, (0.05, 0.5, 0.95))
    print(
        f"{len(shares)} questions about {len(data.pixels)} images. The image has {percent(shares.mean())} % of the "
        f"decoder's attention in the mean, {percent(middle)} % in the median; nine of ten questions lie between "
        f"{percent(low)} and {percent(high)} %.\n"
    )
    if places := place_table(looks):
        print("Where the right ninth of the image has most attention:\n")
        print(markdown_table(places) + "\n")
    print("By how many points the answer's probability falls if patches are covered:\n")
    print(markdown_table(deletion_table(answerer, data, looks)))


if __name__ == "__main__":
    main()
