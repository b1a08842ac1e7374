"""What a search found, as text, as one JSON object, and as a table of findings."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.searching import SearchResult
from ..evaluation.taught import TaughtStatement
from .table import terminal_width


def found_rows(result: SearchResult, top: int) -> list[dict[str, Any]]:
    """The best `top` images: rank, image, probability or cosine, and the probability of each statement."""
    return [
        {
            "rank": rank,
            "image": result.names[row],
            result.score_name: result.scores[row].item(),
            "probabilities": dict(zip(result.statements, result.probabilities[row].tolist(), strict=True)),
        }
        for rank, row in enumerate(result.ranking[:top], start=1)
    ]


def asked_json(result: SearchResult) -> dict[str, Any]:
    """What was asked."""
    return {
        "statements": [text for text in result.statements if text not in result.negated],
        "not": sorted(result.negated),
        "notes": result.notes,
    }


def search_json(result: SearchResult, top: int) -> dict[str, Any]:
    """The best `top` images and what was asked."""
    return asked_json(result) | {
        "num_images": len(result.names),
        "num_copies": result.num_copies,
        "unreadable": result.unreadable,
        "images": found_rows(result, top),
    }


def summary_lines(result: SearchResult) -> list[str]:
    """How many images were searched, how many of them show it, and which could not be read."""
    line = f"{len(result.names)} images"
    if result.num_copies:
        line += f" (copies left out: {result.num_copies})"
    if result.statements:
        line += f"; in {int((result.scores > 0.5).sum())} of them this is more probably true than false"
    return [f"{line}.", *(f"{name} can't be read: {fault}" for name, fault in result.unreadable.items())]


def search_text(result: SearchResult, top: int) -> str:
    """The best `top` images, a line for each, then what was searched."""
    return "\n".join([rows_text(result, found_rows(result, top), ["image"]), "", *summary_lines(result)])


def rows_text(result: SearchResult, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """A line for each of `rows`, as `found_rows` gives them: rank, probability, and the values called `names`.

    With several statements each of them has a column too.
    """
    columns = range(len(result.statements) if len(result.statements) > 1 else 0)
    header = ["rank", result.score_name, *(f"({column + 1})" for column in columns)]
    lines = [[*header, *names]]
    for found in rows:
        shares = [found[result.score_name], *found["probabilities"].values()][: len(header) - 1]
        numbers = [f"{100 * share:.1f} %" if result.statements else f"{share:.3f}" for share in shares]
        lines.append([str(found["rank"]), *numbers, *(str(found[name]) for name in names)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
    room = None if (width := terminal_width()) is None else width - sum(widths) - 2 * len(widths)
    table = ["  ".join([*map(str.rjust, line[:-1], widths), ending(line[-1], room)]) for line in lines]
    legend = [f"({column + 1}) {result.statements[column]}" for column in columns]
    return "\n".join([result.title, *legend, "", *table])


def ending(name: str, room: int | None) -> str:
    """The end of a name that is longer than the terminal has room for: it tells images apart. Files hold it whole."""
    return name if room is None or len(name) <= room else f"...{name[3 - max(room, 4) :]}"


def write_findings(path: Path, result: SearchResult) -> None:
    """Writes a CSV file of all images, the best first: the probability of each statement, or the cosine.

    With several statements a column `combined` comes first. An image that can't be read has empty cells.
    """
    several = len(result.statements) > 1
    header = ["image", *(["combined"] if several else []), *(result.statements or ["cosine"])]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in result.ranking:
            numbers = [result.scores[row].item()] if several or not result.statements else []
            numbers += result.probabilities[row].tolist()
            writer.writerow([result.names[row], *(f"{number:.6f}" for number in numbers)])
        writer.writerows([name, *[""] * (len(header) - 1)] for name in result.unreadable)


def taught_text(taught: Sequence[TaughtStatement]) -> str:
    """The taught statements by kind, the most frequent first, each with its numbers of rows."""
    by_kind: dict[str, list[TaughtStatement]] = {}
    for statement in taught:
        by_kind.setdefault(statement.kind, []).append(statement)
    lines = []
    for kind, statements in by_kind.items():
        lines += [
            f"{kind.replace('_', ' ')}: {len(statements)} statements",
            "    true   false  in the training data",
        ]
        lines += [f"{statement.true:8}{statement.false:8}  {statement.text}" for statement in statements]
        lines.append("")
    return "\n".join(lines[:-1])
