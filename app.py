"""A web page that asks a model about an image. It shows answers, how sure the model is, and where it looked.

    python app.py runs/demo        # or: mmjepa app runs/demo

On a Hugging Face Space this file is the app; the variables MMJEPA_MODEL and MMJEPA_REVISION name the model
(docs/page.md).
"""

import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image
from gradio.utils import get_upload_folder
from gradio_client.utils import traverse
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mmjepa.data.drawn_slides.painting import draw_slide
from mmjepa.data.drawn_slides.questions import ask_questions
from mmjepa.evaluation.asking import Reply, ask, load_saved
from mmjepa.messages import end_run
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor, to_rgb
from mmjepa.reporting.picture import draw_attention

MAX_QUESTIONS = 8  # others wait meanwhile; an image of PathVQA has 7.6
MAX_CHARACTERS = 300  # of a question; PathVQA's longest has 163
MAX_FILE_SIZE = 20 * 2**20  # bytes; 2,500 x 2,500 pixels without compression
MAX_REQUEST = 2**20  # bytes beside a file; eight questions have 10,000
MAX_PIXELS = 50_000_000  # decoded, these take 150 MB
MAX_ASPECT_RATIO = 50  # resized to a fixed shorter side, a thin line would take gigabytes
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")  # Pillow starts other programs for some of the others
NOT_UPLOADED = f"Addresses and paths are not read: upload the image file, of at most {MAX_FILE_SIZE // 2**20} MB."
GONE = "The image file is no longer on the server, which keeps it for one to two hours: choose it again."
NO_IMAGE = f"This file is no image that can be read: give a whole file in one of the formats {', '.join(FORMATS)}."
QUEUE_SIZE = 200  # requests that wait; further ones are refused
KEPT_SECONDS = 3600  # uploaded and drawn files are deleted after one to two times this
PICTURE_SIDE = 512  # pixels of the longer side of what is shown
MIN_PROBABILITY = 0.01  # of another answer that is worth showing
COLUMNS = ["question", "prediction", "probability", "with a black image", "its probability there", "other answers"]
WIDTHS: list[str | int] = ["180px", "110px", "110px", "110px", "135px", "145px"]  # a narrow page scrolls
ABOUT = (
    "Ask about a pathology image. Beside each prediction stands what the model answers about a black image, and how "
    "probable the prediction is there. Where the two answers are the same, the image may still have been read. The "
    "picture below the answers is in colour where the decoder looked while it wrote one of them. For research; not a "
    "medical device."
)


def refusal(message: str) -> gr.Error:
    """A message for the visitor, without a traceback in the server's log."""
    return gr.Error(message, print_exception=False)


def read_image(file: bytes | None) -> PIL.Image.Image:
    """The image of an uploaded file, in 8-bit RGB; gr.Error says what is wrong with it."""
    if file is None:
        raise refusal("There is no image: choose one, or drop it on the page.")
    try:
        image = PIL.Image.open(BytesIO(file), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise PIL.Image.DecompressionBombError
        if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            raise refusal(f"The image is a thin line: give one whose sides differ at most {MAX_ASPECT_RATIO} times.")
        return to_rgb(image)
    except gr.Error:
        raise
    except PIL.Image.DecompressionBombError as error:  # Pillow's own, above 179 million pixels
        raise refusal(f"The image is too large: give one of at most {MAX_PIXELS:,} pixels.") from error
    except Exception as error:  # Pillow's decoders raise errors of a dozen types
        raise refusal(NO_IMAGE) from error


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


def picture_of(image: PIL.Image.Image) -> PIL.Image.Image:
    """`image` with a longer side of PICTURE_SIDE pixels."""
    scale = PICTURE_SIDE / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), PIL.Image.Resampling.BICUBIC)


