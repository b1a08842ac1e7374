"""The last lines of a training."""

import pytest

from mmjepa.reporting.outcome import outcome_lines


def results(gain, low, high, prefix="eval", **more):
    numbers = {"accuracy": 0.75, "accuracy_majority_question": 0.5, "num_images": 100, **more}
    numbers |= {"image_gain": gain, "image_gain_low": low, "image_gain_high": high}
    return {f"{prefix}_{name}": value for name, value in numbers.items()}


def test_the_last_lines_say_what_was_reached_beside_its_floor_what_it_means_where_it_is_and_what_to_do():
    lines = outcome_lines(results(0.3, 0.25, 0.35), "runs/my model")
    assert [line.split()[0] for line in lines] == ["reached:", "means:", "model:", "report:", "next:"]
    assert "75.0 %" in lines[0] and "50.0 %" in lines[0]
    assert lines[1].endswith("the model reads them.")
    assert lines[3].endswith("runs/my model/report.html")
    assert lines[4].endswith("mmjepa app 'runs/my model'")


@pytest.mark.parametrize(
    ("gain", "meaning", "step"),
    [
        ((0.0, -0.01, 0.01), "follows from the question", "train longer"),
        ((-0.1, -0.14, -0.06), "better about the wrong images", "stands beside its own image"),
        ((0.1, -0.2, 0.4), "too few images to tell", "mmjepa app"),
    ],
)
def test_what_to_do_next_follows_from_what_the_numbers_mean(gain, meaning, step):
    lines = outcome_lines(results(*gain), "out")
    assert meaning in lines[1] and step in lines[-1] and "To " not in lines[-1]


def test_a_run_that_measured_nothing_says_how_to_measure():
    lines = outcome_lines({"train_loss": 1.0}, "out")
    assert "nothing was measured" in lines[0] and "mmjepa evaluate out --dataset_name" in lines[-1]


def test_a_run_that_measured_the_test_split_alone_names_its_report():
    lines = outcome_lines(results(0.3, 0.25, 0.35, "test"), "out")
    assert "test questions" in lines[0] and any(line.endswith("out/test_report.html") for line in lines)
