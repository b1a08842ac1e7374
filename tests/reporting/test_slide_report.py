"""What is written about slides: tables, pictures, shapes and a page."""

# ruff: noqa: E402
import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

REASON = "slides are read by openslide-python and written by tifffile, of the extras [slides] and [test]"
pytest.importorskip("openslide", reason=REASON)
pytest.importorskip("tifffile", reason=REASON)

from written_slides import drawn_slide, smaller, write_pyramid

from mmjepa.data.slides import find_tiles
from mmjepa.evaluation.searching import SearchResult
from mmjepa.evaluation.searching_slides import SlideResult
from mmjepa.reporting.geojson import write_geojson
from mmjepa.reporting.heat_map import heat_map
from mmjepa.reporting.slide_report import SlideReport, file_names

TISSUE = [(1, 1), (2, 1), (0, 2)]
STATEMENT = "is a <gland> seen?"


@pytest.fixture
def make_result(tmp_path):
    """A function that makes a result of a slide of 4 x 3 tiles of 56 pixels, with a score for each of three tiles."""

    def make(name: str, scores: list[float], statements=(STATEMENT,), unreadable=()) -> SlideResult:
        path = tmp_path / name
        pixels = drawn_slide(4, 3, 56, TISSUE, ())[:, :200]  # the last column is cut off
        write_pyramid(path, [pixels, smaller(pixels, 4)])
        tiles = find_tiles(path, side=28, mpp=0.5)
        places = [number for number in range(3) if number not in unreadable]
        probabilities = torch.tensor(scores)[places, None].expand(-1, len(statements))
        names = [f"{name}, tile {number}" for number in range(3)]
        found = SearchResult(
            title=" and ".join(statements) or "images like one.png",
            places=places,
            names=[names[place] for place in places],
            scores=torch.tensor(scores)[places],
            statements=list(statements),
            negated=set(),
            probabilities=probabilities,
            unreadable={names[number]: "it is damaged" for number in unreadable},
        )
        return SlideResult(name, tiles, found)

    return make


def test_geojson_has_qupaths_squares_classes_and_measurements(make_result, tmp_path):
    write_geojson(tmp_path / "one.geojson", make_result("one.tif", [0.25, 0.75, 0.5]))
    shapes = json.loads((tmp_path / "one.geojson").read_text())
    assert shapes["type"] == "FeatureCollection" and len(shapes["features"]) == 3
    first, second, third = shapes["features"]
    assert second == {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[112, 56], [168, 56], [168, 112], [112, 112], [112, 56]]]},
        "properties": {
            "objectType": "tile",
            "name": "1",
            "measurements": {"probability": 0.75, STATEMENT: 0.75},
            "classification": {"name": STATEMENT, "color": [215, 48, 39]},
        },
    }
    classes = [feature["properties"]["classification"]["name"] for feature in (first, third)]
    assert classes == ["Other", "Other"]


def test_geojson_counts_from_where_the_scan_begins_as_qupath_does(make_result, tmp_path):
    result = make_result("one.tif", [0.1, 0.2, 0.3], statements=())
    object.__setattr__(result.tiles, "origin", (10, 20))
    write_geojson(tmp_path / "one.geojson", result)
    first = json.loads((tmp_path / "one.geojson").read_text())["features"][0]
    assert first["geometry"]["coordinates"][0][0] == [46, 36]
    assert set(first["properties"]) == {"objectType", "name", "measurements"}


def test_the_heat_map_colours_the_tiles_and_leaves_glass_as_it_is(make_result):
    result = make_result("one.tif", [0.0, 1.0, 0.5])
    picture, thumbnail = np.asarray(heat_map(result)).astype(int), np.asarray(result.tiles.thumbnail).astype(int)
    assert picture.shape == thumbnail.shape == (168, 200, 3)
    is_glass = np.ones((168, 200), bool)
    for column, row in TISSUE:
        is_glass[56 * row : 56 * row + 56, 56 * column : 56 * column + 56] = False
    assert (picture[is_glass] == thumbnail[is_glass]).all()
    for (column, row), color in zip(TISSUE, [(13, 8, 135), (240, 249, 33)], strict=False):  # the ends of plasma
        part = np.s_[56 * row : 56 * row + 56, 56 * column : 56 * column + 56]
        assert abs(picture[part] - (thumbnail[part] + color) / 2).max() <= 1.5


