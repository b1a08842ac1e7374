"""The last lines of a training: what it reached, what that means, where it is, and what to do next."""

from collections.abc import Mapping
from pathlib import Path
from shlex import join

from .plain_words import advice, image_sentence

SPLIT_NAMES = {"eval": "validation", "test": "test"}


def outcome_lines(results: Mapping[str, float], folder: str) -> list[str]:
    """The lines, of the validation split where it was measured, else of the test split.

    Args:
        results: the numbers of a run by their names with a prefix, as in all_results.json.
        folder: where the model is.
    """
    measured = [prefix for prefix in SPLIT_NAMES if f"{prefix}_accuracy" in results]
    if not measured:
        return [
            "reached: not known, nothing was measured",
            f"model:   {folder}",
            f"next:    {join(['mmjepa', 'evaluate', folder])} --dataset_name DATA --output_dir ANOTHER",
        ]
    prefix = measured[0]
    numbers = {
        name.removeprefix(f"{prefix}_"): value for name, value in results.items() if name.startswith(f"{prefix}_")
    }
    report = Path(folder, "report.html" if prefix == "eval" else f"{prefix}_report.html")
    reached = f"reached: {100 * numbers['accuracy']:.1f} % of the {SPLIT_NAMES[prefix]} questions right"
    if (floor := numbers.get("accuracy_majority_question")) is not None:
        reached += f"; the most frequent training answer, without any image: {100 * floor:.1f} %"
    lines = [reached]
    if "image_gain" in numbers:
        lines.append(f"means:   {image_sentence(numbers)}")
    # Advice begins with "To do: " or "To try: ".
    next_steps = [tip.partition(": ")[2] for tip in advice(numbers)] or [join(["mmjepa", "app", folder])]
    return [*lines, f"model:   {folder}", f"report:  {report}", *(f"next:    {step}" for step in next_steps)]
