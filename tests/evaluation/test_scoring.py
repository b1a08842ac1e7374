"""The published rules of scoring, each against a case worked by hand, and the command that scores a file."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import BlipConfig, BlipForQuestionAnswering
from typer.testing import CliRunner

from mmjepa.cli import app
from mmjepa.data.rows import load_rows
from mmjepa.evaluation.ceilings import ceiling_table
from mmjepa.evaluation.floors import floor_table, lead_table, unscored_rows
from mmjepa.evaluation.intervals import mean_interval
from mmjepa.evaluation.scoring import (
    bleu_intervals,
    closed_list_intervals,
    read_predictions,
    score_report,
    score_table,
)
from mmjepa.metrics.vqa_answers.rules import RULES, normalize_answer, vqa_normalize
from mmjepa.metrics.vqa_answers.vqa_answers import corpus_bleu, score_by_rules


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("The X-ray.", "x ray"),
        ("two, or three !", "2 or 3"),
        ("none", "0"),
        ("1.5 mm", "1.5 mm"),
        ("1,000 cells (red)", "1000 cells red"),
        ("it isnt a cell", "it isn't cell"),
        ("couldnt've", "couldn't've"),
    ],
)
def test_vqas_normalisation(answer, normalized):
    assert vqa_normalize(answer) == normalized


@pytest.mark.parametrize(
    ("rule", "prediction", "reference", "score"),
    [
        ("exact_match", " Yes", "yes", 1),
        ("exact_match", "yes.", "yes", 0),
        ("squad_exact_match", "The liver.", "liver", 1),
        ("vqa_exact_match", "two", "2", 1),
        ("squad_exact_match", "two", "2", 0),
        ("squad_exact_match", "CD20+", "CD20-", 1),  # as published
        ("accuracy", "CD20+", "CD20-", 0),
        ("accuracy", "The liver.", "liver", 1),
        ("token_f1", "left lobe", "the left lobe of liver", 2 / 3),
        ("word_overlap", "left lobe", "left lobe of the liver", 1),
        ("word_overlap", "left left lung", "left lobe", 1 / 3),
        ("word_overlap", "2", "2", 0),
        ("token_recall", "left lobe, at the left", "left lobe of liver", 3 / 5),
        ("token_recall", "kidney", "liver", 0),
        ("contains_answer", "not yes", "no", 1),
        ("contains_answer", "yes", "no", 0),
        ("contains_answer", "in the left lobe", "lobes", 0),
        ("contains_answer", "in the left lobes", "The lobe.", 1),
        ("contains_answer_as_published", "yes", "no", None),
        ("contains_answer_as_published", "maybe", "no", 0),
        ("contains_answer_as_published", "yes, it is", "yes", 1),
        ("vqa_exact_match", "none\n", "0", 1),
        ("vqa_exact_match", "", "the", 1),
        ("vqa_exact_match", "x ray", "xray", 0),
        ("mevf_exact_match", "X-ray", "the xray", 1),
        ("mevf_exact_match", "two, cells", "2 cells", 1),
        ("mevf_exact_match", "CD20+", "CD20-", 1),
        ("mumc_containment", "lobe", "Left lobe.", 1),
        ("mumc_containment", "left lobe of the liver", "left lobe", 0),
        ("mumc_containment", "an x-ray", "an X ray film", 1),
        ("mumc_containment", "the liver", "liver", 0),
        ("mumc_containment", "", "liver", 1),
        ("mumc_containment", "es", "yes", 1),
        ("lmms_eval_exact_match", "1,000 x-rays", "1000 x rays", 1),
        ("vqa_exact_match", "1,000 x-rays", "1000 x rays", 0),  # the comma between digits drops the hyphen
        ("lmms_eval_exact_match", "Whipple's disease", "whipple 's disease", 1),
        ("lmms_eval_exact_match", "two", "2", 1),
        ("medevalkit_accuracy", " Yes.", "yes", 1),
        ("medevalkit_accuracy", "yes, it is normal", "yes", 0),  # "no" is in "normal"
        ("medevalkit_accuracy", "it is not", "no", 1),
        ("medevalkit_accuracy", "it is", "no", 0),
        ("medevalkit_accuracy", "Liver", "liver", 1),
        ("medevalkit_accuracy", "the liver", "liver", 0),
        ("medevalkit_accuracy", "the answer is liver", "liver", 0),  # a space is left
        ("medevalkit_accuracy", "no doubt: <answer>yes</answer>", "yes", 1),
        ("medevalkit_accuracy", r"not so: \boxed{\text{liver}}", r"\text{liver}", 1),
        ("word_f1", "left left lung", "left lobe", 2 * (2 / 3 * 2 / 3) / (2 / 3 + 2 / 3)),
        ("word_f1", "2", "2", 0),
        ("llava_med_f1", "left left lung", "left lobe", 2 * (2 / 3 * 2 / 3) / (2 / 3 + 2 / 3)),
        ("llava_med_f1", "two", "2", 1),
        ("llava_med_f1", "", "", 0),
        ("llava_med_exact_match", "left left lung", "left lobe", 1 / 3),
        ("llava_med_exact_match", "two", "2 cells", 1),
        # 13 characters for 9, and 1 of 3 words is right.
        ("sentence_bleu_1", "the left lung", "left lobe", 1 / 3),
        ("sentence_bleu_2", "the left lung", "left lobe", (1 / 3) ** (1 / 2)),  # no pair is right, which is skipped
        ("sentence_bleu_1", "left", "left lobe", math.exp(1 - 9 / 4)),
        ("sentence_bleu_1", "carcinoma", "lung", 1),  # wrong and longer
        ("sentence_bleu_1", "lung", "carcinoma", math.exp(1 - 9 / 4)),  # wrong and shorter
        ("sentence_bleu_2", "liver", "liver", 0),
        ("sentence_bleu_1", "42", "42", 0),
        ("sentence_bleu_1", "", "liver", 0),
        ("exact_match", "", "liver", 0),
    ],
)
def test_a_rule_gives_what_is_worked_out_by_hand(rule, prediction, reference, score):
    assert RULES[rule].score(prediction, reference) == (score if score is None else pytest.approx(score))


def test_the_published_closed_rule_never_counts_a_wrong_answer():
    scores = score_by_rules(["yes", "yes", "yes", "liver"], ["yes", "no", "no", "liver"])
    assert scores["yes_no_contains_answer_as_published"] == 1
    assert scores["yes_no_contains_answer"] == pytest.approx(1 / 3)
    assert scores["open_exact_match"] == 1 and "open_contains_answer_as_published" not in scores


def test_rules_for_open_questions_alone_have_no_score_over_all(predictions):
    scores = score_by_rules(["yes", "liver"], ["yes", "the liver"])
    assert scores["open_token_recall"] == 1 and {"token_recall", "yes_no_token_recall"}.isdisjoint(scores)
    assert "contains_answer_as_published" not in scores and scores["contains_answer"] == 1
    table = score_table(read_predictions(predictions))
    assert set(table["token_recall"]) == {"open"} and set(table["contains_answer_as_published"]) == {"yes_no"}
    assert set(table["exact_match"]) == {"all", "yes_no", "open"}


@pytest.fixture
def predictions(tmp_path):
    """A file of 40 questions about 20 images, of which the yes/no ones are all answered rightly."""
    rows = [
        {"question": "is it?", "answer": "yes", "prediction": "Yes", "image_id": image}
        if row
        else {
            "question": "what?",
            "answer": "liver",
            "prediction": "liver" if image % 2 else "lung",
            "image_id": image,
        }
        for image in range(20)
        for row in (0, 1)
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_intervals_are_those_of_images_and_groups_are_apart(predictions):
    table = score_table(read_predictions(predictions))
    assert table["exact_match"]["yes_no"] == pytest.approx((1, 20 / (20 + 1.96**2), 1), abs=1e-4)  # Wilson's, of 20
    mean, low, high = table["exact_match"]["open"]
    assert mean == 0.5
    assert 0.2 < low < 0.4 and 0.6 < high < 0.8  # of 20 images: 0.5 +- 0.22
    assert table["bleu_1"]["yes_no"] == table["exact_match"]["yes_no"]
    assert table["bleu_1"]["open"][0] == pytest.approx(0.5)
    assert "yes_no" not in table["token_recall"]


def test_the_bleu_of_images_taken_together_is_that_of_the_corpus(predictions):
    table = read_predictions(predictions).assign(prediction=lambda rows: rows["prediction"] + " of the left side")
    table["answer"] = table["answer"] + " of the right side"
    table["answers"] = table["answer"].map(lambda answer: [answer])
    means = [mean for mean, _, _ in bleu_intervals(table, seed=0)]
    answers, truths = (table[name].map(normalize_answer).tolist() for name in ("prediction", "answer"))
    assert means == pytest.approx(corpus_bleu(answers, [[truth] for truth in truths]))
    assert 0 < means[1] < means[0] < 1


def test_floors_come_from_the_training_questions(predictions):
    train = Dataset.from_dict({"question": ["is it?", "what?"], "answer": ["yes", "heart"]})
    floors = floor_table(read_predictions(predictions), train)
    assert floors["majority"]["all"][0] == 0.5
    assert floors["majority"]["yes_no"][0] == 1 and floors["majority"]["open"][0] == 0
    assert ceiling_table(read_predictions(predictions), train)["closed_list"]["all"][0] == 0.5


def test_the_lead_over_a_floor_pairs_the_two_answers_of_a_row(predictions):
    train = Dataset.from_dict({"question": ["is it?", "what?"], "answer": ["yes", "lung"]})
    table = read_predictions(predictions)
    leads = lead_table(table, train)
    # The floor is right in all 20 yes/no questions and in no open one, the predictions in 10 open ones too.
    assert leads["majority_question"]["all"][0] == 0.25 and leads["majority_question"]["open"][0] == 0.5
    mean, low, high = leads["majority_question"]["yes_no"]
    assert mean == 0 and low == -high and high < 0.2
    by_hand = np.array([0.0, 1.0] * 20) * np.repeat(np.arange(20) % 2, 2)  # the open questions of odd images
    assert leads["majority_question"]["all"] == mean_interval(by_hand, table["image"], seed=0, least=-1)


def test_a_closed_list_takes_each_prediction_for_the_most_similar_training_answer(tmp_path):
    rows = {"question": ["what?"] * 4, "answer": ["liver", "lung", "left kidney", "heart"]}
    rows["prediction"] = ["the livers", "lung", "kidney left", "liver"]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    train = Dataset.from_dict({"question": ["what?"] * 3, "answer": ["liver", "Left kidney.", "heart"]})
    # "lung" is not in the list and becomes an answer of it; "kidney left" is nearest to "left kidney".
    assert closed_list_intervals(read_predictions(tmp_path / "rows.csv"), train)["open"][0] == 0.5


def test_predictions_of_a_stock_model_are_scored(tokenizer, tmp_path):
    text = {"vocab_size": 300, "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 32}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 0, "sep_token_id": 2, "pad_token_id": 1}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14})
    blip = BlipForQuestionAnswering(config).eval()
    questions = ["is it?", "what?"] * 3
    inputs = tokenizer(questions, return_tensors="pt", padding=True)
    ids = blip.generate(pixel_values=torch.randn(6, 3, 28, 28), max_new_tokens=4, **inputs)
    rows = {
        "question": questions,
        "answer": ["yes", "liver"] * 3,
        "file_name": [f"{row // 2}.jpg" for row in range(6)],
    }
    rows["prediction"] = tokenizer.batch_decode(ids, skip_special_tokens=True)
    pd.DataFrame(rows).to_parquet(tmp_path / "blip.parquet")
    result = CliRunner().invoke(app, ["score", str(tmp_path / "blip.parquet"), "--json"])
    report = json.loads(result.stdout)
    assert (report["questions"], report["images"]) == (6, 3)
    assert set(report["rules"]) == {*RULES, "bleu_1", "bleu_2", "bleu_3", "bleu_4"}


def test_the_command_scores_a_file_as_text_and_as_json(predictions, tmp_path):
    pd.read_json(predictions, lines=True).to_csv(tmp_path / "other.csv", index=False)
    result = CliRunner().invoke(app, ["score", str(predictions), str(tmp_path / "other.csv"), "--json"])
    report = json.loads(result.stdout)
    assert report["questions"] == 40 and report["images"] == 20
    assert report["differences"]["exact_match"]["all"][0] == 0
    text = CliRunner().invoke(app, ["score", str(predictions)]).stdout
    assert "40 questions about 20 images" in text and "75.0" in text and "LLaVA-Med" in text


def test_the_command_says_what_a_file_lacks(tmp_path):
    (tmp_path / "few.csv").write_text("question,answer\nis it?,yes\n")
    result = CliRunner().invoke(app, ["score", str(tmp_path / "few.csv")])
    assert result.exit_code == 1
    assert "lacks prediction" in result.output


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_answers_and_images_are_read_as_they_are_written(tmp_path, suffix):
    texts = ["None", "NA", "007", "2.0", "null", "2019-05-01", "1e5", " left", "true"]
    table = pd.DataFrame({"question": ["what?"] * 9, "answer": texts, "prediction": texts[::-1]})
    table["image"] = ["0012", "12", "12.0", "1e1", "NaN", "nan", "", "None", "0012"]
    path = tmp_path / f"rows.{suffix}"
    write = {"csv": pd.DataFrame.to_csv, "parquet": pd.DataFrame.to_parquet}.get(suffix)
    if write is None:
        lines = [json.dumps(row) for row in table.to_dict("records")]
        path.write_text("\n".join(lines) if suffix == "jsonl" else f"[{', '.join(lines)}]")
    else:
        write(table, path, index=False)
    read = read_predictions(path)
    stripped = [text.strip() for text in texts]  # of a CSV file, as in every table
    assert list(read["answer"]) == (stripped if suffix == "csv" else texts)
    assert list(read["prediction"]) == (stripped if suffix == "csv" else texts)[::-1]
    assert read["image"].nunique() == 8 and read["image"][0] == read["image"][8] == "0012"


def test_whole_numbers_in_columns_with_a_gap_have_no_point(tmp_path):
    rows = pd.DataFrame({"question": ["how many?"] * 3, "answer": [2.0, 3.0, None], "prediction": [2.0, None, 1.0]})
    for path, write in ((tmp_path / "a.parquet", rows.to_parquet), (tmp_path / "a.jsonl", None)):
        if write:
            write(path)
        else:
            rows.to_json(path, orient="records", lines=True)
        read = read_predictions(path)
        assert list(read["answer"]) == ["2", "3", ""] and list(read["prediction"]) == ["2", "", "1"]
    report = score_report(read)
    assert report["questions"] == 2 and report["rules"]["accuracy"]["all"][0] == 0.5
    assert report["notes"][:2] == [
        "1 of 3 rows have no right answer and are not scored.",
        "1 rows have no prediction and count as wrong.",
    ]


def test_any_of_several_right_answers_is_right_by_each_rule(tmp_path):
    rows = [
        {"question": "what?", "answer": "liver", "answers": ["liver", "hepar"], "prediction": "hepar"},
        {"question": "what?", "answer": ["lung", "lung", "pulmo"], "answers": None, "prediction": "pulmo"},
    ]
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row))
        report = score_report(read_predictions(tmp_path / f"{number}.jsonl"))
        scored = {rule: scores["all"][0] for rule, scores in report["rules"].items() if "all" in scores}
        # Of answers of one word there are no longer n-grams.
        assert scored == {rule: float(not rule.endswith(("bleu_2", "bleu_3", "bleu_4"))) for rule in scored}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answer": ["x"], "truth": ["y"], "answer_without_image": ["x"]}, "earlier version.*rename answer"),
        ({"answer": [""], "prediction": ["x"]}, "none of the 1 rows has an answer"),
    ],
)
def test_a_file_of_before_or_without_answers_is_refused(tmp_path, columns, message):
    Dataset.from_dict({"question": ["what?"]} | columns).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=message):
        score_report(read_predictions(tmp_path / "rows.parquet"))


def test_a_table_of_columns_in_one_object_is_refused(tmp_path):
    (tmp_path / "rows.json").write_text('{"question": ["a?", "b?"], "answer": ["1", "2"], "prediction": ["1", "1"]}')
    with pytest.raises(ValueError, match="give one object for each row"):
        read_predictions(tmp_path / "rows.json")


def scored(tmp_path, rows, *names) -> pd.DataFrame:
    path = tmp_path / "scored.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({name: row[name] for name in ("question", "answer", *names)} | {"prediction": "yes"})
            for row in rows
        )
    )
    return read_predictions(path)


def test_floors_are_learnt_from_no_row_that_is_scored(tmp_path):
    """Ten images with a question and an answer each, of which the last two were held out or are another split."""
    rows = [{"question": f"is it {n}?", "answer": f"{n}", "image_file": f"{n}.png"} for n in range(10)]
    whole, others = Dataset.from_list(rows), Dataset.from_list(rows[:8])
    held_out = Dataset.from_list(rows[8:])
    named, unnamed = scored(tmp_path, rows[8:], "image_file"), scored(tmp_path, rows[8:])

    kept, note = unscored_rows(named, {"train": whole})
    assert kept.to_list() == rows[:8] and "2 rows about them are left out" in note
    kept, note = unscored_rows(unnamed, {"train": whole})
    assert kept is None and note.startswith("Without floors: the scored rows may be among the training rows")
    for predictions in (named, unnamed):
        assert unscored_rows(predictions, {"train": others, "validation": held_out}) == (others, "") or (
            unscored_rows(predictions, {"train": others, "validation": held_out})[0].to_list() == rows[:8]
        )
    assert unscored_rows(scored(tmp_path, rows[:3]), {"train": others, "validation": held_out})[0] is None

    report = score_report(unnamed, {"train": whole})
    assert "floors" not in report and "closed_list_exact_match" not in report["rules"] and note in report["notes"]
    report = score_report(named, {"train": whole})
    assert report["ceilings"]["closed_list"]["all"][0] == 0 == report["floors"]["majority_question"]["all"][0]


def test_rows_that_train_could_hold_too_are_told_by_their_order(tmp_path):
    """Of drawn slides each question and answer of another split stands in train too."""
    pairs = [("is it?", "yes"), ("is it?", "no"), ("what?", "liver"), ("what?", "lung")]
    train, validation = (
        Dataset.from_list([{"question": q, "answer": a, "image_file": None} for q, a in rows])
        for rows in (2 * pairs, pairs[::-1])
    )
    splits = {"train": train, "validation": validation}
    assert unscored_rows(scored(tmp_path, validation), splits)[0] is not None
    assert unscored_rows(scored(tmp_path, validation.select([0, 2])), splits)[0] is None
    assert unscored_rows(scored(tmp_path, train.select(range(4))), splits)[0] is None


def test_the_command_learns_floors_from_train_without_the_images_that_were_held_out(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [f"{image}.png,is it {image}?,{'yes' if image % 2 else 'no'}" for image in range(40)]
    (folder / "train.csv").write_text("\n".join(["image,question,answer", *rows]))
    table = load_rows(str(folder))["train"].remove_columns("image").to_pandas().assign(prediction="yes")
    for name, held_out in (("named", table[30:]), ("unnamed", table[30:].drop(columns="image_file"))):
        held_out.to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)
    asked = ["score", str(tmp_path / "named.jsonl"), "--dataset-name", str(folder)]
    report = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert report["floors"]["majority_question"]["all"][0] == 0.5  # and not 1, as if each question were known
    text = CliRunner().invoke(app, asked).stdout
    assert "the 10 rows about them are left out" in text and "too few images to tell" in text
    assert max(map(len, text.splitlines())) <= 110
    asked[1] = str(tmp_path / "unnamed.jsonl")
    text = CliRunner().invoke(app, asked).stdout
    assert "Without floors: the scored rows may be among the training rows" in text and "without images" not in text
