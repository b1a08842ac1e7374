"""The configuration: its errors, and that it is loaded as it was saved."""

import pytest

from mmjepa.configuration_mmjepa import MMJepaConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("visual_prefix", "cls"),
        ("image_pooling", "max"),
        ("alignment_loss", "mse"),
        ("alignment_target", "raw"),
        ("num_image_tokens", 0),
        ("num_image_tokens", 2.5),
        ("lambda_align", -0.1),
        ("lambda_ce", float("nan")),
        ("initializer_factor", 0),
        ("vision_config", {"model_type": "vit"}),
        ("text_config", {"model_type": "t5"}),
    ],
)
def test_config_errors_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        MMJepaConfig(**{field: value})


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
