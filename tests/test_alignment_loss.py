"""The alignment's scores and losses against plain computations, at sizes that users run."""

import pytest
import torch
from tiny import DESCRIBED
from torch.nn import functional as F

from mmjepa.alignment_mmjepa import MMJepaAlignment

TOKENS, WIDTH = 5, 64


@pytest.fixture
def make_alignment(make_config):
    """A function that makes an alignment with random weights, in training mode."""

    def make(**fields) -> MMJepaAlignment:
        alignment = MMJepaAlignment(make_config(**fields))
        for name, value in (("logit_scale", 1.5), ("truth_scale", 1.0), ("truth_bias", -0.3)):
            if hasattr(alignment, name):
                torch.nn.init.constant_(getattr(alignment, name), value)
        return alignment

    return make


def make_batch(rows: int, images: int, num_wrong: int) -> dict:
    """Rows about `images`, some false, some without a statement, some with the text of another row."""
    ids = torch.randint(0, rows // 2, (rows,))
    ids[::11] = -1
    table = F.normalize(torch.randn(rows, WIDTH), dim=-1)
    return {
        "image_embeds": torch.randn(images, WIDTH),
        "visual_tokens": torch.randn(images, TOKENS, WIDTH),
        "image_index": torch.randint(0, images, (rows,)),
        "statements": {
            "embeds": F.normalize(
                table[ids] + 1e-3 * torch.randn(rows, WIDTH), dim=-1
            ),  # equal texts are nearly equal
            "ids": ids,
            "signs": torch.where(torch.rand(rows) < 0.3, -1, 1),
            "wrong_embeds": F.normalize(torch.randn(rows, num_wrong, WIDTH), dim=-1),
            "has_wrong": torch.rand(rows, num_wrong) < 0.6,
        },
    }


def plain_cosine(alignment, image, tokens, statement):
    """cos(p + read, t) of one image and one statement, as the definition has it."""
    p = F.normalize(image, dim=-1)
    if alignment.reader is None:
        return p @ statement
    reader, heads = alignment.reader, 4
    query, key, value = reader.q_proj(statement), reader.k_proj(tokens), reader.v_proj(tokens)  # (D,), (M, D), (M, D)
    parts = []
    for q, k, v in zip(query.chunk(heads), key.chunk(heads, dim=-1), value.chunk(heads, dim=-1), strict=True):
        parts.append((k @ q / len(q) ** 0.5).softmax(dim=0) @ v)
    return F.cosine_similarity(p + torch.cat(parts), statement, dim=0)


@pytest.mark.parametrize("rows", [4, 128])
@pytest.mark.parametrize("fields", [{}, {"alignment_reads": "vector"}, {"truth_weight": 0}], ids=str)
def test_the_loss_is_that_of_the_definition(make_alignment, fields, rows):
    alignment, batch = make_alignment(**fields), make_batch(rows, rows // 4, num_wrong=2)
    losses = alignment(**batch)
    statements, image_of = batch["statements"], batch["image_index"].tolist()
    ids, signs, has_wrong = (statements[name].tolist() for name in ("ids", "signs", "has_wrong"))
    for row in range(0, rows, 1 if rows < 10 else 9):
        if ids[row] < 0:
            assert losses[row] == 0
            continue
        image, tokens = batch["image_embeds"][image_of[row]], batch["visual_tokens"][image_of[row]]
        others = [
            other
            for other in range(rows)
            if other != row
            and ids[other] >= 0
            and ids[other] != ids[row]
            and not (image_of[other] == image_of[row] and signs[other] > 0)
        ]
        own_wrong = [
            wrong for wrong, there in zip(statements["wrong_embeds"][row], has_wrong[row], strict=True) if there
        ]
        compared = [statements["embeds"][row], *statements["embeds"][others], *own_wrong]
        cosines = torch.stack([plain_cosine(alignment, image, tokens, statement) for statement in compared])
        vectors = torch.stack([F.normalize(image, dim=-1) @ statement for statement in compared])
        scale, expected = torch.tensor(1.5).exp(), torch.zeros(())
        if signs[row] > 0:
            expected = -(scale * cosines).log_softmax(0)[0]
            if alignment.reader is not None:
                expected = expected - 0.5 * (scale * vectors).log_softmax(0)[0]
        if alignment.truth_weight > 0:
            logits = torch.e * torch.cat([cosines[:1], cosines[1 + len(others) :]]) - 0.3
            right = torch.tensor([signs[row] > 0] + [False] * len(own_wrong)).float()
            expected = expected + F.binary_cross_entropy_with_logits(logits, right)
        torch.testing.assert_close(losses[row], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("alignment_loss", ["cosine", "infonce"])
@pytest.mark.parametrize("count", [6, 128])
def test_a_row_without_a_text_has_no_loss_and_changes_none(make_alignment, alignment_loss, count):
    alignment, batch = make_alignment(alignment_loss=alignment_loss), make_batch(count, count, num_wrong=2)
    batch["image_index"] = torch.arange(count)
    batch["statements"]["ids"] = torch.arange(count)
    last = count // 2
    first = {name: value[:last] for name, value in batch.items() if name != "statements"}
    first["statements"] = {name: value[:last] for name, value in batch["statements"].items()}
    expected = alignment(**first)
    batch["statements"]["ids"][last:] = -1
    losses = alignment(**batch)
    torch.testing.assert_close(losses[:last], expected)
    assert not losses[last:].any()


def test_without_signs_all_statements_are_true_and_without_wrong_ones_none_are_needed(make_alignment):
    alignment, batch = make_alignment(), make_batch(128, 16, num_wrong=2)
    batch["statements"]["signs"] = torch.ones(128, dtype=torch.long)
    batch["statements"]["has_wrong"][:] = False
    expected = alignment(**batch)
    batch["statements"] = {name: batch["statements"][name] for name in ("embeds", "ids")}
    torch.testing.assert_close(alignment(**batch), expected)


def test_the_image_decides_and_not_the_statement_alone(make_alignment):
    """A statement that is true of half of the images can't be told by a score that the text alone gives."""
    alignment = make_alignment()
    statements = F.normalize(torch.randn(20, WIDTH), dim=-1)
    images, tokens = torch.randn(2, WIDTH), torch.randn(2, TOKENS, WIDTH)
    read, by_vector = alignment.cosines(images, tokens, statements)
    assert (read[0] - read[1]).abs().min() > 1e-4 and (by_vector[0] - by_vector[1]).abs().min() > 1e-4
    same_vector, _ = alignment.cosines(images[:1].expand(2, -1), tokens, statements)
    assert (same_vector[0] - same_vector[1]).abs().min() > 1e-4  # the tokens are read


def test_equal_texts_of_a_whole_batch_leave_nothing_to_push_apart(make_model, batch):
    """64 rows of one question about 64 images: through the model, whose embeddings of it differ by rounding."""
    model = make_model(truth_weight=0)
    inputs = {name: batch[name][:1].repeat_interleave(64, dim=0) for name in ("input_ids", "attention_mask")}
    output = model(**inputs, pixel_values=torch.randn(64, 3, 28, 28), return_loss=True)
    torch.testing.assert_close(output.loss_align, torch.zeros(()), atol=1e-5, rtol=1e-5)


def test_the_mean_is_over_the_rows_that_have_a_text(make_model, batch):
    model = make_model(**DESCRIBED)
    texts = {"align_input_ids": batch["input_ids"], "align_attention_mask": batch["attention_mask"].clone()}
    texts["align_attention_mask"][1:] = 0
    alone = model(**{**batch, **texts})
    losses = 1 - F.cosine_similarity(alone.image_embeds[batch["image_index"]], alone.text_embeds)
    torch.testing.assert_close(alone.loss_align, losses[0])
    assert alone.loss.isfinite()


def test_targets_computed_beforehand_give_the_loss_of_the_texts(make_model, batch):
    model = make_model()
    signs = torch.tensor([1, -1, 1, 1])
    by_text = model(**batch, align_signs=signs)
    statements = {
        "embeds": model.encode_texts(batch["input_ids"], batch["attention_mask"]),
        "ids": torch.arange(4),
        "signs": signs,
    }
    answers = batch["labels"].masked_fill(batch["labels"] == -100, 1)
    beforehand = {
        "targets": model.encode_answers(answers, (batch["labels"] != -100).long()),
        "log_counts": torch.zeros(4),
        "right": torch.arange(4),
    }
    by_table = model(**batch, statements=statements, answers=beforehand)
    for name in ("loss_align", "loss_answer", "loss"):
        torch.testing.assert_close(by_table[name], by_text[name])


def test_contrastive_scores_keep_float32_under_autocast(make_alignment):
    alignment, batch = make_alignment(), make_batch(64, 64, num_wrong=1)
    expected = alignment(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = alignment(**batch)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=0)


def test_the_scale_of_contrastive_scores_stays_below_100_and_can_come_back(make_alignment):
    alignment = make_alignment().train()
    torch.nn.init.constant_(alignment.logit_scale, 5.0)
    alignment(**make_batch(8, 8, num_wrong=0)).mean().backward()
    assert alignment.logit_scale.exp().item() == pytest.approx(100)
    assert alignment.logit_scale.grad.abs() > 0


def test_contrastive_losses_of_encoder_outputs_need_the_texts(make_model, batch, inputs):
    model = make_model(alignment_loss="infonce")
    encoder_outputs = model.encoder(**inputs)
    given = model(encoder_outputs=encoder_outputs, labels=batch["labels"], input_ids=batch["input_ids"])
    torch.testing.assert_close(given.loss, model(**batch).loss)
    with pytest.raises(ValueError, match="compares the texts of a batch"):
        model(encoder_outputs=encoder_outputs, labels=batch["labels"])


@pytest.mark.parametrize("fields", [{}, {"alignment_reads": "vector"}], ids=str)
def test_statements_are_scored_as_the_loss_scores_them(make_model, batch, fields):
    model = make_model(**fields)
    statements = model.encode_texts(batch["input_ids"], batch["attention_mask"])  # (S, D)
    probabilities = model.score_statements(statements, batch["pixel_values"])  # (I, S)
    features = model.get_image_features(batch["pixel_values"])
    for image in range(2):
        for statement in range(4):
            cosine = plain_cosine(
                model.alignment, features.image_embeds[image], features.visual_tokens[image], statements[statement]
            )
            expected = model.alignment.truth_logits(cosine).sigmoid()
            torch.testing.assert_close(probabilities[image, statement, None], expected, atol=1e-5, rtol=1e-4)
    model.config.truth_temperature = 2.0
    logits = model.statement_logits(statements, image_features=features)
    torch.testing.assert_close(model.score_statements(statements, image_features=features), (logits / 2).sigmoid())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_few_statements_have_the_scores_that_they_have_among_many(make_model, batch, dtype, tolerance):
    """Fewer statements than visual tokens are compared without projecting the tokens."""
    model = make_model(num_image_tokens=5).to(dtype)
    torch.nn.init.normal_(model.alignment.reader.k_proj.bias)
    torch.nn.init.normal_(model.alignment.reader.v_proj.bias)
    features = model.get_image_features(batch["pixel_values"].to(dtype))
    statements = F.normalize(torch.randn(9, model.config.text_config.d_model), dim=-1)
    many = model.statement_logits(statements, image_features=features)  # (I, 9)
    for count in (1, 3):
        few = torch.cat([model.statement_logits(s, image_features=features) for s in statements.split(count)], dim=1)
        torch.testing.assert_close(few, many, atol=tolerance, rtol=0)
    assert many.std() > 0.5


def test_a_model_without_truth_says_that_it_can_not_score_statements(make_model, batch):
    model = make_model(truth_weight=0)
    statements = model.encode_texts(batch["input_ids"], batch["attention_mask"])
    with pytest.raises(ValueError, match="truth_weight is 0: this model was not trained to tell true"):
        model.score_statements(statements, batch["pixel_values"])


def test_where_a_statement_looks_follows_from_the_tokens_that_it_reads(make_model, batch):
    model = make_model()
    statements = model.encode_texts(batch["input_ids"], batch["attention_mask"])
    features = model.get_image_features(batch["pixel_values"])
    looked = model.statement_attentions(statements, features)  # (I, S, P)
    assert looked.shape == (2, 4, 16)
    weights = model.alignment.reader.attention(features.visual_tokens, statements).mean(dim=1)  # (I, M, S)
    torch.testing.assert_close(looked.sum(dim=-1), weights[:, 1:].sum(dim=1))  # the first token is the vector
    assert make_model(alignment_reads="vector").statement_attentions(statements, features) is None


def test_padding_and_its_side_do_not_change_what_is_compared(make_model, batch):
    model = make_model()
    padded = {name: F.pad(batch[name], (3, 0), value=fill) for name, fill in (("input_ids", 1), ("attention_mask", 0))}
    torch.testing.assert_close(model(**{**batch, **padded}).loss_align, model(**batch).loss_align)
