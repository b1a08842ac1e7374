"""Accuracies as a Markdown table."""

from collections.abc import Sequence

# Name of a row of the table -> suffix of the names of its scores.
TABLE_ROWS = {
    "model": "",
    "model, answers ranked": "_ranked",
    "model, ranked or decoded": "_ranked_or_decoded",
    "shuffled images": "_shuffled_images",
    "blank images": "_blank_images",
    "majority answer of the kind": "_majority",
    "majority answer of the question": "_majority_question",
}
TABLE_COLUMNS = {"yes/no": "yes_no_accuracy", "open": "open_accuracy", "overall": "accuracy"}


def answer_table(metrics: dict[str, float]) -> str:
    """A Markdown table of the accuracies of the model and its controls in percent; below it the image gain.

    Args:
        metrics: the numbers of `evaluate_model`, by their names without a prefix. A missing number is shown as a dash.
            A row without any number is left out.
    """
    gain, low, high = (100 * metrics[f"image_gain{end}"] for end in ("", "_low", "_high"))
    interval = f"95 % interval {low:+.1f} to {high:+.1f}"
    table = markdown_table(table_rows(metrics))
    return f"{table}\n\nimage gain (model - shuffled images): {gain:+.1f} points, {interval}"


def table_rows(metrics: dict[str, float]) -> list[dict[str, str]]:
    """The cells of `answer_table`."""
    rows = []
    for name, suffix in TABLE_ROWS.items():
        scores = {column: metrics.get(score + suffix) for column, score in TABLE_COLUMNS.items()}
        if all(score is None for score in scores.values()):
            continue
        shown = {column: "-" if score is None else f"{100 * score:.1f}" for column, score in scores.items()}
        rows.append({"accuracy, %": name} | shown)
    return rows


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Rows of cells as an aligned Markdown table: the first column to the left, the others to the right.

    Args:
        rows: at least one. All have the same keys: the names of the columns.
    """
    columns = [[name, *(row[name] for row in rows)] for name in rows[0]]
    widths = [max(3, *map(len, column)) for column in columns]  # a rule has at least three characters
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in zip(*columns, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
