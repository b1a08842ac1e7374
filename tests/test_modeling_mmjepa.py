"""The model against by-hand computations, stock classes and itself in another form."""

import copy
import sys

import pytest
import torch
from tiny import DESCRIBED, FORMS, TEXT
from torch.nn import functional as F
from transformers import BartConfig, BartForConditionalGeneration, BartModel, Dinov2Model

from mmjepa.encoder_mmjepa import MMJepaEncoder
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration


@pytest.fixture(params=FORMS)
def model(request, make_model):
    return make_model(**FORMS[request.param])


def left_padded(batch):
    """The same questions with their padding in front."""
    lengths = batch["attention_mask"].sum(dim=1)
    rolled = {name: batch[name].clone() for name in ("input_ids", "attention_mask")}
    for row, length in enumerate(lengths.tolist()):
        shift = batch["input_ids"].shape[1] - length
        for name in rolled:
            rolled[name][row] = batch[name][row].roll(shift)
    return {**batch, **rolled}


def without_labels(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


@pytest.mark.parametrize("image_pooling", ["cls", "mean"])
def test_loss_equals_a_computation_by_hand(make_model, batch, image_pooling):
    model = make_model(**DESCRIBED, image_pooling=image_pooling, lambda_align=0.3, lambda_ce=0.7)
    output = model(**batch)

    encoder = model.encoder
    states = encoder.image_encoder(batch["pixel_values"]).last_hidden_state
    pooled = states[:, 0] if image_pooling == "cls" else states[:, 1:].mean(1)
    z = pooled / pooled.norm(dim=-1, keepdim=True)
    p = z @ encoder.image_projector.weight.T + encoder.image_projector.bias
    prefix = encoder.visual_prefix
    hidden = F.gelu(p @ prefix.fc1.weight.T + prefix.fc1.bias)
    tokens = (hidden @ prefix.fc2.weight.T + prefix.fc2.bias).reshape(len(p), model.config.num_image_tokens, -1)
    tokens = encoder.prefix_norm(tokens)

    align, answer_log_probs = [], []
    for row, image in enumerate(batch["image_index"].tolist()):
        length = int(batch["attention_mask"][row].sum())
        question = encoder.text_encoder(batch["input_ids"][row : row + 1, :length]).last_hidden_state
        t = question[0].mean(0)
        align.append(1 - F.cosine_similarity(p[image], t, dim=0))
        read = torch.cat([tokens[image], question[0]]).unsqueeze(0)
        answer = batch["labels"][row][batch["labels"][row] != -100]
        shifted = torch.cat([torch.tensor([model.config.text_config.decoder_start_token_id]), answer[:-1]])
        scores = model.decoder(shifted[None], encoder_hidden_states=read).last_hidden_state @ model.lm_head.weight.T
        answer_log_probs += scores[0].log_softmax(-1)[range(len(answer)), answer].tolist()
    align = torch.stack(align).mean()
    answers = -torch.tensor(answer_log_probs).mean()

    torch.testing.assert_close(output.loss_align, align, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.loss_ce, answers, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.loss, 0.3 * align + 0.7 * answers, atol=1e-5, rtol=0)


def test_the_text_encoder_is_bitwise_unchanged_by_training_and_never_drops_out(model, batch):
    before = copy.deepcopy(model.encoder.text_encoder.state_dict())
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not any(module.training for module in model.encoder.text_encoder.modules())
    assert model.decoder.training and model.encoder.image_encoder.training
    for name, value in model.encoder.text_encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    targets = [model.encode_texts(batch["input_ids"], batch["attention_mask"]) for _ in range(2)]
    assert torch.equal(*targets)


def test_the_text_encoder_stays_frozen_after_loading_and_resizing(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = MMJepaForConditionalGeneration.from_pretrained(tmp_path)
    loaded.resize_token_embeddings(model.config.text_config.vocab_size + 3)
    assert not any(parameter.requires_grad for parameter in loaded.encoder.text_encoder.parameters())
    assert loaded.decoder.embed_tokens.weight.requires_grad


def test_every_other_parameter_gets_a_gradient(model, batch):
    model.train()(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_questions_about_one_image_equal_questions_about_its_copies(model, batch):
    shared = model(**batch)
    copies = {**batch, "pixel_values": batch["pixel_values"][batch["image_index"]], "image_index": None}
    repeated = model(**copies, image_ids=batch["image_index"])
    torch.testing.assert_close(shared.logits, repeated.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared.loss, repeated.loss, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_equal_questions_are_read_once_and_each_is_answered_as_alone(make_model, batch, num_beams):
    model = make_model(attn_implementation="eager")
    questions = {name: batch[name][[2, 1, 2, 2]] for name in ("input_ids", "attention_mask")}
    read = []
    hook = model.encoder.text_encoder.register_forward_pre_hook(lambda _, args: read.append(len(args[0])))
    together = model.encoder(
        **questions,
        pixel_values=batch["pixel_values"],
        image_index=batch["image_index"],
        output_hidden_states=True,
        output_attentions=True,
    )
    hook.remove()
    assert read == [2]
    written = model.generate(encoder_outputs=together, max_new_tokens=5, num_beams=num_beams)
    for row in range(4):
        text = {name: values[row : row + 1] for name, values in questions.items()}
        pixel_values = batch["pixel_values"][batch["image_index"][row]][None]
        alone = model.encoder(**text, pixel_values=pixel_values, output_hidden_states=True, output_attentions=True)
        for name in ("last_hidden_state", "attention_mask", "question_embeds"):
            torch.testing.assert_close(together[name][row], alone[name][0], atol=1e-5, rtol=1e-5)
        for name in ("hidden_states", "attentions"):
            for states, expected in zip(together[name], alone[name], strict=True):
                torch.testing.assert_close(states[row], expected[0], atol=1e-5, rtol=1e-5)
        answer = model.generate(encoder_outputs=alone, max_new_tokens=5, num_beams=num_beams)[0]
        assert torch.equal(written[row, : len(answer)], answer)


def test_left_and_right_padding_and_none_at_all_give_the_same(model, batch):
    right = model(**batch).logits
    left = model(**left_padded(batch)).logits
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)
    for row in range(len(right)):
        length = int(batch["attention_mask"][row].sum())
        alone = model(
            input_ids=batch["input_ids"][row : row + 1, :length],
            pixel_values=batch["pixel_values"][batch["image_index"][row]][None],
            labels=batch["labels"][row : row + 1],
        ).logits
        torch.testing.assert_close(alone[0], right[row], atol=1e-5, rtol=1e-5)


def test_padding_tokens_are_padding_where_no_mask_is_given(model, batch):
    masked = model(**batch).logits
    unmasked = model(**{**batch, "attention_mask": None}).logits
    torch.testing.assert_close(unmasked, masked, atol=1e-6, rtol=0)


def test_greedy_generate_equals_teacher_forced_argmax_step_by_step(model, batch):
    inputs = without_labels(batch)
    model.generation_config.forced_eos_token_id = None
    generated = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    logits = model(**inputs, decoder_input_ids=generated[:, :-1]).logits
    finished = torch.zeros(len(generated), dtype=torch.bool)
    for step in range(generated.shape[1] - 1):
        assert torch.equal(generated[~finished, step + 1], logits[~finished, step].argmax(-1))
        finished |= generated[:, step + 1] == model.config.text_config.eos_token_id


def test_generate_gives_padded_and_unpadded_rows_the_same_answers(model, batch):
    inputs = without_labels(batch)
    together = model.generate(**inputs, max_new_tokens=5)
    assert torch.equal(model.generate(**left_padded(inputs), max_new_tokens=5), together)
    for row in range(len(together)):
        length = int(inputs["attention_mask"][row].sum())
        alone = model.generate(
            input_ids=inputs["input_ids"][row : row + 1, :length],
            pixel_values=inputs["pixel_values"][inputs["image_index"][row]][None],
            max_new_tokens=5,
        )
        assert torch.equal(alone[0], together[row, : alone.shape[1]])


@pytest.mark.parametrize("num_beams", [1, 3])
def test_images_encoded_once_answer_like_pixels(model, batch, num_beams):
    inputs = without_labels(batch)
    settings = {"max_new_tokens": 5, "num_beams": num_beams, "num_return_sequences": num_beams}
    from_pixels = model.generate(**inputs, **settings)
    image_features = model.get_image_features(inputs.pop("pixel_values"))
    from_states = model.generate(**inputs, image_features=image_features, **settings)
    assert torch.equal(from_pixels, from_states)
    copies = {**inputs, "pixel_values": batch["pixel_values"][batch["image_index"]], "image_index": None}
    assert torch.equal(model.generate(**copies, **settings), from_pixels)


def test_generate_takes_encoder_outputs_in_the_place_of_images_and_questions(model, batch):
    inputs = without_labels(batch)
    with torch.no_grad():
        encoder_outputs = model.encoder(**inputs)
    assert torch.equal(
        model.generate(encoder_outputs=encoder_outputs, max_new_tokens=5), model.generate(**inputs, max_new_tokens=5)
    )


def test_answers_depend_on_the_image(model, batch):
    other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    assert not torch.allclose(model(**batch).logits, model(**other).logits, atol=1e-3)


def test_saved_and_loaded_model_gives_the_same_logits(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = MMJepaForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert loaded.lm_head.weight is loaded.decoder.embed_tokens.weight
    assert loaded.encoder.text_encoder.embed_tokens.weight is not loaded.decoder.embed_tokens.weight


def test_return_loss_without_labels_is_the_alignment_term_alone(model, batch):
    full = model(**batch)
    alone = model(**without_labels(batch), return_loss=True)
    assert alone.logits is None and alone.loss_ce is None
    torch.testing.assert_close(alone.loss, model.config.lambda_align * full.loss_align)


def test_loss_without_logits_is_the_same_loss_and_gradient(model, batch):
    for return_logits in (True, False):
        output = model(**batch, return_logits=return_logits)
        assert (output.logits is not None) == return_logits
        model.zero_grad()
        output.loss.backward()
        results = (output.loss.detach(), model.decoder.embed_tokens.weight.grad.clone())
        if return_logits:
            expected = results
    torch.testing.assert_close(results, expected)


def test_alignment_text_other_than_the_question_is_what_is_aligned_to(model, batch):
    other = batch["input_ids"].roll(1, 0)
    output = model(**batch, align_input_ids=other, align_attention_mask=batch["attention_mask"].roll(1, 0))
    expected = model(**batch)
    torch.testing.assert_close(output.text_embeds, expected.text_embeds.roll(1, 0))
    torch.testing.assert_close(output.loss_ce, expected.loss_ce)
    assert not torch.isclose(output.loss_align, expected.loss_align)


def test_where_an_image_lies_is_checked_once_and_not_on_the_training_path_of_a_device(model, batch, monkeypatch):
    encoding = sys.modules[MMJepaEncoder.__module__]
    calls = []
    resolve = encoding.resolve_image_index
    monkeypatch.setattr(
        encoding, "resolve_image_index", lambda *given, **named: calls.append(given) or resolve(*given, **named)
    )
    model(**batch)
    assert len(calls) == 1
    index = torch.tensor([0, 1, 5], device="meta")  # reading a meta tensor raises
    ids = torch.zeros(3, 4, dtype=torch.long, device="meta")
    assert resolve(index, 2, ids, check_range=False) is index
    with pytest.raises(RuntimeError):
        resolve(index, 2, ids)


@pytest.mark.parametrize("wrong", [[-1, 0, 1, 0], [0, 1, 2, 0]])
def test_an_image_that_is_not_there_is_refused_where_the_range_cannot_be_read(make_model, batch, monkeypatch, wrong):
    """Under compilation, and as on the training path of a device."""
    model = make_model().train()
    pytest.importorskip("torch", minversion="2.13", reason="torch 2.8 breaks the graph where labels are picked out")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(**batch)
    with pytest.raises(RuntimeError, match="image_index is out of range: allowed are 0 to 1"):
        compiled(**{**batch, "image_index": torch.tensor(wrong)})
    encoding = sys.modules[MMJepaEncoder.__module__]
    resolve = encoding.resolve_image_index
    monkeypatch.setattr(
        encoding, "resolve_image_index", lambda *given, check_range: resolve(*given, check_range=False)
    )
    with pytest.raises(RuntimeError, match="image_index is out of range: allowed are 0 to 1"):
        model(**{**batch, "image_index": torch.tensor(wrong)})


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_an_index_of_any_whole_number_type_means_the_same(make_model, batch, dtype):
    model = make_model()
    given = {**batch, "image_index": batch["image_index"].to(dtype)}
    assert torch.equal(model(**given).logits, model(**batch).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_give_nearly_the_same_loss(model, batch, dtype):
    expected = model(**batch).loss
    half = copy.deepcopy(model).to(dtype)
    output = half(**{**batch, "pixel_values": batch["pixel_values"].to(dtype)})
    assert output.logits.dtype == dtype
    torch.testing.assert_close(output.loss.float(), expected, atol=0.05, rtol=0.02)


def test_eager_and_sdpa_attention_agree(model, batch):
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    assert eager.decoder.config._attn_implementation == "eager"
    torch.testing.assert_close(eager(**batch).logits, model(**batch).logits, atol=1e-4, rtol=0)


def test_gradient_checkpointing_gives_the_same_gradients(model, batch):
    checkpointed = copy.deepcopy(model).train()
    checkpointed.gradient_checkpointing_enable()
    plain = model.train()
    for module in (*plain.modules(), *checkpointed.modules()):
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    plain(**batch).loss.backward()
    checkpointed(**batch).loss.backward()
    for (name, parameter), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        if parameter.requires_grad:
            torch.testing.assert_close(other.grad, parameter.grad, msg=name)


def test_cross_attentions_and_hidden_states_of_all_towers_come_out(make_model, batch):
    model = make_model(attn_implementation="eager")
    output = model(**batch, output_attentions=True, output_hidden_states=True)
    config, (rows, answer) = model.config, batch["labels"].shape
    read = config.num_image_tokens + batch["input_ids"].shape[1]
    assert output.cross_attentions[0].shape == (rows, config.text_config.decoder_attention_heads, answer, read)
    assert len(output.decoder_hidden_states) == config.text_config.decoder_layers + 1
    assert len(output.encoder_hidden_states) == config.text_config.encoder_layers + 1
    assert len(output.image_hidden_states) == config.vision_config.num_hidden_layers + 1
    assert len(output.image_attentions) == config.vision_config.num_hidden_layers


def test_built_from_checkpoints_each_half_equals_its_stock_class(checkpoints, batch):
    model = MMJepaForConditionalGeneration.from_vision_text_pretrained(
        checkpoints["vision"], checkpoints["text"], visual_prefix="pooled", num_image_tokens=3
    ).eval()
    dinov2 = Dinov2Model.from_pretrained(checkpoints["vision"]).eval()
    bart = BartForConditionalGeneration.from_pretrained(checkpoints["text"]).eval()
    pixels, ids, mask = (batch[name] for name in ("pixel_values", "input_ids", "attention_mask"))
    torch.testing.assert_close(model.encoder.image_encoder(pixels).last_hidden_state, dinov2(pixels).last_hidden_state)
    encoded = bart.get_encoder()(ids, attention_mask=mask).last_hidden_state
    read = model.encoder(**without_labels(batch)).last_hidden_state
    torch.testing.assert_close(read[:, 3:][mask.bool()], encoded[mask.bool()])
    answers = bart(encoder_outputs=(read,), decoder_input_ids=ids).logits
    ours = model(encoder_outputs=model.encoder(**without_labels({**batch, "attention_mask": torch.ones_like(ids)})))
    assert ours.logits is None
    full_mask = {**without_labels(batch), "attention_mask": torch.ones_like(ids)}
    encoder_outputs = model.encoder(**full_mask)
    answers = bart(encoder_outputs=(encoder_outputs.last_hidden_state,), decoder_input_ids=ids).logits
    torch.testing.assert_close(model(encoder_outputs=encoder_outputs, decoder_input_ids=ids).logits, answers)
    assert model.generation_config.forced_bos_token_id == 0
    assert model.generation_config.forced_eos_token_id == 2
    assert model.generation_config.decoder_start_token_id == 2


def test_resizing_reaches_text_encoder_and_decoder_and_keeps_them_apart(make_model, batch):
    model = make_model()
    old = model(**batch).logits
    size = model.config.text_config.vocab_size + 5
    model.resize_token_embeddings(size)
    assert model.encoder.text_encoder.embed_tokens.num_embeddings == size
    assert model.decoder.embed_tokens.num_embeddings == model.lm_head.out_features == size
    assert model.lm_head.weight is model.decoder.embed_tokens.weight
    assert model.encoder.text_encoder.embed_tokens.weight is not model.decoder.embed_tokens.weight
    torch.testing.assert_close(model(**batch).logits[..., :-5], old)


def test_the_text_encoder_bart_of_the_same_checkpoint_is_a_separate_tensor(checkpoints):
    model = MMJepaForConditionalGeneration.from_vision_text_pretrained(checkpoints["vision"], checkpoints["text"])
    text_encoder, decoder = model.encoder.text_encoder.embed_tokens.weight, model.decoder.embed_tokens.weight
    assert torch.equal(text_encoder, decoder) and text_encoder.data_ptr() != decoder.data_ptr()
    assert torch.equal(text_encoder, BartModel.from_pretrained(checkpoints["text"]).shared.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": None}, "neither of pixel_values and image_features"),
        ({"image_index": None}, "2 images for 4 questions"),
        ({"image_index": torch.tensor([0, 1, 2, 0])}, "runs from 0 to 2, but there are 2 images"),
        ({"image_index": torch.tensor([0, 1])}, r"shape \(2,\) for 4 questions"),
        ({"image_index": torch.tensor([0, 0.7, 1, 1])}, "torch.float32: give each question the whole number"),
        ({"image_index": torch.tensor([True, False, True, True])}, "torch.bool: give each question the whole number"),
        ({"input_ids": None}, "neither input_ids nor encoder_outputs"),
    ],
)
def test_a_bad_call_says_what_to_do(make_model, batch, change, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**{**batch, **change})


def test_training_without_anything_to_learn_from_says_what_to_do(model, batch):
    inputs = without_labels(batch)
    assert model(**inputs).loss is None
    with pytest.raises(
        ValueError, match="no labels .*label_smoothing_factor .* leave it at 0, and put answer_smoothing"
    ):
        model.train()(**inputs)
    assert model(**inputs, return_loss=True).loss.isfinite()


def test_embeddings_stand_in_the_place_of_the_decoders_ids(model, batch):
    ids = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    inputs = {**without_labels(batch), "decoder_inputs_embeds": model.decoder.embed_tokens(ids)}
    expected = model(**batch)
    torch.testing.assert_close(model(**inputs).logits, expected.logits)
    torch.testing.assert_close(model(**inputs, labels=batch["labels"]).loss, expected.loss)
    other = {**inputs, "decoder_inputs_embeds": inputs["decoder_inputs_embeds"].flip(0)}
    assert not torch.allclose(model(**other).logits, expected.logits, atol=1e-3)
    with pytest.raises(ValueError, match="exactly one of decoder_input_ids or decoder_inputs_embeds"):
        model(**inputs, decoder_input_ids=ids)


def test_visual_tokens_are_found_by_the_librarys_name_too(model, batch):
    features = model.get_image_features(batch["pixel_values"])
    again = type(features)(image_embeds=features.image_embeds, visual_tokens=features.visual_tokens)
    for found in (features, again):
        for tokens in (found["pooler_output"], found.pooler_output, found.get("pooler_output")):
            assert tokens is found.visual_tokens is found["visual_tokens"]


def test_the_library_finds_and_replaces_each_encoder_by_its_modality(make_model):
    model = make_model()
    assert model.get_encoder() is model.encoder and model.encoder.get_encoder() is model.encoder.text_encoder
    assert model.get_encoder("image") is model.encoder.get_encoder("image") is model.encoder.image_encoder
    other = Dinov2Model(model.config.vision_config)
    model.set_encoder(other, "image")
    assert model.encoder.image_encoder is other


@pytest.mark.parametrize("images", ["pixel_values", "image_features"])
def test_generate_without_a_question_says_what_to_do(model, batch, images):
    pixels = batch["pixel_values"]
    given = {images: pixels if images == "pixel_values" else model.get_image_features(pixels)}
    with pytest.raises(ValueError, match=rf"no question in .* \({images}, max_new_tokens\): give the questions' "):
        model.generate(**given, max_new_tokens=4)
    positional = model.generate(batch["input_ids"][:2], **given, max_new_tokens=4)
    assert torch.equal(positional, model.generate(input_ids=batch["input_ids"][:2], **given, max_new_tokens=4))


def test_projection_can_only_be_switched_off_between_equal_widths(make_config, make_model, batch):
    with pytest.raises(ValueError, match="project_image"):
        make_config(project_image=False)
    config = make_config()
    equal = {**config.vision_config.to_dict(), "hidden_size": config.text_config.d_model}
    model = MMJepaForConditionalGeneration(make_config(project_image=False, vision_config=equal)).eval()
    states = model.encoder.image_encoder(batch["pixel_values"]).last_hidden_state
    torch.testing.assert_close(model(**batch).image_embeds, F.normalize(states[:, 0], dim=-1))


@pytest.mark.parametrize("tied", [True, False])
def test_whether_the_head_is_tied_is_as_asked_else_as_in_the_bart_checkpoint(checkpoints, tmp_path, tied):
    build = MMJepaForConditionalGeneration.from_vision_text_pretrained
    BartForConditionalGeneration(BartConfig(**TEXT, tie_word_embeddings=tied)).save_pretrained(tmp_path)
    for expected, given in ((tied, {}), (not tied, {"tie_word_embeddings": not tied})):
        model = build(checkpoints["vision"], str(tmp_path), **given)
        assert model.config.tie_word_embeddings == expected
        assert (model.lm_head.weight is model.decoder.embed_tokens.weight) == expected
