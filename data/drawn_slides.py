"""Small histology-like slides drawn from a seed, with questions whose answers can be seen in them.

The embedded data set: a fresh machine without network trains on it. A slide has one of four stains, nuclei of one
shape and one density, and findings in some of the eight border cells of a 3 x 3 grid. The questions follow PathVQA's
statistics (7.6 questions an image, half of them yes/no, short lower-case sentences), and no answer follows from its
question.

    python -m mmjepa.data.drawn_slides slides --num_train 2000 --num_validation 200
"""

import argparse
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from PIL import ImageDraw


@dataclass(frozen=True)
class Stain:
    """The colours (R, G, B) in which a stain shows what it stains."""

    tissue: tuple[int, int, int]
    fibres: tuple[int, int, int]
    nucleus: tuple[int, int, int]
    necrosis: tuple[int, int, int]
    inclusion: tuple[int, int, int]


STAINS = {
    "h&e": Stain((240, 186, 206), (222, 128, 166), (92, 56, 150), (196, 160, 164), (222, 20, 40)),
    "pas": Stain((206, 150, 214), (172, 84, 178), (58, 62, 138), (172, 142, 168), (250, 0, 120)),
    "trichrome": Stain((146, 190, 222), (70, 128, 190), (104, 34, 58), (168, 168, 176), (236, 50, 30)),
    "silver": Stain((228, 208, 158), (178, 144, 84), (54, 40, 34), (178, 166, 150), (240, 120, 10)),
}
LUMEN = (250, 246, 248)
CHROMATIN = (28, 12, 40)

DENSITIES = {"sparse": 5, "moderate": 7, "dense": 10}  # nuclei along each side of the slide
COUNTS = ("none", "one", "two", "three")
FINDINGS = {"gland": "glands", "necrosis": "areas of necrosis", "mitosis": "mitoses", "inclusion": "inclusions"}
ARTICLES = {"gland": "a gland", "necrosis": "necrosis", "mitosis": "a mitosis", "inclusion": "an inclusion"}
PLACES = {  # (column, row) in the 3 x 3 grid
    "upper left": (0, 0),
    "top": (1, 0),
    "upper right": (2, 0),
    "left": (0, 1),
    "right": (2, 1),
    "lower left": (0, 2),
    "bottom": (1, 2),
    "lower right": (2, 2),
}

_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)  # (24, 2)
NUCLEI = {  # outlines (24, 2) in units of a nucleus' radius
    "round": _CIRCLE,
    "oval": _CIRCLE * (1.6, 0.62),
    "spindle": _CIRCLE * (2.2, 0.34),
    "lobed": _CIRCLE * (1.0 + 0.6 * np.cos(3 * _ANGLES))[:, None],
}

QUESTIONS = {
    "stain": ("what stain is used?", "what is the stain of this slide?", "what stain is seen here?"),
    "nuclei": ("what is the shape of the nuclei?", "what shape do the nuclei have?", "how are the nuclei shaped?"),
    "density": ("what is the cellularity?", "what is the density of nuclei?", "how dense are the nuclei?"),
    "contents": ("what is seen at the {place}?", "what is present at the {place}?", "what lies at the {place}?"),
    "where": ("where is the {finding}?", "where is the {finding} located?", "where does the {finding} lie?"),
    "count": ("how many {plural} are seen?", "how many {plural} are present?"),
    "is_stain": (
        "is this {stain} stain?",
        "is the slide stained with {stain}?",
        "does this slide show {stain} stain?",
    ),
    "is_nuclei": ("are the nuclei {nuclei}?", "does this slide show {nuclei} nuclei?"),
    "is_density": ("is the cellularity {density}?", "does the tissue show {density} nuclei?"),
    "is_present": ("is {article} present?", "is {article} seen?", "does this slide show {article}?"),
    "is_where": ("is {article} seen at the {place}?", "does the {place} of the slide show {article}?"),
}
# How often each is asked. PathVQA asks what in 41 % of its questions, where in 7 % and how in 2 %.
OPEN_WEIGHTS = {"stain": 2, "nuclei": 2, "density": 2, "contents": 4, "where": 3, "count": 1}
YES_NO_WEIGHTS = {"is_stain": 2, "is_nuclei": 2, "is_density": 2, "is_present": 4, "is_where": 2}


