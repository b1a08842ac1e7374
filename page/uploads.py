"""What the page reads: uploaded image files within limits, and no addresses or paths."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import PIL.Image
from gradio.utils import get_upload_folder
from gradio_client.utils import traverse
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..processing_mmjepa import to_rgb

MAX_CHARACTERS = 300  # of a question or a statement; PathVQA's longest has 163
MAX_FILE_SIZE = 20 * 2**20  # bytes; 2,500 x 2,500 pixels without compression
MAX_REQUEST = 2**20  # bytes beside a file; eight questions have 10,000
MAX_PIXELS = 50_000_000  # decoded, these take 150 MB
MAX_ASPECT_RATIO = 50  # resized to a fixed shorter side, a thin line would take gigabytes
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")  # Pillow starts other programs for some of the others
NOT_UPLOADED = f"Addresses and paths are not read: upload the image file, of at most {MAX_FILE_SIZE // 2**20} MB."
GONE = "The image file is no longer on the server, which keeps it for one to two hours: choose it again."
NO_IMAGE = f"This file is no image that can be read: give a whole file in one of the formats {', '.join(FORMATS)}."
PICTURE_SIDE = 512  # pixels of the longer side of what is shown


def refusal(message: str) -> gr.Error:
    """A message for the visitor, without a traceback in the server's log."""
    return gr.Error(message, print_exception=False)


def open_image(file: BytesIO | str) -> PIL.Image.Image:
    """An uploaded image file, not yet decoded; gr.Error says why it is not read."""
    try:
        image = PIL.Image.open(file, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise PIL.Image.DecompressionBombError
        if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            raise refusal(f"The image is a thin line: give one whose sides differ at most {MAX_ASPECT_RATIO} times.")
        return image
    except gr.Error:
        raise
    except PIL.Image.DecompressionBombError as error:  # Pillow's own, above 179 million pixels
        raise refusal(f"The image is too large: give one of at most {MAX_PIXELS:,} pixels.") from error
    except Exception as error:  # Pillow's decoders raise errors of a dozen types
        raise refusal(NO_IMAGE) from error


def read_image(file: bytes | None) -> PIL.Image.Image:
    """The image of an uploaded file, in 8-bit RGB; gr.Error says what is wrong with it."""
    if file is None:
        raise refusal("There is no image: choose one, or drop it on the page.")
    image = open_image(BytesIO(file))
    try:
        return to_rgb(image)
    except Exception as error:  # as above
        raise refusal(NO_IMAGE) from error


def picture_of(image: PIL.Image.Image, side: int = PICTURE_SIDE) -> PIL.Image.Image:
    """`image` with a longer side of `side` pixels."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, PIL.Image.Resampling.BICUBIC)


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
