"""What statements are worth without the decoder: they tell true from false, and answer questions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from datasets import Dataset

from ..data.statements import AnswerLists, YesNoWords, sign_of
from ..data.wrong_statements import COUNT_POWER
from ..encoder_mmjepa import MMJepaImageFeatures
from ..metrics.vqa_answers.rules import is_yes_no, normalize_answer
from ..metrics.vqa_answers.vqa_answers import as_list, right_answers
from .answerer import Answerer
from .calibration import calibration_error
from .controls import (
    WHOLE_QUESTION,
    are_correct,
    control_scores,
    majority_answers,
    right_answers_of,
    score_shuffles,
)
from .intervals import named_interval
from .search_scores import score_search
from .statement_scorer import StatementScorer

MOST_CANDIDATES = 50  # answers among which a question chooses
TEMPERATURES = np.geomspace(1 / 50, 50, 787)  # in steps of 1 %


def score_statements(
    answerer: Answerer,
    columns: dict[str, list],
    features: MMJepaImageFeatures,
    train_questions: Dataset,
    shuffles: Sequence[Sequence[int]],
    seed: int,
) -> dict[str, float]:
    """What the statements of a model are worth without its decoder. Adds by_statements to `columns`.

    Args:
        columns: image_id, question, answer and, where rows have lists, answers; at least one row.
        train_questions: all with answers. Without a row there are no answers to choose from, and no by_statements.
        shuffles: for each shuffle the other image of each row. Without any, nothing is compared with other images.
        seed: of the drawn wrong answers and the bootstrap.

    Returns:
        truth_temperature, the configuration's or, where it has none, the best one for these rows; and the numbers of
        `score_truth`, `score_answers_by_statements` and `score_search`.
    """
    scorer = StatementScorer(answerer, features)
    temperature = answerer.model.config.truth_temperature
    if temperature is None:
        temperature = best_temperature(*judged_logits(scorer, columns, train_questions, seed))
    metrics = {"truth_temperature": temperature}
    metrics |= score_truth(scorer, columns, train_questions, shuffles, temperature, seed)
    if len(train_questions) > 0:
        metrics |= score_answers_by_statements(scorer, columns, train_questions, shuffles, seed)
    return metrics | score_search(scorer, columns, shuffles, seed)


def judged_logits(
    scorer: StatementScorer, columns: dict[str, list], train_questions: Dataset, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The logits of all right answers, and of a wrong one to each question whose answer is not yes or no.

    Wrong answers are drawn as in training: of the training answers to the question, by count ** `COUNT_POWER`.
    """
    questions, image_ids, words = columns["question"], columns["image_id"], scorer.model.config.yes_no_words
    right = scorer.answer_logits(image_ids, questions, columns["answer"])
    lists, random = AnswerLists(train_questions, words), np.random.default_rng(seed)
    drawn: list[tuple[int, str, str]] = []
    for image_id, question, truth in zip(image_ids, questions, right_answers_of(columns), strict=True):
        if sign_of(as_list(truth)[0], words) == 0:
            known = right_answers(truth)
            answers, counts = lists.of(question)
            # The largest of log weight + Gumbel noise is drawn by weight; the others follow as if drawn after it.
            keys = COUNT_POWER * np.log(counts) + random.gumbel(size=len(answers))
            wrong = (answers[place] for place in np.argsort(-keys) if normalize_answer(answers[place]) not in known)
            drawn += [(image_id, question, answer) for answer in islice(wrong, 1)]
    wrong_answers = [list(column) for column in zip(*drawn, strict=True)] or [[], [], []]
    return right, scorer.answer_logits(*wrong_answers)


def best_temperature(right: np.ndarray, wrong: np.ndarray) -> float:
    """The temperature with the least log loss (Guo et al. 2017, arXiv 1706.04599), of `TEMPERATURES`.

    Args:
        right, wrong: logits of answers that are right, and of answers that are wrong.
    """
    margins = np.concatenate([right, -wrong])
    losses = [np.logaddexp(0, -margins / temperature).mean() for temperature in TEMPERATURES]
    return float(TEMPERATURES[np.argmin(losses)])


