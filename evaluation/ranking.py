"""Answers chosen from a closed list: the list of the training answers, and what choosing from it is worth.

The whole list is scored in one step of the decoder, and nothing is written.
"""

from collections.abc import Sequence

import torch
from datasets import Dataset

from ..data.statements import answer_counts
from ..metrics.vqa_answers.vqa_answers import normalize_answer, right_answers
from .answerer import Answerer, AnswerList
from .controls import are_correct, control_scores, right_answers_of


def training_answers(answerer: Answerer, train_questions: Dataset) -> AnswerList:
    """The distinct answers of the training questions. Answers that are equal once normalised are one."""
    texts, numbers = zip(*answer_counts(train_questions).values(), strict=True)
    model = answerer.model
    embeds = answerer.encode_all_texts(texts, model.encode_answers)  # (K, D)
    counts = torch.tensor(numbers, device=model.device)
    return AnswerList(list(texts), embeds, (counts / counts.sum()).log())


def best_threshold(
    ranked_correct: Sequence[bool], decoded_correct: Sequence[bool], probabilities: Sequence[float]
) -> float:
    """The threshold of `rank_or_decode` with the most right answers. Of equally good ones, the one that ranks most.

    2, which no probability reaches, where it is best to rank no question.
    """
    surest_first = sorted(range(len(probabilities)), key=lambda row: -probabilities[row])
    threshold, best, gained = 2.0, 0, 0
    for place, row in enumerate(surest_first):
        gained += int(ranked_correct[row]) - int(decoded_correct[row])
        last = place + 1 == len(surest_first)
        # Questions of equal probability are ranked together or not at all.
        if gained >= best and (last or probabilities[surest_first[place + 1]] < probabilities[row]):
            threshold, best = probabilities[row], gained
    return threshold


def score_ranking(columns: dict[str, list], answers: list[str], threshold: float | None) -> dict[str, float]:
    """Scores of the ranked answers, and of answers that are ranked where ranking is sure and else decoded.

    Args:
        columns: question, answer, prediction, ranked and ranked_probability, as in the rows of `evaluate_model`.
        answers: the list that was ranked.
        threshold: the probability from which ranking is sure; None takes the best one for these questions.

    Returns:
        `accuracy_ranked`, `yes_no_accuracy_ranked`, `open_accuracy_ranked`; the same with `_ranked_or_decoded`;
        with `_rank_ceiling` what choosing from the list can reach; `rank_threshold`; and `rank_share`, the share of
        questions that it ranks.
    """
    questions, truths, ranked = columns["question"], right_answers_of(columns), columns["ranked"]
    if threshold is None:
        correct, decoded_correct = are_correct(ranked, truths), are_correct(columns["prediction"], truths)
        threshold = best_threshold(correct, decoded_correct, columns["ranked_probability"])
    sure = [probability >= threshold for probability in columns["ranked_probability"]]
    either = [
        rank if is_sure else decoded
        for rank, decoded, is_sure in zip(ranked, columns["prediction"], sure, strict=True)
    ]
    metrics = {"rank_threshold": threshold, "rank_share": sum(sure) / len(sure)}
    known = {normalize_answer(answer) for answer in answers}
    best = [next((answer for answer in right_answers(truth) if answer in known), "none of them") for truth in truths]
    for name, texts in (("ranked", ranked), ("ranked_or_decoded", either), ("rank_ceiling", best)):
        metrics |= control_scores(name, texts, truths, questions)
    return metrics
