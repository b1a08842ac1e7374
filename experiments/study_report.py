"""The results of a study as a table and a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..reporting.table import markdown_table

# (cell, seed) -> its line of results.jsonl
Results = dict[tuple[str, int], dict[str, Any]]
# The numbers of all_results.json that a table shows if the study names none.
METRICS = (
    "eval_accuracy",
    "eval_yes_no_accuracy",
    "eval_open_accuracy",
    "eval_image_gain",
    "eval_image_gain_low",
    "eval_image_gain_high",
    "eval_retrieval_recall_at_1",
    "eval_retrieval_recall_at_1_chance",
    "eval_retrieval_recall_at_1_popular",
    "train_runtime",
)


def study_table(cells: Sequence[str], seeds: Sequence[int], metrics: Sequence[str], results: Results) -> str:
    """Two Markdown tables with a row per cell: its numbers, and their differences to the first cell.

    A number is the mean of the finished seeds, followed by the value of each. Differences are taken seed by seed, and
    shown if at least two seeds of both cells are finished.
    """
    titles = {name: name.removeprefix("eval_") for name in metrics}
    numbers, differences = [], []
    reference, *others = cells
    for cell in cells:
        runs = "; ".join(run_state(seed, results.get((cell, seed))) for seed in seeds)
        values = {titles[name]: shown(list(values_of(cell, seeds, name, results).values())) for name in metrics}
        numbers.append({"cell": cell, "runs": runs.replace("|", "\\|")} | values)
    for cell in others:
        row = {"cell": cell}
        for name in metrics:
            first, own = (values_of(which, seeds, name, results) for which in (reference, cell))
            gains = [own[seed] - first[seed] for seed in own if seed in first]
            agree = all(gain > 0 for gain in gains) or all(gain < 0 for gain in gains)
            told = shown(gains, "+") + ", all seeds agree" * agree
            row[titles[name]] = told if len(gains) > 1 else "-"
        differences.append(row)
    text = "Mean (each seed):\n\n" + markdown_table(numbers)
    if others:
        text += f"\n\nDifference to {reference}, mean (each seed):\n\n" + markdown_table(differences)
    return text


def values_of(cell: str, seeds: Sequence[int], metric: str, results: Results) -> dict[int, float]:
    """Seed -> number, for the finished seeds that have it."""
    done = {seed: results.get((cell, seed), {}).get("metrics", {}) for seed in seeds}
    return {seed: numbers[metric] for seed, numbers in done.items() if metric in numbers}


def run_state(seed: int, line: dict[str, Any] | None) -> str:
    """Whether a run is open, done, failed or was stopped, in a few words."""
    if line is None:
        return f"seed {seed} open"
    if line["status"] == "limit":
        return f"seed {seed} ended by the limit after {line['seconds']:.0f} s"
    return f"seed {seed} {line['status']}" + (f": {line['error']}" if "error" in line else "")


def shown(values: Sequence[float], sign: str = "") -> str:
    """The mean of the values; if there are several, also each of them."""
    if not values:
        return "-"
    mean, *each = (f"{value:{sign}.{3 if abs(value) < 10 else 0}f}" for value in (sum(values) / len(values), *values))
    return f"{mean} ({', '.join(each)})" if len(values) > 1 else mean


def draw_study(path: Path, cells: Sequence[str], seeds: Sequence[int], results: Results) -> None:
    """Draws a PNG of accuracy and image gain: one dot per seed, the interval of its gain, and a bar at their mean."""
    figure = Figure(figsize=(10, 1.5 + 0.5 * len(cells)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(panels, ("eval_accuracy", "eval_image_gain"), strict=True):
        low, high = (
            {cell: values_of(cell, seeds, metric + end, results) for cell in cells} for end in ("_low", "_high")
        )
        for row, cell in enumerate(cells):
            values = values_of(cell, seeds, metric, results)
            for index, (seed, value) in enumerate(values.items(), start=1):
                # The seeds of a cell are spread over 0.6 of its row.
                height = row + 0.6 * (index / (len(values) + 1) - 0.5)
                axes.plot(value, height, "o", color="tab:blue", markersize=4)
                if seed in low[cell] and seed in high[cell]:
                    axes.hlines(height, low[cell][seed], high[cell][seed], color="tab:blue", linewidth=1)
            if values:
                axes.vlines(sum(values.values()) / len(values), row - 0.3, row + 0.3, color="black")
        axes.set_xlabel(metric.removeprefix("eval_"))
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(cells)), cells)
    panels[0].set_ylim(len(cells) - 0.5, -0.5)
    figure.savefig(path, dpi=100)
