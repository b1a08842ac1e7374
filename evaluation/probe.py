"""What can be read of frozen image embeddings: probes that are fitted to training images answer yes/no questions.

A probe needs no text. Where it knows an answer that the model's statements do not, the embedding is not at fault.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch.nn import functional as F

from ..data.images import VqaData
from ..data.statements import YesNoWords, sign_of
from .answerer import Answerer
from .controls import other_images
from .intervals import named_interval

LEAST_ROWS, LEAST_OF_EACH = 20, 5  # training rows of a question, and of each of its answers
MOST_ROWS = 4000  # training rows whose images are encoded
NEIGHBOURS, TEMPERATURE = 20, 0.07  # those of DINO (arXiv 2104.14294)
PENALTIES = np.geomspace(1e-3, 1e3, 13)  # of the ridge regression, as multiples of the mean squared singular value
PROBES = ("linear", "knn")


def score_probe(
    answerer: Answerer, columns: dict[str, list], image_embeds: torch.Tensor, train_data: VqaData, seed: int
) -> dict[str, float]:
    """How often probes of image embeddings answer yes/no questions rightly. Each question has probes of its own.

    Those are the questions of `probed_rows`.

    Args:
        columns: image_id, question and answer of the evaluated rows.
        image_embeds: of their N images, (N, D).
        train_data: training rows, none of which is evaluated.
        seed: of the shuffled images and the bootstrap.

    Returns:
        probe_linear_accuracy: share of the rows that `linear_probe` answers rightly; probe_knn_accuracy: that
            `nearest_probe` does. _low, _high: the 95 % interval, by a bootstrap over images.
        probe_linear_accuracy_shuffled, probe_knn_accuracy_shuffled: the same about other images.
        probe_accuracy_majority: share that the question's more frequent training answer gives.
        probe_linear_lead, probe_knn_lead, _low, _high: the accuracy less the majority's, by rows, with its interval.
        probe_linear_accuracy_macro, probe_knn_accuracy_macro, probe_accuracy_majority_macro: means over questions.
        probe_questions, probe_rows, probe_images: how many questions, rows and images were evaluated.

        An empty dict if no question counts.
    """
    words = answerer.model.config.yes_no_words
    train = probed_rows(train_data.questions, columns, words)
    asked = yes_no_rows(columns, words)
    asked = asked[asked["question"].isin(train["question"])]
    if asked.empty:
        return {}
    image_ids = np.array(columns["image_id"])[asked.index]
    asked = asked.assign(image_id=image_ids, other=other_images(image_ids.tolist()))
    encoded, places = np.unique(np.array(train_data.questions["image_id"][:])[train.index], return_inverse=True)
    features = answerer.encode_all_images(train_data.pixels.select(encoded))
    train_vectors = unit_vectors(features.image_embeds)[places]  # (n, D)
    vectors = unit_vectors(image_embeds)  # (N, D)

    parts = []
    for question, rows in asked.groupby("question"):
        examples = (train["question"] == question).to_numpy()
        known, answers = train_vectors[examples], train["yes"].to_numpy()[examples]
        called = {"majority": answers.mean() >= 0.5}
        for suffix, column in (("", "image_id"), ("_shuffled", "other")):
            of_rows = vectors[rows[column]]  # (r, D)
            called[f"linear{suffix}"] = linear_probe(known, answers, of_rows)
            called[f"knn{suffix}"] = nearest_probe(known, answers, of_rows)
        parts.append(rows.assign(**called))
    return probe_metrics(pd.concat(parts), seed)


def probed_rows(
    train_questions: Mapping[str, Sequence] | Dataset,
    asked: Mapping[str, Sequence] | Dataset,
    yes_no_words: YesNoWords,
) -> pd.DataFrame:
    """The training rows that probes are fitted to, as `yes_no_rows` gives them.

    They are of the asked questions that have at least 20 training rows, and 5 of each answer, among at most 4,000 rows
    drawn of all. The same rows are drawn each time.

    Args:
        train_questions, asked: columns question and answer.
    """
    rows = yes_no_rows(train_questions, yes_no_words)
    rows = rows[rows["question"].isin(yes_no_rows(asked, yes_no_words)["question"])]
    rows = rows.iloc[np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST_ROWS])]
    counts = rows.groupby("question")["yes"].agg(["size", "sum"])
    is_enough = (counts["size"] >= LEAST_ROWS) & counts["sum"].between(LEAST_OF_EACH, counts["size"] - LEAST_OF_EACH)
    return rows[rows["question"].isin(counts.index[is_enough])]


def yes_no_rows(table: Mapping[str, Sequence] | Dataset, yes_no_words: YesNoWords) -> pd.DataFrame:
    """The rows that are answered by yes or no: question in lower case, and yes, a truth. The index is their places."""
    signs = np.array([sign_of(answer, yes_no_words) for answer in table["answer"][:]], dtype=int)
    questions = [question.lower() for question in table["question"][:]]
    return pd.DataFrame({"question": questions, "yes": signs > 0})[signs != 0]


def unit_vectors(embeds: torch.Tensor) -> np.ndarray:
    """Embeddings (N, D) of length 1, in float64."""
    return F.normalize(embeds.float(), dim=-1).cpu().double().numpy()


def probe_metrics(rows: pd.DataFrame, seed: int) -> dict[str, float]:
    """The numbers of `score_probe`.

    Args:
        rows: the evaluated rows with image_id, question and yes, and what majority, linear, knn, linear_shuffled and
            knn_shuffled say in place of it.
    """
    called = ("majority", *PROBES, *(f"{probe}_shuffled" for probe in PROBES))
    correct = rows[list(called)].eq(rows["yes"], axis=0).astype(float)
    by_question = correct.groupby(rows["question"]).mean().mean()
    image_ids = rows["image_id"].tolist()
    metrics = {
        "probe_questions": rows["question"].nunique(),
        "probe_rows": len(rows),
        "probe_images": rows["image_id"].nunique(),
        "probe_accuracy_majority": float(correct["majority"].mean()),
        "probe_accuracy_majority_macro": float(by_question["majority"]),
    }
    for probe in PROBES:
        lead = correct[probe] - correct["majority"]
        metrics |= named_interval(f"probe_{probe}_accuracy", correct[probe].to_numpy(), image_ids, seed)
        metrics |= named_interval(f"probe_{probe}_lead", lead.to_numpy(), image_ids, seed, least=-1)
        metrics[f"probe_{probe}_accuracy_shuffled"] = float(correct[f"{probe}_shuffled"].mean())
        metrics[f"probe_{probe}_accuracy_macro"] = float(by_question[probe])
    return metrics


def linear_probe(known: np.ndarray, answers: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Whether yes is said of each of r `vectors` (r, D), by a ridge regression on n `known` ones (n, D) -> (r,) bool.

    Of `PENALTIES` the one with the least squared error is taken, each known vector left out of its own prediction.
    The singular values give these errors without fitting again (Golub, Heath and Wahba 1979).

    Args:
        answers: whether yes is said of the known ones, (n,) bool.
    """
    mean, targets = known.mean(axis=0), np.where(answers, 1.0, -1.0)
    offset = targets.mean()
    left, values, right = np.linalg.svd(known - mean, full_matrices=False)  # (n, K), (K,), (K, D)
    squares, projected = values**2, left.T @ (targets - offset)  # (K,) both
    penalties = PENALTIES * max(squares.mean(), 1e-12)
    errors = []
    for penalty in penalties:
        kept = squares / (squares + penalty)  # (K,)
        leverage = left**2 @ kept + 1 / len(known)  # (n,)
        residuals = (targets - offset - left @ (kept * projected)) / (1 - leverage)
        errors.append((residuals**2).mean())
    weights = right.T @ (values / (squares + penalties[np.argmin(errors)]) * projected)  # (D,)
    return (vectors - mean) @ weights + offset > 0


def nearest_probe(known: np.ndarray, answers: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Whether yes is said of each of r unit `vectors` (r, D), by the nearest of n `known` ones (n, D) -> (r,) bool.

    The 20 of the largest cosines vote, weighted by exp(cosine / 0.07) as in DINO.

    Args:
        answers: whether yes is said of the known ones, (n,) bool.
    """
    cosines = vectors @ known.T  # (r, n)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]  # (r, k)
    weights = np.exp(np.take_along_axis(cosines, nearest, axis=1) / TEMPERATURE)
    return (weights * np.where(answers, 1, -1)[nearest]).sum(axis=1) > 0
