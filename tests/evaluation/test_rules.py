"""The figures of docs/rules.md, measured on PathVQA: what answers without a look at the image score by each rule."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from mmjepa.evaluation.answer_lists import LISTS, answer_list, candidate_answers, open_answers_of, reached
from mmjepa.evaluation.controls import WHOLE_QUESTION, majority_answers
from mmjepa.evaluation.scoring import closed_list_intervals
from mmjepa.metrics.vqa_answers.rules import RULES, is_yes_no
from mmjepa.metrics.vqa_answers.vqa_answers import row_scores

ROOT = Path(__file__).parents[2]
PATHVQA = ROOT.parent / "shared" / "data" / "pathvqa"
DOCUMENT = (ROOT / "docs" / "rules.md").read_text()
CELLS = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCUMENT.splitlines() if "|" in line]
FIGURES = {row[0].strip("`"): row[-1] for row in CELLS if len(row) == 5 and "," in row[-1] and row[0][0] == "`"}
on_pathvqa = pytest.mark.skipif(not PATHVQA.is_dir(), reason="PathVQA is not on this machine")


def questions_of(split: str) -> Dataset:
    with open(PATHVQA / f"{split}.csv", newline="", encoding="utf-8") as file:
        return Dataset.from_list(list(csv.DictReader(file)))


@pytest.fixture(scope="module")
def train():
    return questions_of("train")


@pytest.fixture(scope="module")
def asked(train):
    """The validation questions of each form, with the most frequent training answer to each."""
    validation = questions_of("validation").to_pandas()
    validation["majority"] = majority_answers(train, validation["question"], WHOLE_QUESTION)
    is_closed = validation["answer"].map(is_yes_no)
    return {"yes_no": validation[is_closed], "open": validation[~is_closed]}


def percent(rule: str, predictions, answers) -> str:
    counted = [score for score in row_scores(rule, list(predictions), list(answers)) if score is not None]
    return f"{100 * np.mean(counted):.1f}" if counted else "-"


def test_the_document_has_every_rule_under_its_name():
    rows = {row[0].strip("`"): row for row in CELLS}
    assert set(RULES) <= set(rows) and set(LISTS) <= set(rows)
    assert all(rows[name][1] == rule.printed_as for name, rule in RULES.items())
    assert len(DOCUMENT.split()) <= 900


@on_pathvqa
def test_open_questions_without_an_image_score_what_the_document_says(train, asked):
    answers, majority = asked["open"]["answer"], asked["open"]["majority"]
    trivial = [[""] * len(answers), ["a"] * len(answers), majority]
    measured = {rule: ", ".join(percent(rule, texts, answers) for texts in trivial) for rule in RULES}
    candidates = open_answers_of(train)
    measured["llava_med_candidate"] = ", ".join(
        percent("vqa_exact_match", candidate_answers(texts, candidates), answers) for texts in trivial
    )
    rows = asked["open"].assign(answers=[[answer] for answer in answers])
    of_list = [closed_list_intervals(rows.assign(prediction=list(texts)), train)["open"] for texts in trivial]
    measured["closed_list_exact_match"] = ", ".join(f"{100 * mean:.1f}" for mean, _, _ in of_list)
    measured.pop("contains_answer_as_published")  # for yes/no questions
    assert len(answers) == 3134 and measured == FIGURES


@on_pathvqa
def test_yes_no_questions_without_an_image_score_what_the_document_says(asked):
    answers = asked["yes_no"]["answer"]

    def scores(texts) -> dict[str, str]:
        return {rule: percent(rule, texts, answers) for rule in RULES}

    others = {"contains_answer_as_published", "sentence_bleu_1", "sentence_bleu_2", "sentence_bleu_3"}
    common = [rule for rule, entry in RULES.items() if entry.questions != "open" and rule not in others]
    yes, majority = scores(["yes"] * len(answers)), scores(asked["yes_no"]["majority"])
    assert {yes[rule] for rule in common} == {"54.8"} and {majority[rule] for rule in common} == {"82.3"}
    for rule in ("contains_answer_as_published", "sentence_bleu_1"):
        assert f"- `{rule}`: {yes[rule]} and {majority[rule]}." in DOCUMENT
    assert scores(["yes no"] * len(answers))["contains_answer"] == "100.0"


@on_pathvqa
def test_the_question_as_its_own_answer_has_the_bleu_that_the_document_says(asked):
    found = re.search(r"as its answer, scores ([\d.]+)\.", DOCUMENT)
    assert percent("sentence_bleu_1", asked["open"]["question"], asked["open"]["answer"]) == found[1] == "88.0"


@on_pathvqa
def test_lists_reach_what_the_document_says(train, asked):
    documented = {row[0].strip("`"): row[-3:] for row in CELLS if len(row) == 6}
    for name, closed_list in LISTS.items():
        answers = answer_list([train], closed_list.write)
        by_form = [reached(answers, closed_list.rule, [[text] for text in asked[form]["answer"]]) for form in asked]
        ceilings = [np.concatenate(by_form).mean(), np.mean(by_form[1])]
        assert [str(len(answers)), *(f"{100 * ceiling:.1f}" for ceiling in ceilings)] == documented[name]
