"""Attention maps checked: by the places that answers name, and by covering what was looked at."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmjepa.evaluation.answerer import Answerer
from mmjepa.experiments.attention_check import Looks, cover, look, main, place_table, probability_falls


def test_covered_patches_have_the_mean_colour_and_the_others_stay():
    images = torch.randn(2, 3, 8, 12)
    covered = cover(images, torch.tensor([[0], [5]]), grid=(2, 3))  # patches of 4 x 4
    for image, result, rows, columns in ((0, covered[0], (0, 4), (0, 4)), (1, covered[1], (4, 8), (8, 12))):
        expected = images[image].clone()
        expected[:, slice(*rows), slice(*columns)] = images[image].mean(dim=(1, 2))[:, None, None]
        torch.testing.assert_close(result, expected)


def test_the_right_ninth_is_counted_beside_chance_and_the_most_frequent_ninth():
    rows = [
        {"question": "where is it?", "answer": answer, "prediction": predicted, "image_id": number}
        for number, (answer, predicted) in enumerate(
            [("top", "top"), ("top", "bottom"), ("lower right", "lower right"), ("in the liver", "top")]
        )
    ] + [{"question": "what is at the top?", "answer": "top", "prediction": "top", "image_id": 0}]
    maps = torch.full((5, 3, 3), 0.01)
    for number, (row, column) in enumerate([(0, 1), (2, 1), (2, 2), (0, 0), (0, 1)]):
        maps[number, row, column] = 0.12
    table = {row.pop("where"): row for row in place_table(Looks(rows, np.ones(5), maps))}
    assert [table["all"][name] for name in ("questions", "right ninth first", "in %")] == ["3", "2", "66.7"]
    assert table["all"]["its share of the map, %"] == "41.7"  # 0.12, 0.01 and 0.12 of 0.20
    assert table["answered right"]["in %"] == "100.0" and table["answered wrong"]["in %"] == "0.0"
    assert table["a ninth at random"]["in %"] == "11.1"
    assert table["the ninth that is right most often"]["in %"] == "66.7"


def test_without_places_in_the_answers_there_is_no_table_of_places():
    row = {"question": "where is it?", "answer": "in the liver", "prediction": "top", "image_id": 0}
    assert place_table(Looks([row], np.ones(1), torch.ones(1, 3, 3))) == []


def test_the_fall_is_to_the_probability_about_the_covered_image(make_model, processor, data):
    model = make_model()
    model.generation_config.max_new_tokens = 4
    answerer = Answerer(model, processor, batch_size=7)
    looks = look(answerer, data)
    patches = torch.arange(16).expand(len(data), -1)  # all of them: one colour is left
    falls = probability_falls(answerer, data, looks, patches)
    for number in (0, 5, 23):
        row = looks.rows[number]
        labels = processor(answers=[row["prediction"]], return_tensors="pt")["labels"]
        picture = data.pixels[row["image_id"]]["pixels"].permute(1, 2, 0).numpy()
        inputs = processor(images=Image.fromarray(picture), text=row["question"], return_tensors="pt")
        before = model.answer_log_likelihoods(labels, **inputs).exp().item()
        inputs["pixel_values"] = inputs["pixel_values"].mean(dim=(2, 3), keepdim=True).expand(-1, -1, 28, 28)
        after = model.answer_log_likelihoods(labels, **inputs).exp().item()
        assert falls[number] == pytest.approx(before - after, abs=1e-5)
        assert looks.probabilities[number] == pytest.approx(before, abs=1e-5)


def test_a_saved_model_is_checked_on_a_split(saved_folder, slides, capsys):
    main([slides, "--model", saved_folder])
    said = capsys.readouterr().out
    assert "31 questions about 4 images" in said
    assert "| 2 of 16 patches |" in said and "| 4 of 16 patches |" in said and "most - random" in said


def test_a_model_that_looks_at_no_patches_and_a_split_without_questions_are_named(
    make_model, processor, data, saved_folder, slides
):
    with pytest.raises(ValueError, match="give one with visual_prefix patches"):
        look(Answerer(make_model(visual_prefix="pooled"), processor, 32), data)
    with pytest.raises(ValueError, match="nothing"):
        main([slides, "--model", saved_folder, "--split", "nothing"])
