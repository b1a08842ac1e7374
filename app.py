"""A web page that asks a model about an image. It shows answers, how sure the model is, and where it looked.

    python app.py runs/demo        # or: mmjepa app runs/demo

On a Hugging Face Space this file is the app; the variables MMJEPA_MODEL and MMJEPA_REVISION name the model
(docs/page.md).
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import numpy as np
from starlette.middleware import Middleware

from mmjepa.data.drawn_slides.painting import draw_slide
from mmjepa.data.drawn_slides.questions import ask_questions
from mmjepa.data.image_files import FoundImages, find_images
from mmjepa.evaluation.answerer import Answerer
from mmjepa.evaluation.asking import Reply, ask, load_saved
from mmjepa.evaluation.feature_cache import encode_images, open_cache
from mmjepa.evaluation.taught import TaughtStatement, taught_to
from mmjepa.messages import end_run
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.page.search_tab import build_search_tab
from mmjepa.page.uploads import MAX_CHARACTERS, MAX_FILE_SIZE, Page, SmallRequests, picture_of, read_image, refusal
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.reporting.picture import draw_attention
from mmjepa.scoring_mmjepa import check_tells_truth

MAX_QUESTIONS = 8  # others wait meanwhile; an image of PathVQA has 7.6
QUEUE_SIZE = 200  # requests that wait; further ones are refused
ENCODED_AT_ONCE = 32  # images of a folder
KEPT_SECONDS = 3600  # uploaded and drawn files are deleted after one to two times this
MIN_PROBABILITY = 0.01  # of another answer that is worth showing
COLUMNS = ["question", "prediction", "probability", "with a black image", "attention on the image", "other answers"]
WIDTHS: list[str | int] = ["150px", "110px", "110px", "130px", "115px", "140px"]  # a narrow page scrolls
ABOUT = (
    "Ask about a pathology image. The table shows each prediction, how probable it is, and how probable it would be "
    "with a black image. An answer that is the same with a black image may still be read from yours. The picture is "
    "in colour where the decoder looked while it wrote an answer. The table says how much of its attention was on the "
    "image. For research; not a medical device."
)


def read_questions(text: str | None) -> list[str]:
    """The questions, one per line; gr.Error where there are none, too many or too long ones."""
    questions = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not questions:
        raise refusal("There is no question: write one in each line.")
    if len(questions) > MAX_QUESTIONS:
        raise refusal(f"There are {len(questions)} questions: ask at most {MAX_QUESTIONS} at once.")
    if (longest := max(map(len, questions))) > MAX_CHARACTERS:
        raise refusal(f"A question has {longest} characters: ask in at most {MAX_CHARACTERS}.")
    return questions


def row_of(reply: Reply) -> list[str]:
    """The cells of COLUMNS."""
    others = [f"{text} ({100 * p:.0f} %)" for text, p in reply.candidates if p >= MIN_PROBABILITY]
    blank = "the same answer" if reply.is_same_without_image else reply.blank
    with_blank = f"{100 * reply.blank_probability:.0f} %; {blank}"
    attention = "-" if reply.image_attention is None else f"{100 * reply.image_attention:.0f} %"
    probability = f"{100 * reply.probability:.0f} %"
    return [reply.question, reply.prediction, probability, with_blank, attention, ", ".join(others)]


def draw_examples(folder: str) -> list[list[str]]:
    """Draws slides in `folder`. Gives the file of each, and questions about it."""
    examples, random = [], np.random.default_rng(1)
    for path in (f"{folder}/slide_{number}.png" for number in (1, 2, 3)):
        image, facts = draw_slide(random)
        image.save(path)
        questions = [question for question, _ in ask_questions(random, facts)]
        examples.append([path, "\n".join(questions[:MAX_QUESTIONS])])
    return examples


def build_page(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    taught: Sequence[TaughtStatement] = (),
    folder: FoundImages | None = None,
) -> gr.Blocks:
    """The page of one model, with a tab that searches images if the model can score statements.

    Args:
        taught: the statements that the model was taught.
        folder: images that are searched where none are uploaded.
    """
    with Page(title="MMJepa", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown("# MMJepa")
        with gr.Tab("Questions"):
            build_question_tab(model, processor)
        if model.config.truth_weight > 0:
            with gr.Tab("Search"):
                build_search_tab(model, processor, taught, folder)
    # One at a time: two would share the cores, and each would need its own memory.
    return page.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1)


def build_question_tab(model: MMJepaForConditionalGeneration, processor: MMJepaProcessor) -> None:
    """Adds the tab's parts to the page that is being built."""

    def show(file: bytes | None) -> gr.Image:
        return gr.Image(None if file is None else picture_of(read_image(file)), visible=file is not None)

    def answer(file: bytes | None, text: str | None) -> tuple[list[list[str]], gr.Gallery]:
        image, questions = read_image(file), read_questions(text)
        replies = ask(model, processor, image, questions)
        picture = picture_of(image)
        drawn = [
            (draw_attention(picture, reply.attention, processor.image_processor), reply.question)
            for reply in replies
            if reply.attention is not None
        ]
        return [row_of(reply) for reply in replies], gr.Gallery(drawn, visible=bool(drawn), selected_index=0)

    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            # gr.Image shows no TIFF, and tells the path on this machine of a file that is no image.
            file = gr.File(label="image file", file_types=["image"], type="binary", height=150)
            preview = gr.Image(label="image", height=280, interactive=False, buttons=[], visible=False)
            questions = gr.Textbox(label="questions, one in each line", lines=4)
            button = gr.Button("Ask", variant="primary")
            with tempfile.TemporaryDirectory() as folder:  # gradio copies the files
                examples = draw_examples(folder)
                names = [Path(path).stem.replace("_", " ") for path, _ in examples]
                gr.Examples(examples, [file, questions], example_labels=names, label="drawn examples")
            file.keep_in_cache |= file.temp_files  # the examples; later uploads are deleted
        with gr.Column(scale=2, min_width=320):
            answers = gr.Dataframe(
                label="answers",
                elem_id="answers",
                headers=COLUMNS,
                column_widths=WIDTHS,
                datatype="str",  # HTML and Markdown in a question stay text
                wrap=True,
                buttons=[],
            )
            maps = gr.Gallery(label="maps", elem_id="maps", preview=True, buttons=["fullscreen"], visible=False)
    # Else the answers about the last image would stand beside the new one.
    blank = [None, gr.Gallery(None, visible=False), gr.Image(None, visible=False)]
    changed = file.change(lambda: blank, None, [answers, maps, preview], queue=False, api_visibility="private")
    changed.then(show, file, preview, api_visibility="private")
    button.click(answer, [file, questions], [answers, maps], api_name="ask")


