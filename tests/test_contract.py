"""What transformers' common tests ask of a model, where two towers and a frozen text encoder make it special."""

import copy

import pytest
import torch
from accelerate.utils import compute_module_sizes
from safetensors import safe_open
from tiny import DESCRIBED
from transformers import AutoConfig
from transformers.generation.streamers import BaseStreamer

from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.encoder_mmjepa import MMJepaEncoder
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration

LOSSES_ON_CPU = {"alignment": "cpu", "answer_prediction": "cpu"}
MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beam": {"num_beams": 3, "num_return_sequences": 2},
    "beam-sample": {"num_beams": 3, "do_sample": True, "num_return_sequences": 2},
}


@pytest.fixture
def model(make_model):
    model = make_model()
    model.generation_config.forced_eos_token_id = None
    return model


@pytest.fixture
def saved(model, tmp_path):
    """Folder of the saved model."""
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def generate(model, mode, **inputs):
    torch.manual_seed(0)
    return model.generate(**inputs, **MODES[mode], max_new_tokens=4, return_dict_in_generate=True, output_scores=True)


# Generation


@pytest.mark.parametrize("mode", MODES)
def test_shared_images_answer_like_copies_in_every_mode(model, inputs, mode):
    shared = generate(model, mode, **inputs)
    copies = {**inputs, "pixel_values": inputs["pixel_values"][inputs["image_index"]], "image_index": None}
    repeated = generate(model, mode, **copies)
    assert torch.equal(shared.sequences, repeated.sequences)
    assert len(shared.sequences) == 4 * MODES[mode].get("num_return_sequences", 1)
    assert len(shared.scores) == shared.sequences.shape[1] - 1
    assert not torch.equal(
        shared.sequences, generate(model, mode, **{**inputs, "image_index": 1 - inputs["image_index"]}).sequences
    )


@pytest.mark.parametrize("mode", MODES)
def test_what_was_encoded_once_answers_again_and_again_in_every_mode(model, inputs, mode):
    encoded = []
    model.encoder.image_encoder.register_forward_hook(lambda module, args, output: encoded.append(len(args[0])))
    expected = generate(model, mode, **inputs).sequences
    assert encoded == [2]  # two images, whatever the beams
    with torch.no_grad():
        encoder_outputs = model.encoder(**inputs)
        image_features = model.get_image_features(inputs.pop("pixel_values"))
    encoded.clear()
    for _ in range(2):
        assert torch.equal(generate(model, mode, encoder_outputs=encoder_outputs).sequences, expected)
        assert torch.equal(generate(model, mode, image_features=image_features, **inputs).sequences, expected)
    assert encoded == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("images", ["pixel_values", "image_features", "encoder_outputs"])
def test_the_decoders_steps_get_states_and_mask_alone(model, inputs, mode, images):
    """Repeated for each beam; what only the encoder or a loss reads would be repeated and kept for nothing."""
    expected = generate(model, mode, **inputs).sequences
    if images == "image_features":
        with torch.no_grad():
            inputs["image_features"] = model.get_image_features(inputs.pop("pixel_values"))
    elif images == "encoder_outputs":
        with torch.no_grad():
            inputs = {images: model.encoder(**inputs)}
    given = copy.deepcopy(inputs)
    steps, texts = [], []
    model.register_forward_pre_hook(lambda module, args, kwargs: steps.append(dict(kwargs)), with_kwargs=True)
    model.encoder.text_encoder.register_forward_hook(lambda *called: texts.append(called))
    for_a_loss = {"align_input_ids": torch.full((4, 3), 7), "align_attention_mask": torch.ones(4, 3)}
    for_a_loss |= {"labels": torch.full((4, 3), 7), "image_ids": torch.arange(2), "return_loss": True}
    answers = generate(model, mode, **inputs, **for_a_loss).sequences
    assert torch.equal(answers, expected)
    rows = 4 * max(MODES[mode].get("num_beams", 1), MODES[mode].get("num_return_sequences", 1))
    for step in steps:
        kept = {name for name, value in step.items() if isinstance(value, torch.Tensor)}
        assert kept <= {"decoder_input_ids", "decoder_attention_mask"}
        assert set(step["encoder_outputs"]) == {"last_hidden_state", "attention_mask"}
        assert {len(value) for value in step["encoder_outputs"].values()} == {rows}
        assert step.get("image_features") is None
    assert len(texts) == (0 if images == "encoder_outputs" else 1)  # the questions, and no text to align
    for name, value in inputs.items():
        torch.testing.assert_close(value, given[name], atol=0, rtol=0)


