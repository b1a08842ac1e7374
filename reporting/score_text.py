"""The tables of `score_report` as text."""

from textwrap import fill
from typing import Any

from ..evaluation.groups import GROUPS, OWN_RULE
from ..evaluation.intervals import Interval
from ..evaluation.scoring import CLOSED_LIST_RULE
from ..metrics.vqa_answers.rules import RULES
from .table import markdown_table

WIDTH = 110  # of the text
GROUP_NAMES = dict(zip(GROUPS, ("all", "yes/no", "open"), strict=True))
FLOORS = {
    "majority": "majority of the first words",
    "majority_question": "majority of the question",
}
CEILINGS = {
    "closed_list": "closed list of training answers",
    "one_answer": "one answer for each question",
}


def report_text(report: dict[str, Any]) -> str:
    """A report as Markdown: scores, what their rules are, floors, ceilings, kinds of question, two files compared.

    Args:
        report: of `score_report`.
    """
    parts = [
        wrapped(
            f"{report['questions']} questions about {report['images']} images. In brackets: 95 % interval over images "
            "by a bootstrap, by Wilson's or Student's formula where images are few or nearly all alike."
        ),
        *map(wrapped, report["notes"]),
        score_rows("rule, %", report["rules"]),
        "\n".join(wrapped(f"- {rule}: {printed_as(rule)}") for rule in report["rules"]),
    ]
    if "floors" in report:
        parts += [
            wrapped(
                f"Without images, by the rule {OWN_RULE}: the most frequent training answer to the question, and to "
                "its first words."
            ),
            score_rows("floor, %", report["floors"], FLOORS),
            "The predictions less these floors, row by row:",
            score_rows("lead over, %", report["leads"], FLOORS),
        ]
    if "ceilings" in report:
        parts += [
            wrapped(
                f"The most that can be reached, by the rule {OWN_RULE}: by choosing from the training answers, and "
                "where rows contradict each other, by giving one answer for each image and question."
            ),
            score_rows("ceiling, %", report["ceilings"], CEILINGS),
        ]
    kinds = [{"question": kind, f"{OWN_RULE}, %": cell(score)} for kind, score in report["kinds"].items()]
    parts.append(markdown_table(kinds))
    if "differences" in report:
        parts += difference_parts(report)
    return "\n\n".join(parts)


def difference_parts(report: dict[str, Any]) -> list[str]:
    """The tables of two files compared, and what they mean."""
    tests = [
        {
            "rule": rule,
            "questions": GROUP_NAMES[RULES[rule].questions],
            "p": f"{test['p']:.4f}",
            "p, Holm": f"{test['p_holm']:.4f}",
        }
        for rule, test in report["p_values"].items()
    ]
    return [
        "The first file less the second, row by row; an interval with 0 decides nothing:",
        score_rows("difference, %", report["differences"]),
        wrapped(
            "How often a difference as large comes up if the two models are exchanged at random, image by image (p), "
            "and the same corrected for the number of rules (Holm). Below 0.05, one file is better by that rule."
        ),
        markdown_table(tests),
    ]


def score_rows(title: str, table: dict[str, dict[str, Interval]], names: dict[str, str] | None = None) -> str:
    """A table of scores by group of questions; a group without a score is empty.

    Args:
        names: what rows are called; by default as in `table`.
    """
    return markdown_table(
        [
            {title: names[row] if names else row}
            | {name: cell(scores[group]) if group in scores else "" for group, name in GROUP_NAMES.items()}
            for row, scores in table.items()
        ]
    )


def printed_as(rule: str) -> str:
    """The name under which papers print a rule, with its source."""
    if rule == CLOSED_LIST_RULE:
        return "accuracy (closest training answer, as PMC-VQA's choices, arXiv 2305.10415)"
    return f"{RULES[rule].printed_as} ({RULES[rule].source})" if rule in RULES else "BLEU of the corpus, not smoothed"


def cell(score: Interval) -> str:
    """A mean and its interval, in percent."""
    mean, low, high = (100 * number for number in score)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def wrapped(text: str) -> str:
    """A sentence in lines of at most `WIDTH`; those after the first are indented where it is an item of a list."""
    return fill(text, WIDTH, subsequent_indent="  " if text.startswith("- ") else "", break_on_hyphens=False)
