import csv
import math
from pathlib import Path

import evaluate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjepa.metrics.vqa_answers import vqa_answers
from mmjepa.metrics.vqa_answers.rules import squad_normalize, token_f1
from mmjepa.metrics.vqa_answers.vqa_answers import (
    corpus_bleu,
    normalize_answer,
    question_kind,
    score_answers,
    score_by_rules,
)

PATHVQA = Path(__file__).parents[3] / "shared" / "data" / "pathvqa"


@pytest.mark.parametrize(
    "answer, normalized",
    [
        ("Yes.", "yes"),
        ("the  Left lobe of an organ", "left lobe of organ"),
        ("H&E", "he"),
        ("a anthrax theatre by a gland", "anthrax theatre by gland"),
        ("", ""),
        ('"The X-ray\'s" (left);', "xrays left"),
        ("1,000,000 cells", "1000000 cells"),
    ],
)
def test_an_answer_is_compared_without_case_punctuation_articles_and_extra_space(answer, normalized):
    assert normalize_answer(answer) == normalized


@pytest.mark.parametrize(
    "answers",
    [
        ["-", "+", "++", "+++", "+/-", "?", "!", ""],
        ["CD20", "CD20-", "CD20+", "CD20 3+", "CD20 2+", "(-)", "(+)"],
        ["ER-, PR+", "ER+, PR-", "ER+, PR+", "ER, PR"],
        ["10", "10%", "<10%", ">10%", "<=10%", ">=10%", "~10%"],
        ["5", "-5", "+5", "5-", "0.5", "-0.5"],
        ["25 cm", "2.5 cm", "2,5 cm", "2-5 cm", "2/5 cm", "2:5 cm", "2^5 cm", "2(5) cm", "-2.5 cm"],
        ["510", "5-10", "5.10", "5/10", "5 10", "5:10"],
        ["1e5", "1e-5", "10^5", "10^-5", "105"],
        ["A", "an", "the", "B", "A+", "A-", "AB+"],
        ["hepatitis", "hepatitis A", "hepatitis B"],
        ["group A streptococcus", "group streptococcus", "group B streptococcus"],
        ["45,X", "45,Y", "-Y", "+Y", "Y"],
    ],
)
def test_answers_that_differ_in_a_sign_a_comparison_or_within_a_number_differ(answers):
    assert len({normalize_answer(answer) for answer in answers}) == len(answers)


@pytest.mark.parametrize(
    "answers",
    [
        ["CD20-", "cd20 -", "CD20 (-)", "CD20\u2212", "CD20\u2013"],
        ["+++", "+ + +", "(+++)"],
        ["<10%", "< 10 %", "(<10%)."],
        [">=10", "\u226510", ">= 10"],
        ["5-10", "5 - 10", "5\u201310"],
        [".5", "0.5"],
        ["-5", "\u22125", "- 5"],
        ["x-ray", "xray", "X-Ray."],
        ["leg - muscle wasting", "leg muscle wasting"],
        ["- yes", "yes"],
        ["a", "A", "(A)", "A."],
        ["the liver", "a liver", "An liver", "liver!"],
    ],
)
def test_spellings_of_one_answer_are_equal(answers):
    assert len({normalize_answer(answer) for answer in answers}) == 1


def test_a_constant_answer_about_stains_is_right_where_it_is_right_alone():
    truths = ["+", "-", "++", "+++", "+/-"]
    assert score_answers(["+"] * 5, truths, ["how does it stain?"] * 5)["accuracy"] == 1 / 5
    assert score_by_rules(["+"] * 5, truths)["squad_exact_match"] == 1  # as published


@given(st.text(alphabet="aeAn thx159.,-+<>=%()/:'~ \u2212\u2013\u2265", max_size=12))
def test_a_normalised_answer_stays_as_it_is(answer):
    assert normalize_answer(normalize_answer(answer)) == normalize_answer(answer)


@pytest.mark.skipif(not PATHVQA.is_dir(), reason="PathVQA is not on this machine")
def test_on_pathvqa_the_same_answers_are_equal_as_by_squads_rule():
    answers = set()
    for split in ("train", "validation"):
        with open(PATHVQA / f"{split}.csv", newline="", encoding="utf-8") as file:
            answers |= {row["answer"] for row in csv.DictReader(file)}
    assert len(answers) == 4039

    def classes(normalize):
        grouped = {}
        for answer in answers:
            grouped.setdefault(normalize(answer), set()).add(answer)
        return {frozenset(group) for group in grouped.values()}

    assert classes(normalize_answer) == classes(squad_normalize)


@pytest.mark.parametrize(
    "question, kind",
    [
        ("What is present?", "what"),
        ("where is the tumour?", "where"),
        ("how is this stained?", "how"),
        ("how many mitoses?", "how_many"),
        ("is necrosis seen?", "is_are"),
        ("Does it invade?", "is_are"),
        ("why?", "other"),
        ("", "other"),
    ],
)
def test_the_kind_of_a_question_is_told_by_its_first_words(question, kind):
    assert question_kind(question) == kind


