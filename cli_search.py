"""What `mmjepa search` does and prints: among images, and among the tiles of slides."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer


def show_found_images(
    source: tuple,
    saved: tuple[str, str | None],
    asked: dict[str, Any],
    csv: Path | None,
    html: Path | None,
    top: int,
    as_json: bool,
) -> None:
    """Searches images.

    Args:
        source: arguments of `find_images`.
        saved: the model and its revision.
        asked: statements, negated, any_of and like, as arguments of `evaluation.searching.search`.
        csv, html: where findings and page are written.
    """
    from .data.image_files import find_images
    from .evaluation.asking import load_saved
    from .evaluation.searching import check_asked
    from .evaluation.searching import search as search_images
    from .reporting.search_text import search_json, search_text, write_findings

    loaded, processor = load_saved(*saved)
    check_asked(loaded.config, [*asked["statements"], *asked["negated"]], asked["like"])
    found = find_images(*source)
    with saying_how_to_go_on():
        result = search_images(
            loaded, processor, found, **asked, every_image=csv is not None, show_progress=True, say=say
        )
    if csv is not None:
        write_findings(csv, result)
    if html is not None:
        from .reporting.search_page import write_search_page

        write_search_page(html, result, found, top)
    typer.echo(json.dumps(search_json(result, top)) if as_json else search_text(result, top))
    say_what_is_written(findings=csv, page=html)


def say(note: str) -> None:
    """Prints a note apart from the results."""
    typer.echo(note, err=True)


def say_what_is_written(**written: Path | None) -> None:
    """Names the files and folders that were written."""
    for name, path in written.items():
        if path is not None:
            say(f"{name.replace('_', ' ')}: {path}")


@contextmanager
def saying_how_to_go_on() -> Iterator[None]:
    """Ends a search that is stopped with a line instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt as error:
        say("stopped: what was encoded is kept, and the same command goes on from there.")
        raise typer.Exit(130) from error


def show_found_in_slides(
    sources: list[str],
    shard: str | None,
    saved: tuple[str, str | None],
    asked: dict[str, Any],
    files: dict[str, Path | None],
    top: int,
    as_json: bool,
) -> None:
    """Searches slides.

    Args:
        sources: as for `find_slides`.
        saved: the model and its revision.
        asked: arguments of `search_slides`.
        files: arguments of [`SlideReport`].
    """
    from .data.slide_files import count_images_beside, find_slides, shard_of
    from .evaluation.asking import load_saved
    from .evaluation.searching_slides import search_slides
    from .reporting.slide_report import SlideReport, file_names

    slides = find_slides(sources)
    for source in filter(os.path.isdir, sources):
        if number := count_images_beside(Path(source)):
            say(f"{source} holds {number} images beside its slides: they are not searched.")
    names = file_names(slides)  # of all slides: those of one job are not named as those of another
    slides = slides if shard is None else shard_of(slides, shard)
    if not slides:
        say(f"there are {len(names)} slides, and none of them is of the shard {shard}.")
        return
    for folder in (files["heat_maps"], files["shapes"]):
        if folder is not None:
            folder.mkdir(exist_ok=True)
    report = SlideReport(names, top, **files)
    with saying_how_to_go_on():
        for result in search_slides(*load_saved(*saved), slides, **asked, show_progress=True, say=say):
            report.add(result)
    if files["page"] is not None:
        report.write_page()
    typer.echo(json.dumps(report.json()) if as_json else report.text())
    say_what_is_written(
        findings=files["table"], page=files["page"], heat_maps=files["heat_maps"], geojson=files["shapes"]
    )


def show_taught(model: str, revision: str | None, as_json: bool) -> None:
    """Prints the statements that a saved model was taught."""
    from .evaluation.taught import TAUGHT_FILE, read_taught
    from .reporting.search_text import taught_text

    taught = read_taught(model, revision)
    if not taught:
        raise ValueError(f"{model} has no {TAUGHT_FILE}: it is not known which statements it was taught.")
    shown = [statement._asdict() for statement in taught]
    typer.echo(json.dumps(shown, ensure_ascii=False) if as_json else taught_text(taught))
