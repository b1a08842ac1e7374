"""Images, questions and answers as users have them -> the model's tensors, and token ids back to text."""

import base64
import operator
import os
import re
import sys
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from transformers import AutoProcessor, BatchFeature, ProcessorMixin
from transformers.image_utils import ChannelDimension, ImageInput, is_valid_image, to_numpy_array
from transformers.processing_utils import ProcessingKwargs
from transformers.utils import is_torch_tensor, logging

from .configuration_mmjepa import MMJepaConfig
from .fetching_mmjepa import fetch

logger = logging.get_logger(__name__)

PIL.Image.init()
# All formats that Pillow reads except EPS: an EPS file is a program, which Pillow lets Ghostscript run.
FORMATS = sorted(set(PIL.Image.OPEN) - {"EPS"})
# Tags of TIFF and EXIF, and PNG's chunks of text and of the colour profile.
ORIENTATION, BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 0x0112, 0x0102, 0x0119
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
PNG_START = b"\x89PNG\r\n\x1a\n"
# Names of slides end so; a .mrxs file alone is a small picture of its slide, which Pillow would read.
SLIDE_SUFFIXES = (".bif", ".czi", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu")
A_SLIDE = "it is a slide: search its tiles by `mmjepa search`, or cut out regions, as by QuPath, and save them as PNG"
# First bytes of files that are no images but are taken for some -> what they are, and what to do.
OTHER_FILES = (
    (rb"version https://git-lfs", "it is a pointer of Git LFS in place of the file: fetch that with `git lfs pull`"),
    (rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body)", "it is an HTML page: download the image itself"),
    (rb"(\xef\xbb\xbf)?\s*<(\?xml|svg|!--)", "it is XML or an SVG drawing: save it as PNG"),
    (rb".{128}DICM", "it is a DICOM file: save its frame as PNG or TIFF"),
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "it is HEIC, which Pillow does not read: save it as PNG or JPEG"),
    (rb".{4}ftypavi", "it is AVIF, which this version of Pillow does not read: save it as PNG or JPEG"),
    (rb".{4}ftyp", "it is a video: save the frame as PNG or JPEG"),
    (rb"%PDF", "it is a PDF: save its image as PNG or JPEG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "it is a PostScript program, which is not run: save it as PNG"),
    (rb"\x93NUMPY", "it is a numpy array: save it as PNG or TIFF"),
    (rb"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "it is an archive: unpack it"),
    (rb"ZISRAWFILE", A_SLIDE),
    (rb"\x89HDF", "it is a microscope's own file: export the field of view as PNG or TIFF"),
)

# The model answers one question at a time: the text of a chat's last turn. Earlier turns only bring the image.
CHAT_TEMPLATE = (
    "{% set content = messages[-1]['content'] %}"
    "{% set question = content if content is string else "
    "content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') %}"
    "{% if messages[-1]['role'] != 'user' or not question %}"
    '{{ raise_exception("the chat ends with a turn of the " ~ messages[-1][\'role\'] ~ " that says \'" ~ question ~ '
    '"\': end it with a turn of the user that asks a question.") }}'
    "{% endif %}{{ question }}"
)


class MMJepaProcessor(ProcessorMixin):
    """The image encoder's image processor and BART's tokenizer in one.

    Args:
        image_processor: makes `pixel_values` of images; normally a `BitImageProcessor`.
        tokenizer: makes token ids of questions and answers; normally a `BartTokenizer`. Its `model_max_length` is the
            length at which text is truncated, with one warning.
        chat_template: Jinja template of `apply_chat_template`; by default the text of the last turn, which has to be
            the user's. An image of an earlier turn stays the image that it asks about.
    """

    text_kwargs = {"padding": True, "truncation": True}

    def __init__(self, image_processor, tokenizer, chat_template: str | dict[str, str] | None = None):
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        # Saving sets it and loading drops it. Without this line a loaded processor would differ from the saved one.
        self.auto_map = {"AutoProcessor": "processing_mmjepa.MMJepaProcessor"}

    # The library's own call takes neither answers nor image_index, does not work for answers alone, and has no hook
    # that sees whether the tokenizer truncates.
    def __call__(
        self,
        images: ImageInput | str | bytes | Sequence[str | bytes] | None = None,
        text: str | Sequence[str] | None = None,
        answers: str | Sequence[str] | None = None,
        image_index: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Tensors of the I images and B questions that are given; lists without `return_tensors="pt"`.

        Args:
            images: one image or I, each a PIL image of any mode, an array or tensor (H, W), (H, W, C) or (C, H, W) of
                8-bit or 16-bit values or of values between 0 and 1, a path, a URL, or the bytes of an image file, also
                in base64.
            text: one question or B.
            answers: one answer for each question.
            image_index: for each question the number of its image; needed unless I == B.
            kwargs: for the tokenizer and the image processor; `padding` defaults to the longest question of the batch.

        Returns:
            `pixel_values` (I, 3, H, W); `input_ids` and `attention_mask` (B, L); `labels` (B, A), padded on the right
            with -100; `image_index` (B,).

        Raises:
            ValueError: the numbers of images, questions, answers and indices do not fit each other; a path or bytes
                hold no image; or a text has half of a character.
            TypeError: an image, a question, an answer or an index is of a type that is not listed above.
        """
        if images is None and text is None and answers is None:
            raise ValueError("nothing to process: give `images`, `text`, `answers` or several of them.")
        # The library annotates the class that it is given here as an instance.
        merged = self._merge_kwargs(
            ProcessingKwargs,  # type: ignore[arg-type]
            tokenizer_init_kwargs=self.tokenizer.init_kwargs,
            **kwargs,
        )
        # transformers 5.21 does not merge the class's own defaults.
        images_kwargs, text_kwargs = merged["images_kwargs"], {**self.text_kwargs, **merged["text_kwargs"]}
        layout = images_kwargs.pop("input_data_format", None)
        data: dict[str, Any] = {}
        if image_index is not None:
            data["image_index"] = whole_numbers(image_index)
        images = None if images is None else [load_rgb(image, layout) for image in flat_list(images)]
        questions = None if text is None else check_strings("text", text)
        check_counts(images, questions, data.get("image_index"))

        if images is not None:
            data |= self.image_processor(images, **images_kwargs)
        if questions is not None:
            data |= self._tokenize(questions, **text_kwargs)
        if answers is not None:
            data["labels"] = self._labels(check_strings("answers", answers, like=questions))
        return BatchFeature(data, tensor_type=text_kwargs.get("return_tensors"))

    def _tokenize(self, texts: list[str], **kwargs):
        tokens = self.tokenizer(texts, **kwargs)
        if any(encoding.overflowing for encoding in tokens.encodings or []):
            limit = kwargs.get("max_length") or self.tokenizer.model_max_length
            logger.warning_once(f"Text of more than {limit} tokens is truncated to its first {limit}.")
        return tokens

    def _labels(self, answers: list[str]) -> list[list[int]]:
        # By the mask, not by the id: a tokenizer may pad with a token that also ends an answer.
        tokens = self._tokenize(answers, padding=True, truncation=True, padding_side="right")
        return [
            [token if is_text else -100 for token, is_text in zip(ids, mask, strict=True)]
            for ids, mask in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)
        ]


def to_rgb(image: PIL.Image.Image, encoded: bytes = b"") -> PIL.Image.Image:
    """`image` of any mode as 8-bit RGB: upright as its EXIF tag says, over white where it is transparent.

    16-bit values are scaled to 8 bit by their range. Pillow would clip grey ones at 255. Of colours it would keep the
    higher byte, which is nearly black if a camera's 12 bits are stored in 16.

    Args:
        encoded: the file that `image` was opened from; it may state the range of its values.
    """
    values = wide_colors(image, encoded)  # first: a loaded image no longer knows how it was stored
    white, rotation = stated_white(image, encoded), image.getexif().get(ORIENTATION, 1)
    if values is None and (image.mode == "F" or image.mode.startswith("I")):
        values = np.asarray(image)
    if values is not None:
        colors = to_8_bit(values[..., :3] if values.ndim == 3 else values, white)
        has_alpha = values.shape[2:] == (4,)
        image = PIL.Image.fromarray(np.dstack([colors, to_8_bit(values[..., 3])]) if has_alpha else colors)
        image.getexif()[ORIENTATION] = rotation
    image = PIL.ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def stated_white(image: PIL.Image.Image, encoded: bytes) -> int | None:
    """The largest value of a sample, as a TIFF file's tags or a PNG file's sBIT state it; None if they don't."""
    if tags := getattr(image, "tag_v2", None):
        largest, bits = (int(np.max(tags.get(tag) or 0)) for tag in (MAX_SAMPLE_VALUE, BITS_PER_SAMPLE))
        return largest or (2**bits - 1 if bits < 16 else None)
    bits = next((encoded[start + 8] for kind, start, _ in png_chunks(encoded) if kind == b"sBIT"), None)
    return None if bits is None else 2**bits - 1


def wide_colors(image: PIL.Image.Image, encoded: bytes) -> np.ndarray | None:
    """The values (H, W, C) of a file of 16-bit colours whose higher bytes are nearly all 0; None for other files."""
    tiles: Any = getattr(image, "tile", [])
    raw_mode = raw_mode_of(tiles[0]) if tiles and encoded else ""
    if not re.fullmatch("RGBA?;16[BLN]", raw_mode):
        return None
    higher = np.asarray(image)  # (H, W, C)
    if higher[..., :3].max() >= 64:
        return None
    # Read with the other order of bytes, Pillow keeps the lower one.
    is_little = raw_mode[-1] == "L" or (raw_mode[-1] == "N" and sys.byteorder == "little")
    other = raw_mode[:-1] + ("B" if is_little else "L")
    again = PIL.Image.open(BytesIO(encoded), formats=FORMATS)
    tiles = [(*tile[:3], other if isinstance(tile[3], str) else (other, *tile[3][1:])) for tile in again.tile]
    again.tile = tiles
    return higher * np.uint16(256) + np.asarray(again)


def raw_mode_of(tile: tuple) -> str:
    """How the bytes of a part of a file encode pixels, such as "RGB;16B"; "" if its decoder does not say."""
    arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    return arguments[0] if arguments and isinstance(arguments[0], str) else ""


def png_chunks(encoded: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk of a PNG file; nothing for other files."""
    place = len(PNG_START) if encoded.startswith(PNG_START) else len(encoded)
    while place < len(encoded):
        end = place + 12 + int.from_bytes(encoded[place : place + 4], "big")
        yield encoded[place + 4 : place + 8], place, end
        place = end


def without_texts(encoded: bytes) -> bytes:
    """A PNG file without its texts and its colour profile: Pillow refuses large ones. Other files are unchanged."""
    kept = [encoded[start:end] for kind, start, end in png_chunks(encoded) if kind not in PNG_TEXTS]
    return PNG_START + b"".join(kept) if kept else encoded


def load_rgb(image: Any, layout: ChannelDimension | str | None = None) -> PIL.Image.Image:
    """An image, in any form that [`MMJepaProcessor`] takes, as 8-bit RGB.

    `layout` says where an array's channels are; without it, the shape decides.
    """
    if isinstance(image, (str, Path)):
        return decode_image(encoded_image(str(image)))
    if isinstance(image, bytes):
        return decode_image(image)
    if not is_valid_image(image):
        raise TypeError(
            f"an image is a {type(image).__name__}: give a PIL image, a numpy array or torch tensor, a path, a URL or "
            "the bytes of an image file."
        )
    if isinstance(image, PIL.Image.Image):
        return to_rgb(image)
    # numpy has no bfloat16, and float32 holds what any shorter type does.
    if is_torch_tensor(image) and image.is_floating_point():
        image = image.float()
    return to_rgb(array_image(to_numpy_array(image), layout))


def encoded_image(source: str) -> bytes:
    """The bytes of the image file at a URL or a path, or in a base64 string."""
    if source.startswith(("http://", "https://")):
        return fetch(source)
    if os.path.isfile(source):
        if source.lower().endswith(SLIDE_SUFFIXES):
            raise ValueError(f"{source} can't be read: {A_SLIDE}.")
        return Path(source).read_bytes()
    if (encoded := base64_image(source)) is None:
        shown = source if len(source) <= 200 else f"{source[:200]}..."
        raise ValueError(
            f"{shown!r} is no file, no URL and no image in base64: give the path of an image file that exists, or one "
            "of the others."
        )
    return encoded


def base64_image(text: str) -> bytes | None:
    """The bytes of the image file that a text holds in base64, also as a data URL; None if it holds none."""
    try:
        encoded = base64.b64decode(text.partition(",")[2] if text.startswith("data:image/") else text)
        PIL.Image.open(BytesIO(without_texts(encoded)), formats=FORMATS)
        return encoded
    except Exception:  # a text that is no image can fail in many ways
        return None


def decode_image(encoded: bytes) -> PIL.Image.Image:
    """The image in an image file's bytes as 8-bit RGB; of an animation, the first image.

    transformers' `load_image` would cut off 16-bit values and lose transparency.

    Raises:
        ValueError: it can't be decoded; the message says why.
    """
    try:
        try:
            return to_rgb(PIL.Image.open(BytesIO(encoded), formats=FORMATS), encoded)
        except ValueError:  # a text or a colour profile may be too large for Pillow
            encoded = without_texts(encoded)
            return to_rgb(PIL.Image.open(BytesIO(encoded), formats=FORMATS), encoded)
    except Exception as error:  # broken files make Pillow's decoders raise errors of a dozen types
        raise ValueError(
            f"an image is {len(encoded)} bytes that Pillow can't read ({why_unreadable(encoded, error)}): give the "
            "bytes of a whole image file, such as a PNG or a JPEG; an array of pixels goes in as a numpy array."
        ) from error


def why_unreadable(encoded: bytes, error: Exception) -> str:
    """What is wrong with bytes that Pillow can't read as an image, for the reason `error`, and what to do."""
    if not encoded:
        return "it is empty"
    if isinstance(error, PIL.Image.DecompressionBombError):
        most = 2 * PIL.Image.MAX_IMAGE_PIXELS
        return (
            f"it has more than {most} pixels: cut out a part, or save it smaller; `mmjepa search` reads the tiles of "
            "slides (pip install 'mmjepa[slides]')"
        )
    for start, reason in OTHER_FILES:
        if re.match(start, encoded[:256], re.DOTALL | re.IGNORECASE):
            return reason
    if isinstance(error, PIL.UnidentifiedImageError):  # whose message has the address of the bytes in memory
        return "it is no image in a format that Pillow knows"
    return f"{error or type(error).__name__}"[:300].rstrip(".")


def array_image(values: np.ndarray, layout: ChannelDimension | str | None = None) -> PIL.Image.Image:
    """An array (H, W), (H, W, C) or (C, H, W) of 1 to 4 channels as an 8-bit image of mode L, LA, RGB or RGBA."""
    channels = range(1, 5)
    if layout is None and values.ndim == 3:
        layout = ChannelDimension.FIRST if values.shape[0] in channels else ChannelDimension.LAST
    if layout is not None and ChannelDimension(layout) == ChannelDimension.FIRST:
        values = np.moveaxis(values, 0, -1)
    if values.ndim not in (2, 3) or 0 in values.shape or (values.ndim == 3 and values.shape[-1] not in channels):
        raise ValueError(f"an image is an array {values.shape}: give (H, W), (H, W, C) or (C, H, W) with 1 <= C <= 4.")
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    return PIL.Image.fromarray(np.ascontiguousarray(to_8_bit(values)))


def to_8_bit(values: np.ndarray, stated_white: int | None = None) -> np.ndarray:
    """Brightness as 8-bit integers: larger integers and numbers between 0 and 1 are scaled, 0 to 255 stay.

    16-bit integers may hold fewer bits, such as a camera's 12. White is the largest number of 8, 10, 12, 14 or 16
    bits, whichever is the first to hold all values and the file's `stated_white`.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.name == "bfloat16":  # of ml_dtypes, as JAX makes it: numpy does not see a number in it
        values = values.astype(np.float32)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"an image has values of type {values.dtype}: give numbers, 0 to 1 or 0 to 255.")
    kind, low, high = values.dtype.kind, values.min(), values.max()
    if not 0 <= low <= high <= (255 if kind == "f" else 65535):
        raise ValueError(
            f"an image has values from {low} to {high}: give 0 to 1, 0 to 255, or integers from 0 to 65535. "
            "Images that are already normalised go to the model as `pixel_values`."
        )
    if kind == "b" or (kind == "f" and high <= 1):
        scale = 255.0
    elif kind != "f":
        least = max(high, stated_white or 0)
        bits = next(bits for bits in (8, 10, 12, 14, 16) if least < 2**bits or bits == 16)
        if bits < 16 and (high > 255 or values.dtype.itemsize == 2):
            logger.warning_once(
                f"Images of 16-bit values have none of more than {bits} bits: {2**bits - 1} is taken for white. If "
                "they are meant to be dark, save them with 8 bits."
            )
        scale = 255 / (2**bits - 1)
    else:
        scale = 1.0
    return (values * scale).round().astype(np.uint8)


def flat_list(images: Any) -> list:
    """The images of one image, an array (I, ...) or a list; a list may hold lists of one image, as chats do."""
    if isinstance(images, (str, bytes)) or not isinstance(images, Sequence):
        return list(images) if getattr(images, "ndim", 0) == 4 else [images]
    for row, item in enumerate(images):
        if isinstance(item, (list, tuple)) and len(item) != 1:
            raise ValueError(f"question {row} comes with {len(item)} images: give one image a question.")
    return [item[0] if isinstance(item, (list, tuple)) else item for item in images]


def whole_numbers(image_index: Any) -> list[int]:
    """`image_index` as a list of numbers. Fractions and booleans are refused."""
    try:
        if any("bool" in str(getattr(index, "dtype", type(index))) for index in image_index):
            raise TypeError
        return [operator.index(index) for index in image_index]
    except TypeError:
        raise TypeError(
            f"image_index is {image_index!r}: give a list with the whole number of an image for each question."
        ) from None


def check_strings(name: str, texts: Any, like: list[str] | None = None) -> list[str]:
    """`texts` as a list of strings, one for each of `like`."""
    texts = [texts] if isinstance(texts, str) or not isinstance(texts, Sequence) else list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"`{name}` holds a {type(text).__name__}: give a string or a list of strings.")
        if re.search("[\ud800-\udfff]", text):
            raise ValueError(
                f"`{name}` holds {text[:80]!r}, which has half of a character (a surrogate): decode it anew."
            )
    if not texts:
        raise ValueError(f"`{name}` is an empty list: give at least one string.")
    if like is not None and len(texts) != len(like):
        raise ValueError(f"{len(texts)} {name} for {len(like)} questions: give one for each question.")
    return texts


def check_counts(images: list | None, questions: list | None, image_index: list[int] | None) -> None:
    """Raises ValueError if there is no image, or if images, questions and indices do not fit each other."""
    if images == []:
        raise ValueError("`images` is empty: give at least one image.")
    if image_index is None:
        if images is not None and questions is not None and len(images) != len(questions):
            raise ValueError(
                f"{len(images)} images for {len(questions)} questions: give one image a question, or `image_index` to "
                "say which image each question is about."
            )
        return
    if questions is not None and len(image_index) != len(questions):
        raise ValueError(
            f"image_index holds {len(image_index)} numbers for {len(questions)} questions: give one for each."
        )
    for row, index in enumerate(image_index):
        if index < 0 or images is not None and index >= len(images):
            allowed = "0 or more" if images is None else f"0 to {len(images) - 1}, the number of an image"
            raise ValueError(f"image_index is {index} for question {row}: give {allowed}.")


MMJepaProcessor.register_for_auto_class()

if __package__ == "mmjepa":  # the package itself, not a checkpoint's copy of this file
    AutoProcessor.register(MMJepaConfig, MMJepaProcessor, exist_ok=True)

__all__ = ["MMJepaProcessor", "to_rgb"]