def score_truth(
    scorer: StatementScorer,
    columns: dict[str, list],
    train_questions: Dataset,
    shuffles: Sequence[Sequence[int]],
    temperature: float,
    seed: int,
) -> dict[str, float]:
    """Whether statements alone tell yes from no. A row counts if its answer, or its most frequent one, is yes or no.

    Args:
        shuffles: for each shuffle the other image of each row.

    Returns:
        truth_accuracy: share of rows whose statement is called true where the answer is yes, and false where it is
            no; truth_accuracy_low, _high: its 95 % interval.
        truth_accuracy_shuffled: the same about the other images, the mean over the shuffles.
        truth_accuracy_majority: of what is more frequent after the same first words in training.
        truth_gain, _low, _high: the accuracy less that about the other images, by rows, and its interval. A statement
            does not know how often its question is answered by yes: with frequent answers it is not compared.
        truth_auc: how often a true statement is more likely than a false one; truth_auc_vector: by the cosine to the
            image's vector. Only where there are both.
        truth_calibration_error and what `calibration_error` puts beside it: how far the probabilities are from the
            share of true statements.
        truth_images: how many images these rows are about.

        An empty dict if no row counts.
    """
    words = scorer.model.config.yes_no_words
    signs = np.array([sign_of(answer, words) for answer in columns["answer"]])
    rows = np.flatnonzero(signs).tolist()
    if not rows:
        return {}
    image_ids, questions = ([columns[name][row] for row in rows] for name in ("image_id", "question"))
    yes, _ = yes_no_spellings(train_questions["answer"][:], words)
    texts = [scorer.statement(question, yes).text for question in questions]
    truths = signs[rows] > 0
    logits = scorer.logits(image_ids, texts)
    correct = ((logits > 0) == truths).astype(float)
    metrics = named_interval("truth_accuracy", correct, image_ids, seed)
    if shuffles:
        others = [others[row] for others in shuffles for row in rows]
        about_others = scorer.logits(others, texts * len(shuffles)).reshape(len(shuffles), -1)  # (S, R)
        correct_shuffled = ((about_others > 0) == truths).mean(axis=0)  # (R,)
        metrics["truth_accuracy_shuffled"] = float(correct_shuffled.mean())
        metrics |= named_interval("truth_gain", correct - correct_shuffled, image_ids, seed, least=-1)
    for name, calls in majority_truths(train_questions, questions, words).items():
        metrics[f"truth_accuracy_{name}"] = float((calls == truths).mean())
    if 0 < truths.mean() < 1:
        metrics["truth_auc"] = area_under_curve(logits, truths)
        metrics["truth_auc_vector"] = area_under_curve(scorer.cosines(image_ids, texts), truths)
    probabilities = (1 + np.tanh(logits / temperature / 2)) / 2  # the sigmoid, without overflow
    calibration = calibration_error(probabilities, truths, image_ids, seed)
    metrics |= {f"truth_{name}": value for name, value in calibration.items()}
    return metrics | {"truth_images": len(set(image_ids))}


def majority_truths(
    train_questions: Dataset, questions: Sequence[str], yes_no_words: YesNoWords
) -> dict[str, np.ndarray]:
    """Under the name majority, whether yes is more frequent than no after the first words of each question (R,).

    An empty dict if no training answer is yes or no.
    """
    judged: dict[str, list[str]] = {"question": [], "answer": []}
    for question, answer in zip(train_questions["question"][:], train_questions["answer"][:], strict=True):
        if sign := sign_of(answer, yes_no_words):
            judged["question"].append(question)
            judged["answer"].append("yes" if sign > 0 else "no")
    if not judged["question"]:
        return {}
    usual = majority_answers(Dataset.from_dict(judged), questions)
    return {"majority": np.array(usual) == "yes"}


