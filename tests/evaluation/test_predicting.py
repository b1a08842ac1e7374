import torch
from echo import vqa_data

from mmjepa.evaluation.predicting import predict


def test_a_prediction_about_an_image_that_cannot_be_read_is_none(make_model, processor):
    pixels = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    data = vqa_data(["is it?", "is it?"], ["yes", ""], [0, 1], pixels.numpy())
    data.unreadable = {1: "lost.png"}
    read, lost = predict(make_model(), processor, data, batch_size=2, max_new_tokens=4)
    assert isinstance(read["prediction"], str) and 0 < read["prediction_probability"] < 1
    assert all(lost[name] is None for name in ("prediction", "prediction_probability", "blank", "blank_probability"))