def page_theme() -> gr.themes.Base:
    """Gradio's default theme with the machine's own fonts, and darker where texts would contrast by less than 4.5."""
    fonts = ["system-ui", "sans-serif"]  # none are fetched
    button = {
        "background_fill": "*primary_700",
        "background_fill_hover": "*primary_800",
        "border_color": "*primary_700",
    }
    return gr.themes.Default(font=fonts, font_mono=fonts).set(
        **{f"button_primary_{name}{scheme}": colour for name, colour in button.items() for scheme in ("", "_dark")},
        body_text_color_subdued="*neutral_500",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_400",
        color_accent="*link_text_color",
    )


def encoded_folder(model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, images: str) -> FoundImages:
    """The images in a folder or a data set. They are encoded here, so that no visitor waits for it."""
    check_tells_truth(model.config)
    found = find_images(images)
    faults = encode_images(Answerer(model, processor, ENCODED_AT_ONCE), found, open_cache(model, processor), True)
    for number, fault in faults.items():
        print(f"{found.names[number]} can't be read: {fault}", file=sys.stderr)
    return found


def serve(
    model: str,
    host: str | None = None,
    port: int | None = None,
    revision: str | None = None,
    images: str | None = None,
    **launch_kwargs,
) -> gr.Blocks:
    """Loads a model by folder or Hub id, and serves its page until it is stopped.

    Args:
        host, port: where it listens; by default only on this machine, at the first free port from 7860.
        revision: branch, tag or commit of the model on the Hub.
        images: a folder of images, or a data set, that visitors may search. They are encoded first.
        launch_kwargs: for gradio's `launch`.

    Raises:
        OSError: there is no such model, or the port is not free.
        ValueError: the model can't search the images, or none of them can be read.
    """
    # Newer versions of gradio keep answers in the visitor's browser, and offer to send them to the Hub.
    os.environ.setdefault("GRADIO_RUN_HISTORY", "False")
    loaded, processor = load_saved(model, revision)
    folder = None if images is None else encoded_folder(loaded, processor, images)
    page = build_page(loaded, processor, taught_to(loaded), folder)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size=MAX_FILE_SIZE,
        theme=page_theme(),
        footer_links=[],
        ssr_mode=False,
        app_kwargs={"middleware": [Middleware(SmallRequests)]},
        **launch_kwargs,
    )
    return page


def main() -> None:
    """Serves the model named by the first argument or by `MMJEPA_MODEL`."""
    try:
        model = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("MMJEPA_MODEL", "runs/demo")
        serve(model, revision=os.environ.get("MMJEPA_REVISION"))
    except Exception as error:
        end_run("app.py", error)


if __name__ == "__main__":
    main()
