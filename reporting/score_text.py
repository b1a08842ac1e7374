"""The tables of `score_report` as text."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from ..evaluation.answer_lists import LISTS
from ..evaluation.groups import GROUPS, OWN_RULE
from ..evaluation.intervals import Interval
from ..evaluation.scoring import CANDIDATE_RULE, CLOSED_LIST_RULE
from ..metrics.vqa_answers.rules import RULES
from .table import markdown_table, terminal_width

FILE_WIDTH = 110  # of the text where it is not shown in a terminal
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
    if "lists" in report:
        ceilings = {name: found["ceiling"] for name, found in report["lists"].items()}
        sources = [
            f"- {name}: {found['answers']} answers, built as in {LISTS[name].source}"
            for name, found in report["lists"].items()
        ]
        parts += [
            wrapped("The most that choosing from published lists of answers can reach, by the rule of their authors:"),
            score_rows("list, %", ceilings),
            "\n".join(map(wrapped, sources)),
        ]
    kinds = [{"question": kind, f"{OWN_RULE}, %": cell(score)} for kind, score in report["kinds"].items()]
    parts.append(table_text(kinds))
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
        table_text(tests),
    ]


def score_rows(title: str, table: dict[str, dict[str, Interval]], names: dict[str, str] | None = None) -> str:
    """A table of scores by group of questions; a group without a score is empty.

    Args:
        names: what rows are called; by default as in `table`.
    """
    return table_text(
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
    if rule == CANDIDATE_RULE:
        return "open, accuracy (LLaVA-Med, run_eval.py with the open training answers)"
    return f"{RULES[rule].printed_as} ({RULES[rule].source})" if rule in RULES else "BLEU of the corpus, not smoothed"


def cell(score: Interval) -> str:
    """A mean and its interval, in percent."""
    mean, low, high = (100 * number for number in score)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def text_width() -> int:
    """How wide the text is."""
    return terminal_width() or FILE_WIDTH


def table_text(rows: Sequence[dict[str, str]]) -> str:
    """Rows of cells as a Markdown table that fits."""
    return markdown_table(rows, text_width())


def wrapped(text: str) -> str:
    """A sentence in lines that fit; those after the first are indented where it is an item of a list."""
    return fill(text, text_width(), subsequent_indent="  " if text.startswith("- ") else "", break_on_hyphens=False)
