"""The ONNX graphs in onnxruntime: the model's answers and scores, for any number of images and texts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)
pytest.importorskip("torch", minversion="2.11", reason="transformers exports to ONNX with torch 2.11 and newer")

from mmjepa.export.onnx import example_inputs, export_onnx, main  # noqa: E402
from mmjepa.export.onnx_model import OnnxModel  # noqa: E402

QUESTIONS = ["what is present?", "is necrosis seen in the liver?", "where is it?"]


@pytest.fixture(scope="module", params=[("patches", "tokens"), ("pooled", "vector")], ids=["patches", "pooled"])
def exported(request, make_model, processor, tmp_path_factory):
    """A model, as if it were trained and measured, and the folder it was exported to."""
    torch.manual_seed(0)
    prefix, reads = request.param
    model = make_model(visual_prefix=prefix, alignment_reads=reads, truth_temperature=1.7)
    with torch.no_grad():
        targets = model.alignment.targets
        for values in (model.final_logits_bias, targets.mean, targets.whitening, model.alignment.truth_bias):
            values.normal_()
    model.generation_config.update(forced_bos_token_id=0, max_new_tokens=8)
    folder = tmp_path_factory.mktemp("onnx")
    export_onnx(model, processor, folder)
    return model, folder


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 30, 40, 3), np.uint8)


@pytest.mark.parametrize(
    ("count", "image_index"), [(3, None), (2, [1, 0, 1]), (1, [0, 0, 0]), (1, None)], ids=["I=B", "I<B", "I=1", "B=1"]
)
def test_answers_in_onnxruntime_are_the_models_greedy_answers(exported, count, image_index):
    model, folder = exported
    processor = MMJepaProcessor.from_pretrained(folder)
    questions = QUESTIONS[: count if image_index is None else len(image_index)]
    inputs = {"images": images(count), "text": questions, "image_index": image_index}
    answers = OnnxModel(folder).generate(**processor(**inputs, return_tensors="np"))
    expected = model.generate(**processor(**inputs, return_tensors="pt"))
    assert answers.tolist() == expected.tolist()


def test_left_padded_questions_get_the_same_answers(exported):
    model, folder = exported
    processor = MMJepaProcessor.from_pretrained(folder)
    inputs = {"images": images(3), "text": QUESTIONS}
    right = OnnxModel(folder).generate(**processor(**inputs, return_tensors="np"))
    padded = processor(**inputs, padding_side="left", return_tensors="np")
    assert padded["attention_mask"][0, 0] == 0
    assert OnnxModel(folder).generate(**padded).tolist() == right.tolist()


@pytest.mark.parametrize(("num_images", "num_statements"), [(3, 3), (1, 3), (3, 1), (2, 3), (1, 1)])
@pytest.mark.parametrize("side", ["right", "left"])
def test_statements_are_as_probable_as_the_model_says(exported, num_images, num_statements, side):
    model, folder = exported
    processor = MMJepaProcessor.from_pretrained(folder)
    pixels = processor(images=images(num_images), return_tensors="np")["pixel_values"]
    text = processor(text=QUESTIONS[:num_statements], padding_side=side, return_tensors="np")
    probabilities = OnnxModel(folder).score_statements(text["input_ids"], text["attention_mask"], pixels)
    embeds = model.encode_texts(torch.tensor(text["input_ids"]), torch.tensor(text["attention_mask"]))
    expected = model.score_statements(embeds, torch.tensor(pixels))
    torch.testing.assert_close(torch.tensor(probabilities), expected, atol=1e-4, rtol=0)


def test_a_model_without_truth_is_exported_without_it_and_says_so(make_model, exported, tmp_path):
    assert "statement_scorer" not in example_inputs(make_model(truth_weight=0), (3, 28, 28))
    for path in exported[1].iterdir():
        if not path.name.startswith("statement_scorer"):
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ValueError, match="was not trained to tell true statements from false ones .truth_weight 0"):
        OnnxModel(tmp_path).score_statements(*[np.ones((1, 3), int)] * 2, np.zeros((1, 3, 28, 28), np.float32))


@pytest.mark.parametrize("image_index", [[-1, 0, 0], [0, 1, 2], [0, 1], [0.0, 1.0, 0.0], None])
def test_an_image_that_is_not_there_is_refused(exported, image_index):
    _, folder = exported
    processor = MMJepaProcessor.from_pretrained(folder)
    inputs = processor(images=images(2), return_tensors="np") | processor(text=QUESTIONS, return_tensors="np")
    index = None if image_index is None else np.array(image_index)
    with pytest.raises(ValueError, match="for 3 questions about 2 images: give one of the numbers 0 to 1"):
        OnnxModel(folder).generate(**inputs, image_index=index)


@pytest.fixture
def settings_alone(make_model, processor, exported, tmp_path, monkeypatch):
    """A function that exports a model with other settings, beside the graphs of `exported`, whose weights it has."""
    source, graphs = exported
    monkeypatch.setattr("mmjepa.export.onnx.example_inputs", lambda model, image_shape: {})
    for path in graphs.glob("*.onnx*"):
        (tmp_path / path.name).symlink_to(path)

    def export(**settings):
        config = source.config
        model = make_model(visual_prefix=config.visual_prefix, alignment_reads=config.alignment_reads)
        model.load_state_dict(source.state_dict())
        model.generation_config.update(**settings)
        export_onnx(model, processor, tmp_path)
        return model, OnnxModel(tmp_path)

    return export


@pytest.mark.parametrize(
    "settings",
    [
        {"eos_token_id": None},
        {"eos_token_id": None, "max_length": 6},
        {"eos_token_id": None, "max_length": 6, "max_new_tokens": 3},
        {"forced_eos_token_id": [7, 5], "max_new_tokens": 4},
        {"eos_token_id": [2, 11, 12], "max_new_tokens": 20},
        {"forced_bos_token_id": 0, "max_new_tokens": 1},
        {"pad_token_id": None},
        {"num_beams": 1, "do_sample": False, "no_repeat_ngram_size": 0, "repetition_penalty": 1.0, "top_k": 5},
    ],
)
def test_the_settings_of_an_export_hold_when_it_answers(settings_alone, settings, processor):
    model, onnx = settings_alone(**settings)
    inputs = {"images": images(3), "text": QUESTIONS}
    expected = model.generate(**processor(**inputs, return_tensors="pt"))
    assert onnx.generate(**processor(**inputs, return_tensors="np")).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no_repeat_ngram_size", 2),
        ("repetition_penalty", 1.5),
        ("num_beams", 4),
        ("do_sample", True),
        ("min_new_tokens", 3),
        ("bad_words_ids", [[5]]),
        ("suppress_tokens", [5]),
        ("begin_suppress_tokens", [5]),
        ("sequence_bias", [[[5], 2.0]]),
        ("max_time", 1.0),
        ("stop_strings", ["."]),
        ("exponential_decay_length_penalty", (2, 1.5)),
        ("encoder_repetition_penalty", 1.5),
        ("guidance_scale", 2.0),
    ],
)
def test_settings_that_the_graphs_do_not_follow_are_refused(settings_alone, name, value):
    with pytest.raises(ValueError, match=f"settings have {name} .*take {name} out of its generation_config.json"):
        settings_alone(**{name: value})


@pytest.mark.parametrize("change", [{"no_repeat_ngram_size": 2}, {"max_new_tokens": None}])
def test_settings_that_were_changed_after_the_export_are_refused(settings_alone, tmp_path, change):
    settings_alone()
    path = tmp_path / "generation_config.json"
    settings = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))
    with pytest.raises(ValueError, match=f"{'no ' * (None in change.values())}{next(iter(change))}.*export the model"):
        OnnxModel(tmp_path)


def test_a_misspelt_option_of_a_session_is_refused(exported):
    with pytest.raises(TypeError, match="provider"):
        OnnxModel(exported[1], provider=["CPUExecutionProvider"])


# Answers as docs/onnx.md shows it, where PyTorch is not installed.
WITHOUT_PYTORCH = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] == "torch" else find_spec(name, *rest)
sys.modules["torch"] = None
from mmjepa.export.onnx_model import OnnxModel
from mmjepa.processing_mmjepa import MMJepaProcessor

model, processor = OnnxModel(sys.argv[1]), MMJepaProcessor.from_pretrained(sys.argv[1])
inputs = processor(images=sys.argv[2], text="where is it?", return_tensors="np")
print(processor.decode(model.generate(**inputs), skip_special_tokens=True)[0])
"""


