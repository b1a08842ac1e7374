"""What a search found as one HTML file that needs no other: thumbnails, the best first."""

from pathlib import Path

from ..data.image_files import FoundImages
from ..data.images import decoded_or_fault
from ..evaluation.searching import SearchResult
from .html import image_url, page_text
from .search_text import found_rows, search_title, summary_lines


def write_search_page(
    path: Path, result: SearchResult, found: FoundImages, top: int, any_of: bool, like: str | None
) -> None:
    """Writes the best `top` images with their probabilities; `found` has the images that were searched."""
    rows = found_rows(result, top)
    for row, place in zip(rows, result.ranking, strict=False):
        image, _ = decoded_or_fault(found.images[result.places[place]])
        row["picture"] = None if image is None else image_url(image)  # it may be gone since it was encoded
    page = page_text(
        "search.html.jinja",
        title=search_title(result, any_of, like),
        lines=[*result.notes, *summary_lines(result)],
        score="cosine" if like is not None else "probability",
        rows=rows,
    )
    path.write_text(page, encoding="utf-8")
