"""What a search found as one HTML file that needs no other: thumbnails, the best first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.image_files import FoundImages
from ..data.images import decoded_or_fault
from ..evaluation.searching import SearchResult
from .html import image_url, page_text
from .search_text import found_rows, summary_lines


def write_search_page(path: Path, result: SearchResult, found: FoundImages, top: int) -> None:
    """Writes the best `top` images with their probabilities; `found` has the images that were searched."""
    rows = found_rows(result, top)
    for row, place in zip(rows, result.ranking, strict=False):
        image, _ = decoded_or_fault(found.images[result.places[place]])
        row["picture"] = None if image is None else image_url(image)  # it may be gone since it was encoded
    write_page(path, result, rows, [*result.notes, *summary_lines(result)])


def write_page(
    path: Path,
    result: SearchResult,
    rows: Sequence[dict[str, Any]],
    lines: Sequence[str],
    heat_maps: Mapping[str, str] | None = None,
) -> None:
    """Writes `lines`, the pictures of `heat_maps` by their names, and `rows` with their own pictures."""
    page = page_text(
        "search.html.jinja",
        title=result.title,
        lines=lines,
        score=result.score_name,
        heat_maps=heat_maps or {},
        rows=rows,
    )
    path.write_text(page, encoding="utf-8")