def test_the_graphs_answer_without_pytorch(exported, image_file):
    model, folder = exported
    command = [sys.executable, "-c", WITHOUT_PYTORCH, str(folder), image_file]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    processor = MMJepaProcessor.from_pretrained(folder)
    inputs = processor(images=image_file, text="where is it?", return_tensors="pt")
    answer = processor.decode(model.generate(**inputs), skip_special_tokens=True)[0]
    assert run.stdout == answer + "\n"


def test_answers_end_where_the_model_ends_them(exported):
    """With a bias by which one question ends early, another late and by force."""
    model, folder = exported
    processor = MMJepaProcessor.from_pretrained(folder)
    inputs = processor(images=images(3), text=QUESTIONS, return_tensors="np")
    answers = OnnxModel(folder).generate(**inputs)
    assert (answers[:, :2] == [2, 0]).all()
    assert all(2 in answer[2:] for answer in answers.tolist())


def test_graphs_give_the_models_states_and_scores(exported, batch):
    model, folder = exported
    arrays = {name: value.numpy() for name, value in batch.items()}
    onnx = OnnxModel(folder)
    embeds, tokens = onnx.image_tower.run(None, {"pixel_values": arrays["pixel_values"]})
    states = model.get_image_features(batch["pixel_values"])
    torch.testing.assert_close(torch.tensor(embeds), states.image_embeds, atol=1e-4, rtol=1e-4)
    text = {name: arrays[name] for name in ("input_ids", "attention_mask")}
    questions, text_embeds = onnx.text_encoder.run(None, text)
    expected = model.encode_texts(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(torch.tensor(text_embeds), expected, atol=1e-4, rtol=1e-4)
    decoder_input_ids = arrays["input_ids"][:, :4]
    step = {"visual_tokens": tokens[arrays["image_index"]], "question_states": questions, **text}
    del step["input_ids"]
    (scores,) = onnx.decoder_step.run(None, {"decoder_input_ids": decoder_input_ids, **step})
    del batch["labels"]
    expected = model(**batch, decoder_input_ids=torch.tensor(decoder_input_ids)).logits[:, -1]
    torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-3, rtol=1e-4)