def test_scores_are_split_by_the_right_answer_and_by_the_kind_of_question():
    scores = score_answers(
        predictions=["Yes", "no", "liver", "a kidney", "two"],
        references=["yes", "yes", "the liver", "lung", "3"],
        questions=["is it?", "is that?", "what is it?", "where?", "how many?"],
    )
    assert scores["accuracy"] == 2 / 5
    assert scores["yes_no_accuracy"] == 1 / 2
    assert scores["open_accuracy"] == 1 / 3
    assert (scores["accuracy_is_are"], scores["count_is_are"]) == (1 / 2, 2)
    assert (scores["accuracy_what"], scores["count_what"]) == (1.0, 1)
    assert (scores["accuracy_how_many"], scores["count_how_many"]) == (0.0, 1)


def test_an_answer_that_equals_any_of_several_is_right_and_the_first_of_them_names_the_group():
    scores = score_answers(
        predictions=["a liver", "no", "left lung"],
        references=[["kidney", "the liver"], ["yes"], ["no", "the left lung lobe", "left"]],
        questions=["what is it?", "is it?", "where is it?"],
    )
    assert (scores["accuracy"], scores["open_accuracy"], scores["yes_no_accuracy"]) == (1 / 3, 1, 0)
    assert scores["token_f1"] == pytest.approx((1 + 0 + 4 / 5) / 3)  # left lung is 2 of 2 and 2 of 3 words
    assert scores["bleu_1"] == pytest.approx(3 / 4)  # liver, left and lung of four words; lengths are equal


def test_a_group_without_questions_has_no_score():
    scores = score_answers(["yes"], ["yes"], ["is it?"])
    assert "open_accuracy" not in scores and "accuracy_what" not in scores
    assert score_answers([], [], []) == {}


def test_token_f1_equals_a_count_by_hand():
    # 2 of 3 predicted tokens are right and 2 of 4 right tokens are found: 2 * (2/3) * (2/4) / (2/3 + 2/4).
    assert token_f1("lobe left lobe", "left lobe of liver") == pytest.approx(4 / 7)
    assert token_f1("", "") == 1.0
    assert token_f1("liver", "") == 0.0


def test_bleu_clips_repeated_tokens_as_in_papineni_2002():
    # Example 2 there: "the" is found seven times and counts twice.
    assert corpus_bleu(["the the the the the the the"], [["the cat is on the mat"]])[0] == pytest.approx(2 / 7)


def test_bleu_of_two_rows_equals_a_count_by_hand():
    scores = corpus_bleu(["left lobe of liver", "kidney"], [["left lobe of lung tissue"], ["kidney"]])
    # Unigrams 3 + 1 of 4 + 1, bigrams 2 + 0 of 3 + 0, trigrams 1 of 2, no 4-gram; 5 predicted tokens for 6.
    products = (4 / 5, 4 / 5 * 2 / 3, 4 / 5 * 2 / 3 * 1 / 2, 0)
    assert scores == pytest.approx([math.exp(1 - 6 / 5) * product ** (1 / n) for n, product in enumerate(products, 1)])


def test_bleu_gives_no_reward_for_length():
    assert corpus_bleu(["liver lobe left"], [["liver"]]) == pytest.approx([1 / 3, 0, 0, 0])


def test_bleu_counts_the_tokens_of_rows_without_prediction_or_reference():
    # 2 of 3 predicted tokens are found; 4 tokens were to be predicted.
    scores = corpus_bleu(["", "left lobe", "liver"], [["large kidney"], ["left lobe"], [""]])
    assert scores == pytest.approx([math.exp(1 - 4 / 3) * 2 / 3, math.exp(1 - 4 / 3) * math.sqrt(2 / 3), 0, 0])
    assert corpus_bleu(["", ""], [["yes"], [""]]) == [0, 0, 0, 0]


def test_bleu_of_equal_answers_is_1_for_the_lengths_that_they_have():
    assert corpus_bleu(["in the left lobe", "yes"], [["in the left lobe"], ["yes"]]) == [1, 1, 1, 1]
    assert corpus_bleu(["yes", "no"], [["yes"], ["no"]]) == [1, 0, 0, 0]


def test_the_metric_loads_by_its_path_and_gives_the_same_scores(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    metric = evaluate.load(str(Path(vqa_answers.__file__).parent), keep_in_memory=True, cache_dir=str(tmp_path))
    columns = {
        "predictions": ["Yes.", "liver", "two"],
        "references": ["yes", "the left lobe of the liver", "2"],
        "questions": ["is necrosis seen?", "where is the tumour?", "how many cells?"],
    }
    by_rules = score_by_rules(columns["predictions"], columns["references"])
    assert by_rules["exact_match"] == 0 and by_rules["yes_no_squad_exact_match"] == 1
    assert metric.compute(**columns) == score_answers(**columns) | by_rules
    several = columns | {"references": [["yes"], ["lung", "liver"], ["2"]]}
    by_rules = score_by_rules(several["predictions"], several["references"])
    assert metric.compute(**several) == score_answers(**several) | by_rules
