"""Accuracies as a Markdown table, and texts that fit the terminal."""

import sys
from collections.abc import Sequence
from shutil import get_terminal_size
from textwrap import fill

WIDTH = 100  # columns that a table has at most
# Name of a row of the table -> suffix of the names of its scores.
TABLE_ROWS = {
    "model": "",
    "model, answers ranked": "_ranked",
    "model, ranked or decoded": "_ranked_or_decoded",
    "model, by statements": "_statements",
    "shuffled images": "_shuffled_images",
    "blank images": "_blank_images",
    "majority answer of the kind": "_majority",
    "majority answer of the question": "_majority_question",
}
TABLE_COLUMNS = {"yes/no": "yes_no_accuracy", "open": "open_accuracy", "overall": "accuracy"}
# Column of the table of data sets -> the number of `score_sets`.
SET_COLUMNS = {
    "yes/no": "yes_no_accuracy",
    "open": "open_accuracy",
    "overall": "accuracy",
    "shuffled": "accuracy_shuffled_images",
    "majority": "accuracy_majority_question",
    "image gain": "image_gain",
}
# Name of a row of the table of what needs no decoder -> its number in each column. The first one has an interval. The
# floor is the majority answer or chance.
STATEMENT_COLUMNS = ("model", "vector alone", "shuffled", "floor")
STATEMENT_ROWS = {
    "yes/no, accuracy": ("truth_accuracy", None, "truth_accuracy_shuffled", "truth_accuracy_majority"),
    "yes/no, area under the curve": ("truth_auc", "truth_auc_vector", None, None),
    "open questions, accuracy": (
        *("open_accuracy_statements", None, "open_accuracy_statements_shuffled"),
        "open_accuracy_majority_question",
    ),
}
STATEMENT_ROWS |= {
    row: (name, f"{name}_vector", f"{name}_shuffled", f"{name}_{floor}")
    for row, name, floor in (
        ("search, mean average precision", "search_map", "chance"),
        ("search, precision at 10", "search_precision_at_10", "chance"),
        ("places, mean average precision", "search_map_where", "chance"),
        ("text of one image finds it first", "text_retrieval_recall_at_1", "popular"),
        ("text of one image finds it among 10", "text_retrieval_recall_at_10", "popular"),
    )
}
STATEMENT_ROWS |= {
    row: (None, f"probe_{probe}_accuracy", f"probe_{probe}_accuracy_shuffled", "probe_accuracy_majority")
    for row, probe in (("yes/no, linear probe", "linear"), ("yes/no, 20 nearest training images", "knn"))
}


def terminal_width() -> int | None:
    """The columns of the terminal that stdout is, at most 100; None where it is none."""
    return min(WIDTH, get_terminal_size().columns) if sys.stdout.isatty() else None


def fitted(text: str, width: int | None) -> str:
    """`text` in lines of at most `width`, those after the first indented; as it is where there is no width."""
    if width is None or len(text) <= width:
        return text
    indent = (len(text) - len(text.lstrip()) + 2) * " "
    return fill(text, width, subsequent_indent=indent, break_on_hyphens=False)


def show_lines(lines: Sequence[str]) -> None:
    """Prints lines, and an empty one before them. Those too long for the terminal go on in the next."""
    print("\n".join(["", *(fitted(line, terminal_width()) for line in lines)]), flush=True)


def answer_table(metrics: dict[str, float], width: int | None = None, is_accuracy_first: bool = False) -> str:
    """A Markdown table of the accuracies of the model and its controls in percent; below it the image gain.

    Another table shows what the alignment is worth without the decoder, where there is anything to show. It comes
    first, unless the accuracy is to.

    Args:
        metrics: the numbers of `evaluate_model`, by their names without a prefix. A missing number is shown as a dash.
            A row without any number is left out.
        width: as for `markdown_table`; 100 if None.
    """
    alone, accuracies, sets = (
        [markdown_table(rows, width or WIDTH)] if rows else []
        for rows in (statement_rows(metrics), table_rows(metrics), set_rows(metrics))
    )
    accuracies.append(gain_line(metrics))
    return "\n\n".join([*accuracies, *alone, *sets] if is_accuracy_first else [*alone, *accuracies, *sets])