@pytest.mark.parametrize("mode", ["greedy", "beam"])
def test_generate_returns_the_text_encoders_states_where_asked(make_model, inputs, mode):
    model = make_model(attn_implementation="eager")
    output = model.generate(
        **inputs,
        **MODES[mode],
        max_new_tokens=2,
        return_dict_in_generate=True,
        output_hidden_states=True,
        output_attentions=True,
    )
    assert len(output.encoder_hidden_states) == len(output.encoder_attentions) + 1 == 3
    assert len(output.encoder_hidden_states[0]) == 4


def test_beam_scores_are_the_log_probabilities_of_their_answers(model, inputs):
    output = model.generate(
        **inputs,
        num_beams=3,
        num_return_sequences=3,
        length_penalty=0.0,
        max_new_tokens=4,
        return_dict_in_generate=True,
        output_scores=True,
    )
    repeated = {
        name: inputs[name].repeat_interleave(3, dim=0) for name in ("input_ids", "attention_mask", "image_index")
    }
    with torch.no_grad():
        logits = model(
            **repeated, pixel_values=inputs["pixel_values"], decoder_input_ids=output.sequences[:, :-1]
        ).logits
    written = output.sequences[:, 1:]
    log_probs = logits.log_softmax(-1).gather(-1, written[..., None])[..., 0]
    log_probs[written == model.config.text_config.pad_token_id] = 0
    torch.testing.assert_close(output.sequences_scores, log_probs.sum(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["greedy", "beam"])
def test_generate_returns_the_attention_over_visual_and_question_tokens(make_model, inputs, mode):
    model = make_model(attn_implementation="eager")
    output = model.generate(
        **inputs, **MODES[mode], max_new_tokens=3, return_dict_in_generate=True, output_attentions=True
    )
    rows = 4 * MODES[mode].get("num_beams", 1)
    read = model.config.num_image_tokens + inputs["input_ids"].shape[1]
    for step in output.cross_attentions:
        assert len(step) == model.config.text_config.decoder_layers
        assert all(layer.shape == (rows, model.config.text_config.decoder_attention_heads, 1, read) for layer in step)
    last_row = output.cross_attentions[0][0][-1, :, 0]  # of a question that ends in one token of padding
    assert (last_row[:, -1] == 0).all() and (last_row[:, :-1] > 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_static_cache_gives_the_same_answers(model, inputs, mode):
    dynamic = generate(model, mode, **inputs).sequences
    assert torch.equal(generate(model, mode, cache_implementation="static", **inputs).sequences, dynamic)


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_streamer_gets_the_answer_token_by_token(model, inputs, do_sample):
    class Collector(BaseStreamer):
        tokens: list[int] = []

        def put(self, value):
            self.tokens = self.tokens + value.flatten().tolist()

        def end(self):
            self.tokens = self.tokens + ["end"]

    streamer = Collector()
    question = {name: inputs[name][1:2] for name in ("input_ids", "attention_mask", "image_index")}
    answer = model.generate(
        **question, pixel_values=inputs["pixel_values"], streamer=streamer, do_sample=do_sample, max_new_tokens=4
    )
    assert streamer.tokens == [*answer[0].tolist(), "end"]


@pytest.mark.parametrize("mode", MODES)
def test_answers_can_be_constrained_to_yes_or_no(model, inputs, mode):
    end, padding = model.config.text_config.eos_token_id, model.config.text_config.pad_token_id
    answers = [[20, end], [21, 22, end]]

    def allowed(row, prefix):
        written = prefix[1:].tolist()
        following = {answer[len(written)] for answer in answers if answer[:-1][: len(written)] == written}
        return sorted(following) or [padding]

    settings = {**MODES[mode], "length_penalty": 0.0} if "beam" in mode else MODES[mode]
    written = model.generate(**inputs, **settings, prefix_allowed_tokens_fn=allowed, max_new_tokens=4)[:, 1:]
    chosen = [[token for token in row if token != padding] for row in written.tolist()]
    assert all(answer in answers for answer in chosen)

    with torch.no_grad():
        log_probs = []  # of each answer, by question
        for answer in answers:
            labels = torch.tensor([answer] * 4)
            scores = model(**inputs, labels=labels).logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
            log_probs.append(scores[:, 0] if mode == "greedy" else scores.sum(1))
    likelier = [answers[index] for index in torch.stack(log_probs).argmax(0).tolist()]
    if mode in ("greedy", "beam"):
        assert chosen[:: MODES[mode].get("num_return_sequences", 1)] == likelier


# Outputs


def test_the_tuple_is_the_values_of_the_dict_loss_first(make_model, batch):
    model = make_model(**DESCRIBED)
    output = model(**batch, output_hidden_states=True)
    values = model(**batch, output_hidden_states=True, return_dict=False)
    assert torch.equal(values[0], output.loss) and list(output)[:4] == ["loss", "loss_align", "loss_ce", "logits"]
    assert len(values) == len(output)
    for value, name in zip(values, output, strict=True):
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, output[name]), name


def test_texts_are_compared_with_all_images_where_there_is_neither_a_loss_nor_an_answer(model, batch):
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}  # four, and two images
    with torch.no_grad():
        output = model(**texts, pixel_values=batch["pixel_values"])
        features = model.get_image_features(batch["pixel_values"])
        embeds = model.get_text_features(**texts).pooler_output
        assert torch.equal(embeds, model.encode_texts(**texts))
        expected = model.statement_logits(embeds, image_features=features)
        assert expected.shape == (2, 4)
        paired = model(**texts, pixel_values=batch["pixel_values"], image_index=batch["image_index"])
        for given in (output, paired, model(**texts, image_features=features)):
            torch.testing.assert_close(given.logits_per_image, expected)
        torch.testing.assert_close(output.image_embeds, features.image_embeds)
        assert output.encoder_last_hidden_state is None and paired.encoder_last_hidden_state is not None
        assert model(**batch).logits_per_image is None
        answered = {"image_index": batch["image_index"], "decoder_input_ids": batch["labels"].clamp(min=0)}
        assert model(**texts, pixel_values=batch["pixel_values"], **answered).logits_per_image is None


