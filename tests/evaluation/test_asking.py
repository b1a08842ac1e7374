import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TEXT
from typer.testing import CliRunner

from mmjepa.cli import app
from mmjepa.encoder_mmjepa import MMJepaEncoder
from mmjepa.evaluation.asking import ask
from mmjepa.evaluation.attention import attention_maps
from mmjepa.reporting.reply_text import reply_json, reply_text

QUESTIONS = ["what is seen?", "is necrosis present?"]


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28, 3), np.uint8))


def generated(model, processor, image) -> list[str]:
    inputs = processor(images=image, text=QUESTIONS, image_index=[0, 0], return_tensors="pt")
    texts = processor.decode(model.generate(**inputs, max_new_tokens=6), skip_special_tokens=True)
    return [text.strip() for text in texts]


def test_a_reply_has_the_answer_and_the_answer_about_a_black_image(make_model, processor, image):
    model = make_model()
    replies = ask(model, processor, image, QUESTIONS, max_new_tokens=6)
    assert [reply.prediction for reply in replies] == generated(model, processor, image)
    black = Image.new("RGB", (28, 28))
    assert [reply.blank for reply in replies] == generated(model, processor, black)
    assert [reply.question for reply in replies] == QUESTIONS


def test_probabilities_are_those_of_the_decoder_and_candidates_are_other_answers(make_model, processor, image):
    model = make_model()
    model.generation_config.max_new_tokens = 3
    reply = ask(model, processor, image, QUESTIONS[:1], num_candidates=3)[0]
    inputs = processor(images=image, text=QUESTIONS[0], return_tensors="pt")
    labels = processor(answers=[reply.prediction], return_tensors="pt")["labels"]
    likelihood = model.answer_log_likelihoods(labels, **inputs)
    assert reply.probability == pytest.approx(likelihood.exp().item(), rel=1e-4)
    found, probabilities = zip(*reply.candidates, strict=True)
    assert 1 <= len(found) <= 3
    assert reply.prediction not in found
    assert list(probabilities) == sorted(probabilities, reverse=True)
    assert all(0 <= probability <= 1 for probability in probabilities)


def test_a_reply_says_how_probable_the_same_answer_is_about_a_black_image(make_model, processor, image):
    model, black = make_model(), Image.new("RGB", (28, 28))
    for reply in ask(model, processor, image, QUESTIONS, max_new_tokens=3):
        labels = processor(answers=[reply.prediction], return_tensors="pt")["labels"]
        inputs = processor(images=black, text=reply.question, return_tensors="pt")
        likelihood = model.answer_log_likelihoods(labels, **inputs)
        assert reply.blank_probability == pytest.approx(likelihood.exp().item(), rel=1e-4)
        assert reply.from_image == reply.probability - reply.blank_probability
    reply = ask(model, processor, black, QUESTIONS[:1], max_new_tokens=3)[0]
    assert reply.is_same_without_image and reply.from_image == pytest.approx(0)
    reply.prediction, reply.blank = "Yes.", "yes"
    assert reply.is_same_without_image
    reply.prediction = "no"
    assert not reply.is_same_without_image


def test_other_answers_are_the_same_whether_questions_are_asked_together_or_alone(make_model, processor, image):
    model = make_model()
    together = ask(model, processor, image, QUESTIONS, max_new_tokens=4)
    for question, reply in zip(QUESTIONS, together, strict=True):
        (alone,) = ask(model, processor, image, [question], max_new_tokens=4)
        texts, probabilities = zip(*reply.candidates, strict=True)
        assert texts == tuple(text for text, _ in alone.candidates)
        assert probabilities == pytest.approx([probability for _, probability in alone.candidates], rel=1e-4)


@pytest.mark.parametrize("questions", [[], [" "]])
def test_no_question_is_an_error_that_says_so(make_model, processor, image, questions):
    with pytest.raises(ValueError, match="give at least one"):
        ask(make_model(), processor, image, questions)


@pytest.mark.parametrize("aligned_token", [True, False])
def test_the_attention_over_patches_is_that_which_the_visual_tokens_are_made_with(make_model, aligned_token):
    model = make_model(text_config=TEXT | {"decoder_attention_heads": 1}, aligned_token=aligned_token)
    prefix, seen = model.encoder.visual_prefix, {}
    prefix.o_proj.register_forward_pre_hook(lambda module, inputs: seen.update(read=inputs[0]))
    prefix.v_proj.register_forward_hook(lambda module, inputs, output: seen.update(value=output))
    attention = model.get_image_features(torch.randn(2, 3, 28, 28)).visual_token_attentions  # (2, 5, 16)
    assert attention.shape == (2, 5, 16)
    torch.testing.assert_close(attention[:, int(aligned_token) :] @ seen["value"], seen["read"])
    assert not aligned_token or attention[:, 0].count_nonzero() == 0


