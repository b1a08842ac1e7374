"""The report of `check_data` as text."""

from typing import Any


def check_text(report: dict[str, Any], batch_size: int, epochs: float) -> str:
    """Errors and warnings first, then the numbers, then the steps that a run takes.

    Args:
        report: of `check_data`.
        batch_size, epochs: of the run.
    """
    lines = [f"ERROR    {message}" for message in report["errors"]]
    lines += [f"WARNING  {message}" for message in report["warnings"]]
    lines.append("Training can't start." if report["errors"] else "Training can start.")
    if report["layout"]:
        lines += ["", f"layout: {report['layout']}"]
    for split, folder in report["image_folders"].items():
        lines.append(f"images of {split}: from {folder}")
    if report["columns"]:
        used = ", ".join(f"{name} from {column!r}" for column, name in report["columns"].items())
        lines += ["", f"columns: {used}"]
    for split, numbers in report["splits"].items():
        kinds = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in numbers["kinds"].items())
        lines += [
            "",
            f"{split}: {numbers['rows']} rows about {numbers['images']} images, "
            f"{numbers['questions_per_image']:.1f} an image; {numbers['distinct_answers']} distinct answers, "
            f"{100 * numbers['yes_no_share']:.0f} % yes or no",
            f"    questions: {kinds}",
        ]
    if alone := report["questions_alone"]:
        lines += [
            "",
            f"Without any image, the most frequent training answer to a question is right for "
            f"{100 * alone['majority_question']:.1f} % of validation, that to its first three words for "
            f"{100 * alone['majority']:.1f} %: read accuracies against that.",
            f"{100 * alone['answers_seen_in_train']:.1f} % of validation's answers stand in train.",
        ]
    if "train" in report["splits"]:
        rows = report["splits"]["train"]["rows_with_answer"]
        steps = -(-rows // batch_size)
        lines += [
            "",
            f"An epoch has {steps} steps of {batch_size} questions; {epochs:g} epochs have {int(steps * epochs)}.",
        ]
    return "\n".join(lines)
