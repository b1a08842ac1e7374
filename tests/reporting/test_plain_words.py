import pytest

from mmjepa.reporting.plain_words import advice, plain_words

GAIN = {"image_gain": 0.2, "image_gain_low": 0.1, "image_gain_high": 0.3, "num_images": 30}
ZERO = {"image_gain": 0.0, "image_gain_low": 0.0, "image_gain_high": 0.0, "num_images": 30}
LEAD = {"accuracy": 0.4, "accuracy_majority_question": 0.5, "num_images": 30}
LEAD |= {"majority_lead": -0.1, "majority_lead_low": -0.15, "majority_lead_high": -0.05}
TRUTH = {"truth_accuracy": 0.8, "truth_gain": 0.2, "truth_gain_low": 0.15, "truth_gain_high": 0.25, "truth_images": 30}
NO_TRUTH = TRUTH | {"truth_gain": 0.0, "truth_gain_low": -0.02, "truth_gain_high": 0.03}
FOUND = {"search_map": 0.4, "search_map_low": 0.35, "search_map_high": 0.45, "num_images": 30}
FOUND |= {"search_map_chance": 0.1, "search_map_shuffled": 0.12}
SURE = {"calibration_error": 0.1, "calibration_error_low": 0.06, "calibration_error_high": 0.12, "num_images": 30}
SURE |= {"calibration_error_if_perfect": 0.04, "calibration_error_if_perfect_high": 0.08, "calibration_answers": 1200}
SURE |= {"accuracy_at_coverage_50": 0.9}
TEXTS = {"text_retrieval_recall_at_10": 0.3, "text_retrieval_images": 30, "text_retrieval_median_rank": 14.0}
TEXTS |= {"text_retrieval_recall_at_10_low": 0.25, "text_retrieval_recall_at_10_high": 0.35}
TEXTS |= {"text_retrieval_recall_at_10_popular": 0.1, "text_retrieval_median_rank_chance": 150.5}
PROBED = {"probe_linear_accuracy": 0.8, "probe_accuracy_majority": 0.6, "probe_questions": 7, "probe_images": 30}
PROBED |= {"probe_linear_lead": 0.2, "probe_linear_lead_low": 0.15, "probe_linear_lead_high": 0.25}
UNSURE = "too few images to tell"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (GAIN, "costs 20.0 points of accuracy (95 % interval 10.0 to 30.0): the model reads them"),
        (ZERO, "what the model answers rightly follows from the question"),
        (ZERO | {"num_images": 1}, UNSURE),
        (GAIN | {"num_images": 29}, UNSURE),
        (GAIN | {"image_gain_low": -0.01}, UNSURE),
        (GAIN | {"image_gain_low": 0.01}, UNSURE),  # as wide as that
        (GAIN | {"image_gain": 0.05, "image_gain_low": -0.02, "image_gain_high": 0.12}, UNSURE),
        ({name: value for name, value in GAIN.items() if name != "num_images"}, UNSURE),
        (
            GAIN | {"image_gain": -0.2, "image_gain_low": -0.3, "image_gain_high": -0.1},
            "better about the wrong images, by 20.0 points",
        ),
        (LEAD, "it is 10.0 points worse"),
        (LEAD | {"num_images": 29}, UNSURE),
        (LEAD | {"majority_lead_high": 0.02}, UNSURE),
        (
            TRUTH,
            "in 80.0 % of cases, with shuffled images in 60.0 %: statements read the image",
        ),
        (TRUTH | {"truth_images": 29}, UNSURE),
        (TRUTH | {"truth_gain_low": -0.01}, UNSURE),
        (NO_TRUTH, "the right image adds next to nothing"),
        (
            FOUND,
            "precision of 40.0 % (95 % interval 35.0 to 45.0), shuffled ones 12.0 %, by chance 10.0 %: a statement",
        ),
        (FOUND | {"search_map_shuffled": 0.38}, UNSURE),
        (FOUND | {"search_map_shuffled": 0.41}, "no better than chance"),
        (FOUND | {"num_images": 29}, UNSURE),
        (TEXTS, "among the first 10 in 30.0 % of cases (95 % interval 25.0 to 35.0), where the best fixed order"),
        (TEXTS, "gives 10.0 %; the median rank is 14, by chance 150: texts find their images."),
        (TEXTS | {"text_retrieval_images": 29}, UNSURE),
        (TEXTS | {"text_retrieval_recall_at_10_popular": 0.27}, UNSURE),
        (TEXTS | {"text_retrieval_recall_at_10_popular": 0.34}, "texts do not find their images"),
        (PROBED, "answers 7 yes/no questions rightly in 80.0 % of cases, the most frequent training answer in 60.0 %"),
        (PROBED, "the embedding tells them (+20.0 points, 95 % interval 15.0 to 25.0)"),
        (PROBED | {"probe_images": 29}, UNSURE),
        (PROBED | {"probe_linear_lead_low": -0.01}, UNSURE),
        (PROBED | {"probe_linear_lead_low": -0.01, "probe_linear_lead_high": 0.02}, "no more than the question"),
        (
            {"image_effective_rank": 21.9, "text_effective_rank": 119.6},
            "about 22 dimensions, those of the texts about 120",
        ),
    ],
)
def test_the_controls_are_told_in_words_and_a_conclusion_is_drawn_of_enough_images_alone(metrics, said):
    (sentence,) = plain_words(metrics)
    assert said in sentence
    if said == UNSURE:
        assert not any(words in sentence for words in (": the model reads", "follows from", "it is 10.0"))