def test_a_map_shares_out_the_decoders_attention_and_leaves_the_model_as_it_was(make_model, processor, image):
    model = make_model()
    pixel_values = processor(images=[image, image], return_tensors="pt")["pixel_values"]
    before = model(**processor(images=image, text=QUESTIONS[0], answers="yes", return_tensors="pt")).logits
    features = model.get_image_features(pixel_values)
    maps = attention_maps(model, processor, QUESTIONS, ["yes", "in the liver"], features, (4, 4))
    assert maps.shape == (2, 4, 4)
    assert (maps >= 0).all()
    assert ((maps.sum(dim=(1, 2)) > 0) & (maps.sum(dim=(1, 2)) < 1)).all()
    # Padding of the shorter answer and question changes nothing.
    features = model.get_image_features(pixel_values[:1])
    alone = attention_maps(model, processor, QUESTIONS[:1], ["yes"], features, (4, 4))
    torch.testing.assert_close(alone[0], maps[0])
    both = attention_maps(
        model, processor, QUESTIONS, ["yes", "in the liver"], features, (4, 4), image_index=torch.tensor([0, 0])
    )
    torch.testing.assert_close(both, maps)
    after = model(**processor(images=image, text=QUESTIONS[0], answers="yes", return_tensors="pt")).logits
    assert torch.equal(before, after)


def test_a_reply_says_how_much_of_the_attention_the_patches_have(make_model, processor, image):
    model = make_model(aligned_token=False)
    (reply,) = ask(model, processor, image, QUESTIONS[:1], max_new_tokens=3)
    # Without the aligned token, what does not go to the question goes to patches.
    model.decoder.config._attn_implementation = "eager"
    inputs = processor(images=image, text=QUESTIONS[0], answers=reply.prediction, return_tensors="pt")
    weights = torch.stack(model(**inputs, output_attentions=True).cross_attentions)  # (layers, 1, heads, A, M+L)
    to_question = weights[..., -inputs["input_ids"].shape[1] :].sum(dim=-1).mean().item()
    assert 0 < to_question < 1 and reply.image_attention == pytest.approx(1 - to_question, abs=1e-5)
    assert f"{100 * reply.image_attention:.0f} % of the decoder's attention" in reply_text(reply)
    assert reply_json(reply)["image_attention"] == reply.image_attention


def test_a_pooled_prefix_has_no_map(make_model, processor, image):
    reply = ask(make_model(visual_prefix="pooled"), processor, image, QUESTIONS[:1], max_new_tokens=4)[0]
    assert reply.attention is None and reply.image_attention is None and "attention" not in reply_text(reply)


def test_the_command_prints_a_reply_per_question(saved_folder, image_file):
    asked = ["ask", image_file, *QUESTIONS, "--model", saved_folder]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0
    assert all(question in result.output for question in QUESTIONS)
    assert result.output.count("with a black image") == 2 and "from the " not in result.output
    replies = [json.loads(line) for line in CliRunner().invoke(app, [*asked, "--json"]).output.splitlines()]
    assert [reply["question"] for reply in replies] == QUESTIONS
    for reply in replies:
        difference = reply["prediction_probability"] - reply["blank_probability"]
        assert reply["from_image"] == pytest.approx(difference) and "answer" not in reply


def test_the_command_encodes_the_image_once_for_all_questions_and_statements(monkeypatch, saved_folder, image_file):
    encode, encoded = MMJepaEncoder.get_image_features, []

    def encode_and_note(self, pixel_values, **kwargs):
        encoded.append(pixel_values)
        return encode(self, pixel_values, **kwargs)

    monkeypatch.setattr(MMJepaEncoder, "get_image_features", encode_and_note)
    asked = ["ask", image_file, *QUESTIONS, "--model", saved_folder, "--statements", *QUESTIONS]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert [len(pixels) for pixels in encoded] == [1, 1]
    assert sum(len(pixels.unique()) <= 3 for pixels in encoded) == 1  # the black image: one value for each colour


def test_the_command_waits_for_no_library_that_it_does_not_need(saved_folder, image_file):
    """What reads data sets, scores answers or serves the page takes longer to import than an answer to find."""
    code = (
        "import atexit, sys; from mmjepa.cli import app\n"
        "atexit.register(lambda: print('imported:', *sys.modules))\n"
        "sys.argv[0] = 'mmjepa'; app()"
    )
    asked = ["ask", image_file, QUESTIONS[0], "--model", saved_folder, "--statements", QUESTIONS[1]]
    run = subprocess.run([sys.executable, "-c", code, *map(str, asked)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert QUESTIONS[0] in run.stdout and QUESTIONS[1] in run.stdout
    imported = set(run.stdout.partition("imported: ")[2].split())
    assert "mmjepa.modeling_mmjepa" in imported
    assert not imported & {"datasets", "pyarrow", "pandas", "evaluate", "sacrebleu", "gradio", "matplotlib", "sklearn"}


@pytest.mark.parametrize(
    ("image", "model", "message"),
    [
        ("none.png", None, "is no file"),
        (__file__, None, "no image in a format that Pillow knows"),
        (None, "/tmp/none", "no such folder"),
    ],
)
def test_what_the_command_can_not_read_is_named(saved_folder, image_file, image, model, message):
    result = CliRunner().invoke(app, ["ask", image or image_file, "what?", "--model", model or saved_folder])
    assert result.exit_code == (1 if image == __file__ else 2)  # 2: the call names what is not there
    assert message in result.output
