"""The tasks of lmms-eval, by that library itself; skipped where it is not installed."""

from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk

import mmjepa

NOT_INSTALLED = "lmms-eval is not installed: it is no dependency"
lmms = pytest.importorskip("lmms_eval.api.model", reason=NOT_INSTALLED).lmms
simple_evaluate = pytest.importorskip("lmms_eval.evaluator", reason=NOT_INSTALLED).simple_evaluate
TaskManager = pytest.importorskip("lmms_eval.tasks", reason=NOT_INSTALLED).TaskManager

TASKS = Path(mmjepa.__file__).parent / "evaluation" / "lmms_eval"
NAMES = {name: f"mmjepa_drawn_slides{name}" for name in ("", "_blank", "_shuffled")}


class Yes(lmms):
    """Answers yes, and keeps what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked: dict[str, list] = {}

    def generate_until(self, requests):
        """The answers to lmms-eval's requests."""
        for text, _, images_of, row, task, split in (request.args for request in requests):
            images = images_of(self.task_dict[task][split][row])
            self.asked.setdefault(task, []).append((text, [np.asarray(image) for image in images]))
        return ["Yes."] * len(requests)

    def loglikelihood(self, requests):
        """Not asked for."""
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        """Not asked for."""
        raise NotImplementedError


@pytest.fixture(scope="module")
def evaluated(slides, tmp_path_factory):
    """The model and its results by task, on a few drawn slides."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "runs").mkdir()
    (folder / "runs" / "drawn_slides").symlink_to(slides)
    model = Yes()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        manager = TaskManager(include_path=str(TASKS), include_defaults=False)
        results = simple_evaluate(model, tasks=list(NAMES.values()), task_manager=manager, bootstrap_iters=0)
    return model, results["results"], load_from_disk(slides)["validation"]


@pytest.mark.parametrize("task", NAMES.values())
def test_accuracies_are_the_shares_of_right_answers(evaluated, task):
    _, results, rows = evaluated
    right = [answer == "yes" for answer in rows["answer"]]
    yes_no = [answer in ("yes", "no") for answer in rows["answer"]]
    expected = {
        "accuracy": np.mean(right),
        "yes_no_accuracy": sum(right) / sum(yes_no),
        "open_accuracy": 0,
    }
    assert {name: results[task][f"{name},none"] for name in expected} == pytest.approx(expected)


def test_the_controls_ask_the_same_questions_about_a_black_image_and_about_other_images(evaluated):
    model, _, rows = evaluated
    own = [np.asarray(image.convert("RGB")) for image in rows["image"]]
    seen = {name: [images[0] for _, images in model.asked[task]] for name, task in NAMES.items()}
    assert all(question in text for question, (text, _) in zip(rows["question"], model.asked[NAMES[""]], strict=True))
    assert len({tuple(text for text, _ in model.asked[task]) for task in NAMES.values()}) == 1
    assert all(np.array_equal(image, shown) for image, shown in zip(own, seen[""], strict=True))
    assert all(
        shown.shape == image.shape and not shown.any() for image, shown in zip(own, seen["_blank"], strict=True)
    )
    for image, shown in zip(own, seen["_shuffled"], strict=True):
        assert not np.array_equal(image, shown)
        assert any(np.array_equal(other, shown) for other in own)


def test_the_tasks_of_pathvqa_differ_from_those_of_the_slides_in_the_data_alone():
    for kind in ("blank", "shuffled"):
        texts = [(TASKS / f"{data}_{kind}.yaml").read_text() for data in ("drawn_slides", "pathvqa")]
        assert texts[0].replace("drawn_slides", "pathvqa") == texts[1]
