"""What statements are worth without the decoder, beside computations by hand and models whose answers are known."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from echo import CharacterProcessor, EchoModel, vqa_data
from torch.nn import functional as F

from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.data.images import VqaData
from mmjepa.encoder_mmjepa import MMJepaImageFeatures
from mmjepa.evaluation.answerer import Answerer
from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.evaluation.intervals import mean_interval
from mmjepa.evaluation.search_scores import (
    average_precision,
    chance_of_precision,
    map_interval,
    precision_at,
    searchable_statements,
)
from mmjepa.evaluation.statement_scorer import StatementScorer
from mmjepa.evaluation.statements import answer_candidates, area_under_curve, best_temperature, yes_no_spellings

ENGLISH = {"en": [["yes"], ["no"]]}
NUM_IMAGES = 12
# Of image i: its answers.
ASKED = {
    "is it round?": lambda image: "yes" if image % 3 else "no",
    "where is it?": lambda image: "left" if image < 6 else "right",
    "what is it?": lambda image: ("liver", "spleen")[image % 2],
}


class TellingModel(EchoModel):
    """Takes a statement for true of image i if `told(i, text)`. An image's grey value says which it is."""

    def __init__(self, told, **config):
        super().__init__()
        self.config = MMJepaConfig(lambda_answer=0.0, **config)
        self.told = told

    def get_image_features(self, pixel_values):
        features = super().get_image_features(pixel_values)
        return MMJepaImageFeatures(
            image_embeds=features.image_embeds[:, :1].expand(-1, 64), visual_tokens=features.visual_tokens
        )

    def encode_texts(self, input_ids, attention_mask):
        return F.pad(input_ids, (0, 64 - input_ids.shape[1])).float()

    def statement_logits(self, statement_embeds, image_features):
        assert not self.training and not torch.is_grad_enabled()
        texts = CharacterProcessor().decode(statement_embeds.long(), skip_special_tokens=True)
        images = (image_features.visual_tokens[:, 0, 0] / 10 - 1).int().tolist()
        return torch.tensor([[4.0 if self.told(image, text) else -4.0 for text in texts] for image in images])


def is_told(image, text):
    """What a model says that knows all answers."""
    return text in {q if a(image) == "yes" else f"{q} {a(image)}" for q, a in ASKED.items()}


def asked_data(questions=tuple(ASKED), num_images=NUM_IMAGES):
    rows = list(itertools.product(range(num_images), questions))
    greys = 10 * np.arange(1, num_images + 1, dtype=np.uint8)[:, None, None, None]
    return vqa_data(
        [question for _, question in rows],
        [ASKED[question](image) for image, question in rows],
        [image for image, _ in rows],
        greys.repeat(3, 1).repeat(2, 2).repeat(2, 3),
    )


def scores_of(model, data, train_questions=None):
    learnt_from = data.questions if train_questions is None else train_questions
    return evaluate_model(model, CharacterProcessor(), data, learnt_from, batch_size=8)


def columns_of(questions, answers, image_ids):
    return {"question": questions, "answer": answers, "image_id": image_ids}


@pytest.fixture
def scorer():
    """A scorer that makes statements, without a model."""
    config = SimpleNamespace(alignment_text="proposition", yes_no_words=ENGLISH)
    return StatementScorer(SimpleNamespace(model=SimpleNamespace(config=config)), None)


def test_a_model_that_knows_the_images_tells_truth_answers_and_finds():
    metrics, rows = scores_of(TellingModel(is_told), asked_data())
    perfect = ("truth_accuracy", "truth_auc", "accuracy_statements", "open_accuracy_statements", "search_map")
    assert {name: metrics[name] for name in (*perfect, "search_map_where", "search_precision_at_10")} == dict.fromkeys(
        (*perfect, "search_map_where", "search_precision_at_10"), 1.0
    )
    assert all(row["by_statements"] == row["answer"] for row in rows)
    # Eight of twelve images are round.
    assert metrics["truth_accuracy_majority"] == pytest.approx(8 / 12)
    assert metrics["truth_gain"] == pytest.approx(1 - metrics["truth_accuracy_shuffled"])
    assert metrics["truth_gain_low"] > 0
    assert metrics["accuracy_statements_shuffled"] < 1 and metrics["statements_gain_low"] > 0
    # "is it round?" is false of four images only.
    assert (metrics["search_statements"], metrics["search_statements_where"]) == (4, 2)
    assert metrics["truth_images"] == NUM_IMAGES