def test_exporting_leaves_the_model_in_its_precision_and_mode(make_model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr("mmjepa.export.onnx.example_inputs", lambda model, image_shape: {})
    model = make_model().to(torch.bfloat16).train()
    export_onnx(model, processor, tmp_path)
    assert model.dtype == torch.bfloat16 and model.training


def test_no_path_of_the_exporting_machine_is_written(exported):
    _, folder = exported
    assert not any(b"onnx.py" in path.read_bytes() for path in folder.glob("*.onnx"))


@pytest.mark.slow
def test_the_command_exports_a_saved_model_without_data(saved_folder, tmp_path):
    main([saved_folder, str(tmp_path)])
    processor = MMJepaProcessor.from_pretrained(saved_folder)
    inputs = {"images": images(1), "text": QUESTIONS[0]}
    answers = OnnxModel(tmp_path).generate(**processor(**inputs, return_tensors="np"))
    model = MMJepaForConditionalGeneration.from_pretrained(saved_folder)
    assert answers.tolist() == model.generate(**processor(**inputs, return_tensors="pt")).tolist()


def test_the_pages_python_answers_as_the_model_does(exported, processor, image_file, tmp_path, monkeypatch, capsys):
    model, folder = exported
    page = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "onnx").symlink_to(folder)
    (tmp_path / "runs" / "drawn_slides").mkdir(parents=True)
    (tmp_path / "runs" / "drawn_slides" / "example.png").symlink_to(image_file)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    inputs = processor(images=image_file, text="where is the gland?", return_tensors="pt")
    (answer,) = processor.decode(model.generate(**inputs), skip_special_tokens=True)
    inputs = processor(images=image_file, text="is a gland seen?", return_tensors="pt")
    embeds = model.encode_texts(inputs["input_ids"], inputs["attention_mask"])
    (probability,) = model.score_statements(embeds, inputs["pixel_values"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == answer
    assert float(printed[1]) == pytest.approx(probability.item(), abs=1e-4)
