"""Scores of short free-text answers to questions about images, as an `evaluate` metric that is loaded by its path.

`evaluate.load` copies this file and rules.py elsewhere before it imports them, so they import nothing of the package.
"""

from collections.abc import Sequence
from itertools import zip_longest

import datasets
import evaluate
import numpy as np
from sacrebleu.metrics import BLEU

from .rules import RULES, is_yes_no, normalize_answer, question_kind

_DESCRIPTION = """
Exact match, token F1 and BLEU of short answers, over all questions, over yes/no and over open questions, and by the
question's first words. Answers are compared nearly as SQuAD compares them (Rajpurkar et al. 2016, arXiv 1606.05250):
in lower case, without punctuation and without the articles a, an, the. But signs, comparisons and marks within numbers
count, since "CD20+" is not "CD20-". If a question has several right answers, an answer that equals any of them is
right, as in SQuAD; VQA asks for three of ten annotators. Splitting the score by kind of answer and of question follows
VQA (Antol et al. 2015, arXiv 1505.00468). Beside these stand the scores by rules that published PathVQA numbers use
(rules.py), so that a number can be compared with one of a paper.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one answer per question, list of str.
    references: the right answers, list of str, or list of list of str where questions have several; the first of a
        list decides whether its question is a yes/no question.
    questions: what was asked, list of str.

Returns: scores in [0, 1], and counts. A group without any question has no keys.
    accuracy: share of answers equal to the right one, both normalised.
    yes_no_accuracy, open_accuracy: the same over questions whose right answer is yes or no, and over the others.
    token_f1: mean over questions of SQuAD's F1 of answer tokens, of several right answers the best.
    bleu_1, bleu_2, bleu_3, bleu_4: corpus BLEU of the normalised answers with n-grams up to that length.
    accuracy_<kind>, count_<kind>: accuracy and number of questions of the kinds what, where, how, how_many, is_are
        (questions that start with a verb: is, are, does, ...) and other.
    <rule>, yes_no_<rule>, open_<rule>: the score by each rule of rules.py over all questions, over yes/no and over
        open ones. A rule that is for one of these groups has no other key.

Example:
    >>> metric = evaluate.load("metrics/vqa_answers", keep_in_memory=True)
    >>> scores = metric.compute(
    ...     predictions=["Yes.", "liver"],
    ...     references=["yes", "the left lobe of the liver"],
    ...     questions=["is necrosis seen?", "where is the tumour?"],
    ... )
    >>> scores["accuracy"], scores["yes_no_accuracy"], scores["open_accuracy"]
    (0.5, 1.0, 0.0)
"""

_CITATION = """
@inproceedings{rajpurkar2016squad,
    title={{SQuAD}: 100,000+ Questions for Machine Comprehension of Text},
    author={Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy},
    booktitle={EMNLP},
    year={2016}
}
@inproceedings{antol2015vqa,
    title={{VQA}: Visual Question Answering},
    author={Antol, Stanislaw and Agrawal, Aishwarya and Lu, Jiasen and Mitchell, Margaret and Batra, Dhruv and
        Zitnick, C. Lawrence and Parikh, Devi},
    booktitle={ICCV},
    year={2015}
}
@inproceedings{papineni2002bleu,
    title={{BLEU}: a Method for Automatic Evaluation of Machine Translation},
    author={Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing},
    booktitle={ACL},
    year={2002}
}
"""

MAX_NGRAM = 4  # of BLEU


def as_list(reference: str | Sequence[str]) -> Sequence[str]:
    """The right answers to a question that has one or several."""
    return [reference] if isinstance(reference, str) else reference


def right_answers(reference: str | Sequence[str]) -> list[str]:
    """The same, normalised."""
    return [normalize_answer(answer) for answer in as_list(reference)]


def is_right(prediction: str, reference: str | Sequence[str]) -> bool:
    """Whether an answer equals the right one, or one of several. All are normalised."""
    return normalize_answer(prediction) in right_answers(reference)


def corpus_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """BLEU-1 to BLEU-4 of Papineni et al. 2002 over all rows, computed by sacrebleu.

        p_n    = n-grams of the predictions found in their references, each counted no more often than it is there,
                 over all n-grams of the predictions
        BLEU-N = min(1, exp(1 - r/c)) * (p_1 * ... * p_N) ** (1/N)        r, c: tokens of references, of predictions

    Counts are summed over the rows before dividing. Nothing is smoothed: BLEU-N is 0 if no n-gram of some length up to
    N is found.

    Args:
        predictions, references: normalised answers, one or more references per prediction. Tokens are separated by
            spaces.
    """
    return bleu_of_counts(bleu_counts(predictions, references))


