"""What was found in slides, written slide by slide; the best tiles of all are kept for the end."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.slides import TileReader
from ..evaluation.searching_slides import SlideResult
from .geojson import write_geojson
from .heat_map import heat_map
from .html import image_url
from .search_page import write_page
from .search_text import asked_json, found_rows, rows_text

HEAT_MAP_SIDE = 1000  # pixels, on the page
PLACE = ("tile", "x", "y", "width", "slide")  # of a tile, in rows and tables


class SlideReport:
    """Writes the files that were asked for, and holds the best `top` tiles.

    Args:
        names: of the files of each slide, without an ending.
        table: a CSV file of all tiles, or None; the others likewise.
        page: an HTML file of heat maps and of the best tiles.
        heat_maps: a folder of PNG files, one of each slide.
        shapes: a folder of GeoJSON files, one of each slide.
    """

    def __init__(
        self,
        names: dict[Path, str],
        top: int,
        table: Path | None = None,
        page: Path | None = None,
        heat_maps: Path | None = None,
        shapes: Path | None = None,
    ):
        self.names, self.top = names, top
        self.table, self.page, self.heat_maps, self.shapes = table, page, heat_maps, shapes
        self.rows: list[dict[str, Any]] = []  # of the best tiles
        self.lines: list[str] = []  # about each slide
        self.slides: list[dict[str, Any]] = []  # the same, in numbers
        self.pictures: dict[str, str] = {}  # slide -> its heat map
        self.last: SlideResult | None = None

    def add(self, result: SlideResult) -> None:
        """Writes what was found in one slide."""
        path, is_first = result.tiles.path, self.last is None
        if self.table is not None:
            write_tiles(self.table, result, is_first)
        if self.shapes is not None:
            write_geojson(self.shapes / f"{self.names[path]}.geojson", result)
        if self.heat_maps is not None or self.page is not None:
            picture = heat_map(result)
            if self.heat_maps is not None:
                picture.save(self.heat_maps / f"{self.names[path]}.png")
            if self.page is not None:
                self.pictures[result.name] = image_url(picture, HEAT_MAP_SIDE)
        score = result.found.score_name
        rows = self.rows + tile_rows(result, self.top)
        self.rows = sorted(rows, key=lambda row: -row[score])[: self.top]
        if self.page is not None:
            add_pictures(self.rows, result)
        self.lines += slide_lines(result)
        numbers = {"num_tiles": len(result.tiles), "num_unreadable": len(result.found.unreadable)}
        self.slides.append({"slide": result.name, **numbers})
        self.last = result

    def text(self) -> str:
        """The best tiles of all slides, then a line for each slide."""
        return "\n".join([rows_text(self.last.found, self._ranked(), PLACE), "", *self.lines])

    def json(self) -> dict[str, Any]:
        """What was asked and the best tiles."""
        rows = [{name: value for name, value in row.items() if name != "picture"} for row in self._ranked()]
        return asked_json(self.last.found) | {"slides": self.slides, "tiles": rows}

    def write_page(self) -> None:
        """Writes the page: the best tiles, and the heat maps of the slides that have one of them."""
        shown = {row["slide"] for row in self.rows}
        pictures = {name: picture for name, picture in self.pictures.items() if name in shown}
        rows = [row | {"image": f"{row['slide']}, tile {row['tile']}"} for row in self._ranked()]
        found = self.last.found
        write_page(self.page, found, rows, [*found.notes, *self.lines], pictures)

    def _ranked(self) -> list[dict[str, Any]]:
        return [row | {"rank": rank} for rank, row in enumerate(self.rows, start=1)]


def tile_rows(result: SlideResult, top: int) -> list[dict[str, Any]]:
    """The best `top` tiles of a slide, as `found_rows` gives images, with their places in the slide."""
    found = result.found
    rows = found_rows(found, top)
    for row, place in zip(rows, found.ranking, strict=False):
        del row["image"]
        values = (found.places[place], *result.corners(place), result.tiles.width, result.name)
        row |= zip(PLACE, values, strict=True)
    return rows


def add_pictures(rows: Sequence[dict[str, Any]], result: SlideResult) -> None:
    """Adds to the rows of a slide the pictures of their tiles."""
    reader = TileReader(result.tiles)
    for row in rows:
        if row["slide"] == result.name and "picture" not in row:
            row["picture"] = image_url(reader.read(row["tile"]))


def slide_lines(result: SlideResult) -> list[str]:
    """How many tiles of a slide were searched, at which scale, and how many of them show what was asked."""
    tiles, found = result.tiles, result.found
    scale = tiles.mpp * tiles.width / tiles.side
    line = f"{result.name}: {len(tiles)} tiles of tissue, {tiles.side} pixels wide at {scale:.3g} µm per pixel"
    if found.statements:
        line += f"; in {int((found.scores > 0.5).sum())} of them this is more probably true than false"
    lines = [f"{line}."]
    if found.unreadable:
        name, fault = next(iter(found.unreadable.items()))
        lines.append(f"  of its tiles {len(found.unreadable)} can't be read, such as {name}: {fault}")
    return lines


def write_tiles(path: Path, result: SlideResult, is_first: bool) -> None:
    """Writes all tiles of a slide to a CSV file, or appends them: their places, and the probability of each statement.

    With several statements there is a column `combined` too. A tile that can't be read has empty cells.
    """
    found, several = result.found, len(result.found.statements) > 1
    header = ["slide", "tile", "x", "y", "width", *(["combined"] if several else [])]
    header += found.statements or ["cosine"]
    row_of = {number: row for row, number in enumerate(found.places)}
    with path.open("w" if is_first else "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_first:
            writer.writerow(header)
        for number, (x, y) in enumerate(result.tiles.places.tolist()):
            numbers: list[float] = []
            if (row := row_of.get(number)) is not None:
                numbers += [found.scores[row].item()] if several or not found.statements else []
                numbers += found.probabilities[row].tolist()
            cells = [f"{number:.6f}" for number in numbers] or [""] * (len(header) - 5)
            writer.writerow([result.name, number, x, y, result.tiles.width, *cells])


def file_names(slides: Sequence[Path]) -> dict[Path, str]:
    """A name for the files of each slide: its own without the ending, and a number where another slide has it too."""
    counts: Counter[str] = Counter()
    names: dict[Path, str] = {}
    for path in slides:
        counts[path.stem] += 1
        names[path] = path.stem if counts[path.stem] == 1 else f"{path.stem}_{counts[path.stem]}"
    return names
