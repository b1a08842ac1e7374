"""The model card: metadata that the Hub reads, the measured numbers beside their controls, code that runs."""

import json
import re
import shutil

import pytest
from fresh_process import run_fresh
from huggingface_hub import ModelCard

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.reporting.card import model_card, stated_licence

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


def test_the_model_index_holds_the_models_numbers_accuracy_first_and_no_control(card):
    measured = [(of.dataset_split, of.metric_type, of.metric_name, of.metric_value) for of in card.data.eval_results]
    assert measured == [
        ("validation", "accuracy", "accuracy, overall", 0.7124),
        ("validation", "accuracy", "accuracy, yes/no", 0.9),
        ("validation", "image_gain", "image gain (accuracy - accuracy with shuffled images)", 0.2124),
        ("test", "accuracy", "accuracy, overall", 0.7),
    ]
    assert {result.dataset_type for result in card.data.eval_results} == set(PUBLISHED[0])


def test_what_was_chosen_on_the_split_that_it_is_measured_on_is_marked_and_on_another_split_not(tmp_path):
    ranked = {"accuracy_ranked_or_decoded": 0.72, "rank_threshold": 0.61, "truth_temperature": 0.5}
    metrics = METRICS | {f"{prefix}_{name}": value for prefix in ("eval", "test") for name, value in ranked.items()}
    metrics |= {
        "test_accuracy_blank_images": 0.4,
        "test_image_gain": 0.2,
        "test_image_gain_low": 0.1,
        "test_image_gain_high": 0.3,
    }
    model_card("somebody/slides", metrics, *PUBLISHED, chosen_by="eval_accuracy").save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    names = {(result.dataset_split, result.metric_name) for result in card.data.eval_results}
    row = "accuracy, overall, model, ranked or decoded"
    assert {("validation", f"{row} (threshold chosen on this split)"), ("test", row)} <= names
    validation, test = card.text.split("## Measured on the test split")
    assert "| model, ranked or decoded† " in validation and "†" not in test
    (note,) = re.findall("^† .*", card.text, re.MULTILINE)
    assert note in validation
    assert all(words in note for words in ("the checkpoint, by accuracy", "ranked (0.61)", "statements (0.5)"))


def test_a_card_gives_no_advice(tmp_path):
    unread = METRICS | {"eval_image_gain": 0.0, "eval_image_gain_low": -0.01, "eval_image_gain_high": 0.01}
    wrong = METRICS | {"eval_image_gain": -0.2, "eval_image_gain_low": -0.25, "eval_image_gain_high": -0.15}
    for metrics, said in ((unread, "follows from the question"), (wrong, "better about the wrong images")):
        text = model_card("somebody/slides", metrics, *PUBLISHED).text
        assert said in text and not any(word in text.lower() for word in ("to try", "to do", "mmjepa check"))


def test_the_recipe_and_the_numbers_of_questions_are_those_of_the_run(tmp_path):
    (tmp_path / "slides").mkdir()
    run = {
        "flags": {"dataset_name": [str(tmp_path / "slides"), "somebody/data"], "image_folder": "/nowhere/images"},
        "processes": 2,
        "versions": {"torch": "2.13.0", "datasets": None},
        "git_commit": "0a1b2c",
        "data": {"train": {"questions": 45615}, "validation": {"questions": 2295}},
    }
    run["flags"]["text_config"] = json.dumps({"vocab_size": 600, "words": "a" * 5000})  # no file has such a name
    text = model_card("somebody/model", METRICS, ["somebody/data"], [], run=run).text
    (flags,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    expected = {"dataset_name": ["slides", "somebody/data"], "image_folder": "images"}
    assert json.loads(flags) == expected | {"text_config": run["flags"]["text_config"]}
    assert "commit 0a1b2c, torch 2.13.0, processes: 2:" in text and str(tmp_path) not in text
    assert "45,615 questions of train, 2,295 questions of validation." in text


def test_the_terms_of_a_data_set_are_those_of_its_own_card_and_stand_apart_from_the_codes_licence(tmp_path):
    names = []
    for name, header in (
        ("stated", "license: cc-by-nc-4.0"),
        ("two", "license: [mit, odbl]"),
        ("broken", "license: ["),
    ):
        names.append(tmp_path / name)
        names[-1].mkdir()
        (names[-1] / "README.md").write_text(f"---\n{header}\n---\nText.\n")
    (tmp_path / "none").mkdir()
    names = [*map(str, [*names, tmp_path / "none"]), "somebody/data"]
    text = model_card("somebody/model", METRICS, names, []).text
    unknown = "not known to this card"
    for name, licence in zip(names, ("cc-by-nc-4.0", "mit, odbl", unknown, unknown, unknown), strict=True):
        assert f"- {name.removeprefix(str(tmp_path) + '/')}. Its licence: {licence}." in text
    assert "The Python files of this repository are under the Apache License 2.0" in text


def test_the_card_of_a_data_set_that_was_loaded_from_the_hub_is_read_without_a_download(tmp_path, monkeypatch):
    snapshot = tmp_path / "datasets--somebody--data" / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0a1b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert stated_licence("somebody/data") == "cc0-1.0"


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
        assert card.data.license is None and "whose own licence binds them too" in card.text


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


def test_the_accuracy_stands_above_what_needs_no_decoder():
    text = model_card("somebody/slides", METRICS | {"eval_truth_accuracy": 0.8}, *PUBLISHED).text
    assert text.index("| accuracy, %") < text.index("| without the decoder, %")
