"""The report of `check_data` as text."""

from typing import Any

from .table import fitted, terminal_width


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
        if numbers["copies"] or numbers["contradicted"]:
            lines += repeat_lines(numbers)
    if alone := report["questions_alone"]:
        lines += [
            "",
            f"Without any image, the most frequent training answer to a question is right for "
            f"{100 * alone['majority_question']:.1f} % of validation, that to its first three words for "
            f"{100 * alone['majority']:.1f} %: read accuracies against that.",
        ]
        if "majority_without_copies" in alone:
            lines.append(
                f"Without rows that are copies it is {100 * alone['majority_question_without_copies']:.1f} % and "
                f"{100 * alone['majority_without_copies']:.1f} %."
            )
        lines += [
            f"{100 * alone['answers_seen_in_train']:.1f} % of validation's answers stand in train.",
        ]
    if "train" in report["splits"]:
        rows = report["splits"]["train"]["rows_with_answer"]
        steps = -(-rows // batch_size)
        lines += [
            "",
            f"An epoch has {steps} steps of {batch_size} questions; {epochs:g} epochs have {int(steps * epochs)}.",
        ]
    return "\n".join(fitted(line, terminal_width()) for line in lines)


def repeat_lines(numbers: dict[str, Any]) -> list[str]:
    """What rows repeat others, and what one answer for each image and question can reach at most.

    Args:
        numbers: those of `repeat_numbers` among them.
    """

    def both(name: str, scale: float, form: str) -> str:
        """A number, and in brackets that of the open questions, if there are any."""
        open_number = numbers.get(f"open_{name}")
        number = f"{scale * numbers[name]:{form}}"
        return number if open_number is None else f"{number} (open: {scale * open_number:{form}})"

    return [
        f"    copies of another row: {both('copies', 1, '.0f')}",
        f"    rows of which another has the same image and question, and another answer: "
        f"{both('contradicted', 1, '.0f')}",
        f"    one answer for each image and question is right in at most {both('best_accuracy', 100, '.1f')} %, "
        f"without copies in {both('best_accuracy_without_copies', 100, '.1f')} %",
    ]
