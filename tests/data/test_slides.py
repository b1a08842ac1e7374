"""A slide is divided into tiles at a stated scale, and those without tissue are left out."""

# ruff: noqa: E402
import numpy as np
import pytest
from PIL import Image

REASON = "slides are read by openslide-python and written by tifffile, of the extras [slides] and [test]"
pytest.importorskip("openslide", reason=REASON)
pytest.importorskip("tifffile", reason=REASON)

from torch.utils.data import DataLoader
from written_slides import drawn_slide, smaller, write_pyramid

from mmjepa.data.errors import DataError
from mmjepa.data.slide_files import find_slides, is_slide, names_slides, shard_of
from mmjepa.data.slides import TileReader, find_tiles, otsu_threshold, tissue_shares

TISSUE = {(1, 1), (2, 1), (2, 2), (5, 3)}  # columns and rows of 56 pixels


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return drawn_slide(8, 5, 56, TISSUE, glands_at=())


@pytest.fixture(scope="module")
def pyramid(pixels, tmp_path_factory):
    """A slide of 0.25 micrometres per pixel, with a level of a quarter of its size that is all dark red."""
    path = tmp_path_factory.mktemp("slides") / "one.tif"
    red = np.full_like(smaller(pixels, 4), (120, 0, 0))
    write_pyramid(path, [pixels, red])
    return path


def test_the_tiles_with_tissue_are_found_at_their_places_in_pixels_of_level_0(pixels, tmp_path):
    write_pyramid(tmp_path / "one.tif", [pixels, smaller(pixels, 4)])
    tiles = find_tiles(tmp_path / "one.tif", side=28, mpp=0.5)
    assert tiles.width == 56 and tiles.mpp == 0.25
    expected = sorted(([56 * x, 56 * y] for x, y in TISSUE), key=lambda place: place[::-1])
    assert tiles.places.tolist() == expected


def test_all_tiles_cover_the_slide_and_the_last_ones_reach_beyond_it(pyramid):
    tiles = find_tiles(pyramid, side=60, mpp=0.25, tissue_share=0)
    assert len(tiles) == 8 * 5 and tiles.places.max(axis=0).tolist() == [420, 240]  # of 448 x 280 pixels
    image = np.asarray(TileReader(tiles).read(7))
    assert image.shape == (60, 60, 3) and (image[:, 28:] == 255).all() and image[:, :28].max() < 255


@pytest.mark.parametrize(("mpp", "level"), [(0.25, 0), (0.5, 0), (0.95, 0), (1.0, 1), (1.2, 1)])
def test_a_tile_comes_from_the_coarsest_level_that_is_fine_enough(pyramid, pixels, mpp, level):
    tiles = find_tiles(pyramid, side=28, mpp=mpp, tissue_share=0)
    number = next(n for n, place in enumerate(tiles.places.tolist()) if place == [tiles.width] * 2)
    _, read, fault = TileReader(tiles, [number])[0]
    assert fault == "" and read.shape == (3, 28, 28)
    if level == 1:
        assert (read.reshape(3, -1).T.numpy() == (120, 0, 0)).all()
    else:
        part = pixels[tiles.width : 2 * tiles.width, tiles.width : 2 * tiles.width]
        by_hand = np.asarray(Image.fromarray(part).resize((28, 28), Image.Resampling.BICUBIC))
        assert (read.permute(1, 2, 0).numpy() == by_hand).all()


def test_the_workers_of_a_loader_read_what_one_process_reads(pyramid):
    tiles = find_tiles(pyramid, side=28, mpp=0.5, tissue_share=0)
    alone, shared = (list(DataLoader(TileReader(tiles), 7, num_workers=number)) for number in (0, 2))
    assert len(alone) == len(shared) == 6
    for (numbers, one, _), (same_numbers, other, faults) in zip(alone, shared, strict=True):
        assert numbers.tolist() == same_numbers.tolist() and (one == other).all() and not any(faults)


def test_a_damaged_tile_has_a_fault_and_the_next_one_is_read(pixels, tmp_path):
    random = np.random.default_rng(0).integers(
        0, 255, pixels.shape, np.uint8
    )  # does not compress: its bytes are there
    path = tmp_path / "one.tif"
    write_pyramid(path, [random, smaller(pixels, 4)], side=64)
    tiles = find_tiles(path, side=64, mpp=0.25, tissue_share=0)
    whole = [reading[1] for reading in TileReader(tiles)]
    encoded = bytearray(path.read_bytes())
    encoded[2000:2100] = bytes(100)
    path.write_bytes(encoded)
    damaged = list(TileReader(tiles))
    assert damaged[0][2] and not any(fault for _, _, fault in damaged[1:])
    assert all((one == other[1]).all() for one, other in zip(whole[1:], damaged[1:], strict=True))


def test_the_scale_is_the_files_or_the_objectives_or_the_users(pixels, tmp_path):
    path = tmp_path / "one.tif"
    write_pyramid(path, [pixels, smaller(pixels, 4)], mpp=None)
    with pytest.raises(DataError, match=r"does not say how many micrometres a pixel has: give --slide_mpp"):
        find_tiles(path, side=28)
    assert find_tiles(path, side=28, slide_mpp=0.125).width == 112
    write_pyramid(path, [pixels, smaller(pixels, 4)], mpp=25400 / 72)
    with pytest.raises(DataError, match="but 352.8, which is none of a microscope: give --slide_mpp"):
        find_tiles(path, side=28)


def test_the_power_of_the_objective_tells_the_scale(monkeypatch, pyramid):
    from mmjepa.data import slides

    assert slides.stated_mpp({"openslide.objective-power": "40"}, pyramid) == 0.25
    both = {"openslide.objective-power": "20", "openslide.mpp-x": "0.2", "openslide.mpp-y": "0.3"}
    assert slides.stated_mpp(both, pyramid) == 0.25
    with pytest.raises(DataError, match="does not say"):
        slides.stated_mpp({"openslide.objective-power": "unknown"}, pyramid)