def test_the_heat_map_of_cosines_goes_from_the_lowest_to_the_highest(make_result):
    low, high = (heat_map(make_result("one.tif", scores, statements=())) for scores in ([0.1, 0.2, 0.1], [1, 2, 1]))
    assert low.tobytes() == high.tobytes()


def report_of(tmp_path, *results, top=4) -> SlideReport:
    files = {"table": tmp_path / "found.csv", "page": tmp_path / "found.html"}
    folders = {"heat_maps": tmp_path, "shapes": tmp_path}
    report = SlideReport(file_names([result.tiles.path for result in results]), top, **files, **folders)
    for result in results:
        report.add(result)
    return report


def test_the_best_tiles_of_all_slides_are_shown_with_their_places(make_result, tmp_path):
    results = make_result("one.tif", [0.1, 0.9, 0.2]), make_result("two.tif", [0.5, 0.3, 0.95])
    report = report_of(tmp_path, *results)
    lines = [line.split() for line in report.text().splitlines()]
    assert lines[2] == ["rank", "probability", "tile", "x", "y", "width", "slide"]
    assert [line[3:] for line in lines[3:7]] == [
        ["2", "0", "112", "56", "two.tif"],
        ["1", "112", "56", "56", "one.tif"],
        ["0", "56", "56", "56", "two.tif"],
        ["1", "112", "56", "56", "two.tif"],
    ]
    assert "one.tif: 3 tiles of tissue, 28 pixels wide at 0.5 µm per pixel; in 1 of them this is" in report.text()
    said = report.json()
    assert [tile["slide"] for tile in said["tiles"]] == ["two.tif", "one.tif", "two.tif", "two.tif"]
    assert said["tiles"][0]["y"] == 112 and said["tiles"][0]["rank"] == 1
    assert said["slides"][1] == {"slide": "two.tif", "num_tiles": 3, "num_unreadable": 0}
    json.dumps(said)


def test_the_table_has_every_tile_of_every_slide(make_result, tmp_path):
    statements = (STATEMENT, "is it pink?")
    results = (
        make_result("one.tif", [0.1, 0.9, 0.2], statements),
        make_result("two.tif", [0.5, 0.3, 0.95], statements, unreadable=[1]),
    )
    report = report_of(tmp_path, *results)
    with open(tmp_path / "found.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["slide", "tile", "x", "y", "width", "combined", *statements] and len(table) == 6
    assert [(row["slide"], row["tile"], row["x"], row["y"], row["width"]) for row in table[1:4]] == [
        ("one.tif", "1", "112", "56", "56"),
        ("one.tif", "2", "0", "112", "56"),
        ("two.tif", "0", "56", "56", "56"),
    ]
    assert [row["is it pink?"] for row in table] == ["0.100000", "0.900000", "0.200000", "0.500000", "", "0.950000"]
    assert "of its tiles 1 can't be read, such as two.tif, tile 1: it is damaged" in report.text()


def test_the_page_shows_heat_maps_and_tiles_and_needs_no_other_file(make_result, tmp_path):
    results = make_result("one.tif", [0.1, 0.9, 0.2]), make_result("two.tif", [0.01, 0.03, 0.05])
    report = report_of(tmp_path, *results, top=2)
    report.write_page()
    page = (tmp_path / "found.html").read_text()
    sources = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert len(sources) == 3 and all(source.startswith("data:image/jpeg") for source in sources)
    assert "one.tif, tile 1" in page and "two.tif: dark blue" not in page  # none of its tiles is shown
    assert "&lt;gland&gt;" in page and "<gland>" not in page
    for name in ("one", "two"):
        assert Image.open(tmp_path / f"{name}.png").size == (200, 168)
        assert len(json.loads((tmp_path / f"{name}.geojson").read_text())["features"]) == 3


def test_files_of_slides_of_one_name_have_numbers(tmp_path):
    slides = [tmp_path / folder / "one.svs" for folder in "ab"] + [tmp_path / "two.svs"]
    assert list(file_names(slides).values()) == ["one", "one_2", "two"]
