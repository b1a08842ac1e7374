"""What rows say of their images, and what is drawn as false of them."""

import pytest
import torch
from datasets import Dataset

from mmjepa.data.statements import AnswerLists, answer_counts, sign_of, statement_of
from mmjepa.data.wrong_statements import StatementList

ENGLISH = {"en": [["yes"], ["no"]]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "is it?", "answer": "yes"}, ("is it?", 1)),
        ({"question": "is it?", "answer": " No. "}, ("is it?", -1)),
        ({"question": "what is it?", "answer": "a liver"}, ("what is it? a liver", 1)),
        ({"question": "what is it?", "answer": "", "caption": "a liver"}, ("", 1)),
        ({"question": "", "answer": "", "caption": "a liver"}, ("a liver", 1)),
        ({"question": "", "answer": "", "text": "seen in a liver"}, ("seen in a liver", 1)),
        ({"question": None, "answer": None}, ("", 1)),
    ],
)
def test_a_proposition_is_a_question_of_yes_or_no_or_question_and_answer(row, expected):
    assert statement_of(row, "proposition", ENGLISH) == expected


def test_words_of_yes_and_no_are_those_of_all_languages_and_may_be_none():
    words = {**ENGLISH, "de": [["ja", "jawohl"], ["nein"]]}
    assert [sign_of(answer, words) for answer in ("Ja", "jawohl", "nein", "no", "notochord")] == [1, 1, -1, -1, 0]
    assert statement_of({"question": "is it?", "answer": "no"}, "proposition", {}) == ("is it? no", 1)


@pytest.mark.parametrize(
    ("setting", "expected"), [("statement", "is it? no"), ("priority", "is it?"), ("answer", "no"), ("caption", "")]
)
def test_other_settings_know_only_true_texts(setting, expected):
    assert statement_of({"question": "is it?", "answer": "no"}, setting, ENGLISH) == (expected, 1)


def test_answers_to_the_same_question_come_first_then_those_to_the_same_first_words():
    rows = Dataset.from_dict(
        {
            "question": ["what is seen?"] * 4 + ["what is it here?", "what stain?", "where is the gland?", "is it?"],
            "answer": ["liver", "Liver", "a lung", "liver", "bone", "PAS", "left", "no"],
        }
    )
    lists = AnswerLists(rows, ENGLISH)
    assert lists.of("What is seen?") == (["liver", "a lung"], [3, 1])
    assert lists.of("what is it here?") == (["liver", "a lung", "bone"], [3, 1, 1])  # "what is", 2 words
    assert lists.of("what else?") == (["liver", "a lung", "bone", "PAS"], [3, 1, 1, 1])
    assert lists.of("where is the gland?") == (["left"], [1])  # nothing else begins alike
    assert lists.of("is it?") == lists.of("who?") == ([], [])
    assert answer_counts(rows)["liver"] == ("liver", 3)


def rows_of_slides():
    """2 questions about each of 40 images: 4 organs, asked of all, and a stain, asked in words that occur once."""
    organs, stains = ["liver", "lung", "bone", "skin"], ["PAS", "H&E", "Giemsa"]
    return [
        row
        for image in range(40)
        for row in (
            {"image_id": image, "question": "what organ?", "answer": organs[image % 4]},
            {"image_id": image, "question": f"what stain has slide {image}?", "answer": stains[image % 3]},
        )
    ]


@pytest.fixture
def slides():
    rows = rows_of_slides()
    return StatementList(rows, AnswerLists(Dataset.from_list(rows), ENGLISH), "proposition", ENGLISH)


def test_drawn_statements_are_the_rows_question_with_an_answer_that_is_false_of_the_image(slides):
    rows = rows_of_slides()
    said = [f"{row['question']} {row['answer']}" for row in rows]
    ids = torch.tensor([slides.numbers[text] for text in said])
    seen = set()
    for _ in range(20):
        wrong = slides.draw_wrong(ids, torch.tensor([row["image_id"] for row in rows]), 2)
        assert wrong.shape == (80, 2) and (wrong >= 0).float().mean() > 0.95  # rarely all draws are true
        for row, own, numbers in zip(rows, said, wrong.tolist(), strict=True):
            for text in (slides.texts[number] for number in numbers if number >= 0):
                assert text.startswith(row["question"] + " ") and text != own
                seen.add(text)
    assert {f"what organ? {organ}" for organ in ("liver", "lung", "bone", "skin")} < seen
    assert len(seen) > 40 * 2  # questions that occur once take the answers to others


def test_what_is_also_true_of_the_image_is_not_drawn():
    rows = [{"image_id": 0, "question": "what?", "answer": answer} for answer in ("a", "b", "c")]
    rows += [{"image_id": 1, "question": "what?", "answer": "d", "answers": ["d", "a"]}]
    slides = StatementList(
        rows, AnswerLists(Dataset.from_list([dict(row) for row in rows]), ENGLISH), "proposition", ENGLISH
    )
    ids = torch.tensor([slides.numbers[f"what? {row['answer']}"] for row in rows])
    drawn = {image: set() for image in (0, 1)}
    for _ in range(30):
        wrong = slides.draw_wrong(ids, torch.tensor([0, 0, 0, 1]), 2)
        for image, numbers in zip((0, 0, 0, 1), wrong.tolist(), strict=True):
            drawn[image] |= {slides.texts[number] for number in numbers if number >= 0}
    assert drawn == {0: {"what? d"}, 1: {"what? b", "what? c"}}


def test_where_nothing_is_false_nothing_is_drawn():
    rows = [{"image_id": 0, "question": "what?", "answer": "a"}, {"image_id": 1, "question": "is it?", "answer": "no"}]
    for asked in (rows, rows[1:]):
        slides = StatementList(asked, AnswerLists(Dataset.from_list(asked), ENGLISH), "proposition", ENGLISH)
        ids = torch.tensor([*slides.numbers.values(), -1])
        assert (slides.draw_wrong(ids, torch.zeros(len(ids), dtype=torch.long), 2) == -1).all()


def test_frequent_answers_are_drawn_more_often_but_not_by_their_whole_count():
    counts = {"a": 256, "b": 16, "c": 1}
    rows = [
        {"image_id": number, "question": "what?", "answer": answer}
        for answer, count in counts.items()
        for number in range(count)
    ]
    slides = StatementList(rows, AnswerLists(Dataset.from_list(rows), ENGLISH), "proposition", ENGLISH)
    own = torch.full((20_000,), slides.numbers["what? c"])
    wrong = slides.draw_wrong(own, torch.full((20_000,), 1000), 1)[:, 0]
    share = (wrong == slides.numbers["what? a"]).float().mean().item()
    assert share == pytest.approx(64 / (64 + 8), abs=0.01)