def gain_line(metrics: dict[str, float]) -> str:
    """The image gain with its interval, and how far the shuffles that it is a mean over differ."""
    if "image_gain" not in metrics:
        return "no image gain: there is one image, and no other to exchange it for"
    gain, low, high = (100 * metrics[f"image_gain{end}"] for end in ("", "_low", "_high"))
    line = f"image gain (model - shuffled images): {gain:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
    if (shuffles := metrics.get("num_shuffles", 1)) > 1:
        lowest, highest = (percent(metrics[f"accuracy_shuffled_images_{end}"]) for end in ("min", "max"))
        line += f";\nshuffled images: mean of {shuffles:.0f} shuffles, the worst {lowest}, the best {highest}"
    return line


def table_rows(metrics: dict[str, float]) -> list[dict[str, str]]:
    """The cells of `answer_table`."""
    rows = []
    for name, suffix in TABLE_ROWS.items():
        scores = {column: metrics.get(score + suffix) for column, score in TABLE_COLUMNS.items()}
        if all(score is None for score in scores.values()):
            continue
        rows.append({"accuracy, %": name} | {column: percent(score) for column, score in scores.items()})
    return rows


def statement_rows(metrics: dict[str, float]) -> list[dict[str, str]]:
    """The cells of the table of what needs no decoder, in percent; no row if nothing of it was measured."""
    rows = []
    for row, names in STATEMENT_ROWS.items():
        first = next(name for name in names if name is not None)
        if first in metrics:
            scores = [None if name is None else metrics.get(name) for name in names]
            low, high = (metrics.get(f"{first}_{end}") for end in ("low", "high"))
            cells = dict(zip(STATEMENT_COLUMNS, map(percent, scores), strict=True))
            interval = "-" if low is None else f"{percent(low)} to {percent(high)}"
            rows.append({"without the decoder, %": row} | cells | {"95 % interval": interval})
    return rows


def set_rows(metrics: dict[str, float]) -> list[dict[str, str]]:
    """The cells of the table of data sets, in percent; no row if there is one data set."""
    start = "num_questions_of_"
    names = [metric.removeprefix(start) for metric in metrics if metric.startswith(start)]
    counts = {"questions": "num_questions", "images": "num_images"}
    return [
        {"data set, %": name}
        | {column: f"{metrics[f'{count}_of_{name}']:.0f}" for column, count in counts.items()}
        | {column: percent(metrics.get(f"{score}_of_{name}")) for column, score in SET_COLUMNS.items()}
        for name in names
    ]


def percent(share: float | None) -> str:
    """A share in percent; a dash if there is none."""
    return "-" if share is None else f"{100 * share:.1f}"


def markdown_table(rows: Sequence[dict[str, str]], width: int | None = None) -> str:
    """Rows of cells as an aligned Markdown table: the first column to the left, the others to the right.

    Args:
        rows: at least one. All have the same keys: the names of the columns.
        width: of its lines. Where more is needed, further tables below have the remaining columns, each after the
            first one.
    """
    columns = [[name, *(row[name] for row in rows)] for name in rows[0]]
    widths = [max(3, *map(len, column)) for column in columns]  # a rule has at least three characters
    tables: list[list[int]] = [[]]  # the columns of each, without the first
    for column in range(1, len(columns)):
        needed = sum(widths[shown] + 3 for shown in (0, *tables[-1], column)) + 1  # "| " before and " |" after each
        if tables[-1] and width is not None and needed > width:
            tables.append([])
        tables[-1].append(column)
    return "\n\n".join(
        aligned([columns[shown] for shown in (0, *table)], [widths[shown] for shown in (0, *table)])
        for table in tables
    )


def aligned(columns: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """A Markdown table of columns that are `widths` wide; the first cell of each is its name."""
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in zip(*columns, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
