"""Facts -> questions about a slide and their answers."""

from collections.abc import Iterable

import numpy as np

from .facts import DENSITIES, FINDINGS, NUCLEI, PLACES, STAINS, SlideFacts, pick

COUNTS = ("none", "one", "two", "three")
PLURALS = {"gland": "glands", "necrosis": "areas of necrosis", "mitosis": "mitoses", "inclusion": "inclusions"}
ARTICLES = {"gland": "a gland", "necrosis": "necrosis", "mitosis": "a mitosis", "inclusion": "an inclusion"}
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
# How often each kind is asked. PathVQA asks "what" in 41 % of its questions, "where" in 7 % and "how" in 2 %.
OPEN_WEIGHTS = {"stain": 2, "nuclei": 2, "density": 2, "contents": 4, "where": 3, "count": 1}
YES_NO_WEIGHTS = {"is_stain": 2, "is_nuclei": 2, "is_density": 2, "is_present": 4, "is_where": 2}


def _true_or_other(rng: np.random.Generator, true: Iterable[str], others: Iterable[str]) -> tuple[str, str]:
    """One of `true` with "yes", or one of `others` with "no", each half of the time."""
    return (pick(rng, true), "yes") if rng.integers(2) else (pick(rng, others), "no")


def _subject_and_answer(rng: np.random.Generator, facts: SlideFacts, kind: str) -> tuple[dict[str, str], str]:
    """What fills the gaps of a question of this kind, and the answer.

    All answers to a question are about equally frequent: a coin decides between yes and no before the subject is
    drawn, a finding is drawn by its kind before its place, and only one of the absent findings is counted. No coin
    decides whether a finding is present; any finding is asked for. With a coin, neither the question alone nor the
    image alone would tell anything about the answer, and training from random weights does not learn such a parity.
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
        finding = pick(rng, present)
        return {"place": pick(rng, [place for place, what in facts.findings.items() if what == finding])}, finding
    if kind == "where":
        finding = pick(rng, [finding for finding, count in facts.counts.items() if count == 1])
        return {"finding": finding}, next(place for place, what in facts.findings.items() if what == finding)
    if kind == "count":
        finding = pick(rng, [*present, pick(rng, absent)] if absent else present)
        return {"plural": PLURALS[finding]}, COUNTS[facts.counts[finding]]
    if kind == "is_present":
        finding = pick(rng, FINDINGS)
        return {"article": ARTICLES[finding]}, "yes" if finding in present else "no"
    finding = pick(rng, present)
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
            pairs.append((pick(rng, QUESTIONS[kind]).format(**gaps), answer))
    return [pairs[i] for i in rng.permutation(len(pairs))]
