import csv
import hashlib
import sys
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest
from PIL import Image as PILImage

from mmjepa.data.drawn_slides import drawn_slides, write_drawn_slides
from mmjepa.data.drawn_slides.__main__ import main
from mmjepa.data.drawn_slides.facts import FINDINGS, NUCLEI, PLACES, STAINS, SlideFacts, draw_facts
from mmjepa.data.drawn_slides.painting import paint_slide
from mmjepa.data.drawn_slides.questions import ask_questions
from mmjepa.data.rows import load_rows


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of six slides with their questions."""
    folder = tmp_path_factory.mktemp("small")
    write_drawn_slides(folder, 3, 2, 1, seed=5)
    return folder


@pytest.fixture(scope="module")
def asked():
    """(facts, questions and answers) of 12,000 slides that nobody painted."""
    drawn = []
    for index in range(12000):
        rng = np.random.default_rng(index)
        facts = draw_facts(rng)
        drawn.append((facts, ask_questions(rng, facts)))
    return drawn


@pytest.fixture(scope="module")
def pairs(asked):
    return [pair for _, questions in asked for pair in questions]


def paint(seed=0, stain="h&e", nuclei="round", density="sparse", findings=None):
    picture = paint_slide(np.random.default_rng(seed), SlideFacts(stain, nuclei, density, findings or {}))
    return np.asarray(picture).astype(int)


def files(folder):
    """The bytes of the files of a folder, but its example."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "example.png"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def images(folder):
    return {content for name, content in files(folder).items() if name.endswith(".png")}


# --- the data set


def test_the_same_seed_draws_the_same_rows_whatever_the_number_of_slides(small, tmp_path):
    write_drawn_slides(tmp_path, 5, 2, seed=5)
    same, more = files(small), files(tmp_path)
    assert more["train.csv"].startswith(same["train.csv"]) and len(more["train.csv"]) > len(same["train.csv"])
    for name in same.keys() - {"train.csv", "test.csv", "images/test_00000.png"}:
        assert more[name] == same[name], name


def test_slides_and_questions_stay_those_of_the_seed_in_every_version(tmp_path):
    """Numbers in the docs were measured on them."""
    write_drawn_slides(tmp_path, 2, 1, seed=0)
    with open(tmp_path / "train.csv", encoding="utf-8", newline="") as file:
        texts = [f"{row['question']} {row['answer']}" for row in csv.DictReader(file)]
    pixels = [PILImage.open(path).tobytes() for path in sorted(tmp_path.glob("images/*"))]
    assert len(texts) == 15 and hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "4ccba00e5448975a"
    # Another Pillow may round a colour otherwise.
    means = [np.frombuffer(values, np.uint8).mean() for values in pixels]
    assert means == pytest.approx([135.5, 114.9, 176.6], abs=0.2)


def test_another_seed_draws_other_slides(small, tmp_path):
    write_drawn_slides(tmp_path, 3, 2, 1, seed=6)
    assert not images(small) & images(tmp_path)


def test_rows_about_a_slide_are_adjacent_and_no_slide_is_drawn_or_written_twice(small):
    named = [row["image_file"] for rows in load_rows(str(small)).values() for row in rows]
    runs = [name for name, _ in groupby(named)]
    assert len(runs) == len(set(runs)) == len(images(small)) == 3 + 2 + 1 < len(named)
    assert len([name for name in files(small) if name.endswith(".png")]) == 6


def test_a_written_folder_is_read_as_any_data_set(tmp_path, monkeypatch):
    arguments = ["--num_train", "2", "--num_validation", "1", "--image_size", "64", "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["drawn_slides", str(tmp_path / "slides"), *arguments])
    main()
    loaded = load_rows(str(tmp_path / "slides"))
    assert set(loaded) == {"train", "validation"}
    expected = [(image, pair) for image, asked in drawn_slides("train", 2, 3, 64) for pair in asked]
    assert [(row["question"], row["answer"]) for row in loaded["train"]] == [pair for _, pair in expected]
    for row, (image, _) in zip(loaded["train"], expected, strict=True):
        with PILImage.open(row["image"]["path"]) as written:
            assert (written.size, written.mode) == ((64, 64), "RGB") and written.tobytes() == image.tobytes()


def test_beside_a_written_folder_lies_a_held_out_slide_that_shows_where_its_gland_is(tmp_path):
    write_drawn_slides(tmp_path, num_train=2, num_validation=4)
    validation = load_rows(str(tmp_path))["validation"]
    asked = [row["image"]["path"] for row in validation if row["question"] == "where is the gland?"]
    assert (tmp_path / "example.png").read_bytes() == Path(asked[0]).read_bytes()


def test_a_slide_too_small_to_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="image_size is 16.*at least 32"):
        write_drawn_slides(tmp_path, 1, 1, image_size=16)


# --- the questions