def test_a_model_that_ignores_the_images_gains_nothing_and_finds_no_more_than_chance():
    model = TellingModel(lambda image, text: text in ("is it round?", "where is it? left", "what is it? liver"))
    metrics, rows = scores_of(model, asked_data())
    assert metrics["truth_gain"] == 0 and metrics["truth_auc"] == 0.5
    assert metrics["statements_gain"] == 0 == metrics["statements_gain_low"] + metrics["statements_gain_high"]
    assert {row["by_statements"] for row in rows} == {"yes", "left", "liver"}
    assert metrics["search_map"] == metrics["search_map_shuffled"] == 0.5 < metrics["search_map_chance"]
    assert metrics["search_precision_at_10"] == metrics["search_precision_at_10_chance"] == 0.5


def test_the_gain_pairs_the_rows_with_those_about_other_images():
    def is_mostly_told(image, text):
        return is_told(image, text) != (image in (3, 4))

    metrics, rows = scores_of(TellingModel(is_mostly_told), asked_data(["is it round?"]))
    answered_yes = np.array([row["answer"] == "yes" for row in rows])
    correct = np.array([row["image_id"] not in (3, 4) for row in rows])
    others = [
        [int(answer.split()[0]) // 10 - 1 for answer in row["all_shuffled"]] for row in rows
    ]  # five of each image
    shuffled = np.array(
        [
            np.mean([is_mostly_told(other, "is it round?") == yes for other in of_row])
            for of_row, yes in zip(others, answered_yes, strict=True)
        ]
    )
    expected = mean_interval(np.subtract(correct, shuffled, dtype=float), range(NUM_IMAGES), seed=0, least=-1)
    assert [metrics[f"truth_gain{end}"] for end in ("", "_low", "_high")] == pytest.approx(list(expected), abs=1e-9)
    assert metrics["truth_accuracy"] == pytest.approx(10 / 12)
    assert metrics["truth_accuracy_shuffled"] == pytest.approx(shuffled.mean())


def test_splits_without_one_kind_of_question_have_no_numbers_of_it():
    metrics, _ = scores_of(TellingModel(is_told), asked_data(["is it round?"]))
    assert metrics["yes_no_accuracy_statements"] == 1 and "open_accuracy_statements" not in metrics
    metrics, _ = scores_of(TellingModel(is_told), asked_data(["where is it?"]))
    assert metrics["open_accuracy_statements"] == 1 and metrics["search_map"] == 1
    assert not {name for name in metrics if name.startswith("truth_") and name != "truth_temperature"}


def test_captions_alone_and_models_without_truth_have_no_numbers_of_statements():
    data = asked_data(["where is it?"])
    captions = {"question": [""] * len(data), "answer": [""] * len(data), "image_id": data.questions["image_id"]}
    captions["caption"] = [f"at the {answer}" for answer in data.questions["answer"]]
    only_captions = VqaData(Dataset.from_dict(captions), data.pixels)
    for model, asked in ((TellingModel(is_told), only_captions), (TellingModel(is_told, truth_weight=0.0), data)):
        metrics, rows = scores_of(model, asked)
        assert not any(name.startswith(("truth", "search")) or "statements" in name for name in metrics)
        assert not any("by_statements" in row for row in rows)


def test_without_training_questions_truth_and_search_are_measured_and_no_answer_is_chosen():
    data = asked_data()
    metrics, rows = scores_of(TellingModel(is_told), data, data.questions.select([]))
    assert metrics["truth_accuracy"] == metrics["search_map"] == 1 and "truth_accuracy_majority" not in metrics
    assert metrics["truth_gain"] == pytest.approx(1 - metrics["truth_accuracy_shuffled"])
    assert "accuracy_statements" not in metrics and "by_statements" not in rows[0]


def test_an_answer_counts_that_equals_any_of_a_rows_list():
    data = asked_data(["where is it?"])
    answers = [["above", "left"] if answer == "left" else [answer] for answer in data.questions["answer"]]
    questions = data.questions.remove_columns("answer").add_column("answer", [texts[0] for texts in answers])
    listed = VqaData(questions.add_column("answers", answers), data.pixels)
    metrics, rows = scores_of(TellingModel(is_told), listed, data.questions)
    assert [row["by_statements"] for row in rows] == data.questions["answer"][:]
    assert metrics["open_accuracy_statements"] == 1


def test_the_saved_temperature_is_used_and_else_the_best_one():
    saved, _ = scores_of(TellingModel(is_told, truth_temperature=2.0), asked_data())
    assert saved["truth_temperature"] == 2
    # All statements have logits of 4 or -4, and all are told rightly.
    assert saved["truth_calibration_error"] == pytest.approx(1 - 1 / (1 + np.exp(-2)))
    fitted, _ = scores_of(TellingModel(is_told), asked_data())
    assert fitted["truth_temperature"] < 1 and fitted["truth_calibration_error"] < 0.01


def test_the_temperature_of_overconfident_logits_is_found():
    random = np.random.default_rng(0)
    calibrated = random.normal(0, 2, 20000)
    is_right = random.random(20000) < 1 / (1 + np.exp(-calibrated))
    found = best_temperature(3 * calibrated[is_right], 3 * calibrated[~is_right])
    assert found == pytest.approx(3, rel=0.05)


def test_candidates_are_the_training_answers_and_the_form_is_told_by_training_alone():
    train = Dataset.from_dict(
        {
            "question": ["is it round?", "is it flat?", "where is it?", "where is it?", "where is it?"],
            "answer": ["Yes", "no", "left", "left", "right"],
        }
    )
    candidates = answer_candidates(["where is it?", "is it red?", "who?"], train, ENGLISH)
    assert candidates == {"where is it?": ["left", "right"], "is it red?": ["Yes", "no"], "who?": []}
    assert yes_no_spellings(["Ja", "ja", "ja"], {"de": [["ja"], ["nein"]]}) == ["ja", "nein"]
    assert yes_no_spellings(["yes"], {}) == []


def test_pairs_are_scored_as_the_whole_table_is(make_model, processor, data, monkeypatch):
    monkeypatch.setattr("mmjepa.evaluation.statement_scorer.STATEMENTS_PER_BLOCK", 2)
    model = make_model()
    answerer = Answerer(model, processor, batch_size=3)
    features = answerer.encode_all_images(data.pixels)
    scorer = StatementScorer(answerer, features)
    images, texts = [2, 0, 2, 5, 2, 0], ["is it?", "is it?", "a liver", "what is seen?", "is it?", "yes"]
    scores, cosines = scorer.logits(images, texts), scorer.cosines(images[:3], texts[:3])
    later = scorer.logits([1, 1], ["a liver", "no"])  # one of them is known already
    distinct = ["is it?", "a liver", "what is seen?", "yes", "no"]
    embeds = model.encode_texts(**processor(text=distinct, return_tensors="pt"))
    table = model.statement_logits(embeds, image_features=features)
    expected = [table[image, distinct.index(text)] for image, text in zip(images, texts, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(later, [table[1, 1], table[1, 4]], rtol=1e-4, atol=1e-5)
    vectors = F.normalize(features.image_embeds, dim=-1) @ embeds.T
    by_hand = [vectors[image, distinct.index(text)] for image, text in zip(images[:3], texts[:3], strict=True)]
    np.testing.assert_allclose(cosines, by_hand, atol=1e-5)
    assert len(scorer.embeds) == len(distinct)


def test_a_statement_is_false_of_images_that_answer_the_same_question_otherwise(scorer):
    images = range(12)
    columns = columns_of(
        # Images 0 and 1 contradict themselves, image 11 is asked something else only.
        ["is it round?"] * 13 + ["where is it?"] * 11 + ["why?"],
        ["yes", "no"] + ["yes"] * 5 + ["no"] * 5 + ["No."] + ["left"] * 5 + ["The right"] * 6 + ["chance"],
        [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, *range(11), 11],
    )
    found = {search.text: search for search in searchable_statements(scorer, columns)}
    assert set(found) == {"where is it? left", "where is it? The right"}
    left = found["where is it? left"]
    assert dict(zip(left.image_ids.tolist(), left.truths.tolist(), strict=True)) == {i: i < 5 for i in images[:11]}
    columns["answer"][12] = "yes"  # image 1 no longer contradicts itself
    (round_,) = (search for search in searchable_statements(scorer, columns) if search.text == "is it round?")
    assert sorted(round_.image_ids[round_.truths].tolist()) == [1, 2, 3, 4, 5]
    assert 0 not in round_.image_ids


def test_a_second_right_answer_is_no_false_statement(scorer):
    answers = [["left", "top"]] * 5 + [["top"]] * 5 + [["right"]] * 5
    columns = columns_of(["where?"] * 15, [texts[0] for texts in answers], list(range(15)))
    columns["answers"] = answers
    found = {search.text: int(search.truths.sum()) for search in searchable_statements(scorer, columns)}
    assert found == {"where? left": 5, "where? right": 5, "where? top": 10}


def precision_by_hand(scores, truths):
    """Average precision without numpy, of scores that all differ."""
    ranked = [truth for _, truth in sorted(zip(scores, truths, strict=True), reverse=True)]
    precisions = [sum(ranked[: place + 1]) / (place + 1) for place, truth in enumerate(ranked) if truth]
    return sum(precisions) / len(precisions)


def test_average_precision_area_and_chance_equal_computations_by_hand():
    random = np.random.default_rng(0)
    scores, truths = random.permutation(30).astype(float), np.arange(30) % 3 == 0
    assert average_precision(scores, truths) == pytest.approx(precision_by_hand(scores, truths))
    pairs = list(itertools.product(scores[truths], scores[~truths]))
    assert area_under_curve(scores, truths) == pytest.approx(np.mean([true > false for true, false in pairs]))
    orders = [np.array(order, dtype=float) for order in itertools.permutations(range(6))]
    mean = np.mean([precision_by_hand(order, truths[:6]) for order in orders])
    assert chance_of_precision(truths[:6]) == pytest.approx(mean)


def test_equal_scores_rank_equally():
    truths = np.array([True, False, False, False])
    assert average_precision(np.zeros(4), truths) == 0.25 and area_under_curve(np.zeros(4), truths) == 0.5
    assert precision_at(10, np.zeros(4), truths) == 0.25
    # Two of the first three places are sure, the third is one of two.
    scores, truths = np.array([3.0, 2.0, 1.0, 1.0, 0.0, 0.0]), np.array([True, False, True, False, True, False])
    assert precision_at(10, scores, truths) == pytest.approx((1 + 0.5) / 3)
    assert precision_at(1, scores, truths) == 1


def test_drawn_images_count_as_often_as_they_were_drawn(scorer):
    """An image that was not drawn is as if it were not there; one drawn twice does not rank before itself."""
    scores, truths = np.array([4.0, 3.0, 2.0, 1.0]), np.array([False, True, True, False])
    weights = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 2, 1, 0], [1, 0, 0, 1]])
    expected = [precision_by_hand(scores, truths), 1 / 2, (2 * 1 / 2 + 3 / 4) / 3, np.nan]
    np.testing.assert_allclose(average_precision(scores, truths, weights), expected)


def test_the_interval_of_the_precision_surrounds_it_and_is_narrower_with_more_images(scorer):
    widths = []
    for count in (20, 320):
        random = np.random.default_rng(0)
        columns = columns_of(["is it?"] * count, ["yes", "no"] * (count // 2), list(range(count)))
        searches = searchable_statements(scorer, columns)
        scores = [random.normal(search.truths * 1.0) for search in searches]
        low, high = map_interval(scores, searches, columns["image_id"], seed=0)
        assert low < average_precision(scores[0], searches[0].truths) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