@pytest.mark.parametrize("color", [(255, 255, 255), (240, 241, 243), (0, 0, 0)])
def test_a_slide_without_tissue_is_an_error_and_all_its_tiles_can_be_read(tmp_path, color):
    noise = np.random.default_rng(0).integers(-4, 5, (300, 400, 3))
    pixels = (np.array(color) + noise).clip(0, 255).astype(np.uint8)
    path = tmp_path / "empty.tif"
    write_pyramid(path, [pixels, smaller(pixels, 2)])
    with pytest.raises(DataError, match="no tile of .*empty.tif is tissue by 10% or more"):
        find_tiles(path, side=28)
    assert len(find_tiles(path, side=28, tissue_share=0)) == 8 * 6


def test_a_slide_full_of_tissue_keeps_its_pale_half(tmp_path):
    half = np.full((280, 224, 3), (236, 186, 206), np.uint8)
    pixels = np.concatenate([half, np.full_like(half, (160, 60, 140))], axis=1)
    path = tmp_path / "full.tif"
    write_pyramid(path, [pixels, smaller(pixels, 4)])
    assert len(find_tiles(path, side=28)) == 8 * 5


def test_the_thumbnail_of_a_slide_without_small_levels_is_read_in_blocks(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (233, 410, 3), np.uint8)
    path = tmp_path / "one.tif"
    write_pyramid(path, [pixels])
    monkeypatch.setattr("mmjepa.data.slides.THUMBNAIL_SIDE", 140)
    monkeypatch.setattr("mmjepa.data.slides.BLOCK_SIDE", 50)
    tiles = find_tiles(path, side=28, mpp=0.25, tissue_share=0)
    assert tiles.thumbnail_scale == 3 and tiles.thumbnail.size == (137, 78)
    inside = np.s_[:77, :136]
    assert (np.asarray(tiles.thumbnail)[inside] == smaller(pixels, 3)[inside]).all()


def test_otsus_threshold_divides_two_classes():
    values = np.array([3, 4, 5, 5, 60, 70, 80], np.uint8)
    assert 5 <= otsu_threshold(values) < 60
    assert otsu_threshold(np.full(9, 7, np.uint8)) <= 7


def test_shares_of_tissue_are_those_of_the_pixels_that_a_square_touches():
    mask = np.zeros((6, 8), bool)
    mask[2:4, 2:5] = True
    places = np.array([[0.0, 0.0], [2.0, 2.0], [1.5, 1.5], [6.0, 4.0]])
    assert tissue_shares(mask, places, 2.0).tolist() == [0, 1, pytest.approx(4 / 9), 0]


@pytest.fixture
def files(tmp_path, pixels, monkeypatch):
    """A folder of a pyramid, a slide by its name, small TIFF files, a picture and a list of slides."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    write_pyramid(tmp_path / "sub" / "pyramid.tif", [pixels, smaller(pixels, 4)])
    (tmp_path / "scan.svs").write_bytes(b"not read here")
    Image.fromarray(pixels).save(tmp_path / "plain.tif")
    write_pyramid(tmp_path / "tiled.tif", [pixels])
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    (tmp_path / "sub" / "list.txt").write_text("pyramid.tif\n\n../scan.svs\n")
    return tmp_path


def test_pyramids_and_files_with_names_of_slides_are_slides_and_other_images_are_not(files):
    found = {path.name for path in files.rglob("*.*") if is_slide(path)}
    assert found == {"pyramid.tif", "scan.svs"}
    (files / "sub" / "scan.svs").write_bytes(b"")
    assert [str(path) for path in find_slides(["."])] == ["scan.svs", "sub/pyramid.tif", "sub/scan.svs"]


def test_slides_are_named_by_files_folders_and_lists_each_once(files):
    paths = find_slides(["sub/list.txt", "sub", "scan.svs"])
    assert [path.name for path in paths] == ["pyramid.tif", "scan.svs"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.svs", "there is no file none.svs"),
        ("none.txt", "there is no file none.txt"),
        ("photo.jpg", "photo.jpg is no slide: give .bif"),
        ("tiled.tif", "tiled.tif is no slide"),
    ],
)
def test_what_is_no_slide_is_named(files, source, message):
    with pytest.raises(DataError, match=message):
        find_slides([source])
    (files / "bad.txt").write_text(source)
    with pytest.raises(DataError, match=message.replace(source, rf".*{source}")):
        find_slides(["bad.txt"])


def test_words_that_name_slides_are_told_from_statements(files):
    words = ["scan.svs", "mistyped.svs", "sub", ".", "sub/list.txt", "sub/pyramid.tif"]
    assert all(map(names_slides, words))
    assert not any(map(names_slides, ["is necrosis seen?", "photo.jpg", "plain.tif", "a" * 5000, ""]))


def test_a_data_set_whose_tables_name_images_is_no_folder_of_slides(files):
    (files / "train.csv").write_text("image,question,answer\nphoto.jpg,is it?,yes\n")
    assert not names_slides(".")


def test_shards_divide_the_slides(files):
    slides = [files / f"{number}.svs" for number in range(7)]
    parts = [shard_of(slides, f"{number}/3") for number in (1, 2, 3)]
    assert sorted(sum(parts, [])) == slides and [len(part) for part in parts] == [3, 2, 2]
    assert shard_of(slides[:1], "2/8") == []
    for wrong in ("0/3", "4/3", "1", "a/b", "-1/3"):
        with pytest.raises(ValueError, match="such as 2/8"):
            shard_of(slides, wrong)
