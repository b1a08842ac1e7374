"""A web page that asks a model about an image: answers, how sure it is, where it looked, what it says without it.

    python app.py runs/demo        # or: mmjepa app runs/demo

On a Hugging Face Space this file is the app; the variable MMJEPA_MODEL names the model.
"""

import os
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import jinja2
import PIL.Image
import torch

from mmjepa.evaluation.asking import Reply, ask, load_saved
from mmjepa.evaluation.html_report import data_url, with_attention
from mmjepa.evaluation.model_card import shown_name
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor, to_rgb

MAX_QUESTIONS = 8
MAX_CHARACTERS = 300  # of a question; PathVQA's longest has 163
MAX_FILE_SIZE = "20mb"
MAX_PIXELS = 50_000_000  # decoded, these take 150 MB
QUEUE_SIZE = 200  # requests that wait; later ones are told to come again
NO_IMAGE = "This file is no image that can be read: give a PNG, JPEG, TIFF, WebP, BMP or GIF file."
MIN_PROBABILITY = 0.01  # of another answer that is worth showing
EXAMPLE = Path("runs/drawn_slides/example.png")
EXAMPLE_QUESTIONS = "where is the gland?\nis necrosis seen?\nwhat stain is used?"
ABOUT = (
    "Ask about a pathology image. An answer is *from the image* if it changes when the model sees a black image "
    "instead; else the question alone gave it. For research; not a medical device."
)
CARDS = jinja2.Environment(autoescape=True).from_string("""
<div style="display:grid; grid-template-columns:repeat(auto-fill, minmax(220px, 1fr)); gap:1rem">
{% for card in cards %}<div class="reply" style="border:1px solid #8886; border-radius:8px; padding:.8rem">
{% if card.picture %}
<img src="{{ card.picture }}" alt="where the model looked" style="width:100%; border-radius:4px">
{% endif %}
<div style="margin-top:.4rem; overflow-wrap:anywhere">{{ card.question }}</div>
<div style="font-size:1.3rem; font-weight:600; overflow-wrap:anywhere">{{ card.answer or "(no answer)" }}</div>
<div><meter min="0" max="1" value="{{ card.probability }}" style="width:100%"></meter></div>
<div>{{ "%.0f"|format(100 * card.probability) }} %, \
{{ "from the image" if card.from_image else "from the question" }}</div>
<div style="opacity:.75; overflow-wrap:anywhere">without the image: {{ card.without_image or "(no answer)" }}</div>
{% if card.others %}<div style="opacity:.75; overflow-wrap:anywhere">or: {% for text, probability in card.others %}\
{{ text }} ({{ "%.0f"|format(100 * probability) }} %){{ "" if loop.last else ", " }}{% endfor %}</div>{% endif %}
</div>
{% endfor %}</div>
{% if cards[0].picture %}
<p style="opacity:.75">In colour: where the decoder looked while it wrote the answer.</p>
{% endif %}
""")


def refusal(message: str) -> gr.Error:
    """A message for the one who asks, of which the server's log needs no traceback."""
    return gr.Error(message, print_exception=False)


def read_image(path: str | None) -> PIL.Image.Image:
    """The image of an uploaded file, in 8-bit RGB; gr.Error says what is wrong with it."""
    if path is None:
        raise refusal("There is no image: choose one, or drop it on the left.")
    try:
        image = PIL.Image.open(path)
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width} x {image.height}"
            raise refusal(f"The image has {size} pixels; at most {MAX_PIXELS:,} are read: make it smaller.")
        return to_rgb(image)
    except gr.Error:
        raise
    except Exception as error:  # Pillow's decoders raise errors of a dozen types
        raise refusal(NO_IMAGE) from error


def read_questions(text: str | None) -> list[str]:
    """The questions, one a line; gr.Error where there are none, too many or too long ones."""
    questions = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not questions:
        raise refusal("There is no question: write one in each line.")
    if len(questions) > MAX_QUESTIONS:
        raise refusal(f"There are {len(questions)} questions: ask at most {MAX_QUESTIONS} at once.")
    if longest := max((len(question) for question in questions if len(question) > MAX_CHARACTERS), default=0):
        raise refusal(f"A question has {longest} characters: ask in at most {MAX_CHARACTERS}.")
    return questions


def card_of(reply: Reply, pixels: torch.Tensor) -> dict[str, Any]:
    """What the page shows of a reply about an image (3, H, W), uint8, as the model sees it."""
    return {
        "question": reply.question,
        "answer": reply.answer,
        "probability": reply.probability,
        "from_image": reply.is_from_image,
        "without_image": reply.without_image,
        "others": [(text, p) for text, p in reply.candidates if p >= MIN_PROBABILITY],
        "picture": None if reply.attention is None else data_url(with_attention(pixels, reply.attention), side=384),
    }


def build_page(model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, name: str) -> gr.Blocks:
    """The page of one model, which `name` names on it."""

    def answer(path: str | None, text: str | None) -> str:
        image, questions = read_image(path), read_questions(text)
        replies = ask(model, processor, image, questions)
        seen = processor.image_processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")
        pixels = seen["pixel_values"][0].round().clamp(0, 255).byte()  # (3, H, W)
        return CARDS.render(cards=[card_of(reply, pixels) for reply in replies])

    with gr.Blocks(title="MMJepa", analytics_enabled=False) as page:
        gr.Markdown(f"# MMJepa\n{ABOUT} Model: `{name}`")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                # Not gradio's image alone: of a file that is none it says "Error", or where this machine keeps it.
                file = gr.File(label="image file", file_types=["image"], height=120)
                preview = gr.Image(label="image", interactive=False, height=280, visible=False)
                questions = gr.Textbox(
                    label="questions, one in each line", lines=4, max_length=MAX_QUESTIONS * (MAX_CHARACTERS + 1)
                )
                button = gr.Button("Ask", variant="primary")
                if EXAMPLE.exists():
                    gr.Examples([[str(EXAMPLE), EXAMPLE_QUESTIONS]], [file, questions], label="an example")
            with gr.Column(scale=2, min_width=320):
                answers = gr.HTML(label="answers", elem_id="answers", min_height=300)
        file.change(lambda path: gr.update(value=path and read_image(path), visible=bool(path)), file, preview)
        # One at a time: two would share the same cores, and each need its memory.
        button.click(answer, [file, questions], answers, concurrency_limit=1, api_name="ask")
    return page.queue(max_size=QUEUE_SIZE)


def serve(model: str, host: str | None = None, port: int | None = None, **launch_kwargs) -> gr.Blocks:
    """Loads a model by folder or Hub id and serves its page, until it is stopped.

    Args:
        host, port: where it listens; by default on this machine alone, at the first free port from 7860 on.
        launch_kwargs: for gradio's `launch`.
    """
    page = build_page(*load_saved(model), shown_name(model))
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none are fetched
    page.launch(
        server_name=host,
        server_port=port,
        max_file_size=MAX_FILE_SIZE,
        theme=gr.themes.Default(**fonts),
        footer_links=[],
        show_error=False,
        share=False,
        ssr_mode=False,
        **launch_kwargs,
    )
    return page


if __name__ == "__main__":
    serve(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("MMJEPA_MODEL", "runs/demo"))
