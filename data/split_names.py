"""Which split a name means: of a table, of one of its numbered parts, or of a data set's own split."""

import re
from collections.abc import Iterable

ALIASES = {
    "train": ("train", "training", "trainset", "trainval", "train_val"),
    "validation": ("validation", "validate", "valid", "val", "valset", "dev", "eval"),
    "test": ("test", "testing", "testset"),
}
SPLIT_NAMES = {alias: split for split, aliases in ALIASES.items() for alias in aliases}
# Train and validation in one table. It is train where there is no other.
BOTH = ("trainval", "train_val")
# The end of train_1, train-00000-of-00002, train.part3.
NUMBER = re.compile(r"[-_. ]*(?:part|shard)?[-_. ]*(\d+)(?:[-_. ]*of[-_. ]*\d+)?$")


def without_number(name: str) -> str:
    """A table's name in lower case, without the number of a part."""
    return NUMBER.sub("", name.lower())


def part_number(name: str) -> int | None:
    """The number of a part; None if the name has none."""
    found = NUMBER.search(name.lower())
    return int(found[1]) if found else None


def exact_split(name: str) -> str | None:
    """The split that has this name, but for the number of a part; None if there is none."""
    return SPLIT_NAMES.get(without_number(name))


def split_by_word(name: str) -> str | None:
    """The split that a word of the name means, as in All_QA_Pairs_train; None if no word does, or two differ."""
    if (split := exact_split(name)) is not None:
        return split
    meant = {SPLIT_NAMES[word] for word in re.split("[^a-z]+", name.lower()) if word in SPLIT_NAMES}
    return "train" if meant == {"train", "validation"} else meant.pop() if len(meant) == 1 else None


def own_names(splits: Iterable[str]) -> dict[str, str]:
    """The name in this project of each of a data set's splits.

    Of two splits for one name, the one of that very name has it, else the first. The other keeps its own.
    """
    splits = list(splits)
    names: dict[str, str] = {}
    for split in sorted(splits, key=lambda split: (split not in ALIASES, split.lower() in BOTH)):
        name = SPLIT_NAMES.get(split.lower(), split)
        names[split] = split if name in names.values() else name
    return {split: names[split] for split in splits}
