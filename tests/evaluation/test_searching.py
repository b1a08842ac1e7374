"""Which images of a folder show what somebody asks for."""

import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mmjepa.data.image_files import find_images
from mmjepa.evaluation import feature_cache, searching
from mmjepa.evaluation.searching import combined, search, shortlist

STATEMENTS = ["is necrosis seen?", "where is the tumour? in the liver"]
MEASURED = {"accuracy": 0.9, "shuffled": 0.6, "gain": 0.3, "gain_low": 0.2, "gain_high": 0.4}


@pytest.fixture(scope="module")
def model(make_model):
    torch.manual_seed(0)
    return make_model(truth_measured=MEASURED)


@pytest.fixture
def folder(tmp_path):
    """Seven images of noise, in two folders; a copy of one of them, and a file that is no image."""
    random = np.random.default_rng(0)
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for number in range(7):
        pixels = random.integers(0, 255, (30, 40, 3), np.uint8) // (1 + number)
        Image.fromarray(pixels).save(tmp_path / "images" / ("sub" if number > 4 else "") / f"{number}.png")
    shutil.copy(tmp_path / "images" / "1.png", tmp_path / "images" / "copy.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    return tmp_path / "images"


def scores_by_hand(model, processor, file, statements) -> torch.Tensor:
    with torch.inference_mode():
        embeds = model.encode_texts(**processor(text=statements, return_tensors="pt"))
        return model.score_statements(embeds, processor(images=str(file), return_tensors="pt")["pixel_values"])[0]


def found_by(model, processor, folder, *statements, **options):
    return search(model, processor, find_images(str(folder)), statements, taught=[], **options)


def test_images_are_ranked_by_the_models_own_probabilities(model, processor, folder):
    result = found_by(model, processor, folder, STATEMENTS[0])
    for name, score, probabilities in zip(result.names, result.scores, result.probabilities, strict=True):
        torch.testing.assert_close(
            probabilities, scores_by_hand(model, processor, name, STATEMENTS[:1]), atol=2e-3, rtol=0
        )
        assert score == pytest.approx(probabilities.item())
    scores = result.scores[result.ranking].tolist()
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 7


def test_copies_are_one_image_and_bad_files_are_named(model, processor, folder):
    result = found_by(model, processor, folder, *STATEMENTS)
    assert sorted(name.rpartition("images/")[2] for name in result.names) == sorted(
        [*(f"{number}.png" for number in range(5)), "sub/5.png", "sub/6.png"]
    )
    assert result.num_copies == 1
    ((name, fault),) = result.unreadable.items()
    assert name.endswith("broken.png") and "no image in a format" in fault


def test_probabilities_are_combined_as_of_independent_statements():
    probabilities = torch.tensor([[0.9, 0.5], [0.2, 0.1]])
    plain, second_denied = torch.tensor([False, False]), torch.tensor([False, True])
    assert combined(probabilities, plain, any_of=False).tolist() == pytest.approx([0.45, 0.02])
    assert combined(probabilities, plain, any_of=True).tolist() == pytest.approx([0.95, 0.28])
    assert combined(probabilities, second_denied, any_of=False).tolist() == pytest.approx([0.45, 0.18])
    assert combined(probabilities, second_denied, any_of=True).tolist() == pytest.approx([0.95, 0.92])


def test_a_statement_that_should_be_false_turns_the_ranking_round(model, processor, folder):
    wanted = found_by(model, processor, folder, STATEMENTS[0])
    unwanted = found_by(model, processor, folder, negated=STATEMENTS[:1])
    assert [unwanted.names[row] for row in unwanted.ranking] == [wanted.names[row] for row in wanted.ranking[::-1]]


def test_an_image_finds_what_is_like_it_and_itself_first(model, processor, folder):
    file = str(folder / "sub" / "6.png")
    result = found_by(model, processor, folder, like=file)
    assert result.names[result.ranking[0]] == file
    with torch.inference_mode():
        vectors = [
            F.normalize(model.get_image_features(**processor(images=name, return_tensors="pt")).image_embeds, dim=-1)
            for name in (file, *result.names)
        ]
    cosines = torch.cat(vectors[1:]) @ vectors[0][0]
    torch.testing.assert_close(result.scores, cosines, atol=2e-3, rtol=0)


def test_an_image_is_encoded_once_and_again_only_if_it_changes(model, processor, folder, encoded):
    first = found_by(model, processor, folder, STATEMENTS[0])
    assert sum(encoded) == 7
    again = found_by(model, processor, folder, STATEMENTS[0])
    assert sum(encoded) == 7 and torch.equal(first.scores, again.scores)
    (folder / "new").mkdir()
    shutil.move(folder / "0.png", folder / "new" / "0.png")  # the same image in another place
    Image.new("RGB", (30, 40), "red").save(folder / "2.png")
    changed = found_by(model, processor, folder, STATEMENTS[0])
    assert sum(encoded) == 8
    row = changed.names.index(str(folder / "2.png"))
    by_hand = scores_by_hand(model, processor, folder / "2.png", STATEMENTS[:1])
    torch.testing.assert_close(changed.probabilities[row], by_hand, atol=2e-3, rtol=0)


def test_another_model_does_not_read_the_features_of_the_first(model, make_model, processor, folder):
    found_by(model, processor, folder, STATEMENTS[0])
    torch.manual_seed(1)
    other = make_model(truth_measured=MEASURED)
    result = found_by(other, processor, folder, STATEMENTS[0])
    by_hand = scores_by_hand(other, processor, result.names[0], STATEMENTS[:1])
    torch.testing.assert_close(result.probabilities[0], by_hand, atol=2e-3, rtol=0)


def test_an_interrupted_search_goes_on_where_it_stopped(model, processor, folder, encoded, monkeypatch):
    found = find_images(str(folder))
    add = feature_cache.FeatureCache.add

    def add_and_stop(self, *batch):
        add(self, *batch)
        if sum(encoded) >= 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(feature_cache.FeatureCache, "add", add_and_stop)
        with pytest.raises(KeyboardInterrupt):
            search(model, processor, found, STATEMENTS, taught=[], batch_size=2)
    assert sum(encoded) == 4
    result = search(model, processor, found, STATEMENTS, taught=[], batch_size=2)
    assert sum(encoded) == 7
    fresh = feature_cache.cache_folder("features")
    shutil.rmtree(fresh)
    assert torch.equal(search(model, processor, found, STATEMENTS, taught=[], batch_size=2).scores, result.scores)


def test_a_file_of_the_cache_that_is_cut_off_is_made_again(model, processor, folder, encoded, features_cache):
    first = found_by(model, processor, folder, STATEMENTS[0], batch_size=4)
    with_image = {
        path: path.read_bytes() for path in features_cache.rglob("*.safetensors") if path.stat().st_size > 2000
    }
    assert len(with_image) > 1
    for path, content in with_image.items():
        before = sum(encoded)
        path.write_bytes(content[:-100])
        again = found_by(model, processor, folder, STATEMENTS[0], batch_size=4)
        assert before < sum(encoded) < before + 7
        torch.testing.assert_close(again.scores, first.scores, atol=1e-4, rtol=0)


def test_where_tokens_take_too_much_memory_the_vectors_choose_what_is_scored(model, processor, folder, monkeypatch):
    everything = found_by(model, processor, folder, STATEMENTS[0])
    size = 2 * model.config.num_image_tokens * model.config.text_config.d_model
    monkeypatch.setattr(searching, "TOKEN_LIMIT", 3 * size)
    shortlisted = found_by(model, processor, folder, STATEMENTS[0])
    with torch.inference_mode():
        statement = model.encode_texts(**processor(text=STATEMENTS[:1], return_tensors="pt"))[0]
        inputs = [processor(images=name, return_tensors="pt") for name in everything.names]
        cosines = [
            F.cosine_similarity(model.get_image_features(**one).image_embeds[0], statement, dim=0) for one in inputs
        ]
    best = torch.stack(cosines).topk(3).indices.tolist()
    assert set(shortlisted.names) == {everything.names[row] for row in best}
    for name, score in zip(shortlisted.names, shortlisted.scores, strict=True):
        assert score == pytest.approx(everything.scores[everything.names.index(name)].item(), abs=1e-5)
    assert len(found_by(model, processor, folder, STATEMENTS[0], every_image=True).names) == 7


def test_the_shortlist_of_several_statements_has_what_fits_all_or_any_of_them():
    cosines = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.0, 0.0]])
    plain = torch.tensor([False, False])
    assert shortlist(cosines, plain, any_of=False, count=1) == [1]
    assert shortlist(cosines, plain, any_of=True, count=2) == [0, 2]
    assert shortlist(cosines, torch.tensor([False, True]), any_of=False, count=1) == [0]


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (None, "was not measured"),
        ({**MEASURED, "accuracy": 0.61, "gain_low": -0.02}, "in 61.0 % of cases, with other images in 60.0 %"),
        (MEASURED, None),
    ],
)
def test_what_may_be_chance_is_said_before_anything_is_encoded(
    make_model, processor, folder, measured, message, caplog, monkeypatch
):
    model = make_model(truth_measured=measured)
    monkeypatch.setattr(model, "get_image_features", lambda *_: pytest.fail("an image was encoded"))
    with caplog.at_level(logging.WARNING, "mmjepa"), pytest.raises(pytest.fail.Exception):
        found_by(model, processor, folder, STATEMENTS[0])
    said = [record.getMessage() for record in caplog.records]
    assert any("may be chance" in line for line in said) == (message is not None)
    assert message is None or message in said[0]


@pytest.mark.parametrize(
    ("statements", "options", "fields", "message"),
    [
        ([], {}, {}, "give at least one"),
        (["is it?", " "], {}, {}, "none that is empty"),
        (["is it?"], {"negated": ["is it?"]}, {}, "can't be both true and false"),
        (["is it?"], {"like": "one.png"}, {}, "give one of them"),
        (["is it?"], {}, {"truth_weight": 0.0}, "truth_weight is 0"),
    ],
)
def test_what_can_not_be_searched_for_is_refused(make_model, processor, folder, statements, options, fields, message):
    with pytest.raises(ValueError, match=message):
        found_by(make_model(**fields), processor, folder, *statements, **options)


def test_a_folder_of_which_nothing_can_be_read_is_an_error_with_the_reason(model, processor, folder):
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the 9 images can be read, such as .*0\.png \(it is no image"):
        found_by(model, processor, folder, STATEMENTS[0])
