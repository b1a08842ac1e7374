"""The alignment losses and targets against by-hand computations."""

import pytest
import torch
from tiny import DESCRIBED
from torch.nn import functional as F

from mmjepa.losses_mmjepa import MMJepaAlignmentLoss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [4, 24, 26, 64, 256])
def test_infonce_does_not_count_equal_texts_or_the_images_own_texts_as_wrong(make_config, rows, dtype):
    loss = MMJepaAlignmentLoss(make_config(alignment_loss="infonce"))
    torch.nn.init.constant_(loss.logit_scale, 1.0)
    images = torch.randn(rows // 2, 64)
    image_index = torch.arange(rows) // 2
    text_ids = torch.randint(0, rows // 3 + 1, (rows, 1)).expand(-1, 6).clone()
    text_ids[:, 4:] = -1  # padding
    # The same text in another row of a batch has nearly the same embedding.
    texts = F.normalize(torch.randn(rows, 64)[text_ids[:, 0]] + 1e-3 * torch.randn(rows, 64), dim=-1).to(dtype)
    losses = loss(images.to(dtype), texts, image_index, text_ids)
    images = F.normalize(images.to(dtype).float(), dim=-1)[image_index]
    for row in range(rows):
        counted = [
            other
            for other in range(rows)
            if other == row or (text_ids[other, 0] != text_ids[row, 0] and image_index[other] != image_index[row])
        ]
        scores = torch.e * texts[counted].float() @ images[row]
        expected = -scores.log_softmax(0)[counted.index(row)]
        torch.testing.assert_close(losses[row], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("alignment_loss", ["infonce", "sigmoid"])
def test_equal_texts_of_a_whole_batch_leave_nothing_to_push_apart(make_model, batch, alignment_loss):
    """64 rows of one question about 64 images: through the model, whose embeddings of it differ by rounding."""
    model = make_model(alignment_loss=alignment_loss)
    inputs = {name: batch[name][:1].repeat_interleave(64, dim=0) for name in ("input_ids", "attention_mask")}
    output = model(**inputs, pixel_values=torch.randn(64, 3, 28, 28), return_loss=True)
    scores = F.cosine_similarity(output.image_embeds, output.text_embeds) * model.alignment.logit_scale.exp()
    expected = {"infonce": torch.zeros(()), "sigmoid": -F.logsigmoid(scores - 10).mean()}
    torch.testing.assert_close(output.loss_align, expected[alignment_loss], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("alignment_loss", ["cosine", "infonce", "sigmoid"])
@pytest.mark.parametrize("count", [6, 64])
def test_a_row_without_a_text_has_no_loss_and_changes_none(make_config, alignment_loss, count):
    loss = MMJepaAlignmentLoss(make_config(alignment_loss=alignment_loss))
    for parameter in loss.parameters():
        torch.nn.init.constant_(parameter, 1.0)
    images, texts = torch.randn(count, 64), F.normalize(torch.randn(count, 64), dim=-1)
    text_ids, last = torch.arange(2 * count).view(count, 2), count // 2
    expected = loss(images[:last], texts[:last], torch.arange(last), text_ids[:last])
    text_ids[last:] = -1
    losses = loss(images, texts, torch.arange(count), text_ids)
    torch.testing.assert_close(losses[:last], expected)
    assert not losses[last:].any()


def test_the_mean_is_over_the_rows_that_have_a_text(make_model, batch):
    model = make_model(**DESCRIBED)
    texts = {"align_input_ids": batch["input_ids"], "align_attention_mask": batch["attention_mask"].clone()}
    texts["align_attention_mask"][1:] = 0
    alone = model(**{**batch, **texts})
    losses = 1 - F.cosine_similarity(alone.image_embeds[batch["image_index"]], alone.text_embeds)
    torch.testing.assert_close(alone.loss_align, losses[0])
    assert alone.loss.isfinite()


def test_contrastive_scores_keep_float32_under_autocast(make_config):
    loss = MMJepaAlignmentLoss(make_config(alignment_loss="infonce"))
    torch.nn.init.constant_(loss.logit_scale, 4.0)
    images, texts = (F.normalize(torch.randn(64, 64), dim=-1) for _ in range(2))
    arguments = (images, texts, torch.arange(64), torch.arange(64)[:, None])
    expected = loss(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss(*arguments)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=0)


def test_the_scale_of_contrastive_scores_stays_below_100_and_can_come_back(make_config):
    loss = MMJepaAlignmentLoss(make_config(alignment_loss="infonce")).train()
    torch.nn.init.constant_(loss.logit_scale, 5.0)
    images, texts = (F.normalize(torch.randn(8, 64), dim=-1) for _ in range(2))
    loss(images, texts, torch.arange(8), torch.arange(8)[:, None]).mean().backward()
    assert loss.logit_scale.exp().item() == pytest.approx(100)
    assert loss.logit_scale.grad.abs() > 0


def test_contrastive_losses_of_encoder_outputs_need_the_texts(make_model, batch, inputs):
    model = make_model(alignment_loss="infonce")
    encoder_outputs = model.encoder(**inputs)
    given = model(encoder_outputs=encoder_outputs, labels=batch["labels"], input_ids=batch["input_ids"])
    torch.testing.assert_close(given.loss, model(**batch).loss)
    with pytest.raises(ValueError, match="compares the texts of a batch"):
        model(encoder_outputs=encoder_outputs, labels=batch["labels"])


def test_sigmoid_loss_equals_a_computation_by_hand(make_config):
    loss = MMJepaAlignmentLoss(make_config(alignment_loss="sigmoid"))
    torch.nn.init.constant_(loss.logit_scale, 0.5)
    torch.nn.init.constant_(loss.logit_bias, -1.0)
    images, texts = (F.normalize(torch.randn(2, 64), dim=-1) for _ in range(2))
    losses = loss(images, texts, torch.arange(2), torch.arange(2)[:, None])
    scores = images @ texts.T * torch.tensor(0.5).exp() - 1
    expected = [-(scores[i, i].sigmoid().log() + (1 - scores[i, 1 - i].sigmoid()).log()) for i in range(2)]
    torch.testing.assert_close(losses, torch.stack(expected), atol=1e-5, rtol=0)


def test_alignment_targets_are_centered_or_layer_normalised(make_config):
    pooled = torch.randn(5, 64)
    centered = MMJepaAlignmentLoss(make_config(alignment_target="centered"))
    centered.text_mean = pooled.mean(0)
    expected = F.normalize(pooled - pooled.mean(0), dim=-1)
    torch.testing.assert_close(centered.text_targets(pooled), expected)
    normed = MMJepaAlignmentLoss(make_config(alignment_target="layer_norm")).text_targets(pooled)
    shifted = pooled - pooled.mean(-1, keepdim=True)
    torch.testing.assert_close(normed, F.normalize(shifted, dim=-1), atol=1e-4, rtol=0)
