"""What is wrong with a data set, or worth knowing, before a model is trained on it."""

import hashlib
from collections import Counter
from itertools import combinations
from typing import Any

from datasets import Dataset, Features, Value

from ..data.columns import conversation_column, find_columns
from ..data.images import MADE_BY, decoded_or_fault, image_hashes, image_name
from ..data.rows import groups_of, is_answered, load_rows
from ..data.tables import load_splits
from ..metrics.vqa_answers.rules import normalize_answer
from ..metrics.vqa_answers.vqa_answers import question_kind, score_answers
from .controls import majority_answers, with_answers

# BART reads 1,024 tokens, and answers have 32 by default (--max_answer_tokens); a word has one token or more.
MAX_WORDS = {"question": 512, "answer": 24}
SHOWN = 5  # names of images or rows in a message


def check_data(
    dataset_name: str,
    config_name: str | None = None,
    columns: dict[str, str] | None = None,
    max_unreadable: float = 0.1,
    allow_outside_images: bool = False,
    group_column: str | None = None,
) -> dict[str, Any]:
    """Looks at every row and every image of a data set.

    Args:
        dataset_name, config_name, columns, allow_outside_images: as for `load_rows`.
        max_unreadable: the share of a split's images that may be missing or broken.
        group_column: whose groups, such as patients, may each have rows of one split alone.

    Returns:
        `errors`, for which no training can start, and `warnings`, both texts that say what to do; `columns`, the name
        here of each of the data set's columns that is used; `splits`, the numbers of each; `questions_alone`, what
        validation questions give without images: the accuracy of the training split's most frequent answers, and the
        share of answers that stand in it.
    """
    report: dict[str, Any] = {"errors": [], "warnings": [], "columns": {}, "splits": {}, "questions_alone": {}}
    try:
        found = load_splits(dataset_name, config_name)
        split, (first, _) = next(iter(found.items()))
        if conversation_column(first.column_names, columns or {}) is None:
            report["columns"] = find_columns(first.column_names, columns or {}, split)
        splits = load_rows(dataset_name, config_name, columns, allow_outside_images=allow_outside_images)
        grouped = splits if group_column is not None else {}
        groups = {split: set(groups_of(rows, group_column)) - {""} for split, rows in grouped.items()}
    except (ValueError, OSError) as error:
        report["errors"].append(str(error))
        return report
    images: dict[str, dict[str, str]] = {}
    for split, rows in splits.items():
        report["splits"][split], images[split] = check_split(split, rows, report, max_unreadable)
    if "train" not in splits:
        report["errors"].append(f"There is no train split among {', '.join(splits)}: name a table or folder train.")
    if "validation" not in splits:
        things = "training images" if group_column is None else f"training groups by {group_column!r}"
        report["warnings"].append(f"There is no validation split: training holds out about 10 % of the {things}.")
    for one, other in combinations(groups, 2):
        if in_both := sorted(groups[one] & groups[other]):
            number = count(len(in_both), f"group by {group_column!r} has", f"groups by {group_column!r} have")
            report["warnings"].append(
                f"{number} rows in both {one} and {other} ({listed(in_both)}): what is measured there is too good. "
                "Move them into one."
            )
    for one, other in combinations(images, 2):
        shared = images[one].keys() & images[other].keys()
        if shared:
            names = listed(sorted(" = ".join(dict.fromkeys([images[one][key], images[other][key]])) for key in shared))
            report["warnings"].append(
                f"{count(len(shared), 'image stands', 'images stand')} in both {one} and {other} ({names}): what is "
                "measured there is too good. Take them out of one."
            )
    if len(splits.get("train", ())) and len(splits.get("validation", ())):
        report["questions_alone"] = questions_alone(splits["train"], splits["validation"])
    return report