@pytest.mark.parametrize(
    ("recall", "half", "images", "said"),
    [
        (0.02, 0.01, 30, "no better than chance"),
        (0.05, 0.01, 30, "finds more"),
        (0.1, 0.01, 30, "perhaps no better than the text"),
        (0.2, 0.01, 30, "images apart."),
        (0.2, 0.01, 29, UNSURE),
        (0.06, 0.06, 30, UNSURE),
        (0.4, 0.15, 30, UNSURE),
    ],
)
def test_retrieval_is_told_beside_chance_and_the_most_shared_text(recall, half, images, said):
    beside = {"retrieval_recall_at_1_chance": 0.015, "retrieval_recall_at_1_popular": 0.1, "retrieval_images": images}
    beside |= {"retrieval_recall_at_1_low": recall - half, "retrieval_recall_at_1_high": recall + half}
    assert said in plain_words({"retrieval_recall_at_1": recall} | beside)[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "this is more than chance"),
        ({"calibration_error": 0.07}, "chance explains this"),
        ({"num_images": 29}, UNSURE),
    ],
)
def test_the_calibration_error_is_told_beside_that_of_a_perfect_model_of_as_many_answers(changed, said):
    error, surest = plain_words(SURE | changed)
    assert error.startswith("Over 1,200 answers its probabilities are off by ")
    assert "points on average (95 % interval 6.0 to 12.0)" in error
    assert f"perfectly calibrated model would be by 4.0, by chance alone: {said}" in error
    assert surest == "Of the half of the answers that it is surest of, 90.0 % are right."


def test_calibration_of_yes_no_and_open_questions_is_told_apart():
    names = ("calibration_error", "calibration_error_if_perfect", "accuracy_at_coverage_50")
    yes_no, open_ = (
        {f"{prefix}_{name}": value for name, value in zip(names, values, strict=True)}
        for prefix, values in (("yes_no", (0.05, 0.02, 0.95)), ("open", (0.2, 0.03, 0.7)))
    )
    assert len(plain_words(SURE | yes_no)) == 2  # there are no others
    *_, first, second = plain_words(SURE | yes_no | open_)
    assert first.startswith("Of yes/no questions alone, probabilities are off by 5.0 points (perfectly")
    assert second.endswith("by 3.0), and 70.0 % of the surest half are right.")


def test_advice_is_given_where_the_images_are_not_read_or_read_wrongly_and_nowhere_else():
    wrong = GAIN | {"image_gain": -0.2, "image_gain_low": -0.3, "image_gain_high": -0.1}
    assert ["--visual_prefix patches" in line for line in advice(ZERO)] == [True]
    assert ["mmjepa check" in line for line in advice(wrong)] == [True]
    for metrics in (GAIN, ZERO | {"num_images": 29}, GAIN | {"image_gain_low": -0.01}, {}):
        assert advice(metrics) == []
