"""The benchmarks: that peers do the same work, that counts are right, and that results have their names. No times."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def benchmarks_on_path():
    """As for a script that is started there."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def tiny(benchmarks_on_path):
    """The tiny size, its batch of 8 questions an image, and the peers' models in eval mode."""
    from peers import SIZES, make_models, random_batch

    size = SIZES["tiny"]
    models = {name: model.eval() for name, model in make_models(size).items()}
    return size, random_batch(size, questions_per_image=8), models


def test_the_row_by_row_form_has_the_loss_and_the_gradients_of_the_grouped_form(tiny):
    from peers import PROJECT, ROW_BY_ROW, TRAINING_INPUTS

    _, batch, models = tiny
    losses, gradients = [], []
    for name in (PROJECT, ROW_BY_ROW):
        models[name].zero_grad()
        output = models[name](**TRAINING_INPUTS[name](batch))
        loss = output.loss_ce + output.loss_answer  # the alignment compares 16 images in one form and 2 in the other
        loss.backward()
        losses.append(loss)
        gradients.append(models[name].encoder.image_projector.weight.grad)
    assert len(TRAINING_INPUTS[ROW_BY_ROW](batch)["pixel_values"]) == 8 * len(batch["pixel_values"])
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_both_forms_write_the_same_answers(tiny):
    from peers import PROJECT, ROW_BY_ROW, make_answering

    _, batch, models = tiny
    grouped, single = (make_answering(name, models[name], batch, 4)() for name in (PROJECT, ROW_BY_ROW))
    assert torch.equal(grouped, single)


def test_every_peer_writes_as_many_tokens_for_every_question(tiny):
    from peers import make_answering, random_batch

    size, _, models = tiny
    batch = random_batch(size, 8, question_lengths=(12, 12))
    for name, model in models.items():
        assert make_answering(name, model, batch, 4)().shape == (size.questions, 4), name


def test_every_peer_is_trained_on_the_tokens_of_the_answers(tiny):
    from peers import PROJECT, SHARING_ENCODER_DECODER, TRAINING_INPUTS

    _, batch, _ = tiny
    answers = [row[row != -100].tolist() for row in batch["labels"]]
    for name, make_inputs in TRAINING_INPUTS.items():
        inputs = make_inputs(batch)
        images = inputs["pixel_values"]
        is_sharing = name in (PROJECT, SHARING_ENCODER_DECODER)
        assert torch.equal(images if is_sharing else images[::8], batch["pixel_values"]), name
        assert [row[row != -100].tolist() for row in inputs["labels"]] == answers, name


def test_the_encoder_decoder_reads_the_question_and_predicts_the_answer_token_by_token(tiny):
    from peers import TRAINING_INPUTS, VISION_ENCODER_DECODER

    _, batch, models = tiny
    inputs = TRAINING_INPUTS[VISION_ENCODER_DECODER](batch)
    question, answer = (batch[name][3] for name in ("input_ids", "labels"))
    question, answer = question[batch["attention_mask"][3] == 1], answer[answer != -100]
    read = torch.cat([question, answer[:-1]])
    assert inputs["decoder_input_ids"][3, : len(read)].tolist() == read.tolist()

    output = models[VISION_ENCODER_DECODER](**inputs)
    logits = output.logits[3, len(question) - 1 : len(read)]  # behind the last token of the question begins the answer
    own = F.cross_entropy(logits, answer, reduction="sum")
    others = torch.cat([output.logits[:3], output.logits[4:]]).flatten(0, 1)
    other_labels = torch.cat([inputs["labels"][:3], inputs["labels"][4:]]).flatten()
    total = own + F.cross_entropy(others, other_labels, reduction="sum")
    torch.testing.assert_close(output.loss, total / (inputs["labels"] != -100).sum())


def test_the_encoder_decoder_that_shares_images_has_the_loss_and_the_answers_of_the_other(tiny):
    from peers import SHARING_ENCODER_DECODER, TRAINING_INPUTS, VISION_ENCODER_DECODER, make_answering, random_batch

    size, batch, models = tiny
    names = (SHARING_ENCODER_DECODER, VISION_ENCODER_DECODER)
    losses = [models[name](**TRAINING_INPUTS[name](batch)).loss for name in names]
    torch.testing.assert_close(*losses)
    batch = random_batch(size, 8, question_lengths=(12, 12))
    sharing, documented = (make_answering(name, models[name], batch, 4)() for name in names)
    assert torch.equal(sharing, documented)


def test_the_peers_have_as_many_image_tokens_layers_and_widths(tiny):
    from peers import BLIP, PROJECT, VISION_ENCODER_DECODER

    size, batch, models = tiny
    own, encoder_decoder, blip = (models[name] for name in (PROJECT, VISION_ENCODER_DECODER, BLIP))
    states = [
        encoder(batch["pixel_values"]).last_hidden_state.shape
        for encoder in (own.encoder.image_encoder, encoder_decoder.encoder, blip.vision_model)
    ]
    assert states == [(2, size.image_tokens, size.vision["hidden_size"])] * 3
    assert len(own.decoder.layers) == len(encoder_decoder.decoder.model.decoder.layers)
    assert len(own.decoder.layers) == len(blip.text_decoder.bert.encoder.layer)
    assert encoder_decoder.decoder.lm_head.weight.shape == own.lm_head.weight.shape