def test_a_model_that_can_not_score_statements_compares_nothing(make_model, inputs):
    model = make_model(truth_weight=0.0)
    assert model(**inputs).logits_per_image is None
    with pytest.raises(ValueError, match="2 images for 4 questions"):
        model(**{**inputs, "image_index": None})


def test_hidden_states_and_attentions_of_the_trained_towers_keep_gradients(make_model, batch):
    model = make_model(attn_implementation="eager")
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    names = (
        "image_hidden_states",
        "image_attentions",
        "decoder_hidden_states",
        "decoder_attentions",
        "cross_attentions",
    )
    kept = {name: output[name][0] for name in names}
    for states in kept.values():
        states.retain_grad()
    output.loss.backward()
    assert all(states.grad.abs().sum() > 0 for states in kept.values())
    assert not output.encoder_hidden_states[0].requires_grad  # the frozen text encoder's


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)]
)
def test_eager_equals_sdpa(model, batch, dtype, tolerance, padding_side):
    if padding_side == "left":
        batch = {**batch, **{name: batch[name].flip(1) for name in ("input_ids", "attention_mask")}}
    batch = {**batch, "pixel_values": batch["pixel_values"].to(dtype)}
    sdpa, eager = model.to(dtype), copy.deepcopy(model).to(dtype)
    eager.set_attn_implementation("eager")
    assert sdpa.decoder.config._attn_implementation == "sdpa"
    expected = sdpa(**batch).logits
    assert (eager(**batch).logits - expected).norm() < tolerance * expected.norm()


# Weights


