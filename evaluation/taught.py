"""The statements that a model was taught, and which of them is nearest to what somebody asks.

People word statements in their own way, and a small text encoder knows only the training's words.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from tqdm.auto import tqdm
from transformers.utils import cached_file

from ..data.statements import Statement, YesNoWords, statement_of
from ..metrics.vqa_answers.rules import normalize_answer, question_kind
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from .answerer import Answerer
from .cache_files import cache_folder, text_hash, weights_hash, write_whole
from .shares import batches

TAUGHT_FILE = "taught_statements.json"
MOST = 50_000  # statements that are kept
FAR = 0.05  # the share of the taught statements that lie farther from all others than a statement that is far
NEAR = 3  # how many of the nearest taught statements are named
EXTRA_WORDS = 0.2  # how much a word counts that only the taught statement has
SAMPLE = 1_000  # how many taught statements say how far apart they lie
# Words that say nothing of an image.
FUNCTION_WORDS = set(
    """a an and any are at be been being by can could did do does for from had has have in into is it its may of on or
    that the their there these they this those to was were what where which will with""".split()
)


class TaughtStatement(NamedTuple):
    """A distinct training statement: its kind of question, and of how many training rows it was true and false."""

    text: str
    kind: str
    true: int
    false: int


def count_statements(
    rows: Iterable[Mapping[str, Any]], setting: str, yes_no_words: YesNoWords
) -> list[TaughtStatement]:
    """The distinct statements of training rows, the most frequent first, at most `MOST`.

    Args:
        setting, yes_no_words: `alignment_text` and `yes_no_words` of [`MMJepaConfig`].
    """
    counts = Counter(statement_of(row, setting, yes_no_words) for row in rows)
    totals: Counter[str] = Counter()
    for statement, count in counts.items():
        totals[statement.text] += count
    del totals[""]
    return [
        TaughtStatement(text, question_kind(text), counts[Statement(text, 1)], counts[Statement(text, -1)])
        for text, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:MOST]
    ]


def write_taught(folder: str | Path, statements: Sequence[TaughtStatement]) -> None:
    """Writes the statements beside the saved model in `folder`, one a line."""
    lines = ",\n".join(json.dumps(statement._asdict(), ensure_ascii=False) for statement in statements)
    Path(folder, TAUGHT_FILE).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read_taught(name_or_path: str, revision: str | None = None) -> list[TaughtStatement]:
    """The statements that a saved model was taught; none where they were not kept.

    Args:
        name_or_path: a folder, or an id on the Hub.
        revision: branch, tag or commit on the Hub.

    Raises:
        ValueError: the file is damaged.
    """
    if not name_or_path:  # the model was not loaded
        return []
    path = cached_file(
        name_or_path,
        TAUGHT_FILE,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return []
    try:
        return [TaughtStatement(**row) for row in json.loads(Path(path).read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy or download it again, or remove it.") from error


def taught_to(model: MMJepaForConditionalGeneration) -> list[TaughtStatement]:
    """The statements that a loaded model was taught; none where they were not kept."""
    return read_taught(model.name_or_path, getattr(model.config, "_commit_hash", None))


@dataclass(frozen=True)
class Wording:
    """How a statement is asked.

    given: the statement in somebody's own words.
    asked: what the model is asked: the taught wording of the same statement if there is one.
    near: the nearest taught statements, the nearest first; empty if it is not known what the model was taught.
    own_words: content words of `given` that the nearest one lacks.
    is_far: whether all taught statements are farther from it than most of them are from another one, or none of them
        has a word of it.
    """

    given: str
    asked: str
    near: list[str] = field(default_factory=list)
    own_words: list[str] = field(default_factory=list)
    is_far: bool = False

    @property
    def note(self) -> str | None:
        """One line that people should read; None where the model was taught the statement as it is."""
        if not self.near or self.near[0] == self.given:
            return None
        if self.asked == self.near[0]:
            return f"{self.given!r} is asked as {self.asked!r}, as the model was taught."
        doubts = ["is far from all that was taught"] if self.is_far else []
        if self.own_words:
            doubts.append(f"may be judged as if it were without {' and '.join(map(repr, self.own_words))}")
        doubt = f" It {' and '.join(doubts)}." if doubts else ""
        return (
            f"{self.given!r} was not taught.{doubt} The nearest taught statements: {', '.join(map(repr, self.near))}."
        )


def nearest_taught(
    answerer: Answerer, statements: Sequence[str], taught: Sequence[TaughtStatement], show_progress: bool = False
) -> list[Wording]:
    """How to ask each of `statements`, and what was taught that is nearest to it.

    Case, punctuation without meaning and articles don't make another statement. The nearest one is that whose cosine
    and share of common words have the largest sum: to a small text encoder, texts of other words are near too.

    Args:
        taught: of `read_taught`; if it is empty, statements are asked as they are.
    """
    if not taught:
        return [Wording(statement, statement) for statement in statements]
    texts = [statement.text for statement in taught]
    same = {normalize_answer(text): text for text in reversed(texts)}  # the most frequent of equal ones
    same |= {text: text for text in texts}
    wordings: dict[str, Wording] = {}
    for statement in statements:
        if text := same.get(statement) or same.get(normalize_answer(statement)):
            wordings[statement] = Wording(statement, text, [text])
    if others := [statement for statement in dict.fromkeys(statements) if statement not in wordings]:
        taught_embeds = encode_taught(answerer, texts, show_progress)  # (T, D)
        embeds = answerer.encode_all_texts(others, answerer.model.encode_texts).float()  # (S, D)
        cosines = (embeds @ taught_embeds.T).cpu()  # (S, T)
        shares = common_words(others, texts)  # (S, T)
        near = (cosines + shares).topk(min(NEAR, len(texts))).indices.tolist()  # (S, NEAR)
        is_strange = (cosines.amax(dim=1) < usual_cosine(taught_embeds)) | (shares.amax(dim=1) == 0)  # (S,)
        for statement, places, is_far in zip(others, near, is_strange.tolist(), strict=True):
            found = [texts[place] for place in places]
            known = content_words(found[0])
            own = [word for word in content_words(statement) if word not in known]
            wordings[statement] = Wording(statement, statement, found, own, is_far)
    return [wordings[statement] for statement in statements]


def content_words(statement: str) -> list[str]:
    """The distinct words of a statement in lower case, without function words and meaningless punctuation."""
    words = normalize_answer(re.sub(r"['’]s\b", "", statement)).split()
    return list(dict.fromkeys(word for word in words if word not in FUNCTION_WORDS))


def common_words(statements: Sequence[str], texts: Sequence[str]) -> torch.Tensor:
    """The shares (S, T) of a statement's content words that a text has too; rare words count more.

    Words of the text that the statement lacks count against it, but less (Tversky's index).
    """
    words = [set(content_words(text)) for text in texts]
    numbers = Counter(word for in_text in words for word in in_text)

    def weight(some: set[str]) -> float:
        return sum(math.log(1 + len(texts) / max(numbers[word], 1)) for word in some)

    shares = torch.zeros(len(statements), len(texts))
    for row, statement in enumerate(statements):
        own = set(content_words(statement))
        for column, in_text in enumerate(words):
            if common := own & in_text:
                shares[row, column] = weight(common) / (weight(own) + EXTRA_WORDS * weight(in_text - own))
    return shares


def usual_cosine(taught_embeds: torch.Tensor) -> float:
    """The cosine that most taught statements (T, D) reach with the nearest other one; all but the share `FAR`."""
    sample = torch.linspace(0, len(taught_embeds) - 1, min(SAMPLE, len(taught_embeds))).long()
    if len(sample) < 2:
        return -1.0
    cosines = taught_embeds[sample] @ taught_embeds.T  # (samples, T)
    cosines[torch.arange(len(sample)), sample] = -1.0
    return cosines.max(dim=1).values.quantile(FAR).item()


def encode_taught(answerer: Answerer, texts: Sequence[str], show_progress: bool = False) -> torch.Tensor:
    """The targets (T, D), float32, of the taught texts. They are encoded once and kept on disk, in half precision."""
    model = answerer.model
    key = weights_hash(model, lambda name: name.startswith(("encoder.text_encoder.", "alignment.")))
    path = cache_folder("statements") / f"{text_hash([key, *texts])}.safetensors"
    if not path.exists():
        parts = list(batches(texts, 16 * answerer.batch_size))
        is_off = None if show_progress and len(parts) > 1 else True  # None: shown in a terminal
        bar = tqdm(parts, desc="Encoding taught statements", disable=is_off)
        embeds = torch.cat([answerer.encode_all_texts(part, model.encode_texts) for part in bar])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, {"text_embeds": embeds.to("cpu", torch.float16)})
    return load_file(path)["text_embeds"].to(model.device).float()
