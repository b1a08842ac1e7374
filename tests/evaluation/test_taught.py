"""What a model was taught, and how people's own words are told from it."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from mmjepa.configuration_mmjepa import YES_NO_WORDS
from mmjepa.evaluation import taught as taught_module
from mmjepa.evaluation.answerer import Answerer
from mmjepa.evaluation.taught import (
    TAUGHT_FILE,
    TaughtStatement,
    count_statements,
    nearest_taught,
    read_taught,
    write_taught,
)

TEXTS = [
    "is necrosis seen?",
    "where is the gland? upper left",
    "where is the gland? lower right",
    "what is seen? CD20+",
]
TEXTS += ["Is Necrosis seen?", "is a tumour in the liver?", "what is seen? CD20-"]
TAUGHT = [TaughtStatement(text, "what", 1, 0) for text in TEXTS]


@pytest.fixture(scope="module")
def answerer(make_model, processor):
    model = make_model()
    model.fit_targets(processor, TEXTS, ["yes", "no"])
    return Answerer(model, processor, batch_size=2)


def test_statements_are_counted_by_text_true_and_false_the_most_frequent_first(tmp_path, monkeypatch):
    rows = [("is it?", "yes", ""), ("is it?", "no", ""), ("is it?", "Yes.", ""), ("where? é", "left", "")]
    rows += [("", "", "a caption"), ("", "", "")]
    questions = Dataset.from_dict(
        dict(zip(("question", "answer", "caption"), map(list, zip(*rows, strict=True)), strict=True))
    )
    statements = count_statements(questions, "proposition", YES_NO_WORDS)
    expected = [("is it?", "is_are", 2, 1), ("a caption", "other", 1, 0), ("where? é left", "where", 1, 0)]
    assert [tuple(statement) for statement in statements] == expected
    write_taught(tmp_path, statements)
    assert read_taught(str(tmp_path)) == statements
    assert json.loads((tmp_path / TAUGHT_FILE).read_text())[0] == {
        "text": "is it?",
        "kind": "is_are",
        "true": 2,
        "false": 1,
    }
    monkeypatch.setattr(taught_module, "MOST", 1)
    assert [statement.text for statement in count_statements(questions, "proposition", YES_NO_WORDS)] == ["is it?"]


def test_a_model_without_the_file_was_taught_nothing_that_is_known_and_a_damaged_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert read_taught(str(tmp_path)) == [] and read_taught("") == []
    (tmp_path / TAUGHT_FILE).write_text('[{"text": ')
    with pytest.raises(ValueError, match=f"{TAUGHT_FILE} is damaged"):
        read_taught(str(tmp_path))


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("is necrosis seen?", "is necrosis seen?"),
        ("Is Necrosis seen?", "Is Necrosis seen?"),
        ("Is the necrosis SEEN", "is necrosis seen?"),
        ("where is the gland: upper left.", "where is the gland? upper left"),
        ("what is seen? cd20-", "what is seen? CD20-"),
    ],
)
def test_case_punctuation_and_articles_make_no_other_statement(answerer, given, asked):
    (wording,) = nearest_taught(answerer, [given], TAUGHT)
    assert wording.asked == asked
    note = None if given == asked else f"{given!r} is asked as {asked!r}, as the model was taught."
    assert wording.note == note


def test_a_statement_in_other_words_is_asked_as_it_is_and_shown_beside_the_nearest(answerer):
    given = "where is the gland? top left"
    (wording,) = nearest_taught(answerer, [given], TAUGHT)
    assert wording.asked == given and wording.near[0] == "where is the gland? upper left"
    assert wording.own_words == ["top"]
    assert "as if it were without 'top'" in wording.note and repr(wording.near[0]) in wording.note


def test_a_statement_is_far_where_no_taught_one_is_as_near_as_they_are_to_each_other(monkeypatch):
    angles = {"a gland": 0.0, "a tumour": 0.1, "a stain": 0.2}
    given = {"a large gland": -0.1, "a pink gland": 1.5, "purple elephants": 0.05}

    def embeds(texts, *_):
        turned = torch.tensor([(angles | given)[text] for text in texts])
        return torch.stack([turned.cos(), turned.sin()], dim=1)

    monkeypatch.setattr(taught_module, "encode_taught", lambda _, texts, __: embeds(texts))
    answerer = SimpleNamespace(model=SimpleNamespace(encode_texts=None), encode_all_texts=embeds)
    taught = [TaughtStatement(text, "other", 1, 0) for text in angles]
    near, far, strange = nearest_taught(answerer, list(given), taught)
    assert not near.is_far and "is far" not in near.note
    assert far.is_far and far.own_words == ["pink"] and "is far from all that was taught and may be" in far.note
    assert strange.is_far and strange.own_words == ["purple", "elephants"]


def test_results_are_in_the_order_of_the_statements_and_equal_ones_are_equal(answerer):
    given = ["a tumour?", "is necrosis seen?", "a tumour?"]
    wordings = nearest_taught(answerer, given, TAUGHT)
    assert [wording.given for wording in wordings] == given and wordings[0] == wordings[2]


def test_taught_statements_are_encoded_once(answerer, monkeypatch):
    first = nearest_taught(answerer, ["a tumour?"], TAUGHT)
    encoded = []
    encode = answerer.model.encode_texts

    def count_and_encode(input_ids, attention_mask):
        encoded.append(len(input_ids))
        return encode(input_ids, attention_mask)

    monkeypatch.setattr(answerer.model, "encode_texts", count_and_encode)
    assert nearest_taught(answerer, ["a tumour?"], TAUGHT) == first and sum(encoded) == 1
    nearest_taught(answerer, ["a tumour?"], TAUGHT[1:])
    assert sum(encoded) == 1 + 1 + len(TAUGHT) - 1


def test_where_it_is_not_known_what_was_taught_statements_are_asked_as_they_are(answerer):
    (wording,) = nearest_taught(answerer, ["Is it seen"], [])
    assert wording.asked == "Is it seen" and wording.note is None and wording.near == []