def test_questions_follow_the_statistics_of_pathvqa(asked, pairs):
    assert mean(len(questions) for _, questions in asked) == pytest.approx(7.6, abs=0.1)
    assert len({len(questions) for _, questions in asked}) >= 5
    assert mean(answer in ("yes", "no") for _, answer in pairs) == pytest.approx(0.5, abs=0.01)
    assert 5 <= median(len(question.split()) for question, _ in pairs) <= 6
    assert max(len(answer.split()) for _, answer in pairs) <= 3
    assert all(question == question.lower() and question.endswith("?") for question, _ in pairs)
    first_words = Counter(question.split()[0] for question, _ in pairs)
    assert set(first_words) == {"what", "where", "how", "is", "are", "does"}
    assert first_words["what"] > 4 * first_words["where"] > 0


def test_no_question_is_asked_twice_about_a_slide(asked):
    for _, questions in asked:
        assert len({question for question, _ in questions}) == len(questions)


def test_answers_do_not_follow_from_the_question(pairs):
    answers = defaultdict(Counter)
    for question, answer in pairs:
        answers[question][answer] += 1
    majority = {question: counts.most_common(1)[0][1] for question, counts in answers.items()}
    # Rare questions are left out one by one: of 20 fair coins 13 are often heads. Together they count.
    frequent = {question for question, counts in answers.items() if counts.total() >= 600}
    assert len(frequent) >= 40
    for question in frequent:
        bound = 0.56 if "yes" in answers[question] else 0.45
        assert majority[question] / answers[question].total() <= bound, question
    assert sum(majority.values()) / len(pairs) <= 0.45


def true_answer(facts, question):
    """The answer read from the words of the question, without what the module knows about its own questions."""
    words = question.rstrip("?").replace("mitoses", "mitosis").split()
    sentence = " ".join(words)
    kinds = ("gland", "necrosis", "mitosis", "inclusion")
    named = [kind for kind in kinds if kind in sentence]
    # The longest first, so that "upper left" is not read as "left".
    places = [place for place in sorted(PLACES, key=len, reverse=True) if f"the {place}" in sentence]
    seen = Counter(facts.findings.values())
    if words[0] == "where":
        (place,) = [place for place, finding in facts.findings.items() if finding == named[0]]
        return place
    if sentence.startswith("how many"):
        return ["none", "one", "two", "three"][seen[named[0]]]
    if words[0] in ("what", "how"):
        if places:
            return facts.findings[places[0]]
        if "stain" in sentence:
            return facts.stain
        return facts.nuclei if "shape" in sentence else facts.density
    if places:
        return "yes" if facts.findings.get(places[0]) == named[0] else "no"
    if named:
        return "yes" if seen[named[0]] else "no"
    return "yes" if {facts.stain, facts.nuclei, facts.density} & set(words) else "no"


def test_every_answer_is_true_and_a_place_is_asked_of_single_findings_only(asked):
    for facts, questions in asked:
        for question, answer in questions:
            assert answer == true_answer(facts, question), (facts, question)


# --- the pictures


@pytest.mark.parametrize("seed", range(4))
def test_each_stain_has_its_hue(seed):
    red, green, blue = (
        dict(zip(STAINS, channel, strict=True))
        for channel in np.stack([np.median(paint(seed, stain), axis=(0, 1)) for stain in STAINS], axis=1)
    )
    assert red["h&e"] > blue["h&e"] + 15 and blue["h&e"] > green["h&e"]  # pink
    assert min(red["pas"], blue["pas"]) > green["pas"] + 25  # magenta
    assert blue["trichrome"] > green["trichrome"] > red["trichrome"]  # blue
    assert red["silver"] > green["silver"] > blue["silver"] + 20  # tan


@pytest.mark.parametrize("nuclei", NUCLEI)
def test_denser_tissue_holds_more_nucleus(nuclei):
    shares = []
    for density in ("sparse", "moderate", "dense"):
        picture = paint(1, "silver", nuclei, density)
        shares.append((picture.sum(axis=-1) < 300).mean())
    assert 0 < 1.5 * shares[0] < shares[1] < shares[2] / 1.5


def test_narrower_nuclei_have_fewer_inner_pixels():
    inner = {}
    for nuclei in NUCLEI:
        dark = paint(3, "silver", nuclei, "sparse").sum(axis=-1) < 350  # (96, 96)
        core = dark.copy()
        for axis in (0, 1):
            core &= np.roll(dark, 1, axis) & np.roll(dark, -1, axis)
        inner[nuclei] = core.sum() / dark.sum()
    assert inner["round"] > inner["oval"] + 0.05
    assert min(inner["oval"], inner["lobed"]) > inner["spindle"] + 0.15


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("place", PLACES)
def test_a_finding_is_painted_in_its_place_and_nowhere_else(finding, place):
    changed = np.abs(paint(2) - paint(2, findings={place: finding})).max(axis=-1) > 30  # (96, 96)
    column = ("left" in place, "left" not in place and "right" not in place, "right" in place).index(True)
    row = ("upper" in place or place == "top", place in ("left", "right"), True).index(True)
    cell = changed[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
    assert cell.mean() > 0.15
    assert cell.sum() > 0.97 * changed.sum()


def test_slides_with_the_same_facts_differ():
    assert (paint(1) != paint(2)).mean() > 0.5
