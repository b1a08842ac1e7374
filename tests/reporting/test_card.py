"""The model card: metadata that the Hub reads, the measured numbers beside their controls, code that runs."""

import re
import shutil

import pytest
from fresh_process import run_fresh
from huggingface_hub import ModelCard

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.reporting.card import model_card

METRICS = {
    "eval_accuracy": 0.71237,
    "eval_accuracy_majority": 0.45,
    "eval_accuracy_shuffled_images": 0.5,
    "eval_accuracy_blank_images": 0.4,
    "eval_yes_no_accuracy": 0.9,
    "eval_image_gain": 0.21237,
    "eval_image_gain_low": 0.19,
    "eval_image_gain_high": 0.23,
    "eval_num_images": 800,
    "test_accuracy": 0.7,
    "train_loss": 1.0,
}
PUBLISHED = (["flaviagiammarino/path-vqa"], ["facebook/dinov2-base", "facebook/bart-base"])


@pytest.fixture
def card(tmp_path) -> ModelCard:
    """The card of a model trained from published parts, read back from its file."""
    model_card("somebody/slides", METRICS, *PUBLISHED).save(tmp_path / "README.md")
    return ModelCard.load(tmp_path / "README.md")


def test_the_hub_finds_the_model_by_task_library_licence_parts_and_data_set(card):
    assert card.data.pipeline_tag == "image-text-to-text"
    assert card.data.library_name == "transformers"
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == PUBLISHED[1]
    assert card.data.datasets == PUBLISHED[0]


def test_the_model_index_holds_the_measured_numbers_and_the_controls_of_each_split(card):
    measured = {(result.dataset_split, result.metric_name): result.metric_value for result in card.data.eval_results}
    assert measured == {
        ("validation", "accuracy, overall"): 0.7124,
        ("validation", "accuracy, overall, majority answer of the kind"): 0.45,
        ("validation", "accuracy, overall, shuffled images"): 0.5,
        ("validation", "accuracy, overall, blank images"): 0.4,
        ("validation", "accuracy, yes/no"): 0.9,
        ("validation", "image gain (accuracy - accuracy with shuffled images)"): 0.2124,
        ("test", "accuracy, overall"): 0.7,
    }
    assert {result.dataset_type for result in card.data.eval_results} == set(PUBLISHED[0])


def test_the_text_shows_the_table_of_the_controls(card):
    lines = {line.split("|")[1].strip(): line for line in card.text.splitlines() if line.startswith("|")}
    assert "71.2" in lines["model"] and "50.0" in lines["shuffled images"] and "40.0" in lines["blank images"]
    assert "image gain (model - shuffled images): +21.2 points" in card.text
    assert "the model reads them" in card.text


def test_folders_of_this_machine_are_not_linked_to_and_their_paths_not_told(tmp_path):
    for name in ("slides", "encoder", "text"):
        (tmp_path / name).mkdir()
    parts = [str(tmp_path / "encoder"), str(tmp_path / "text")]
    card = model_card("somebody/model", METRICS, [str(tmp_path / "slides"), "somebody/data"], parts)
    assert card.data.datasets == ["somebody/data"] and card.data.base_model is None
    assert str(tmp_path) not in str(card)
    assert "Trained from encoder and text on slides and somebody/data." in card.text


def test_no_licence_is_claimed_for_parts_of_another_one():
    for parts in (["owkin/phikon-v2", "facebook/bart-base"], ["somebody/model"]):
        card = model_card("somebody/slides", METRICS, "somebody/data", parts)
        assert card.data.license is None and "apache" not in str(card)


def test_without_measured_numbers_the_card_claims_none():
    card = model_card("somebody/model", {"train_loss": 1.0}, ["somebody/data"], [])
    assert card.data.eval_results is None and "Measured" not in card.text
    assert "Trained from random weights on somebody/data." in card.text


def test_the_code_of_the_card_runs_without_this_package_and_answers(saved_folder, image_file, tmp_path):
    card = model_card(saved_folder, METRICS, *PUBLISHED)
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    shutil.copy(image_file, tmp_path / "slide.png")
    said = run_fresh(code, folder=tmp_path, HF_MODULES_CACHE=tmp_path / "modules")

    model = MMJepaForConditionalGeneration.from_pretrained(saved_folder)
    processor = MMJepaProcessor.from_pretrained(saved_folder)
    inputs = processor(images=image_file, text="what is present?", return_tensors="pt")
    assert said == processor.decode(model.generate(**inputs), skip_special_tokens=True)[0]
