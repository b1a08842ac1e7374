"""The answer's embedding, predicted from image and question: its loss, its ranking of a closed list, its absence."""

import pytest
import torch

from mmjepa.losses_mmjepa import MMJepaAnswerPrediction, answers_of_batch
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.targets_mmjepa import l2_normalize


@pytest.fixture
def prediction(make_config):
    prediction = MMJepaAnswerPrediction(make_config(lambda_answer=0.25))
    torch.nn.init.constant_(prediction.logit_scale, 1.5)
    return prediction


@pytest.mark.parametrize("count", [4, 26, 64, 256])
def test_rows_with_the_same_answer_are_all_right_answers(prediction, count):
    """Against the definition, row by row."""
    answers = torch.randint(3, (count,))
    states, targets = torch.randn(count, 64), l2_normalize(torch.randn(3, 64))[answers]
    losses = prediction(states, answers_of_batch(targets, answers + 7))
    unit = l2_normalize(prediction.projector(states))
    for row in range(count):
        shares = (torch.e**1.5 * targets @ unit[row]).softmax(dim=0)
        torch.testing.assert_close(losses[row], -shares[answers == answers[row]].sum().log(), rtol=1e-4, atol=1e-5)


def test_rows_without_an_answer_have_no_loss_and_change_none(prediction):
    numbers, states, targets = torch.arange(6), torch.randn(6, 64), l2_normalize(torch.randn(6, 64))
    expected = prediction(states[:4], answers_of_batch(targets[:4], numbers[:4]))
    numbers[4:] = -1
    losses = prediction(states, answers_of_batch(targets, numbers))
    torch.testing.assert_close(losses[:4], expected)
    assert losses[4:].tolist() == [0, 0]


def test_scores_stay_float32_under_autocast(prediction):
    states, targets = torch.randn(8, 64), l2_normalize(torch.randn(8, 64))
    with torch.autocast("cpu", torch.bfloat16):
        assert prediction(states, answers_of_batch(targets, torch.arange(8))).dtype == torch.float32


def test_a_batch_without_any_answer_has_no_loss_and_a_gradient_of_0(prediction):
    states = torch.randn(4, 64, requires_grad=True)
    losses = prediction(states, answers_of_batch(torch.zeros(4, 64), torch.full((4,), -1)))
    losses.sum().backward()
    assert losses.tolist() == [0, 0, 0, 0] and not states.grad.any()


def test_without_its_weight_the_model_has_no_parameters_for_it(make_model):
    with_it, without = make_model(lambda_answer=0.25), make_model(lambda_answer=0)
    more = set(with_it.state_dict()) - set(without.state_dict())
    assert more == {
        f"answer_prediction.{name}"
        for name in ("logit_scale", "targets.mean", "targets.whitening", "projector.weight", "projector.bias")
    }
    with pytest.raises(ValueError, match="lambda_answer is 0"):
        without.encode_answers(torch.tensor([[0, 5, 2]]))


def test_the_weight_of_its_loss_changes_after_loading_and_ranking_stays(make_model, batch, tmp_path):
    make_model(lambda_answer=0.25).save_pretrained(tmp_path)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_index")}
    answers = torch.tensor([[0, 5, 2], [0, 6, 2]])
    models = [
        MMJepaForConditionalGeneration.from_pretrained(tmp_path, lambda_answer=weight) for weight in (0.25, 0, 2)
    ]
    models.append(MMJepaForConditionalGeneration.from_pretrained(tmp_path))
    models[-1].config.lambda_answer = 0
    for model in models:
        output = model(**batch)
        total = 0.5 * output.loss_align + output.loss_ce + model.config.lambda_answer * output.loss_answer
        torch.testing.assert_close(output.loss, total)
        expected = models[0].rank_answers(models[0].encode_answers(answers), **inputs)
        assert torch.equal(model.rank_answers(model.encode_answers(answers), **inputs), expected)
    models[1].save_pretrained(tmp_path / "again")
    again = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert again.config.lambda_answer == 0 and again.config.predict_answer
    assert torch.equal(again.rank_answers(again.encode_answers(answers), **inputs), expected)


def test_without_its_weights_its_loss_is_refused_in_words(make_model, batch, tmp_path):
    model = make_model(lambda_answer=0)
    assert make_model(predict_answer=False, lambda_answer=0.25).config.lambda_answer == 0
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lambda_answer is 0.1, but predict_answer is False"):
        MMJepaForConditionalGeneration.from_pretrained(tmp_path, lambda_answer=0.1)
    model.config.lambda_answer = 0.1
    with pytest.raises(ValueError, match="predict_answer is False, lambda_answer is 0.1: this model has no weights"):
        model(**batch)


