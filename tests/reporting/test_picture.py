import numpy as np
import pytest
import torch
from echo import CharacterProcessor, EchoModel, echo_data
from PIL import Image

from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.reporting.picture import draw_answers, draw_attention, with_attention


@pytest.fixture
def data():
    return echo_data()


def test_the_picture_shows_answers_that_hold_formula_signs(data, tmp_path):
    _, answers = evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=4)
    answers = [{**row, "prediction": "$^^$"} for row in answers]
    draw_answers(tmp_path / "answers.png", data, answers, image_count=2)
    with Image.open(tmp_path / "answers.png") as picture:
        assert picture.width > 300 and len(picture.convert("RGB").getcolors(1 << 24)) > 2


def test_colour_is_left_where_the_decoder_looked():
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pixels[0] = 200  # red
    attention = torch.zeros(2, 2)
    attention[0, 1] = 0.3
    shown = with_attention(pixels, attention).float()
    assert shown[0, 0, 7] - shown[1, 0, 7] > 190 and shown[0, 7, 0] == shown[1, 7, 0]


@pytest.mark.parametrize(("crops", "seen"), [(True, slice(30, 90)), (False, slice(0, 120))])
def test_a_map_lies_over_what_the_model_sees_of_the_image(crops, seen, image_processor, monkeypatch):
    """Cropped, it is the middle square of a picture of 120 x 60 pixels. Looked at everywhere, that is in colour."""
    monkeypatch.setattr(image_processor, "do_center_crop", crops)
    picture = Image.new("RGB", (120, 60), (250, 0, 0))
    drawn = np.asarray(draw_attention(picture, torch.full((4, 4), 0.02), image_processor))  # (60, 120, 3)
    red = (drawn == (250, 0, 0)).all(axis=-1)
    assert red[:, seen].all() and red.sum() == 60 * (seen.stop - seen.start)
