"""A user's data set, looked at before any training: what is wrong with it, and what is worth knowing."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any

import PIL.Image
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetNotFoundError
from transformers import BartConfig

from ..data.images import check_readable, hold_out, image_bytes, image_hashes, image_name
from ..data.loading import (
    TEXT_COLUMNS,
    find_columns,
    has_turns,
    is_answered,
    load_splits,
    other_columns,
    split_name,
    with_own_columns,
)
from ..evaluation.evaluate import score_majority
from ..evaluation.report import markdown_table
from ..metrics.vqa_answers.vqa_answers import normalize_answer, question_kind
from ..processing_mmjepa import to_rgb
from .arguments import MAX_ANSWER_TOKENS, DataArguments, MMJepaTrainingArguments
from .building import load_tokenizer

# Of these a training by the default flags needs each row and image.
TRAINED_SPLITS = ("train", "validation")
SHOWN = 5  # how many names a problem lists


@dataclass
class Length:
    """How long texts are: in tokens, or without a tokenizer in words, of which each has at least one token."""

    unit: str
    count: Callable[[list[str]], list[int]]
    most_question: int

    def num_longer(self, texts: list[str], limit: int) -> int:
        return sum(length > limit for length in self.count(texts))


@dataclass
class CheckedSplit:
    """A split whose images were decoded.

    numbers: what `check_data` says of it.
    answered: the rows that are trained on or evaluated.
    images: the name of each readable image, by the hash of its pixels.
    files: that hash, by the name of the image's file.
    """

    numbers: dict[str, Any]
    answered: Dataset
    images: dict[str, str]
    files: dict[str, str]


def check_data(arguments: DataArguments, tokenizer_name: str | None = None) -> dict[str, Any]:
    """What there is in a data set, and what is wrong with it; every image is decoded once.

    Args:
        arguments: which data set, and which columns and share of unreadable images.
        tokenizer_name: a BART tokenizer or a saved MMJepa, by which texts are measured; without one words are counted.

    Returns:
        dataset: its name.
        can_train: whether a training by the default flags can start.
        problems: {"text", "stops"}: what is wrong and what to do; whether training can't start.
        length_unit: "tokens" or "words".
        splits: by name, the numbers of `check_split`; of one without the needed columns its columns alone.
        shared_images: {"splits", "images"}: two splits, and what the same image is called in each.
        shared_names: {"splits", "names"}: two splits, and the file names that mean another image in each.
        questions_alone: of validation, or of what is held out for it: the accuracy of the most frequent training
            answer to the question's first words (accuracy_majority) and to the question (accuracy_majority_question),
            and the share of answers that stand in training (answers_seen); {} where it can't be told.
        run: steps and what they follow from; {} where training can't start.

    Raises:
        ValueError: there is no tokenizer of that name.
    """
    report: dict[str, Any] = {"dataset": arguments.dataset_name, "can_train": False, "problems": []}
    problems: list[dict[str, Any]] = report["problems"]
    length = measure(tokenizer_name)
    report |= {
        "length_unit": length.unit,
        "splits": {},
        "shared_images": [],
        "shared_names": [],
        "questions_alone": {},
        "run": {},
    }
    try:
        splits = load_splits(arguments.dataset_name, arguments.dataset_config_name)
    except (DatasetNotFoundError, ConnectionError) as error:
        text = f"There is no such folder here, and no such data set was found on the Hub ({error}): check the name."
        return report | {"problems": [problem(text, stops=True)]}
    # Broken files make `datasets` and what it reads them with raise errors of many types; they are what was asked for.
    except Exception as error:
        return report | {"problems": [problem(f"The data can't be read: {error.__cause__ or error}", stops=True)]}
    checked: dict[str, CheckedSplit] = {}
    for own_name, (raw, folder) in splits.items():
        split = split_name(own_name, splits)
        try:
            checked[split] = check_split(split, raw, folder, arguments, length)
            report["splits"][split] = checked[split].numbers
            problems += split_problems(split, checked[split].numbers, length, arguments.max_unreadable_images)
        except ValueError as error:  # it has not the columns
            report["splits"][split] = {"rows": len(raw), "columns": {}, "other_columns": raw.column_names}
            problems.append(problem(str(error), stops=split in TRAINED_SPLITS))
    report["shared_images"] = shared_images({split: found.images for split, found in checked.items()})
    report["shared_names"] = shared_names({split: found.files for split, found in checked.items()})
    problems += sharing_problems(report["shared_images"])
    if "train" not in report["splits"]:
        found = ", ".join(report["splits"])
        problems.append(problem(f"There is no train split among {found}: name a split train.", stops=True))
    if not any(found["stops"] for found in problems):
        answered = {split: found.answered for split, found in checked.items()}
        report |= look_at_training(answered, arguments, problems)
    report["can_train"] = not any(found["stops"] for found in problems)
    # What stops the training comes first.
    problems.sort(key=lambda found: not found["stops"])
    return report


def problem(text: str, stops: bool = False) -> dict[str, Any]:
    return {"text": text, "stops": stops}


def measure(tokenizer_name: str | None) -> Length:
    longest = BartConfig().max_position_embeddings
    if tokenizer_name is None:
        return Length("words", lambda texts: [len(text.split()) for text in texts], longest)
    tokenizer = load_tokenizer(tokenizer_name)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # the library makes such a one of nothing
        raise ValueError(
            f"--tokenizer_name is {tokenizer_name!r}, where there is no BART tokenizer: give a folder or Hub id with a "
            "tokenizer.json, or vocab.json and merges.txt."
        )
    most = min(tokenizer.model_max_length, longest)
    return Length(
        "tokens",
        lambda texts: [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]] if texts else [],
        most,
    )


def check_split(split: str, raw: Dataset, folder: Path, arguments: DataArguments, length: Length) -> CheckedSplit:
    """A split's images decoded and its texts measured; ValueError where it lacks a needed column.

    Args:
        raw: the rows as they were loaded, under their own names.
        folder: in which relative image paths lie.
    """
    rows = with_own_columns(raw, arguments.columns(), folder, split)
    columns = taken_columns(raw, arguments.columns(), split)
    keys, images, unreadable = look_at_images(rows, arguments.preprocessing_num_workers)
    texts = rows.select_columns([name for name in TEXT_COLUMNS if name in rows.column_names])
    kept = [row for row, text in enumerate(texts) if is_answered(text)]
    numbers = {
        "rows": len(rows),
        "images": len(set(keys)),
        "columns": columns,
        "other_columns": [name for name in other_columns(raw, []) if name not in columns.values()],
        "unreadable_images": unreadable,
        "rows_without_answer": len(rows) - len(kept),
        **check_texts(rows, keys, length),
    }
    files = {Path(file).name: key for file, key in zip(rows["image_file"], keys, strict=True) if file is not None}
    return CheckedSplit(numbers, rows.select(kept), images, files)


def taken_columns(rows: Dataset, columns: dict[str, str], split: str) -> dict[str, str]:
    """Name here -> name in the data set."""
    names = rows.column_names
    if not has_turns(names):
        return {name: column for column, name in find_columns(names, columns, split).items()}
    found = find_columns([*names, "question", "answer"], columns, split)
    return {name: column for column, name in found.items()} | dict.fromkeys(("question", "answer"), "conversations")


def look_at_images(rows: Dataset, num_proc: int) -> tuple[list[str], dict[str, str], list[str]]:
    """The key of each row's image, the name of each readable image by its key, and the names of the unreadable ones.

    A key is a hash of the pixels: the same picture in two files has one. That of an unreadable image is of its bytes.
    """
    hashes = image_hashes(rows, num_proc)
    first_rows: dict[str, int] = {}
    for row, image in enumerate(hashes):
        first_rows.setdefault(image, row)
    images = rows.select_columns("image").select(list(first_rows.values()))
    pixels = images.map(
        pixel_hash,
        remove_columns="image",
        features=Features({"pixels": Value("string")}),
        num_proc=num_proc,
        desc="Decoding images",
    )["pixels"][:]
    key_of = {image: found or image for image, found in zip(first_rows, pixels, strict=True)}
    readable: dict[str, str] = {}
    unreadable = []
    for place, (row, found) in enumerate(zip(first_rows.values(), pixels, strict=True)):
        name = image_name(images[place]["image"], row)
        if found:
            readable.setdefault(found, name)
        else:
            unreadable.append(name)
    return [key_of[image] for image in hashes], readable, unreadable


def pixel_hash(example: dict[str, Any]) -> dict[str, str]:
    """A hash of an image's size and pixels, as training reads them; empty where it can't be decoded."""
    try:
        image = to_rgb(PIL.Image.open(BytesIO(image_bytes(example["image"]))))
        return {"pixels": hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).hexdigest()}
    # As in `prepare_image`: broken files make Pillow's decoders raise errors of a dozen types.
    except Exception:
        return {"pixels": ""}


def check_texts(rows: Dataset, keys: list[str], length: Length) -> dict[str, Any]:
    """What the questions and answers of a split are like; `keys` has the image of each row."""
    questions, answers = rows["question"][:], rows["answer"][:]
    asked = [question for question in questions if question.strip()]
    same = Counter(
        (key, question.strip().lower(), answer.strip().lower())
        for key, question, answer in zip(keys, questions, answers, strict=True)
    )
    an_image = Counter(key for key, question in zip(keys, questions, strict=True) if question.strip())
    kinds = Counter(map(question_kind, asked))
    return {
        "rows_without_question": len(questions) - len(asked),
        "answered_questions": sum(
            bool(question.strip() and answer.strip()) for question, answer in zip(questions, answers, strict=True)
        ),
        "duplicate_rows": sum(count - 1 for count in same.values()),
        "long_questions": length.num_longer(asked, length.most_question),
        "long_answers": length.num_longer(answers, MAX_ANSWER_TOKENS),
        "questions_per_image": {
            "mean": len(asked) / max(len(an_image), 1),
            "most": max(an_image.values(), default=0),
        },
        "kinds": {kind: count / len(asked) for kind, count in kinds.most_common()},
    }


def split_problems(split: str, found: dict[str, Any], length: Length, max_unreadable: float) -> list[dict[str, Any]]:
    """What is wrong with a split by itself."""
    problems = []
    rows, unreadable, trained = found["rows"], found["unreadable_images"], split in TRAINED_SPLITS
    try:
        check_readable(split, unreadable, found["images"], max_unreadable)
        if unreadable:
            problems.append(
                problem(
                    f"{split}: {len(unreadable):,} of {found['images']:,} images are missing or can't be decoded: "
                    f"{listed(unreadable)}. They would be read as black: replace them, or leave out their rows."
                )
            )
    except ValueError as error:
        problems.append(problem(str(error), stops=trained))
    if not found["answered_questions"]:
        text = f"{split}: no row has both a question and an answer: check --question_column and --answer_column."
        return [*problems, problem(text, stops=trained)]
    for name, text in (
        ("rows_without_answer", "rows have no answer and are left out: give them one."),
        ("rows_without_question", "rows have no question and teach no answer: give them one."),
        (
            "duplicate_rows",
            "rows repeat an earlier one, image, question and answer: remove them, or they count twice.",
        ),
        (
            "long_questions",
            f"questions have more than {length.most_question} {length.unit} and are cut: shorten them.",
        ),
        (
            "long_answers",
            f"answers have more than {MAX_ANSWER_TOKENS} {length.unit}, more than the model writes: shorten them, or "
            "give --max_answer_tokens.",
        ),
    ):
        if found[name]:
            problems.append(problem(f"{split}: {found[name]:,} of {rows:,} {text}"))
    return problems


def shared_images(images: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """The images that stand in two splits, and how they are called in each."""
    return [
        {"splits": [first, second], "images": [images[first][key], images[second][key]]}
        for first, second in combinations(images, 2)
        for key in images[first]
        if key in images[second]
    ]


def shared_names(files: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """The file names that stand in two splits for other pixels: a copy that was saved anew, or another image."""
    pairs = [
        {
            "splits": [first, second],
            "names": [name for name, key in files[first].items() if files[second].get(name, key) != key],
        }
        for first, second in combinations(files, 2)
    ]
    return [pair for pair in pairs if pair["names"]]


def sharing_problems(shared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_splits: dict[tuple[str, str], list[str]] = {}
    for image in shared:
        first, second = image["images"]
        name = first if first == second else f"{first} = {second}"
        by_splits.setdefault(tuple(image["splits"]), []).append(name)
    problems = []
    for (first, second), names in by_splits.items():
        count = "an image" if len(names) == 1 else f"{len(names):,} images"
        problems.append(
            problem(
                f"{first} and {second} share {count}: {listed(names)}. The model has then seen images that it is "
                f"judged by: leave them out of {first}."
            )
        )
    return problems


def look_at_training(
    rows: dict[str, Dataset], arguments: DataArguments, problems: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the questions alone give, and the steps of a training by the default flags."""
    train, validation, source = rows["train"], rows.get("validation"), "validation"
    if validation is None:
        percentage = arguments.validation_split_percentage
        source = f"{percentage:g} % of the training images, held out"
        try:
            train, validation = hold_out(train, percentage, 0, arguments.preprocessing_num_workers)
        except ValueError as error:
            problems.append(problem(str(error), stops=True))
            return {}
    texts = train.select_columns(["question", "answer"])
    known = set(map(normalize_answer, texts["answer"]))
    asked, answers = validation["question"][:], validation["answer"][:]
    seen = [normalize_answer(answer) in known for answer in answers]
    truths = validation["answers"][:] if "answers" in validation.column_names else answers
    floors = score_majority(texts, asked, truths)
    batch_size = MMJepaTrainingArguments.per_device_train_batch_size
    epochs = MMJepaTrainingArguments.num_train_epochs
    return {
        "questions_alone": {
            "rows": source,
            **{name: floors[name] for name in ("accuracy_majority", "accuracy_majority_question")},
            "answers_seen": sum(seen) / len(seen),
        },
        "run": {
            "rows": len(train),
            "batch_size": batch_size,
            "epochs": epochs,
            "steps": math.ceil(len(train) / batch_size) * epochs,
        },
    }