def test_counts_of_operations_and_memory_are_those_of_a_product_by_hand():
    from measuring import count_flops_and_peak

    left, right = torch.randn(30, 20), torch.randn(20, 10, requires_grad=True)

    def forward_backward():
        product = left @ right  # 300 floats
        product.relu().sum().backward()  # 300 more, of which the backward keeps one, then the gradients

    flops, peak = count_flops_and_peak(forward_backward)
    assert flops == 2 * (2 * 30 * 20 * 10)  # forward, and the gradient of `right`
    assert 4 * 600 <= peak <= 4 * 1300
    right.grad = None


def test_attention_is_counted_on_a_cpu_too():
    from measuring import count_flops_and_peak

    states = torch.randn(1, 2, 16, 8, requires_grad=True)
    flops, _ = count_flops_and_peak(lambda: F.scaled_dot_product_attention(states, states, states))
    assert flops == 2 * (2 * 2 * 16 * 16 * 8)  # scores, then what they weigh


def test_memory_that_is_freed_does_not_count_twice():
    from measuring import peak_bytes

    def one_after_the_other():
        for _ in range(5):
            torch.zeros(1000)

    assert peak_bytes(one_after_the_other) == 4000


NAMES = {
    "bench_training": {
        "speedup_vs_row_by_row",
        "speedup_vs_row_by_row_at_1",
        "speedup_vs_sharing_encoder_decoder",
        "speedup_vs_vision_encoder_decoder",
        "speedup_vs_blip",
        "mfu",
        "peak_memory_ratio",
        "step_memory_ratio",
        "data_wait_share",
    },
    "bench_answering": {
        "speedup_vs_row_by_row",
        "speedup_vs_sharing_encoder_decoder",
        "speedup_vs_vision_encoder_decoder",
        "speedup_vs_blip",
        "ranking_speedup_vs_decoding",
        "answers_per_second",
    },
    "bench_data": {
        "speedup_vs_decode_per_row",
        "rows_per_second",
        "images_prepared_per_second",
        "data_wait_share",
        "hashing_speedup_vs_row_by_row",
        "texts_speedup_vs_row_by_row",
    },
    "bench_precision": {"bf16_training_speedup"},
    "bench_search": {"encoder_share", "second_search_seconds"},
}


def test_each_recipe_saves_the_memory_that_it_is_for():
    from bench_memory import measure

    rows = {row["flags"]: row for row in measure("tiny")["recipes"]}
    plain, large = rows["as it stands"], "step of 64 questions, GB"
    assert rows["--gradient_checkpointing"][large] < 0.7 * plain[large]
    assert rows["--bf16_text_encoder"]["weights, GB"] < plain["weights, GB"]
    assert rows["--optim adafactor"]["optimizer, GB"] < 0.1 * plain["optimizer, GB"]
    assert all(rows["all three"][name] <= plain[name] for name in plain if name != "flags")


# The benchmark of searching always writes 10,000 encoded images.
SLOW = {"bench_search": [pytest.mark.slow]}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, [])) for name in NAMES])
def test_a_benchmark_prints_one_json_object_and_nothing_else(name, capsys):
    benchmark = __import__(name)
    benchmark.main(["--size", "tiny", "--steps", "1", "--json"])
    results = json.loads(capsys.readouterr().out)
    assert NAMES[name] <= set(results)
    assert all(results[key] > 0 for key in NAMES[name])
    assert {"torch", "transformers", "device"} <= set(results["environment"])


def test_a_line_is_printed_for_each_measurement_as_it_is_made(capsys):
    from bench_training import main
    from peers import TRAINING_INPUTS

    main(["--size", "tiny", "--steps", "1", "--json"])
    lines = capsys.readouterr().err.splitlines()
    for name in TRAINING_INPUTS:
        assert any(line.startswith(f"counted, {name}: ") for line in lines)
        assert any(line.startswith(f"round 1 of 1, {name}: ") for line in lines)


def test_the_tables_hold_every_peer_and_every_figure(capsys):
    from bench_answering import main

    main(["--size", "tiny", "--steps", "1"])
    first_cells = {line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")}
    assert {"this project", "row by row", "VisionEncoderDecoderModel, sharing", "speedup_vs_blip"} <= first_cells


def test_the_benchmark_of_slides_searches_the_tissue_of_what_it_writes(tmp_path):
    pytest.importorskip("openslide", reason="slides are read by openslide-python, the extra [slides]")
    pytest.importorskip("tifffile", reason="slides are written by tifffile, of the extra [test]")
    from bench_slides import search_once, write_slide

    write_slide(tmp_path / "one.tif", 5376)  # 12 x 12 tiles of 448 pixels, 21 x 21 of the file's
    found = search_once(str(tmp_path / "one.tif"), workers=0)
    # The file's tiles 8 to 12 have tissue, across and down: the pixels from 2,048 to 3,327, in 4 tiles of 448.
    assert found["tiles"] == 4 * 4
    assert all(value > 0 for name, value in found.items() if "worker" not in name)
