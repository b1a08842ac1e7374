"""The tab of the page that searches images: for those of which a statement is true, or for those like another one."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image

from ..data.drawn_slides.painting import draw_slide
from ..data.errors import DataError
from ..data.image_files import FoundImages, file_key
from ..data.images import decoded_or_fault
from ..evaluation.feature_cache import FeatureCache, open_cache
from ..evaluation.searching import SearchResult, search
from ..evaluation.taught import TaughtStatement
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from ..reporting.search_text import summary_lines
from .uploads import MAX_CHARACTERS, open_image, picture_of, read_image, refusal

MAX_IMAGES = 50  # of an upload; others wait meanwhile
SHOWN = 24  # images in the grid
THUMBNAIL_SIDE = 256  # pixels
OFFERED = 5  # taught statements that are shown before anything was searched for
EXAMPLES = 9  # drawn slides
ABOUT = (
    "Choose images, and write a statement about them, such as *is necrosis seen?*. The images of which it is most "
    "probably true come first, each with the probability. Or choose an image, and those most like it come first."
)


def read_statement(text: str | None) -> str:
    """The statement; gr.Error where there is none, or where it is too long."""
    statement = (text or "").strip()
    if not statement:
        raise refusal("There is no statement: write what the images should show.")
    if len(statement) > MAX_CHARACTERS:
        raise refusal(f"The statement has {len(statement)} characters: write at most {MAX_CHARACTERS}.")
    return statement


def uploaded_images(paths: Sequence[str]) -> FoundImages:
    """The images of uploaded files; gr.Error names a file that is not read."""
    if len(paths) > MAX_IMAGES:
        raise refusal(f"There are {len(paths)} images: choose at most {MAX_IMAGES}.")
    names = [Path(path).name for path in paths]
    for path, name in zip(paths, names, strict=True):
        try:
            open_image(path).close()
        except gr.Error as error:
            raise refusal(f"{name}: {error.message}") from error
    return FoundImages(
        names, [file_key(Path(path)) for path in paths], [{"bytes": None, "path": path} for path in paths]
    )


def grid_of(result: SearchResult, found: FoundImages) -> list[tuple[PIL.Image.Image, str]]:
    """The best images, each with its probability or cosine and its name."""
    grid = []
    for row in result.ranking[:SHOWN]:
        image, _ = decoded_or_fault(found.images[result.places[row]])
        if image is not None:  # it may be gone since it was encoded
            grid.append((picture_of(image, THUMBNAIL_SIDE), f"{result.scores[row]:.2f} {result.names[row]}"))
    return grid


def draw_slides(folder: str) -> list[str]:
    """Draws slides in `folder`, and gives their files."""
    random = np.random.default_rng(1)
    paths = [f"{folder}/slide_{number}.png" for number in range(1, EXAMPLES + 1)]
    for path in paths:
        draw_slide(random)[0].save(path)
    return paths


def build_search_tab(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    taught: Sequence[TaughtStatement],
    folder: FoundImages | None = None,
) -> None:
    """Adds the tab's parts to the page that is being built.

    Args:
        taught: the statements that the model was taught.
        folder: images that are searched where none are uploaded.
    """
    folder_cache = None if folder is None else open_cache(model, processor)

    def find(paths: list[str] | None, **asked: Any) -> list[Any]:
        """What is shown of a search: the grid, the notes, and the offered statements."""
        if not paths and folder is None:
            raise refusal("There are no images: choose some, or drop them on the page.")
        found = uploaded_images(paths) if paths else folder
        with tempfile.TemporaryDirectory() as kept:  # of uploaded images nothing stays
            cache = FeatureCache(Path(kept)) if paths else folder_cache
            try:
                result = search(model, processor, found, taught=taught, cache=cache, say=lambda _: None, **asked)
            except DataError as error:
                raise refusal(error.line) from error
        near = [text for wording in result.wordings for text in wording.near if text != wording.given]
        offered = gr.skip()
        if near:
            offered = gr.Radio(near, value=None, label="nearest statements that the model was taught")
        notes = "\n".join([*result.notes, *summary_lines(result)])
        return [gr.Gallery(grid_of(result, found), selected_index=None), gr.Textbox(notes, visible=True), offered]

    def find_true(paths: list[str] | None, statement: str | None) -> list[Any]:
        return find(paths, statements=[read_statement(statement)])

    def find_alike(paths: list[str] | None, file: bytes | None) -> list[Any]:
        return find(paths, like=read_image(file))

    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            label = f"images, at most {MAX_IMAGES}"
            if folder is not None:
                label += f"; without any, {len(folder):,} images of this server are searched"
            files = gr.File(label=label, file_types=["image"], file_count="multiple", height=150)
            statement = gr.Textbox(label="statement", max_lines=1, placeholder="is necrosis seen?")
            by_statement = gr.Button("Find by statement", variant="primary")
            offered = gr.Radio(
                [known.text for known in taught[:OFFERED]],
                label="statements that the model was taught",
                visible=bool(taught),
            )
            query = gr.File(label="or an image", file_types=["image"], type="binary", height=110)
            by_image = gr.Button("Find images like it")
            with tempfile.TemporaryDirectory() as drawn:  # gradio copies the files
                examples = [[draw_slides(drawn), "is necrosis seen?"]]
                labels = [f"{EXAMPLES} drawn slides"]
                gr.Examples(examples, [files, statement], example_labels=labels, label="drawn example")
            files.keep_in_cache |= files.temp_files  # the example; later uploads are deleted
        with gr.Column(scale=2, min_width=320):
            notes = gr.Textbox(label="notes", elem_id="notes", interactive=False, visible=False)
            grid = gr.Gallery(elem_id="grid", show_label=False, columns=3, height="auto", buttons=["fullscreen"])
    shown = [grid, notes, offered]
    gr.on([by_statement.click, statement.submit], find_true, [files, statement], shown, api_name="search")
    by_image.click(find_alike, [files, query], shown, api_name="search_alike")
    offered.input(lambda text: text, offered, statement, queue=False, api_visibility="private")
    # Else the images that were found before would stand beside the new ones.
    blank = [None, gr.Textbox(None, visible=False)]
    files.change(lambda: blank, None, [grid, notes], queue=False, api_visibility="private")