def area_under_curve(scores: np.ndarray, truths: np.ndarray) -> float:
    """How often a true one of R scores is above a false one; equal scores count half."""
    true, false = scores[truths], np.sort(scores[~truths])
    below, not_above = (np.searchsorted(false, true, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(false)))


def yes_no_spellings(answers: Sequence[str], yes_no_words: YesNoWords) -> list[str]:
    """How yes and no are written most often in `answers`; where they are not, the first words of the first language.

    Without a language there are no words, and the list is empty.
    """
    first = next(iter(yes_no_words.values()), [])
    counted: dict[int, Counter[str]] = {sign: Counter() for sign in (1, -1)}
    for answer in answers:
        if sign := sign_of(answer, yes_no_words):
            counted[sign][answer] += 1
    return [
        max(counts, key=counts.__getitem__, default=words[0])
        for counts, words in zip(counted.values(), first, strict=False)
    ]


def score_answers_by_statements(
    scorer: StatementScorer,
    columns: dict[str, list],
    train_questions: Dataset,
    shuffles: Sequence[Sequence[int]],
    seed: int,
) -> dict[str, float]:
    """Scores of the answers whose statements are the most likely true. Adds by_statements, these, to `columns`.

    Args:
        shuffles: for each shuffle the other image of each row.

    Returns:
        accuracy_statements, yes_no_accuracy_statements and open_accuracy_statements, the last one with its 95 %
        interval (_low, _high); and those of `score_shuffles` with the control statements_shuffled and the gain
        statements_gain.
    """
    questions, image_ids, truths = columns["question"], columns["image_id"], right_answers_of(columns)
    candidates = answer_candidates(questions, train_questions, scorer.model.config.yes_no_words)
    chosen = nearest_answers(scorer, image_ids, questions, candidates)
    columns["by_statements"] = chosen
    metrics = control_scores("statements", chosen, truths, questions)
    correct = are_correct(chosen, truths)
    is_open = np.array([not is_yes_no(as_list(truth)[0]) for truth in truths])
    if is_open.any():
        metrics |= named_interval("open_accuracy_statements", np.where(is_open, correct, np.nan), image_ids, seed)
    if shuffles:
        shuffled = [nearest_answers(scorer, others, questions, candidates) for others in shuffles]
        metrics |= score_shuffles("statements_shuffled", "statements_gain", shuffled, columns, correct, seed)
    return metrics


def answer_candidates(
    questions: Sequence[str], train_questions: Dataset, yes_no_words: YesNoWords
) -> dict[str, list[str]]:
    """Question -> the answers among which it chooses, the most frequent first.

    They are yes and no where the training questions say that it is usually answered so, else its training answers, at
    most `MOST_CANDIDATES`. The right answer plays no part: who asks does not have it.
    """
    distinct = sorted(set(questions))
    usual = majority_answers(train_questions, distinct, WHOLE_QUESTION)
    yes_no = yes_no_spellings(train_questions["answer"][:], yes_no_words)
    lists = AnswerLists(train_questions, yes_no_words)
    return {
        question: yes_no if sign_of(answer, yes_no_words) else list(lists.of(question)[0][:MOST_CANDIDATES])
        for question, answer in zip(distinct, usual, strict=True)
    }


def nearest_answers(
    scorer: StatementScorer,
    image_ids: Sequence[int],
    questions: Sequence[str],
    candidates: Mapping[str, Sequence[str]],
) -> list[str]:
    """For each row the candidate of its question that is most likely right, the first of equal ones.

    "" where a question has no candidate.
    """
    counts = [len(candidates[question]) for question in questions]
    rows = np.repeat(np.arange(len(questions)), counts).tolist()
    answers = [answer for question in questions for answer in candidates[question]]
    logits = scorer.answer_logits([image_ids[row] for row in rows], [questions[row] for row in rows], answers)
    by_row = np.split(logits, np.cumsum(counts)[:-1])
    return [
        candidates[question][int(scores.argmax())] if len(scores) else ""
        for question, scores in zip(questions, by_row, strict=True)
    ]