@dataclass(frozen=True)
class SlideFacts:
    """What is to be seen in a slide; `findings` maps a place to what lies there, other places hold tissue alone."""

    stain: str
    nuclei: str
    density: str
    findings: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How often each kind of finding is there, 0 included."""
        seen = Counter(self.findings.values())
        return {finding: seen[finding] for finding in FINDINGS}


def _pick(rng: np.random.Generator, options: Iterable[str]) -> str:
    options = list(options)
    return options[rng.integers(len(options))]


def draw_facts(rng: np.random.Generator) -> SlideFacts:
    """One to four kinds of finding, each on half of the slides, one to three of a kind and six in all at most.

    Nearly half of the slides show one kind alone. On these a question's answer needs no choice between findings, and
    training from random weights learns there to find places first.
    """
    number = rng.choice([1, 2, 3, 4], p=[0.45, 0.25, 0.15, 0.15])
    kinds = rng.permutation(list(FINDINGS))[:number]
    findings = np.repeat(kinds, rng.choice([1, 2, 3], size=len(kinds), p=[0.5, 0.25, 0.25]))[:6].tolist()
    places = rng.permutation(list(PLACES))[: len(findings)].tolist()
    return SlideFacts(
        stain=_pick(rng, STAINS),
        nuclei=_pick(rng, NUCLEI),
        density=_pick(rng, DENSITIES),
        findings=dict(zip(places, findings, strict=True)),
    )


# --- painting: every shape is a polygon, drawn at three times the size and averaged down -------------------------

SUPERSAMPLING = 3


class _Canvas:
    """An RGB picture of `size` pixels; coordinates and lengths are fractions of its side."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.size = rng, size
        self.pixels = np.zeros((size, size, 3), np.float32)

    def noise(self, columns: int, rows: int) -> np.ndarray:
        """Smooth noise (size, size) of about unit deviation, with `columns` x `rows` bumps."""
        bumps = self.rng.standard_normal((rows, columns)).astype(np.float32)
        return np.asarray(PILImage.fromarray(bumps).resize((self.size, self.size), PILImage.Resampling.BICUBIC))

    def stained(self, color: tuple[int, int, int]) -> np.ndarray:
        """`color` (3,) as this slide happens to show it."""
        return np.asarray(color, np.float32) + self.rng.normal(0, 6, 3)

    def fill(self, outlines: np.ndarray, color: np.ndarray) -> None:
        """Fills `outlines` (N, points, 2) with `color` (3,) or (size, size, 3)."""
        side = self.size * SUPERSAMPLING
        mask = PILImage.new("L", (side, side))
        draw = ImageDraw.Draw(mask)
        for outline in (outlines * side).reshape(len(outlines), -1).tolist():
            draw.polygon(outline, fill=255)
        covered = np.asarray(mask.reduce(SUPERSAMPLING), np.float32)[..., None] / 255  # (size, size, 1)
        self.pixels += covered * (color - self.pixels)

    def wobbly(self, center: np.ndarray, radius: float, wobble: float) -> np.ndarray:
        """The outline (1, 24, 2) of an uneven disc; `wobble` is how uneven."""
        waves = [self.rng.normal(0, wobble) * np.cos(k * _ANGLES + self.rng.uniform(0, 6.3)) for k in (2, 3, 4)]
        return center + radius * (_CIRCLE * (1 + np.sum(waves, axis=0))[:, None])[None]


def _paint_tissue(canvas: _Canvas, stain: Stain, along_x: bool) -> None:
    streaks = canvas.noise(4, 24) if along_x else canvas.noise(24, 4)
    fibres = np.clip(0.3 + 0.22 * streaks + 0.15 * canvas.noise(5, 5), 0, 1)[..., None]  # (size, size, 1)
    canvas.pixels += canvas.stained(stain.tissue) * (1 - fibres) + canvas.stained(stain.fibres) * fibres


def _paint_nuclei(canvas: _Canvas, facts: SlideFacts, along_x: bool) -> None:
    rng, side = canvas.rng, DENSITIES[facts.density]
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    grid = grid[rng.random(len(grid)) > 0.08]
    centers = (grid + 0.5 + rng.uniform(-0.3, 0.3, grid.shape)) / side  # (N, 2)
    angles = rng.normal(0 if along_x else np.pi / 2, 0.35, len(grid))
    turns = np.stack([np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)], axis=1).reshape(-1, 2, 2)
    radii = 0.042 * rng.uniform(0.85, 1.15, (len(grid), 1, 1))
    outlines = centers[:, None] + radii * NUCLEI[facts.nuclei] @ turns  # (N, 24, 2)
    canvas.fill(outlines, canvas.stained(STAINS[facts.stain].nucleus) + 10 * canvas.noise(30, 30)[..., None])