def listed(names: list[str]) -> str:
    """The first few of `names`, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def check_text(report: dict[str, Any]) -> str:
    """A report of `check_data` as a page of text: the problems first."""
    problems = report["problems"]
    parts = [f"{report['dataset']}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"]
    parts += [f"{number}. {found['text']}" for number, found in enumerate(problems, start=1)]
    parts.append("Training can start." if report["can_train"] else "Training can't start.")
    splits = {name: found for name, found in report["splits"].items() if "images" in found}
    if splits:
        parts.append(markdown_table([split_row(name, found) for name, found in splits.items()]))
        parts.append(columns_text(splits))
    if asked := {name: found["kinds"] for name, found in splits.items() if found["kinds"]}:
        kinds = dict.fromkeys(kind for shares in asked.values() for kind in shares)
        rows = [
            {"questions, %": kind} | {name: f"{100 * shares.get(kind, 0):.1f}" for name, shares in asked.items()}
            for kind in kinds
        ]
        parts.append(markdown_table(rows))
    if alone := report["questions_alone"]:
        parts.append(
            f"The questions alone give, on {alone['rows']}: {alone['accuracy_majority']:.1%} by the most frequent "
            f"training answer to the question's first words, {alone['accuracy_majority_question']:.1%} to the whole "
            f"question. A model has to be better than that. {alone['answers_seen']:.1%} of these rows' answers stand "
            "in training."
        )
    for pair in report["shared_names"]:
        first, second = pair["splits"]
        parts.append(
            f"{first} and {second} have {len(pair['names']):,} file names in common whose images differ: "
            f"{listed(pair['names'])}. If one is a copy of the other that was saved anew, leave it out of {first}."
        )
    if run := report["run"]:
        parts.append(
            f"A training by the default flags takes {run['steps']:,} steps: {run['rows']:,} rows, --batch_size "
            f"{run['batch_size']}, --max_epochs {run['epochs']}."
        )
    if report["length_unit"] == "words":
        parts.append("Lengths are counted in words; texts can have more tokens. --tokenizer_name counts those.")
    return "\n\n".join(parts)


def split_row(name: str, found: dict[str, Any]) -> dict[str, str]:
    numbers = {
        "rows": found["rows"],
        "images": found["images"],
        "unreadable": len(found["unreadable_images"]),
        "no answer": found["rows_without_answer"],
        "repeated": found["duplicate_rows"],
        "too long": found["long_questions"] + found["long_answers"],
    }
    an_image = found["questions_per_image"]
    cells = {title: f"{number:,}" for title, number in numbers.items()}
    return {"split": name, **cells, "questions an image": f"{an_image['mean']:.1f} (at most {an_image['most']})"}


def columns_text(splits: dict[str, dict[str, Any]]) -> str:
    """Which columns were taken for what; one line where it is the same in all splits."""
    lines: dict[str, list[str]] = {}
    for name, found in splits.items():
        taken = ", ".join(f"{here} is {column!r}" for here, column in found["columns"].items())
        absent = [here for here in TEXT_COLUMNS if here not in found["columns"]]
        line = (
            f"{taken}; not there: {', '.join(absent) or 'none'}; others: {', '.join(found['other_columns']) or 'none'}"
        )
        lines.setdefault(line, []).append(name)
    return "\n".join(f"Columns of {', '.join(names)}: {line}." for line, names in lines.items())