@pytest.mark.parametrize("tied", [True, False])
def test_resized_embeddings_survive_saving(make_model, batch, tmp_path, tied):
    model = make_model(tie_word_embeddings=tied)
    before = model(**batch)
    model.resize_token_embeddings(310, pad_to_multiple_of=8)
    model.save_pretrained(tmp_path)
    loaded = MMJepaForConditionalGeneration.from_pretrained(tmp_path)
    after = loaded(**batch)
    assert loaded.config.text_config.vocab_size == after.logits.shape[-1] == 312
    assert (loaded.lm_head.weight is loaded.decoder.embed_tokens.weight) == tied
    assert len({len(module.weight) for module in (loaded.lm_head, loaded.encoder.text_encoder.embed_tokens)}) == 1
    torch.testing.assert_close(after.logits[..., :300], before.logits)
    assert torch.equal(after.text_embeds, before.text_embeds)
    new_token = {**batch, "input_ids": batch["input_ids"].clone()}
    new_token["input_ids"][0, 0] = 311
    assert loaded(**new_token).loss.isfinite()


def test_embeddings_got_are_the_embeddings_set(model):
    encoder = model.encoder
    for part, embeddings in ((model, model.decoder.embed_tokens), (encoder, encoder.text_encoder.embed_tokens)):
        assert part.get_input_embeddings() is embeddings
        new = torch.nn.Embedding(*embeddings.weight.shape)
        part.set_input_embeddings(new)
        assert part.get_input_embeddings() is new
    assert model.get_output_embeddings() is model.lm_head


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_matrix_is_saved_once_and_the_text_encoders_beside_it(make_model, tmp_path, tied):
    make_model(tie_word_embeddings=tied).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
    assert {"encoder.text_encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} <= names
    assert ("lm_head.weight" in names) == (not tied)


def test_the_base_model_is_the_encoder_and_loads_alone(model, saved, inputs):
    assert model.base_model is model.encoder
    encoder, info = MMJepaEncoder.from_pretrained(saved, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(encoder(**inputs).last_hidden_state, model.encoder(**inputs).last_hidden_state)


@pytest.mark.parametrize("visual_prefix", ["patches", "pooled"])
@pytest.mark.parametrize(
    "fields", [{}, {"alignment_reads": "vector", "alignment_target": "centered"}, {"truth_weight": 0}]
)
def test_every_weight_made_without_memory_is_initialised(make_config, batch, visual_prefix, fields):
    with torch.device("meta"):
        model = MMJepaForConditionalGeneration(make_config(visual_prefix=visual_prefix, **fields))
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(float("nan"))
    model.init_weights()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert tensor.isfinite().all(), name
    assert model.eval()(**batch).loss.isfinite()


def test_weights_that_a_checkpoint_lacks_are_named_and_start_anew(model, tmp_path, batch):
    state = {name: value for name, value in model.state_dict().items() if ".visual_prefix." not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded, info = MMJepaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    lacking = {name for name in model.state_dict() if ".visual_prefix." in name}
    assert set(info["missing_keys"]) == lacking and not info["unexpected_keys"]
    assert torch.equal(loaded.encoder.visual_prefix.queries, model.encoder.visual_prefix.queries)
    assert loaded(**batch).loss.isfinite()


def test_mismatched_sizes_are_refused_or_reported(saved, make_config):
    wider = make_config(num_image_tokens=6)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        MMJepaForConditionalGeneration.from_pretrained(saved, config=wider)
    loaded, info = MMJepaForConditionalGeneration.from_pretrained(
        saved, config=wider, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert [name for name, *_ in info["mismatched_keys"]] == ["encoder.visual_prefix.queries"]
    assert loaded.encoder.visual_prefix.queries.shape[0] == 5  # and the aligned token
    assert loaded.encoder.visual_prefix.queries.isfinite().all()


@pytest.mark.parametrize(
    "device_map",
    [
        {"encoder": "cpu", "decoder": "disk", "lm_head": "disk", **LOSSES_ON_CPU, "final_logits_bias": "cpu"},
        {"encoder": "disk", "decoder": "cpu", "lm_head": "cpu", **LOSSES_ON_CPU, "final_logits_bias": "cpu"},
        "auto",
    ],
    ids=["decoder", "encoder", "auto"],
)
def test_weights_offloaded_to_disk_give_the_same(model, saved, batch, inputs, tmp_path, device_map):
    pytest.importorskip("accelerate", minversion="1.15", reason="accelerate up to 1.14 mixes up weights on disk")
    memory = {"cpu": int(0.7 * compute_module_sizes(model)[""])}
    offloaded = MMJepaForConditionalGeneration.from_pretrained(
        saved, device_map=device_map, max_memory=memory, offload_folder=tmp_path / "offload"
    )
    assert "disk" in offloaded.hf_device_map.values()
    offloaded.generation_config.forced_eos_token_id = None
    assert torch.equal(offloaded(**batch).logits, model(**batch).logits)
    assert torch.equal(generate(offloaded, "beam", **inputs).sequences, generate(model, "beam", **inputs).sequences)


# Training


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_both_kinds_of_checkpointing_reach_every_trainable_parameter(model, batch, use_reentrant):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model.train()
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("visual_prefix", ["patches", "pooled"])
def test_the_whole_step_compiles_as_one_graph(make_model, batch, visual_prefix):
    pytest.importorskip("torch", minversion="2.13", reason="torch 2.8 breaks the graph where labels are picked out")
    model = make_model(visual_prefix=visual_prefix)
    model(**batch).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.compile(model, backend="eager", fullgraph=True)(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], msg=name)


# Configuration


def test_a_config_of_another_version_keeps_what_it_says_and_gets_defaults_for_the_rest(make_config, tmp_path):
    fields = make_config().to_dict()
    del fields["num_image_tokens"], fields["text_config"]["dropout"]
    fields["site"], fields["text_config"]["origin"] = "Ghent", "bart-base"
    MMJepaConfig.from_dict(fields).save_pretrained(tmp_path)
    loaded = MMJepaConfig.from_pretrained(tmp_path)
    assert (loaded.num_image_tokens, loaded.text_config.dropout) == (8, 0.1)
    assert (loaded.site, loaded.text_config.origin) == ("Ghent", "bart-base")
    assert loaded.text_config.d_model == 64


# Errors


def test_a_checkpoint_of_another_model_is_refused(checkpoints):
    with pytest.raises(ValueError, match="model type 'bart', not 'mmjepa'.*from_vision_text_pretrained"):
        MMJepaForConditionalGeneration.from_pretrained(checkpoints["text"])
    with pytest.raises(
        ValueError, match="is of model type 'bart': give, as the image encoder, a checkpoint with model_type dinov2"
    ):
        MMJepaForConditionalGeneration.from_vision_text_pretrained(checkpoints["text"], checkpoints["text"])
    with pytest.raises(
        ValueError, match="is of model type 'dinov2': give, as the text model, a checkpoint with model_type bart"
    ):
        MMJepaForConditionalGeneration.from_vision_text_pretrained(checkpoints["vision"], checkpoints["vision"])


@pytest.mark.parametrize("name", ["pad_token_id", "decoder_start_token_id"])
def test_a_text_model_without_the_tokens_that_answers_need_is_refused(make_config, checkpoints, name):
    text_config = AutoConfig.from_pretrained(checkpoints["text"])
    setattr(text_config, name, None)
    with pytest.raises(ValueError, match=f"text_config.{name} is None"):
        make_config(text_config=text_config)


def test_a_head_width_that_has_no_position_code_is_refused_for_patches_alone(make_config):
    text_config = {**make_config().text_config.to_dict(), "d_model": 72, "decoder_attention_heads": 12}
    with pytest.raises(ValueError, match="decoder_attention_heads = 6.*'pooled'"):
        make_config(text_config=text_config)
    assert make_config(text_config=text_config, visual_prefix="pooled").visual_prefix == "pooled"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: {"pixel_values": batch["pixel_values"][0]}, r"shape \(3, 28, 28\): give images \(I, 3, H, W\)"),
        (lambda batch: {"pixel_values": batch["pixel_values"].byte()}, "uint8.*rescaled and normalised"),
        (lambda batch: {"labels": batch["labels"][:1]}, "1 answers for 4 questions"),
    ],
    ids=["one image", "raw pixels", "answers"],
)
def test_tensors_that_do_not_fit_are_refused(model, batch, change, message):
    with pytest.raises(ValueError, match=message):
        model(**{**batch, **change(batch)})
