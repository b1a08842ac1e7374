"""What is to be seen in a drawn slide."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

STAINS = ("h&e", "pas", "trichrome", "silver")
NUCLEI = ("round", "oval", "spindle", "lobed")
DENSITIES = ("sparse", "moderate", "dense")
FINDINGS = ("gland", "necrosis", "mitosis", "inclusion")
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


@dataclass(frozen=True)
class SlideFacts:
    """What is to be seen in a slide: its stain, the shape and density of its nuclei, and its findings.

    findings: place -> the finding that lies there; the other places hold only tissue.
    """

    stain: str
    nuclei: str
    density: str
    findings: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How often each kind of finding is there, 0 included."""
        seen = Counter(self.findings.values())
        return {finding: seen[finding] for finding in FINDINGS}


def pick(rng: np.random.Generator, options: Iterable[str]) -> str:
    """One of `options`, each equally likely."""
    options = list(options)
    return options[rng.integers(len(options))]


def draw_facts(rng: np.random.Generator) -> SlideFacts:
    """One to four kinds of finding, each on half of the slides; one to three of a kind and at most six in all.

    Nearly half of the slides show one kind alone. There the answer needs no choice between findings, and training from
    random weights first learns to find places.
    """
    number = rng.choice([1, 2, 3, 4], p=[0.45, 0.25, 0.15, 0.15])
    kinds = rng.permutation(list(FINDINGS))[:number]
    findings = np.repeat(kinds, rng.choice([1, 2, 3], size=len(kinds), p=[0.5, 0.25, 0.25]))[:6].tolist()
    places = rng.permutation(list(PLACES))[: len(findings)].tolist()
    return SlideFacts(
        stain=pick(rng, STAINS),
        nuclei=pick(rng, NUCLEI),
        density=pick(rng, DENSITIES),
        findings=dict(zip(places, findings, strict=True)),
    )