def check_split(
    split: str, rows: Dataset, report: dict[str, Any], max_unreadable: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """The numbers of a split, and the name of each of its images by a hash of its pixels; adds to the report's
    errors and warnings."""
    texts = {name: rows[name][:] for name in ("question", "answer", "caption", "text") if name in rows.column_names}
    records = [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]
    answered = [is_answered(record) for record in records]
    hashes = image_hashes(rows)
    first_row: dict[str, int] = {}
    for row, key in enumerate(hashes):
        first_row.setdefault(key, row)
    encoded = rows.select_columns("image").select(list(first_row.values()))
    features = Features({"pixels": Value("string"), "fault": Value("string")})
    decoded = encoded.map(
        pixel_hash, remove_columns="image", features=features, fn_kwargs={"made_by": MADE_BY}, desc="Decoding images"
    )
    pixels = decoded["pixels"][:]
    names = [image_name(image, row) for image, row in zip(encoded["image"], first_row.values(), strict=True)]
    unreadable = [f"{name}: {fault}" for name, fault in zip(names, decoded["fault"], strict=True) if fault]
    keys = [(key, *record.values()) for key, record in zip(hashes, records, strict=True)]
    duplicates = len(keys) - len(set(keys))
    warnings, errors = report["warnings"], report["errors"]

    if not any(answered):
        errors.append(f"{split}: none of the {len(rows)} rows has an answer: check --answer_column.")
    elif not all(answered):
        places = [row for row, is_kept in enumerate(answered) if not is_kept]
        warnings.append(
            f"{split}: {count(len(places), 'row has', 'rows have')} no answer and will be left out "
            f"({listed(places, 'row ')})."
        )
    if unreadable:
        share = len(unreadable) / len(names)
        message = f"{split}: {len(unreadable)} of {len(names)} images are missing or can't be decoded "
        message += f"({listed(unreadable)})"
        if share == 1 or share > max_unreadable:
            errors.append(f"{message}: check the paths, --image_column and the folder they are relative to.")
        else:
            warnings.append(f"{message}: they will be read as black images. Repair them or take their rows out.")
    if duplicates:
        warnings.append(
            f"{split}: {count(duplicates, 'row is a copy', 'rows are copies')} of another: they count twice."
        )
    for name, limit in MAX_WORDS.items():
        long = [row for row, text in enumerate(texts[name]) if len(text.split()) > limit]
        if long:
            warnings.append(
                f"{split}: {count(len(long), f'{name} has', f'{name}s have')} more than {limit} words "
                f"({listed(long, 'row ')}): the end may be cut off."
            )
    asked = [question for question in texts["question"] if question.strip()]
    if len(asked) < len(rows):
        warnings.append(f"{split}: {count(len(rows) - len(asked), 'row has', 'rows have')} no question.")
    kinds = Counter(map(question_kind, asked))
    answers = Counter(
        normalize_answer(text) for text, is_kept in zip(texts["answer"], answered, strict=True) if is_kept
    )
    numbers = {
        "rows": len(rows),
        "rows_with_answer": sum(answered),
        "images": len(names),
        "unreadable_images": len(unreadable),
        "questions_per_image": len(rows) / max(len(names), 1),
        "distinct_answers": len(answers),
        "yes_no_share": (answers["yes"] + answers["no"]) / max(answers.total(), 1),
        "kinds": {kind: number / len(asked) for kind, number in kinds.most_common()},
    }
    return numbers, {key: name for key, name in zip(pixels, names, strict=True) if key}


def pixel_hash(example: dict[str, Any], made_by: dict[str, Any]) -> dict[str, str]:
    """A hash of an encoded image's pixels, the same where it was saved again; "" and the fault where it can't be
    decoded. `made_by` is not read: it is in the fingerprint."""
    image, fault = decoded_or_fault(example["image"])
    if image is None:
        return {"pixels": "", "fault": fault}
    digest = hashlib.blake2b(image.tobytes() + str(image.size).encode(), digest_size=16)
    return {"pixels": digest.hexdigest(), "fault": ""}


def questions_alone(train: Dataset, validation: Dataset) -> dict[str, float]:
    """Accuracies of the training answers to questions that start alike, and to equal questions; and the share of the
    validation answers that stand in train, the most that a list of its answers can reach."""
    rows, train = with_answers(validation), with_answers(train)
    if not len(rows) or not len(train):
        return {}
    questions, answers = rows["question"][:], rows["answer"][:]
    known = set(map(normalize_answer, train["answer"]))
    scores = {"answers_seen_in_train": sum(normalize_answer(answer) in known for answer in answers) / len(answers)}
    for name, first_words in (("majority", (3, 2, 1, 0)), ("majority_question", (None, 3, 2, 1, 0))):
        scores[name] = score_answers(majority_answers(train, questions, first_words), answers, questions)["accuracy"]
    return scores


def count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def listed(items: list, prefix: str = "") -> str:
    """The first of `items`, and whether there are more."""
    return ", ".join(f"{prefix}{item}" for item in items[:SHOWN]) + (", ..." if len(items) > SHOWN else "")


def check_text(report: dict[str, Any], batch_size: int, epochs: float) -> str:
    """A report of `check_data` as a page: errors and warnings first, then the numbers, then what a run takes."""
    lines = [f"ERROR    {message}" for message in report["errors"]]
    lines += [f"WARNING  {message}" for message in report["warnings"]]
    lines.append("Training can't start." if report["errors"] else "Training can start.")
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
