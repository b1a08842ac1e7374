"""Answers chosen from a closed list, and the rule between choosing and writing."""

import pytest
import torch
from datasets import Dataset

from mmjepa.data.images import VqaData
from mmjepa.data.pixels import normalize_pixels
from mmjepa.evaluation.answerer import Answerer
from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.evaluation.ranking import best_threshold, score_ranking, training_answers


@pytest.fixture
def model(make_model):
    return make_model(lambda_answer=0.25)


@pytest.fixture
def train_questions() -> Dataset:
    answers = ["yes", "Yes", "yes", "no", "a liver", "the liver", "liver", ""]
    return Dataset.from_dict({"question": ["is it?"] * 7 + [""], "answer": answers})


@pytest.fixture
def asked(data):
    return {"questions": data.questions["question"], "image_ids": data.questions["image_id"]}


def test_the_list_holds_each_normalised_answer_once_with_its_share(model, processor, train_questions):
    answers = training_answers(Answerer(model, processor, batch_size=2), train_questions)
    assert answers.texts[:2] == ["yes", "no"] and len(answers.texts) == 3
    torch.testing.assert_close(answers.log_shares.exp(), torch.tensor([3 / 7, 1 / 7, 3 / 7]))
    alone = model.encode_answers(**processor(text=["no"], return_tensors="pt"))
    torch.testing.assert_close(answers.embeds[1:2], alone)


def test_questions_are_ranked_as_each_is_alone(model, processor, train_questions, data, asked):
    answerer = Answerer(model, processor, batch_size=5)
    answers = training_answers(answerer, train_questions)
    features = answerer.encode_all_images(data.pixels)
    ranked = answerer.rank_questions(image_features=features, answers=answers, **asked)
    assert len(ranked) == len(data)
    for row in (0, 7):
        example = data.__getitems__([row])[0]
        inputs = processor(text=example["question"], return_tensors="pt")
        pixels = normalize_pixels(example["pixels"][None], processor.image_processor)
        features_alone = model.get_image_features(pixels)
        scores = model.rank_answers(answers.embeds, image_features=features_alone, **inputs) + answers.log_shares
        best = scores.softmax(dim=-1)[0].max(dim=0)
        assert ranked[row][0] == answers.texts[best.indices]
        assert ranked[row][1] == pytest.approx(best.values.item(), abs=1e-4)


def test_unsure_questions_are_answered_as_without_ranking(model, processor, train_questions, data, asked):
    answerer = Answerer(model, processor, 4, {"max_new_tokens": 4})
    answers = training_answers(answerer, train_questions)
    common = {**asked, "image_features": answerer.encode_all_images(data.pixels)}
    ranked = answerer.rank_questions(answers=answers, **common)
    written = answerer.answer_questions(**common)
    threshold = sorted(probability for _, probability in ranked)[len(ranked) // 2]
    either = answerer.rank_or_decode(answers=answers, threshold=threshold, **common)
    expected = [text if p >= threshold else other for (text, p), other in zip(ranked, written, strict=True)]
    assert either == expected and either not in (written, [text for text, _ in ranked])


@pytest.mark.parametrize(
    ("ranked", "decoded", "probabilities", "expected"),
    [
        ([1, 1, 0], [0, 1, 1], [0.9, 0.5, 0.1], 0.5),  # the last one is better decoded
        ([1, 1, 1], [1, 1, 1], [0.9, 0.5, 0.1], 0.1),  # no difference: rank all
        ([0, 0, 1], [1, 1, 1], [0.9, 0.5, 0.1], 2.0),  # the surest are wrong: rank none
        ([1, 0, 1], [0, 1, 0], [0.9, 0.5, 0.5], 0.5),  # equally sure questions are ranked together
    ],
)
def test_the_threshold_has_the_most_right_answers_and_ranks_the_most_questions(
    ranked, decoded, probabilities, expected
):
    assert best_threshold(ranked, decoded, probabilities) == expected


def test_scores_are_of_ranking_of_the_rule_and_of_what_the_list_can_reach():
    columns = {
        "question": ["is it?", "is it?", "what?", "where?"],
        "answer": ["yes", "no", "liver", "spleen"],
        "prediction": ["yes", "yes", "liver", "spleen"],
        "ranked": ["yes", "no", "no", "no"],
        "ranked_probability": [0.9, 0.8, 0.2, 0.1],
    }
    metrics = score_ranking(columns, ["Yes", "no", "the liver"], threshold=None)
    assert metrics["accuracy_ranked"] == 0.5 and metrics["open_accuracy_ranked"] == 0
    assert (metrics["rank_threshold"], metrics["rank_share"], metrics["accuracy_ranked_or_decoded"]) == (0.8, 0.5, 1)
    assert metrics["accuracy_rank_ceiling"] == 0.75 and metrics["open_accuracy_rank_ceiling"] == 0.5
    assert score_ranking(columns, ["yes"], threshold=0.0)["accuracy_ranked_or_decoded"] == 0.5


def test_an_evaluation_reports_ranking_only_of_a_model_that_ranks(make_model, model, processor, data):
    questions = data.questions
    metrics, rows = evaluate_model(model, processor, data, questions, batch_size=8, max_new_tokens=3)
    of_ranking = {"accuracy_ranked", "accuracy_rank_ceiling", "rank_threshold"}
    assert of_ranking <= set(metrics)
    assert all(row["ranked"] in set(questions["answer"]) and 0 < row["ranked_probability"] <= 1 for row in rows)
    without = make_model(lambda_answer=0.0)
    metrics, rows = evaluate_model(without, processor, data, questions, batch_size=8, max_new_tokens=3)
    assert of_ranking.isdisjoint(metrics) and "ranked" not in rows[0]


def test_rows_without_a_question_count_for_the_alignment_alone(make_model, processor, data):
    questions = data.questions
    captions = ["" if row % 3 else "a liver" for row in range(len(questions))]
    left = ["" if caption else question for caption, question in zip(captions, questions["question"], strict=True)]
    some = questions.remove_columns("question").add_column("question", left)
    mixed = VqaData(some.add_column("caption", captions), data.pixels)
    metrics, rows = evaluate_model(make_model(), processor, mixed, questions, batch_size=8, max_new_tokens=3)
    assert [row["row"] for row in rows] == [row for row in range(len(questions)) if row % 3]
    assert "align_cosine" in metrics
    none = some.remove_columns("question").add_column("question", [""] * len(some)).add_column("caption", captions)
    metrics, rows = evaluate_model(
        make_model(), processor, VqaData(none, data.pixels), questions, batch_size=8, max_new_tokens=3
    )
    assert rows == [] and "align_cosine" in metrics and "accuracy" not in metrics
