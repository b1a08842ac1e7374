"""Which tiles of a slide show what somebody asks for."""

# ruff: noqa: E402
import os
import shutil

import pytest
import torch

REASON = "slides are read by openslide-python and written by tifffile, of the extras [slides] and [test]"
pytest.importorskip("openslide", reason=REASON)
pytest.importorskip("tifffile", reason=REASON)

from written_slides import GLASS, drawn_slide, smaller, write_pyramid

from mmjepa.data.pixels import normalize_pixels
from mmjepa.data.slides import TileReader
from mmjepa.encoder_mmjepa import MMJepaImageFeatures
from mmjepa.evaluation import feature_cache
from mmjepa.evaluation.searching_slides import search_slides

GLANDS = [(1, 1), (6, 3), (4, 5)]
TISSUE = [(2, 1), (3, 2), (4, 2), (4, 3), (5, 5), (6, 5), (7, 5)]
STATEMENT = "is a gland seen?"
MEASURED = {"accuracy": 0.9, "shuffled": 0.6, "gain": 0.3, "gain_low": 0.2, "gain_high": 0.4}


@pytest.fixture(scope="module")
def model(make_model):
    torch.manual_seed(0)
    return make_model(truth_measured=MEASURED)


@pytest.fixture
def slide(tmp_path):
    """A slide of 9 x 7 squares of 56 pixels, at 0.25 micrometres per pixel."""
    pixels = drawn_slide(9, 7, 56, TISSUE, GLANDS)
    write_pyramid(tmp_path / "one.tif", [pixels, smaller(pixels, 4), smaller(pixels, 16)])
    return tmp_path / "one.tif"


@pytest.fixture
def sees_glands(monkeypatch, model, processor):
    """The model now takes the share of bright pixels, which in tissue are the insides of glands, for its score."""
    statistics = (torch.tensor(getattr(processor.image_processor, f"image_{name}")) for name in ("mean", "std"))
    mean, std = (statistic.view(3, 1, 1) for statistic in statistics)

    def encode(pixel_values, **_):
        is_bright = ((pixel_values * std + mean).amin(dim=1) > 0.88).float().mean(dim=(1, 2))  # (I,)
        states = is_bright[:, None].expand(-1, model.config.text_config.d_model)
        return MMJepaImageFeatures(image_embeds=states, visual_tokens=states[:, None].repeat(1, 5, 1))

    def score(embeds, image_features):
        return image_features.image_embeds[:, :1].expand(-1, len(embeds))

    monkeypatch.setattr(model, "get_image_features", encode)
    monkeypatch.setattr(model, "score_statements", score)


def found_in(model, processor, slides, *statements, **options):
    options = {"taught": [], "num_workers": 0, **options}
    return list(search_slides(model, processor, slides, statements, **options))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_tiles_with_glands_come_first_at_their_places(model, processor, slide, sees_glands, workers):
    (result,) = found_in(model, processor, [slide], STATEMENT, num_workers=workers, batch_size=4)
    assert len(result.found.scores) == len(TISSUE) + len(GLANDS)
    best = [result.corners(row) for row in result.found.ranking[: len(GLANDS)]]
    assert sorted(best) == sorted((56 * column, 56 * row) for column, row in GLANDS)
    by_score = result.map_of(result.found.scores.numpy())
    worst_gland = min(by_score[row, column] for column, row in GLANDS)
    assert all(by_score[row, column] < worst_gland / 2 for column, row in TISSUE)


def test_probabilities_are_the_models_own(model, processor, slide):
    (result,) = found_in(model, processor, [slide], STATEMENT, "what is it? pink", negated=["is it blue?"])
    pixels = torch.stack([pixels for _, pixels, _ in TileReader(result.tiles)])
    with torch.inference_mode():
        embeds = model.encode_texts(**processor(text=result.found.statements, return_tensors="pt"))
        by_hand = model.score_statements(embeds, normalize_pixels(pixels, processor.image_processor))
    torch.testing.assert_close(result.found.probabilities, by_hand, atol=2e-3, rtol=0)
    first, second, third = result.found.probabilities.double().T
    torch.testing.assert_close(result.found.scores, first * second * (1 - third))


