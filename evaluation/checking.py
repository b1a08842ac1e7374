"""Finds what is wrong with a data set before a model is trained on it."""

import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, compress
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value

from ..data.columns import conversation_column, find_columns
from ..data.images import MADE_BY, decoded_or_fault, image_hashes, image_name
from ..data.layouts import layout_of
from ..data.paths import spellings
from ..data.rows import groups_of, is_answered, own_rows
from ..data.tables import load_splits
from ..metrics.vqa_answers.rules import normalize_answer
from ..metrics.vqa_answers.vqa_answers import as_list, question_kind, score_answers
from .controls import WHOLE_QUESTION, majority_answers, right_answers_of, with_answers
from .repeats import Asked, are_copies, asked_of, repeat_numbers

# BART reads 1,024 tokens, and answers have 32 by default (--max_answer_tokens); a word has one token or more.
MAX_WORDS = {"question": 512, "answer": 24}
# How answers say yes and no, by language; a training knows the English words unless it is told others.
YES_NO = {
    "de": ("ja", "nein"),
    "es": ("sí", "no"),
    "fr": ("oui", "non"),
    "it": ("sì", "no"),
    "nl": ("ja", "nee"),
    "pt": ("sim", "não"),
}
SHOWN = 5  # names of images or rows in a message


def check_data(
    dataset_name: str,
    config_name: str | None = None,
    columns: dict[str, str] | None = None,
    max_unreadable: float = 0.1,
    allow_outside_images: bool = False,
    group_column: str | None = None,
    image_folder: str | None = None,
    train_split: str | None = None,
    where: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Looks at every row and every image of a data set.

    Args:
        dataset_name, config_name, columns, allow_outside_images, image_folder, train_split, where: as for `load_rows`.
        max_unreadable: the share of a split's images that may be missing or broken.
        group_column: the rows of one of its groups, such as a patient, should be in one split only.

    Returns:
        `errors`, with which no training can start, and `warnings`: texts that say what to do.
        `layout`: the publisher's layout that the tables have; None if it is not known by name.
        `image_folders`: by split, where images are that are not beside their table.
        `columns`: for each used column of the data set its name here.
        `splits`: the numbers of each split, those of `repeat_numbers` among them.
        `questions_alone`: what validation questions give without images, as of the function of this name; where rows
            are copies, also what they give without these, as <name>_without_copies.
    """
    report: dict[str, Any] = {"errors": [], "warnings": [], "layout": None, "image_folders": {}, "columns": {}}
    report |= {"splits": {}, "questions_alone": {}}
    try:
        found = load_splits(dataset_name, config_name, train_split, where)
        split, (first, _) = next(iter(found.items()))
        report["layout"] = layout_of(first.column_names)
        if conversation_column(first.column_names, columns or {}) is None:
            report["columns"] = find_columns(first, columns or {}, split)
        splits = own_rows(found, columns, allow_outside_images, image_folder)
        grouped = splits if group_column is not None else {}
        groups = {split: set(groups_of(rows, group_column)) - {""} for split, rows in grouped.items()}
    except (ValueError, OSError) as error:
        report["errors"].append(str(error))
        return report
    images: dict[str, dict[str, str]] = {}
    hashes: dict[str, list[str]] = {}
    for split, rows in splits.items():
        if (folder := folder_of_images(rows)) not in (None, str(found[split][1])):
            report["image_folders"][split] = folder
        hashes[split] = image_hashes(rows)
        report["splits"][split], images[split] = check_split(split, rows, hashes[split], report, max_unreadable)
    check_split_names(splits, group_column, report)
    warn_of_shared_groups(groups, group_column, report)
    warn_of_shared_images(images, report)
    if len(splits.get("train", ())) and len(splits.get("validation", ())):
        train, validation = splits["train"], splits["validation"]
        report["questions_alone"] = questions_alone(train, validation)
        copies = are_copies(*asked_and_answers(validation, hashes["validation"]))
        if copies.any():
            alone = questions_alone(train, validation.select(np.flatnonzero(~copies)))
            report["questions_alone"] |= {f"{name}_without_copies": score for name, score in alone.items()}
    return report


def folder_of_images(rows: Dataset) -> str | None:
    """The folder that the path of the first image starts from; None if it is no file or has an absolute path."""
    named, path = rows[0]["image_file"], (rows[0]["image"] or {}).get("path")
    if not named or not path or os.path.isabs(named):
        return None
    return str(Path(path).parents[len(Path(next(spellings(named))).parts) - 1])


def check_split_names(splits: dict[str, Dataset], group_column: str | None, report: dict[str, Any]) -> None:
    """Adds to `report` what it means that there is no train or no validation split."""
    if "train" not in splits:
        report["errors"].append(
            f"There is no train split among {', '.join(splits)}: name a table or folder train, "
            "or say which split is trained on by --train_split."
        )
    if "validation" not in splits:
        things = "training images" if group_column is None else f"training groups by {group_column!r}"
        report["warnings"].append(f"There is no validation split: training holds out about 10 % of the {things}.")


def warn_of_shared_groups(groups: dict[str, set[str]], group_column: str | None, report: dict[str, Any]) -> None:
    """Warns of groups, by split, that have rows in two splits."""
    for one, other in combinations(groups, 2):
        if in_both := sorted(groups[one] & groups[other]):
            number = count(len(in_both), f"group by {group_column!r} has", f"groups by {group_column!r} have")
            report["warnings"].append(
                f"{number} rows in both {one} and {other} ({listed(in_both)}): what is measured there is too good. "
                "Move them into one."
            )


def warn_of_shared_images(images: dict[str, dict[str, str]], report: dict[str, Any]) -> None:
    """Warns of images that stand in two splits.

    Args:
        images: by split the name of each image by a hash of its pixels.
    """
    for one, other in combinations(images, 2):
        shared = images[one].keys() & images[other].keys()
        if shared:
            names = listed(sorted(" = ".join(dict.fromkeys([images[one][key], images[other][key]])) for key in shared))
            report["warnings"].append(
                f"{count(len(shared), 'image stands', 'images stand')} in both {one} and {other} ({names}): what is "
                "measured there is too good. Take them out of one."
            )


def check_split(
    split: str, rows: Dataset, hashes: list[str], report: dict[str, Any], max_unreadable: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """The numbers of a split, and the name of each of its images by a hash of its pixels.

    Adds to the errors and warnings of `report`.

    Args:
        hashes: of `image_hashes`.
    """
    texts = {name: rows[name][:] for name in ("question", "answer", "caption", "text") if name in rows.column_names}
    records = [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]
    answered = [is_answered(record) for record in records]
    first_rows: dict[str, int] = {}
    for row, key in enumerate(hashes):
        first_rows.setdefault(key, row)
    names, pixels, faults = decode_images(rows, list(first_rows.values()))
    copies = len(records) - len({(key, *record.values()) for key, record in zip(hashes, records, strict=True)})
    questions = [question for question in texts["question"] if question.strip()]

    check_answers(split, answered, report)
    check_images(split, names, faults, report, max_unreadable)
    if copies:
        report["warnings"].append(
            f"{split}: {count(copies, 'row is a copy', 'rows are copies')} of another: they count twice."
        )
    warn_of_long_texts(split, texts, report)
    warn_of_other_words(split, texts["answer"], report)
    has_both = [bool(record["question"].strip() and record["answer"].strip()) for record in records]
    asked, answers = asked_and_answers(rows, hashes)
    repeats = repeat_numbers(list(compress(asked, has_both)), list(compress(answers, has_both)))
    warn_of_contradictions(split, repeats, report)
    if missing := len(rows) - len(questions):
        report["warnings"].append(f"{split}: {count(missing, 'row has', 'rows have')} no question.")
    numbers = split_numbers(questions, texts["answer"], answered, len(names), sum(map(bool, faults)))
    return numbers | repeats, {key: name for key, name in zip(pixels, names, strict=True) if key}


def split_numbers(
    asked: list[str], answers: list[str], answered: list[bool], num_images: int, num_unreadable: int
) -> dict[str, Any]:
    """What a split has, in numbers.

    Args:
        asked: the questions that are not empty.
        answers, answered: of every row its answer, and whether the row has one.
    """
    kinds = Counter(map(question_kind, asked))
    distinct = Counter(normalize_answer(text) for text, is_kept in zip(answers, answered, strict=True) if is_kept)
    return {
        "rows": len(answers),
        "rows_with_answer": sum(answered),
        "images": num_images,
        "unreadable_images": num_unreadable,
        "questions_per_image": len(answers) / max(num_images, 1),
        "distinct_answers": len(distinct),
        "yes_no_share": (distinct["yes"] + distinct["no"]) / max(distinct.total(), 1),
        "kinds": {kind: number / len(asked) for kind, number in kinds.most_common()},
    }


def asked_and_answers(rows: Dataset, hashes: list[str]) -> tuple[list[Asked], list[Sequence[str]]]:
    """The image and the question of each row, and its right answers.

    Args:
        hashes: of `image_hashes`.
    """
    columns = {name: rows[name][:] for name in ("question", "answer", "answers") if name in rows.column_names}
    return asked_of(hashes, columns["question"]), list(map(as_list, right_answers_of(columns)))


def warn_of_contradictions(split: str, repeats: dict[str, float], report: dict[str, Any]) -> None:
    """Warns of rows about the same image and question whose answers differ.

    Args:
        repeats: of `repeat_numbers`.
    """
    if number := repeats["contradicted"]:
        report["warnings"].append(
            f"{split}: {count(int(number), 'row has', 'rows have')} the image and question of a row with another "
            f"answer: no model that gives one answer can be right in more than {100 * repeats['best_accuracy']:.1f} % "
            "of the rows."
        )


def check_answers(split: str, answered: list[bool], report: dict[str, Any]) -> None:
    """An error where no row has an answer, a warning where some have none."""
    if not any(answered):
        report["errors"].append(f"{split}: none of the {len(answered)} rows has an answer: check --answer_column.")
    elif not all(answered):
        places = [row for row, is_kept in enumerate(answered) if not is_kept]
        report["warnings"].append(
            f"{split}: {count(len(places), 'row has', 'rows have')} no answer and will be left out "
            f"({listed(places, 'row ')})."
        )


def check_images(
    split: str, names: list[str], faults: list[str], report: dict[str, Any], max_unreadable: float
) -> None:
    """An error where more than the share `max_unreadable` of the images can't be read, a warning where some can't."""
    unreadable = [f"{name}: {fault}" for name, fault in zip(names, faults, strict=True) if fault]
    if not unreadable:
        return
    share = len(unreadable) / len(names)
    message = f"{split}: {len(unreadable)} of {len(names)} images are missing or can't be decoded "
    message += f"({listed(unreadable)})"
    if share == 1 or share > max_unreadable:
        report["errors"].append(f"{message}: check the paths, --image_column and the folder they are relative to.")
    else:
        report["warnings"].append(f"{message}: they will be read as black images. Repair them or take their rows out.")


def warn_of_long_texts(split: str, texts: dict[str, list[str]], report: dict[str, Any]) -> None:
    """Warns of questions and answers that may be cut off."""
    for name, limit in MAX_WORDS.items():
        long = [row for row, text in enumerate(texts[name]) if len(text.split()) > limit]
        if long:
            report["warnings"].append(
                f"{split}: {count(len(long), f'{name} has', f'{name}s have')} more than {limit} words "
                f"({listed(long, 'row ')}): the end may be cut off."
            )


def warn_of_other_words(split: str, answers: Sequence[str], report: dict[str, Any]) -> None:
    """Warns of answers that mean yes and no in another language than English, with the flag that says so."""
    words = {answer.strip().lower() for answer in answers}
    for language, (yes, no) in YES_NO.items():
        if {yes, no} <= words:
            flag = json.dumps({language: [[yes], [no]]}, ensure_ascii=False)
            report["warnings"].append(
                f"{split}: answers are {yes!r} and {no!r}. For a training they are yes and no only with "
                f"--yes_no_words {shlex.quote(flag)}"
            )


def decode_images(rows: Dataset, places: list[int]) -> tuple[list[str], list[str], list[str]]:
    """The images' names, hashes of their pixels, and faults: "" of an image that can be decoded.

    Args:
        places: the row of each image.
    """
    encoded = rows.select_columns("image").select(places)
    features = Features({"pixels": Value("string"), "fault": Value("string")})
    decoded = encoded.map(
        pixel_hash, remove_columns="image", features=features, fn_kwargs={"made_by": MADE_BY}, desc="Decoding images"
    )
    names = [image_name(image, row) for image, row in zip(encoded["image"], places, strict=True)]
    return names, decoded["pixels"][:], decoded["fault"][:]


def pixel_hash(example: dict[str, Any], made_by: dict[str, Any]) -> dict[str, str]:
    """A hash of an encoded image's pixels, which stays the same if the image is saved again in another format.

    "" and the fault where it can't be decoded. `made_by` is not read: it makes the fingerprint of `datasets` change.
    """
    image, fault = decoded_or_fault(example["image"])
    if image is None:
        return {"pixels": "", "fault": fault}
    digest = hashlib.blake2b(image.tobytes() + str(image.size).encode(), digest_size=16)
    return {"pixels": digest.hexdigest(), "fault": ""}


def questions_alone(train: Dataset, validation: Dataset) -> dict[str, float]:
    """What validation questions give without images.

    Returns:
        majority, majority_question: accuracies of the most frequent training answers to questions that start alike,
            and to equal questions.
        answers_seen_in_train: the share of validation answers that are training answers, too. A list of the training
            answers can't reach more.
    """
    rows, train = with_answers(validation), with_answers(train)
    if not len(rows) or not len(train):
        return {}
    questions, answers = rows["question"][:], rows["answer"][:]
    known = set(map(normalize_answer, train["answer"][:]))
    scores = {"answers_seen_in_train": sum(normalize_answer(answer) in known for answer in answers) / len(answers)}
    for name, first_words in (("majority", (3, 2, 1, 0)), ("majority_question", WHOLE_QUESTION)):
        scores[name] = score_answers(majority_answers(train, questions, first_words), answers, questions)["accuracy"]
    return scores


def count(number: int, one: str, several: str) -> str:
    """A number with its noun, in the singular for 1."""
    return f"{number} {one if number == 1 else several}"


def listed(items: list, prefix: str = "") -> str:
    """The first of `items`, and whether there are more."""
    return ", ".join(f"{prefix}{item}" for item in items[:SHOWN]) + (", ..." if len(items) > SHOWN else "")