def test_weights_without_their_loss_are_made_where_asked_for(make_model, batch):
    model = make_model(lambda_answer=0, predict_answer=True).train()
    output = model(**batch)
    torch.testing.assert_close(output.loss, 0.5 * output.loss_align + output.loss_ce)
    output.loss.backward()
    assert (model.answer_prediction.projector.weight.grad == 0).all()  # as several processes need it


@pytest.mark.parametrize("lambda_answer", [0.25, 0.0])
def test_a_configuration_from_before_the_field_says_it_by_the_losss_weight(make_config, lambda_answer):
    fields = make_config(lambda_answer=lambda_answer).to_dict()
    del fields["predict_answer"]
    for changed in ({}, {"lambda_answer": 0}):
        config = type(make_config()).from_dict(dict(fields), **changed)
        assert config.predict_answer == (lambda_answer > 0)


def test_its_loss_is_part_of_the_total_and_reaches_the_image(make_model, batch):
    model = make_model(lambda_answer=0.25).train()
    output = model(**batch)
    total = 0.5 * output.loss_align + output.loss_ce + 0.25 * output.loss_answer
    torch.testing.assert_close(output.loss, total)
    output.loss_answer.backward()
    for part in (model.answer_prediction.projector, model.decoder, model.encoder.image_encoder):
        assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in part.parameters())
    assert all(parameter.grad is None for parameter in model.encoder.text_encoder.parameters())


@pytest.mark.parametrize("return_logits", [True, False])
def test_places_of_answer_tokens_given_beforehand_change_nothing(make_model, batch, return_logits):
    places = [place for place, label in enumerate(batch["labels"].flatten().tolist()) if label != -100]
    gradients = []
    for step in ({}, {"answer_places": torch.tensor(places)}):
        torch.manual_seed(0)
        model = make_model().train()
        model(**batch, training_step=step, return_logits=return_logits).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_accumulated_batches_add_up_to_one(make_model, batch):
    model = make_model(lambda_answer=0.25)
    halves = [
        {**batch, **{name: batch[name][rows] for name in ("input_ids", "attention_mask", "image_index", "labels")}}
        for rows in (slice(0, 2), slice(2, 4))
    ]
    counts = {
        "num_items_in_batch": (batch["labels"] != -100).sum(),
        "training_step": {"num_rows": 4, "num_answers": 4},
    }
    parts = [model(**half, **counts) for half in halves]
    whole = [model(**half) for half in halves]
    torch.testing.assert_close(sum(part.loss_answer for part in parts), sum(part.loss_answer for part in whole) / 2)


def test_a_misspelt_count_of_the_step_is_refused(make_model, batch):
    with pytest.raises(TypeError, match="training_step got an unknown argument 'num_row': give num_rows"):
        make_model()(**batch, training_step={"num_row": 4})


def test_ranking_equals_the_scores_of_the_training_loss(make_model, batch):
    """The state that ranks has read image and question alone: the answer given beside them changes nothing."""
    model = make_model(lambda_answer=0.25)
    seen = []
    handle = model.answer_prediction.projector.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0])
    )
    model(**batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_index")}
    answers = torch.tensor([[0, 5, 2], [0, 6, 2], [0, 7, 2]])
    embeds = model.encode_answers(answers)
    scores = model.rank_answers(embeds, **inputs)
    handle.remove()
    torch.testing.assert_close(seen[0], seen[1])
    assert scores.shape == (len(batch["input_ids"]), 3) and embeds.shape == (3, 64)
    features = model.get_image_features(inputs.pop("pixel_values"))
    torch.testing.assert_close(model.rank_answers(embeds, image_features=features, **inputs), scores)


def test_log_likelihoods_equal_the_answer_loss_of_each_pair(make_model, batch):
    model = make_model()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_index")}
    answers = torch.tensor([[0, 5, 2, -100], [0, 6, 9, 2], [0, 2, -100, -100]])
    likelihoods = model.answer_log_likelihoods(answers, batch_size=5, **inputs)
    for question in range(len(batch["input_ids"])):
        for answer in range(3):
            labels = torch.full((len(batch["input_ids"]), 4), -100)
            labels[question] = answers[answer]
            loss = model(**inputs, labels=labels).loss_ce * (labels != -100).sum()
            torch.testing.assert_close(likelihoods[question, answer], -loss, rtol=1e-4, atol=1e-4)


def test_a_saved_model_ranks_the_same(make_model, batch, tmp_path):
    model = make_model(lambda_answer=0.25)
    model.answer_prediction.targets.mean.normal_()
    model.save_pretrained(tmp_path)
    loaded = MMJepaForConditionalGeneration.from_pretrained(tmp_path)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_index")}
    answers = torch.tensor([[0, 5, 2], [0, 6, 2]])
    scores = [one.rank_answers(one.encode_answers(answers), **inputs) for one in (model, loaded)]
    torch.testing.assert_close(*scores)