def test_a_tile_is_encoded_once_for_all_statements_and_again_only_at_another_scale(model, processor, slide, encoded):
    num_tiles = len(TISSUE) + len(GLANDS)
    first = found_in(model, processor, [slide], STATEMENT)[0].found
    assert sum(encoded) == num_tiles
    again = found_in(model, processor, [slide], STATEMENT)[0].found
    found_in(model, processor, [slide], "is necrosis seen?")
    assert sum(encoded) == num_tiles and torch.equal(first.scores, again.scores)
    all_tiles = found_in(model, processor, [slide], STATEMENT, tissue_share=0)[0].found
    assert sum(encoded) == len(all_tiles.scores) == 63
    coarse = found_in(model, processor, [slide], STATEMENT, mpp=1.0)[0].found
    assert sum(encoded) == 63 + len(coarse.scores)
    os.utime(slide, (1, 1))  # as if another slide were in its place
    found_in(model, processor, [slide], STATEMENT)
    assert sum(encoded) == 63 + len(coarse.scores) + num_tiles


def test_an_interrupted_search_goes_on_where_it_stopped(model, processor, slide, encoded, monkeypatch):
    add = feature_cache.FeatureCache.add

    def add_and_stop(self, *batch):
        add(self, *batch)
        if sum(encoded) >= 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(feature_cache.FeatureCache, "add", add_and_stop)
        with pytest.raises(KeyboardInterrupt):
            found_in(model, processor, [slide], STATEMENT, batch_size=2)
    (result,) = found_in(model, processor, [slide], STATEMENT, batch_size=2)
    assert sum(encoded) == len(TISSUE) + len(GLANDS)
    shutil.rmtree(feature_cache.cache_folder("features"))
    whole = found_in(model, processor, [slide], STATEMENT)[0].found.scores
    assert torch.allclose(whole, result.found.scores, rtol=0, atol=1e-6)  # batches of other sizes round otherwise


def test_tiles_are_ranked_by_their_likeness_to_an_image(model, processor, slide, image_file):
    (result,) = found_in(model, processor, [slide], like=image_file)
    assert result.found.score_name == "cosine" and len(set(result.found.scores.tolist())) > 1


def test_a_slide_that_can_not_be_read_is_said_and_the_others_are_searched(model, processor, slide, tmp_path):
    empty = drawn_slide(9, 7, 56, (), ())
    write_pyramid(tmp_path / "empty.tif", [empty, smaller(empty, 4)])
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    slides, said = [tmp_path / "bad.svs", slide, tmp_path / "empty.tif"], []
    (result,) = found_in(model, processor, slides, STATEMENT, say=said.append)
    assert result.tiles.path == slide
    left_out = [line for line in said if line.startswith("left out: ")]
    assert "bad.svs can't be read as a slide" in left_out[0] and "empty.tif is tissue" in left_out[1]
    with pytest.raises(ValueError, match=r"none of the 2 slides can be searched, such as: .*bad\.svs"):
        found_in(model, processor, [slides[0], slides[2]], STATEMENT, say=said.append)
    with pytest.raises(ValueError, match=r"^\S*bad\.svs can't be read as a slide"):
        found_in(model, processor, slides[:1], STATEMENT, say=said.append)


def test_a_damaged_tile_is_left_out_and_named(model, processor, tmp_path, encoded, monkeypatch):
    monkeypatch.setattr("mmjepa.data.slides.THUMBNAIL_SIDE", 70)  # a thumbnail is not made of the damaged level
    noise = torch.randint(0, 255, (280, 280, 3), dtype=torch.uint8).numpy()
    path = tmp_path / "one.tif"
    write_pyramid(path, [noise, smaller(noise, 4)], side=64, mpp=0.5)
    damaged = bytearray(path.read_bytes())
    damaged[2000:2100] = bytes(100)
    path.write_bytes(damaged)
    for _ in range(2):  # it is tried again
        (result,) = found_in(model, processor, [path], STATEMENT, tissue_share=0)
        # Of the tiles of 28 pixels, 9 read the damaged square of 64.
        assert len(result.found.unreadable) == 9 and len(result.found.scores) == 91
        assert "one.tif, tile 0" in next(iter(result.found.unreadable))
    assert sum(encoded) == 91


def test_a_slide_that_is_coarser_than_the_stated_scale_is_said(model, processor, slide):
    said: list[str] = []
    found_in(model, processor, [slide], STATEMENT, mpp=0.1, tissue_share=0.5, say=said.append)
    assert any("0.25 micrometres per pixel at its finest level: its tiles are enlarged" in line for line in said)


def test_glass_and_tissue_differ_in_what_is_bright():
    """The stand-in of these tests would find glands on bare glass: the background must be left out before it."""
    assert min(GLASS) / 255 > 0.88