def _paint_gland(canvas: _Canvas, stain: Stain, center: np.ndarray) -> None:
    outline = canvas.wobbly(center, canvas.rng.uniform(0.125, 0.145), 0.04)
    canvas.fill(outline, canvas.stained(stain.nucleus))
    canvas.fill(center + 0.86 * (outline - center), canvas.stained(stain.fibres))
    canvas.fill(center + 0.55 * (outline - center), canvas.stained(LUMEN))


def _paint_necrosis(canvas: _Canvas, stain: Stain, center: np.ndarray) -> None:
    debris = 20 * canvas.noise(canvas.size // 2, canvas.size // 2) + 14 * canvas.noise(14, 14)
    color = canvas.stained(stain.necrosis) + debris[..., None]
    canvas.fill(canvas.wobbly(center, canvas.rng.uniform(0.13, 0.15), 0.1), color)


def _paint_mitosis(canvas: _Canvas, stain: Stain, center: np.ndarray) -> None:
    radius = canvas.rng.uniform(0.12, 0.14)
    canvas.fill(canvas.wobbly(center, radius, 0.03), 0.35 * canvas.stained(stain.tissue) + 0.65 * np.array(LUMEN))
    spikes = 0.6 + 0.3 * np.cos(canvas.rng.integers(5, 8) * _ANGLES + canvas.rng.uniform(0, 6.3))
    canvas.fill(center + 0.8 * radius * (_CIRCLE * spikes[:, None])[None], canvas.stained(CHROMATIN))


def _paint_inclusion(canvas: _Canvas, stain: Stain, center: np.ndarray) -> None:
    outline = canvas.wobbly(center, canvas.rng.uniform(0.1, 0.12), 0.03)
    canvas.fill(outline, canvas.stained(stain.inclusion))
    shine = center + 0.3 * (outline - center) - 0.035
    canvas.fill(shine, canvas.stained(LUMEN))


_PAINTERS = {
    "gland": _paint_gland,
    "necrosis": _paint_necrosis,
    "mitosis": _paint_mitosis,
    "inclusion": _paint_inclusion,
}


def paint_slide(rng: np.random.Generator, facts: SlideFacts, image_size: int = 96) -> PILImage.Image:
    """The picture (image_size x image_size, RGB) of a slide with these facts; `rng` decides what they leave open."""
    canvas, stain = _Canvas(rng, image_size), STAINS[facts.stain]
    along_x = bool(rng.integers(2))
    _paint_tissue(canvas, stain, along_x)
    _paint_nuclei(canvas, facts, along_x)
    for place, finding in facts.findings.items():
        center = (np.array(PLACES[place]) + 0.5) / 3 + rng.uniform(-0.02, 0.02, 2)
        _PAINTERS[finding](canvas, stain, center)
    pixels = canvas.pixels + rng.normal(0, 3, (image_size, image_size, 1))
    # Six bits a channel: the eye sees no difference and the PNG is a third smaller, on each of its 7.6 rows.
    return PILImage.fromarray(np.clip(pixels, 0, 255).astype(np.uint8) & 0xFC)


def draw_slide(rng: np.random.Generator, image_size: int = 96) -> tuple[PILImage.Image, SlideFacts]:
    """A slide and what is to be seen in it."""
    facts = draw_facts(rng)
    return paint_slide(rng, facts, image_size), facts


# --- asking ------------------------------------------------------------------------------------------------------


def _true_or_other(rng: np.random.Generator, true: Iterable[str], others: Iterable[str]) -> tuple[str, str]:
    """One of `true` and "yes", or one of `others` and "no", each half of the time."""
    return (_pick(rng, true), "yes") if rng.integers(2) else (_pick(rng, others), "no")


def _subject_and_answer(rng: np.random.Generator, facts: SlideFacts, kind: str) -> tuple[dict[str, str], str]:
    """What fills the gaps of a question of this kind, and the answer.

    Each is drawn so that all answers to a question are about equally frequent: yes/no by a coin before the subject,
    a finding by its kind before its place, and only one of the absent findings is counted. But whether a finding is
    present is asked of any finding, without a coin. With one, neither the question alone nor the image alone would
    say anything of the answer, and training from random weights does not learn such a parity.
    """
    present = [finding for finding, count in facts.counts.items() if count]
    absent = [finding for finding, count in facts.counts.items() if not count]
    if kind in ("stain", "nuclei", "density"):
        return {}, getattr(facts, kind)
    if kind in ("is_stain", "is_nuclei", "is_density"):
        aspect = kind.removeprefix("is_")
        options: dict[str, Iterable[str]] = {"stain": STAINS, "nuclei": NUCLEI, "density": DENSITIES}
        true = getattr(facts, aspect)
        named, answer = _true_or_other(rng, [true], [option for option in options[aspect] if option != true])
        return {aspect: named}, answer
    if kind == "contents":
        finding = _pick(rng, present)
        return {"place": _pick(rng, [place for place, what in facts.findings.items() if what == finding])}, finding
    if kind == "where":
        finding = _pick(rng, [finding for finding, count in facts.counts.items() if count == 1])
        return {"finding": finding}, next(place for place, what in facts.findings.items() if what == finding)
    if kind == "count":
        finding = _pick(rng, [*present, _pick(rng, absent)] if absent else present)
        return {"plural": FINDINGS[finding]}, COUNTS[facts.counts[finding]]
    if kind == "is_present":
        finding = _pick(rng, FINDINGS)
        return {"article": ARTICLES[finding]}, "yes" if finding in present else "no"
    finding = _pick(rng, present)
    there = [place for place, what in facts.findings.items() if what == finding]
    place, answer = _true_or_other(rng, there, [place for place in PLACES if place not in there])
    return {"article": ARTICLES[finding], "place": place}, answer


def ask_questions(rng: np.random.Generator, facts: SlideFacts) -> list[tuple[str, str]]:
    """4 to 10 different questions (7.6 on average) and their answers, half of them yes/no."""
    number = 4 + int(rng.binomial(6, 0.6))
    num_yes_no = (number + int(rng.integers(2))) // 2
    open_weights = dict(OPEN_WEIGHTS)
    if 1 not in facts.counts.values():
        del open_weights["where"]  # which of two glands?
    pairs = []
    for weights, asked in ((YES_NO_WEIGHTS, num_yes_no), (open_weights, number - num_yes_no)):
        shares = np.array(list(weights.values())) / sum(weights.values())
        for kind in rng.choice(list(weights), size=asked, replace=False, p=shares).tolist():
            gaps, answer = _subject_and_answer(rng, facts, kind)
            pairs.append((_pick(rng, QUESTIONS[kind]).format(**gaps), answer))
    return [pairs[i] for i in rng.permutation(len(pairs))]


# --- the data set ------------------------------------------------------------------------------------------------

SPLITS = ("train", "validation", "test")
FEATURES = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
EXAMPLE_QUESTION = "where is the gland?"


def _rows(split: str, num_slides: int, seed: int, image_size: int) -> Iterator[dict]:
    for index in range(num_slides):
        # A generator of its own for each slide: more slides never change the ones before.
        rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
        image, facts = draw_slide(rng, image_size)
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=3)
        encoded = {"bytes": file.getvalue(), "path": None}
        for question, answer in ask_questions(rng, facts):
            yield {"image": encoded, "question": question, "answer": answer}


