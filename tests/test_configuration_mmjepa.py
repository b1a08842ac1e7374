"""The configuration: its errors, and that it is loaded as it was saved."""

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tiny import VISION

from mmjepa.configuration_mmjepa import MMJepaConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("visual_prefix", "cls"),
        ("image_pooling", "max"),
        ("alignment_loss", "mse"),
        ("alignment_target", "raw"),
        ("num_image_tokens", 0),
        ("lambda_align", -0.1),
        ("lambda_ce", float("nan")),
        ("initializer_factor", 0),
        ("rank_threshold", float("nan")),
        ("vision_config", {"model_type": "clip"}),
        ("text_config", {"model_type": "t5"}),
    ],
)
def test_config_errors_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        MMJepaConfig(**{field: value})


def test_the_vision_configuration_says_which_image_encoder_it_is_of_and_without_is_of_dinov2(make_config, tmp_path):
    classes = {None: "Dinov2", "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}
    classes |= {"dinov3_vit": "DINOv3ViT", "vit": "ViT"}
    for model_type, name in classes.items():
        make_config(vision_config=VISION | ({"model_type": model_type} if model_type else {})).save_pretrained(
            tmp_path
        )
        loaded = MMJepaConfig.from_pretrained(tmp_path).vision_config
        assert type(loaded).__name__ == f"{name}Config" and loaded.hidden_size == VISION["hidden_size"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vision_config", "facebook/dinov2-base"),
        ("num_image_tokens", 2.5),
        ("num_image_tokens", True),
        ("num_image_tokens", "8"),
        ("num_image_tokens", None),
        ("visual_prefix", None),
        ("aligned_token", 3),
        ("aligned_token", 1),
        ("image_pooling", 1),
        ("project_image", "no"),
        ("alignment_target", True),
        ("lambda_align", "0.5"),
        ("lambda_ce", True),
        ("lambda_answer", None),
        ("predict_answer", "yes"),
        ("rank_threshold", "high"),
        ("tie_word_embeddings", 1),
        ("initializer_factor", "1"),
        ("is_encoder_decoder", "true"),
    ],
)
def test_a_value_of_another_type_is_refused_when_made_loaded_and_set(make_config, field, value):
    config = make_config()
    for give in (
        lambda: MMJepaConfig(**{field: value}),
        lambda: MMJepaConfig.from_dict(config.to_dict(), **{field: value}),
        lambda: setattr(config, field, value),
    ):
        with pytest.raises(StrictDataclassFieldValidationError, match=f"(?s){field}.*{type(value).__name__}"):
            give()


def test_whole_numbers_are_weights_of_losses_too():
    assert MMJepaConfig(lambda_align=1, lambda_answer=0, rank_threshold=1).lambda_align == 1


@pytest.mark.parametrize(
    ("field", "value"), [("visual_prefix", "cls"), ("lambda_align", -1.0), ("num_image_tokens", 0)]
)
def test_a_value_given_where_a_configuration_is_loaded_is_checked(make_config, tmp_path, field, value):
    make_config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=field):
        MMJepaConfig.from_pretrained(tmp_path, **{field: value})


def test_config_round_trips_with_its_parts_as_dicts_or_objects(make_config, tmp_path):
    config = make_config(visual_prefix="pooled", num_image_tokens=5)
    config.save_pretrained(tmp_path)
    loaded = MMJepaConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.text_config.d_model == config.text_config.d_model


def test_a_model_with_the_old_visual_tokens_is_refused_in_one_line(make_config):
    saved = make_config().to_dict() | {"position_sharpness": 6.0}
    with pytest.raises(ValueError, match="read only a part of its images; train it again.$"):
        MMJepaConfig.from_dict(saved)
    assert MMJepaConfig.from_dict(saved | {"visual_prefix": "pooled"}).visual_prefix == "pooled"