def row_of(reply: Reply) -> list[str]:
    """The cells of COLUMNS."""
    others = [f"{text} ({100 * p:.0f} %)" for text, p in reply.candidates if p >= MIN_PROBABILITY]
    probability, blank_probability = (f"{100 * p:.0f} %" for p in (reply.probability, reply.blank_probability))
    blank = "the same" if reply.is_same_without_image else reply.blank
    return [reply.question, reply.prediction, probability, blank, blank_probability, ", ".join(others)]


def draw_examples(folder: str) -> list[list[str]]:
    """Draws slides in `folder`. Gives the file of each, and questions about it."""
    examples, random = [], np.random.default_rng(1)
    for path in (f"{folder}/slide_{number}.png" for number in (1, 2, 3)):
        image, facts = draw_slide(random)
        image.save(path)
        questions = [question for question, _ in ask_questions(random, facts)]
        examples.append([path, "\n".join(questions[:MAX_QUESTIONS])])
    return examples


def check_upload(file: dict[str, Any]) -> None:
    """Raises gr.Error if `file`, as a client describes it, was not uploaded or is deleted. Reads nothing."""
    path, folder = file.get("path"), os.path.abspath(get_upload_folder())
    # Without this "meta" gradio looks deeper, where another file may be described.
    if file.get("meta") != {"_type": "gradio.FileData"} or not isinstance(path, str) or not os.path.isabs(path):
        raise refusal(NOT_UPLOADED)
    if not Path(os.path.normpath(path)).is_relative_to(folder):
        raise refusal(NOT_UPLOADED)
    if not os.path.isfile(path):
        raise refusal(GONE)


class Page(gr.Blocks):
    """Blocks whose functions get only uploaded files. Gradio itself would fetch any address, of any size."""

    async def preprocess_data(self, block_fn, inputs, *rest, **options):
        # Every call of a function passes here, whatever its inputs.
        traverse(inputs, check_upload, lambda part: isinstance(part, dict))
        return await super().preprocess_data(block_fn, inputs, *rest, **options)


class SmallRequests:
    """Refuses a request that is too large, or that asks this server to fetch an address, before it is read."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = refused_request(scope) if scope["type"] == "http" else None
        await (self.app if refused is None else refused)(scope, receive, send)


def refused_request(scope: Scope) -> PlainTextResponse | None:
    """The response to a request that is refused; None to let it pass."""
    headers = dict(scope["headers"])
    limit = MAX_REQUEST + (MAX_FILE_SIZE if scope["path"].rstrip("/").endswith("/upload") else 0)
    if "://" in scope["path"]:
        return PlainTextResponse("Addresses are not fetched.", 403)
    if b"transfer-encoding" in headers:
        return PlainTextResponse("The request does not say how long it is: send a Content-Length.", 411)
    if int(headers.get(b"content-length", 0)) > limit:
        return PlainTextResponse(f"The request is above the maximum allowed size of {limit:,} bytes.", 413)
    return None


def build_page(model: MMJepaForConditionalGeneration, processor: MMJepaProcessor) -> gr.Blocks:
    """The page of one model."""

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

    with Page(title="MMJepa", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# MMJepa\n{ABOUT}")
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
    # One at a time: two would share the cores, and each would need its own memory.
    return page.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1)


def serve(
    model: str, host: str | None = None, port: int | None = None, revision: str | None = None, **launch_kwargs
) -> gr.Blocks:
    """Loads a model by folder or Hub id, and serves its page until it is stopped.

    Args:
        host, port: where it listens; by default only on this machine, at the first free port from 7860.
        revision: branch, tag or commit of the model on the Hub.
        launch_kwargs: for gradio's `launch`.

    Raises:
        OSError: there is no such model, or the port is not free.
    """
    # Newer versions of gradio keep answers in the visitor's browser, and offer to send them to the Hub.
    os.environ.setdefault("GRADIO_RUN_HISTORY", "False")
    page = build_page(*load_saved(model, revision))
    fonts = ["system-ui", "sans-serif"]  # none are fetched
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size=MAX_FILE_SIZE,
        theme=gr.themes.Default(font=fonts, font_mono=fonts),
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