def drawn_slides(
    num_train: int, num_validation: int, num_test: int = 0, seed: int = 0, image_size: int = 96
) -> DatasetDict:
    """Drawn slides with the columns `image`, `question` and `answer`, one row a question, as PathVQA has them.

    Rows about one slide are adjacent and repeat its encoded bytes. A split of no slides is left out. The same seed
    draws the same bytes, whatever the number of slides. ValueError if `image_size` is below 32, where the shapes of
    nuclei can't be told apart.
    """
    if image_size < 32:
        raise ValueError(f"image_size is {image_size}: slides have at least 32 pixels a side, the default is 96.")
    numbers = dict(zip(SPLITS, (num_train, num_validation, num_test), strict=True))
    return DatasetDict(
        {
            split: Dataset.from_list(list(_rows(split, number, seed, image_size)), features=FEATURES)
            for split, number in numbers.items()
            if number
        }
    )


def write_drawn_slides(folder: str | Path, **arguments: int) -> None:
    """Writes `drawn_slides(**arguments)` as an ordinary `datasets` folder, which `load_from_disk` reads.

    Beside the splits, `example.png` is the first slide of the validation split with the question `EXAMPLE_QUESTION`,
    if there is one.
    """
    slides = drawn_slides(**arguments)
    slides.save_to_disk(folder)
    for row in slides.cast_column("image", Image(decode=False)).get("validation", []):
        if row["question"] == EXAMPLE_QUESTION:
            Path(folder, "example.png").write_bytes(row["image"]["bytes"])
            break


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws slides with questions and writes them as a datasets folder.")
    parser.add_argument("folder")
    defaults = {"num_train": 2000, "num_validation": 200, "num_test": 0, "seed": 0, "image_size": 96}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    write_drawn_slides(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
