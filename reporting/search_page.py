"""What a search found as one HTML file that needs no other: thumbnails, the best first."""

from pathlib import Path

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
    page = page_text(
        "search.html.jinja",
        title=result.title,
        lines=[*result.notes, *summary_lines(result)],
        score=result.score_name,
        rows=rows,
    )
    path.write_text(page, encoding="utf-8")