def bleu_counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """The counts of `corpus_bleu`: found n-grams (4), all n-grams (4), c and r. They add up over rows."""
    streams = list(zip_longest(*references))  # one reference of each row, None where a row has fewer
    counted = BLEU(tokenize="none", max_ngram_order=MAX_NGRAM).corpus_score(predictions, streams)
    return np.array([*counted.counts, *counted.totals, counted.sys_len, counted.ref_len])


def bleu_of_counts(counts: np.ndarray) -> list[float]:
    """BLEU-1 to BLEU-4 of the sums of `bleu_counts`."""
    found, total, (predicted, right) = counts[:MAX_NGRAM], counts[MAX_NGRAM:-2], counts[-2:]
    scores = [
        BLEU.compute_bleu(
            found[:length].tolist(),
            total[:length].tolist(),
            int(predicted),
            int(right),
            smooth_method="none",
            max_ngram_order=length,
        ).score
        for length in range(1, MAX_NGRAM + 1)
    ]
    # Perfect answers get 100.00000000000004.
    return [min(score / 100, 1.0) for score in scores]


def score_answers(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]], questions: Sequence[str]
) -> dict[str, float]:
    """All numbers of the metric, as its description lists them; an empty dict if there is no question."""
    answers = [normalize_answer(answer) for answer in predictions]
    truths = [right_answers(reference) for reference in references]
    correct = [answer in right for answer, right in zip(answers, truths, strict=True)]
    if not correct:
        return {}

    by_form: dict[str, list[bool]] = {"yes_no_accuracy": [], "open_accuracy": []}
    by_kind: dict[str, list[bool]] = {}
    for right, truth, question in zip(correct, truths, questions, strict=True):
        by_form["yes_no_accuracy" if is_yes_no(truth[0]) else "open_accuracy"].append(right)
        by_kind.setdefault(question_kind(question), []).append(right)

    scores = {"accuracy": sum(correct) / len(correct)}
    scores |= {name: sum(group) / len(group) for name, group in by_form.items() if group}
    scores["token_f1"] = sum(row_scores("token_f1", predictions, references)) / len(correct)
    scores |= {f"bleu_{length}": score for length, score in enumerate(corpus_bleu(answers, truths), start=1)}
    for kind, group in sorted(by_kind.items()):
        scores |= {f"accuracy_{kind}": sum(group) / len(group), f"count_{kind}": len(group)}
    return scores


def row_scores(rule: str, predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[float | None]:
    """Each row's score by a rule of `RULES`; of several right answers the best score.

    None where the rule is not for the row's question, or does not count the row.
    """
    questions, score = RULES[rule].questions, RULES[rule].score

    def row_score(prediction: str, answers: Sequence[str]) -> float | None:
        if questions not in ("all", "yes_no" if is_yes_no(answers[0]) else "open"):
            return None
        counted = [score(prediction, answer) for answer in answers]
        return max((number for number in counted if number is not None), default=None)

    return list(map(row_score, predictions, map(as_list, references)))


def score_by_rules(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """`<rule>`, `yes_no_<rule>` and `open_<rule>`: mean scores of the rows that count, if there are any.

    A rule that is for yes/no or for open questions alone has no score over all.
    """
    groups = {"all": ("", {True, False}), "yes_no": ("yes_no_", {True}), "open": ("open_", {False})}
    scores: dict[str, float] = {}
    for rule in RULES:
        yes_no = [is_yes_no(as_list(reference)[0]) for reference in references]
        rows = list(zip(row_scores(rule, predictions, references), yes_no, strict=True))
        for group, (prefix, forms) in groups.items():
            counted = [score for score, form in rows if score is not None and form in forms]
            if counted and RULES[rule].questions in ("all", group):
                scores[f"{prefix}{rule}"] = sum(counted) / len(counted)
    return scores


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class VqaAnswers(evaluate.Metric):
    """The metric that `evaluate.load` finds: scores by every rule of `RULES`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": text, "references": references, "questions": text})
                for references in (text, datasets.Sequence(text))
            ],
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str | Sequence[str]], questions: Sequence[str]
    ) -> dict[str, float]:
        return score_answers(predictions, references, questions) | score_by_rules(predictions, references)
