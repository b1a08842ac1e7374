"""The tiles of a slide as GeoJSON, which QuPath opens as objects of the type "tile".

QuPath's own reader defines the format: qupath-core, qupath/lib/io/QuPathTypeAdapters.java.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..evaluation.searching_slides import SlideResult

FOUND, OTHER = [215, 48, 39], [160, 160, 160]  # red, green and blue


def write_geojson(path: Path, result: SlideResult) -> None:
    """Writes a FeatureCollection with a square for each tile, in pixels of level 0, with its probabilities."""
    features = ",\n".join(json.dumps(feature, ensure_ascii=False) for feature in tile_features(result))
    path.write_text(f'{{"type": "FeatureCollection", "features": [\n{features}\n]}}\n', encoding="utf-8")


def tile_features(result: SlideResult) -> Iterator[dict[str, Any]]:
    """The tiles; where statements were asked, a tile's class is what it more probably shows than not, or "Other"."""
    found, width, origin = result.found, result.tiles.width, result.tiles.origin
    for row, (number, score) in enumerate(zip(found.places, found.scores.tolist(), strict=True)):
        x, y = (corner - start for corner, start in zip(result.corners(row), origin, strict=True))
        corners = [[x, y], [x + width, y], [x + width, y + width], [x, y + width], [x, y]]
        measurements = {found.score_name: score}
        measurements |= zip(found.statements, found.probabilities[row].tolist(), strict=True)
        properties: dict[str, Any] = {"objectType": "tile", "name": str(number), "measurements": measurements}
        if found.statements:
            name, color = (found.title, FOUND) if score > 0.5 else ("Other", OTHER)
            properties["classification"] = {"name": name, "color": color}
        geometry = {"type": "Polygon", "coordinates": [corners]}
        yield {"type": "Feature", "geometry": geometry, "properties": properties}
