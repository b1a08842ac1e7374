"""The tables of `score_report` as text."""

from typing import Any

from ..evaluation.answer_lists import LISTS
from ..evaluation.scoring import CANDIDATE_RULE, CLOSED_LIST_RULE, GROUPS, OWN_RULE, Interval
from ..metrics.vqa_answers.rules import RULES
from .table import markdown_table

GROUP_NAMES = dict(zip(GROUPS, ("all", "yes/no", "open"), strict=True))
FLOORS = {
    "majority": "most frequent training answer to the question's first words",
    "majority_question": "most frequent training answer to the question",
}


def report_text(report: dict[str, Any]) -> str:
    """A report as Markdown: scores with intervals, floors, kinds of question, and the difference of two files.

    Args:
        report: of `score_report`.
    """
    rules = [
        {"rule": rule, "printed as": printed_as(rule), **cells(scores)} for rule, scores in report["rules"].items()
    ]
    parts = [
        f"{report['questions']} questions about {report['images']} images. In brackets: 95 % interval, by a bootstrap "
        "over images.",
        *report["notes"],
        markdown_table(rules),
    ]
    if "floors" in report:
        floors = [{"without images": FLOORS[name], **cells(scores)} for name, scores in report["floors"].items()]
        parts += [f"By the rule {OWN_RULE}, the questions alone give:", markdown_table(floors)]
    if "lists" in report:
        lists = [
            {
                "list": name,
                "built as in": LISTS[name].source,
                "answers": str(found["answers"]),
                **cells(found["ceiling"]),
            }
            for name, found in report["lists"].items()
        ]
        parts += [
            "Choosing from a list of known answers can reach at most, by the rule of those who do so:",
            markdown_table(lists),
        ]
    kinds = [{"question": kind, OWN_RULE: cell(score)} for kind, score in report["kinds"].items()]
    parts.append(markdown_table(kinds))
    if "differences" in report:
        differences = [{"rule": rule, **cells(scores)} for rule, scores in report["differences"].items()]
        parts += [
            "The first file less the second; an interval without 0 is a difference, one with 0 decides nothing:",
            markdown_table(differences),
        ]
    return "\n\n".join(parts)


def printed_as(rule: str) -> str:
    """The name under which papers print a rule, with its source."""
    if rule == CLOSED_LIST_RULE:
        return "accuracy (closest training answer, as PMC-VQA's choices, arXiv 2305.10415)"
    if rule == CANDIDATE_RULE:
        return "open, accuracy (LLaVA-Med, run_eval.py with the open training answers)"
    return f"{RULES[rule].printed_as} ({RULES[rule].source})" if rule in RULES else "BLEU of the corpus, not smoothed"


def cells(scores: dict[str, Interval]) -> dict[str, str]:
    """A row of the table: the score of each group of questions, empty where it has none."""
    return {name: cell(scores[group]) if group in scores else "" for group, name in GROUP_NAMES.items()}


def cell(score: Interval) -> str:
    """A mean and its interval, in percent."""
    mean, low, high = (100 * number for number in score)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"
