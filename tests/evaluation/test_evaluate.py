"""An evaluation as a whole: what it asks, writes and scores."""

import json
from functools import partial

import pytest
from datasets import Dataset
from echo import CharacterProcessor, EchoModel, echo_data
from tqdm.auto import tqdm

from mmjepa.data.images import VqaData
from mmjepa.evaluation.controls import score_majority
from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.reporting.table import answer_table


@pytest.fixture
def data():
    return echo_data()


def test_a_stopped_evaluation_leaves_the_answers_it_gave(data, tmp_path):
    class BreakingModel(EchoModel):
        def generate(self, **inputs):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().generate(**inputs)

    with open(tmp_path / "answers.jsonl", "w") as file, pytest.raises(KeyboardInterrupt):
        evaluate_model(BreakingModel(), CharacterProcessor(), data, data.questions, batch_size=2, answers_file=file)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    _, rows = evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=2)
    assert [row["row"] for row in rows] == list(range(6))
    # The two batches of the shortest questions, with what was known of them.
    assert [line["row"] for line in lines] == [1, 4, 5, 3]
    for line in lines:
        whole = rows[line["row"]]
        later = ("all_shuffled", "shuffled", "blank", "align_cosine", "align_cosine_wrong")
        assert line == {name: value for name, value in whole.items() if name not in later}
        assert line["question"] == data.questions["question"][line["row"]]


def test_an_evaluation_encodes_each_image_once_and_the_blank_one_once(data):
    model = EchoModel()
    evaluate_model(model, CharacterProcessor(), data, data.questions, batch_size=2)
    assert sorted(model.images_encoded) == [0, 10, 20, 30]


def test_without_training_questions_the_same_answers_and_the_image_gain_are_scored_and_no_other_control(data):
    metrics, rows = evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=2)
    model = EchoModel()
    scores, answers = evaluate_model(model, CharacterProcessor(), data, None, batch_size=2)
    assert 0 not in model.images_encoded and sum(map(len, model.batches)) == len(data) + 4
    assert answers == [
        {name: row[name] for name in ("row", "image_id", "question", "answer", "prediction")} for row in rows
    ]
    right = [[row[name] == row["answer"] for row in rows].count(True) for name in ("prediction", "shuffled")]
    assert scores.pop("image_gain") == pytest.approx((right[0] - right[1]) / len(rows)) and right[0] > right[1]
    assert scores.pop("image_gain_low") <= scores.pop("image_gain_high")
    assert scores == {name: metrics[name] for name in scores} and "accuracy" in scores
    assert not any("shuffled" in name or "align" in name for name in scores)


def test_the_bar_counts_the_answers_of_the_controls_too(data, capsys, monkeypatch):
    monkeypatch.setattr("mmjepa.evaluation.evaluate.tqdm", partial(tqdm, mininterval=0))  # shows each change
    # Each of four questions about the black image. Two shuffles of three images give each of six questions the two
    # other images: "is it round?" and "why?" about the one image that has no such row, the others about two. The first
    # shuffle, which is that of evaluations while training, has one such pair of each question.
    for train_questions, total in ((None, 6 + 4), (data.questions, 6 + 4 + (1 + 1 + 2 + 2))):
        evaluate_model(EchoModel(), CharacterProcessor(), data, train_questions, batch_size=2, show_progress=True)
        assert f"answers: 100%|██████████| {total}/{total} " in capsys.readouterr().err
    evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=2)
    assert capsys.readouterr().err == ""


def test_an_evaluation_leaves_the_model_in_the_mode_it_was_in(data):
    model = EchoModel().train()
    evaluate_model(model, CharacterProcessor(), data, data.questions, batch_size=2)
    assert model.training


def test_the_controls_see_another_image_and_no_image(data):
    metrics, answers = evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=4)
    for row in answers:
        own = f"{10 * (row['image_id'] + 1)} {row['question']}"
        assert row["prediction"] == own
        assert row["shuffled"] == row["all_shuffled"][0]
        others = {10, 20, 30} - {10 * (row["image_id"] + 1)}
        assert sorted(row["all_shuffled"]) == [f"{grey} {row['question']}" for grey in sorted(others)]
        assert row["blank"] == f"0 {row['question']}"
    assert [row["answer"] for row in answers] == data.questions["answer"]
    assert metrics["accuracy"] == pytest.approx(2 / 6)
    assert metrics["yes_no_accuracy"] == 0 and metrics["open_accuracy"] == pytest.approx(2 / 4)
    assert metrics["accuracy_shuffled_images"] == metrics["accuracy_blank_images"] == 0
    assert metrics["image_gain"] == pytest.approx(2 / 6)
    # Learnt on the same rows: only one of "yes" and "no" and one of the two answers to "why?" can be the majority.
    assert metrics["accuracy_majority_question"] == pytest.approx(4 / 6)


def test_pairs_of_question_and_image_are_answered_once_in_all_shuffles(data):
    model = EchoModel()
    evaluate_model(model, CharacterProcessor(), data, data.questions, batch_size=1)
    assert sum(map(len, model.batches)) == 6 + 6 + 4  # own ones, those of the shuffles that no row has, black ones


def test_the_shuffled_images_do_not_depend_on_the_seed(data):
    (_, first), (_, second) = (
        evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=2, seed=seed)
        for seed in (0, 1)
    )
    assert first == second


def test_a_single_image_has_no_other_and_no_image_gain(data):
    rows = [row for row, image_id in enumerate(data.questions["image_id"]) if image_id == 0]
    single = VqaData(data.questions.select(rows), data.pixels)
    metrics, answers = evaluate_model(EchoModel(), CharacterProcessor(), single, data.questions, batch_size=2)
    assert metrics["num_images"] == 1 and "accuracy_blank_images" in metrics
    assert not any("shuffled" in name or "gain" in name for name in [*metrics, *answers[0]])
    assert "no image gain" in answer_table(metrics)


def test_rows_without_an_answer_are_not_scored_and_not_learnt_from(data):
    questions = data.questions.to_dict()
    for name, texts in (("question", ["why?", ""]), ("answer", [" ", ""]), ("image_id", [0, 1])):
        questions[name] += texts
    more = VqaData(Dataset.from_dict(questions | {"caption": [""] * 7 + ["red"]}), data.pixels)
    processor = CharacterProcessor()
    whole, rows = evaluate_model(EchoModel(), processor, data, data.questions, batch_size=2)
    scores, answers = evaluate_model(EchoModel(), processor, more, more.questions, batch_size=2)
    assert [row["row"] for row in answers] == list(range(6)) and len(rows) == 6
    of_answers = {name: value for name, value in whole.items() if not name.startswith(("align", "retrieval", "text"))}
    assert {name: scores[name] for name in of_answers} == of_answers
    only_captions = Dataset.from_dict({"question": ["", ""], "answer": ["", ""]})
    assert score_majority(only_captions, ["why?"], ["yes"]) == {}
    assert score_majority(more.questions, ["how?"], ["yes"]) == score_majority(data.questions, ["how?"], ["yes"])
