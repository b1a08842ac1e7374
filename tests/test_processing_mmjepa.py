"""The processor against the stock image processor and tokenizer, and against values worked out by hand."""

import base64
import os
import struct
import subprocess
import sys
import threading
import zlib
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from transformers.utils import logging

from mmjepa import fetching_mmjepa
from mmjepa.fetching_mmjepa import check_public
from mmjepa.processing_mmjepa import MMJepaProcessor, base64_image, decode_image, to_rgb

QUESTIONS = ["what is present?", "is necrosis seen in the liver?", "where is the tumour?"]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """An image (H, W, 3) with every value from 0 to 255 in it."""
    return np.random.default_rng(0).permutation(np.arange(40 * 30 * 3) % 256).astype(np.uint8).reshape(40, 30, 3)


@pytest.fixture(scope="module")
def image(pixels) -> Image.Image:
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def image_file(image, tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "slide.png"
    image.save(path)
    return path


@pytest.fixture
def server(image_file):
    """A server of the image's folder; `asked` are the paths that it was asked for. /moved leads to the image."""
    folder, asked = str(image_file.parent), []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def do_GET(self):
            asked.append(self.path)
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", f"/{image_file.name}")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.address = asked, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def warnings_again(caplog, monkeypatch):
    """caplog that hears transformers too, with the warnings that are given once forgotten."""
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    logging.warning_once.cache_clear()
    return caplog


def one_pixel(mode: str, value) -> Image.Image:
    return Image.new(mode, (1, 1), value)


def test_images_and_questions_give_what_the_stock_parts_give(processor, image_processor, tokenizer, image):
    batch = processor(images=[image] * 3, text=QUESTIONS, return_tensors="pt")
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask"} == set(processor.model_input_names)
    torch.testing.assert_close(
        batch["pixel_values"], image_processor([image] * 3, return_tensors="pt")["pixel_values"]
    )
    tokens = tokenizer(QUESTIONS, padding=True, return_tensors="pt")
    assert batch["input_ids"].equal(tokens["input_ids"])
    assert batch["attention_mask"].equal(tokens["attention_mask"])


def test_labels_are_the_tokens_of_the_answers_followed_by_minus_100(processor, tokenizer):
    answers = ["yes", "in the liver"]
    labels = processor(text=QUESTIONS[:2], answers=answers, return_tensors="pt")["labels"]
    for row, answer in zip(labels.tolist(), answers, strict=True):
        tokens = tokenizer(answer)["input_ids"]
        assert row == tokens + [-100] * (labels.shape[1] - len(tokens))
    assert (labels == -100).any()


def test_labels_stay_right_padded_where_questions_are_padded_on_the_left(processor, monkeypatch):
    monkeypatch.setattr(processor.tokenizer, "padding_side", "left")
    batch = processor(text=QUESTIONS[:2], answers=["yes", "in the liver"], return_tensors="pt")
    assert batch["attention_mask"][0, 0] == 0
    assert batch["labels"][0, 0] != -100 and batch["labels"][0, -1] == -100


def test_decoded_labels_are_the_answers(processor):
    answers = ["yes", "in the liver"]
    labels = processor(answers=answers, return_tensors="pt")["labels"]
    ids = labels.masked_fill(labels == -100, processor.tokenizer.pad_token_id)
    assert processor.decode(ids, skip_special_tokens=True) == answers
    assert processor.batch_decode(ids, skip_special_tokens=True) == answers
    assert processor.decode(ids[0], skip_special_tokens=True) == answers[0]
    assert processor.post_process_image_text_to_text(ids) == answers


def test_image_index_says_which_image_each_question_is_about(processor, image):
    batch = processor(images=[image] * 2, text=QUESTIONS, image_index=[1, 0, 1], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 28, 28)
    assert batch["image_index"].equal(torch.tensor([1, 0, 1]))


@pytest.mark.parametrize(
    "form",
    [
        lambda pixels, path: pixels,
        lambda pixels, path: pixels.transpose(2, 0, 1),
        lambda pixels, path: torch.from_numpy(pixels),
        lambda pixels, path: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
        lambda pixels, path: pixels.astype(np.float32),
        lambda pixels, path: pixels.astype(np.uint16) * 257,
        lambda pixels, path: pixels[None],
        lambda pixels, path: [[Image.fromarray(pixels)]],
        lambda pixels, path: path,
        lambda pixels, path: str(path),
        lambda pixels, path: path.read_bytes(),
        lambda pixels, path: [path.read_bytes()],
        lambda pixels, path: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(),
        lambda pixels, path: base64.b64encode(path.read_bytes()).decode(),
    ],
    ids="array channels_first tensor units float 16_bit batch nested Path path bytes list data_url base64".split(),
)
def test_an_image_gives_the_same_pixels_in_every_form(processor, pixels, image, image_file, form):
    expected = processor(images=image, return_tensors="pt")["pixel_values"]
    given = processor(images=form(pixels, image_file), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(given, expected, rtol=0, atol=0)


@pytest.mark.parametrize("path", ["slide.png", "moved"])
def test_an_image_is_read_from_a_url(processor, image, server, path, monkeypatch):
    monkeypatch.setattr(fetching_mmjepa, "check_public", lambda address: None)
    expected = processor(images=image, return_tensors="pt")["pixel_values"]
    given = processor(images=[f"{server.address}/{path}"], return_tensors="pt")["pixel_values"]
    assert given.equal(expected)


def test_nothing_is_asked_of_this_machine_or_a_private_network_by_a_url_or_a_redirect(processor, server, monkeypatch):
    with pytest.raises(ValueError, match=r"127\.0\.0\.1, an address of this machine .* download the image"):
        processor(images=f"{server.address}/slide.png")
    assert server.asked == []
    public_once = iter([lambda address: None])
    monkeypatch.setattr(fetching_mmjepa, "check_public", lambda address: next(public_once, check_public)(address))
    with pytest.raises(ValueError, match="an address of this machine"):
        processor(images=f"{server.address}/moved")
    assert server.asked == ["/moved"]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"]
    + ["::1", "::ffff:10.0.0.1", "fe80::1%eth0", "fc00::1"],
)
def test_addresses_that_are_not_public_are_refused(address):
    with pytest.raises(ValueError, match="nothing is fetched"):
        check_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses_are_not_refused(address):
    check_public(address)


def test_an_image_that_is_a_program_is_not_run(processor, image, tmp_path, monkeypatch):
    image.save(tmp_path / "program.eps")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("the program is run"))
    for given in (tmp_path / "program.eps", (tmp_path / "program.eps").read_bytes()):
        with pytest.raises(ValueError, match="can't read"):
            processor(images=given)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_half_of_an_image_is_refused_and_none_of_its_pixels_are_read(processor, image, tmp_path, image_format):
    image.save(tmp_path / "image", image_format)
    whole = (tmp_path / "image").read_bytes()
    with pytest.raises(ValueError, match="bytes that Pillow can't read"):
        processor(images=whole[: len(whole) // 2])


def test_of_a_url_no_more_is_read_than_is_allowed(processor, server, monkeypatch):
    monkeypatch.setattr(fetching_mmjepa, "check_public", lambda address: None)
    monkeypatch.setattr(fetching_mmjepa, "MAX_DOWNLOAD", 100)
    with pytest.raises(ValueError, match="slide.png has more than 0 MB or takes more than 30 seconds: download it"):
        processor(images=f"{server.address}/slide.png")


def test_an_ambiguous_array_is_read_as_input_data_format_says(processor):
    values = np.zeros((3, 30, 3), dtype=np.uint8)
    values[..., 0] = 255
    red = processor(images=Image.fromarray(values), return_tensors="pt")["pixel_values"]
    assert processor(images=values, input_data_format="channels_last", return_tensors="pt")["pixel_values"].equal(red)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (one_pixel("1", 1), (255, 255, 255)),
        (one_pixel("L", 7), (7, 7, 7)),
        (one_pixel("LA", (0, 51)), (204, 204, 204)),
        (one_pixel("RGBA", (255, 0, 0, 51)), (255, 204, 204)),
        (one_pixel("RGBA", (255, 0, 0, 255)), (255, 0, 0)),
        (one_pixel("CMYK", (0, 255, 255, 0)), (255, 0, 0)),
        (one_pixel("I;16", 65535), (255, 255, 255)),
        (one_pixel("I;16", 257 * 100), (100, 100, 100)),
        (one_pixel("I;16", 1023), (255, 255, 255)),  # by its range: 10 bits
        (one_pixel("I;16B", 257 * 100), (100, 100, 100)),
        (one_pixel("I", 257 * 100), (100, 100, 100)),
        (one_pixel("I", 100), (100, 100, 100)),
        (one_pixel("F", 0.2), (51, 51, 51)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_becomes_rgb_over_white_and_in_8_bit(image, expected):
    assert to_rgb(image).mode == "RGB"
    assert to_rgb(image).getpixel((0, 0)) == expected


def test_a_transparent_palette_colour_becomes_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    with Image.open(tmp_path / "palette.png") as stored:
        assert stored.mode == "P"
        assert np.asarray(to_rgb(stored)).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_16_bit_files_are_scaled_and_not_cut_off(processor, tmp_path):
    grey = np.linspace(0, 255, 30 * 30).round().astype(np.uint16).reshape(30, 30)
    Image.fromarray(grey * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "flat.png")
    deep, flat = processor(images=[tmp_path / "deep.png", tmp_path / "flat.png"], return_tensors="pt")["pixel_values"]
    assert deep.equal(flat)


def saved(image: Image.Image, **options) -> bytes:
    file = BytesIO()
    image.save(file, **options)
    return file.getvalue()


def png_16(values: np.ndarray, significant_bits: int | None = None) -> bytes:
    """A PNG of 16 bits of grey, RGB or RGBA (H, W, C), which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    said = b"" if significant_bits is None else chunk(b"sBIT", bytes([significant_bits] * channels))
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + said
    return start + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff_16(values: np.ndarray, order: str) -> bytes:
    """A TIFF of 16-bit RGB (H, W, 3), which Pillow does not write; its bytes in the order "<" or ">"."""
    height, width, _ = values.shape
    tags = [(256, width), (257, height), (258, 0), (259, 1), (262, 2), (273, 0), (277, 3), (278, height)]
    tags.append((279, 6 * height * width))
    bits = 8 + 2 + 12 * len(tags) + 4
    file = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    for tag, value in tags:
        number = 3 if tag == 258 else 1
        content = {258: bits, 273: bits + 6}.get(tag, value)
        file += struct.pack(f"{order}HHII", tag, 3 if tag == 258 else 4, number, content)
    return file + struct.pack(f"{order}IHHH", 0, 16, 16, 16) + values.astype(f"{order}u2").tobytes()


WRITERS = {
    "PNG": png_16,
    "TIFF": lambda values: saved(Image.fromarray(values[..., 0]), format="TIFF", compression="tiff_lzw"),
    "TIFF of colours, little endian": lambda values: tiff_16(values, "<"),
    "TIFF of colours, big endian": lambda values: tiff_16(values, ">"),
}


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize(
    ("name", "channels"),
    [("PNG", 1), ("PNG", 3), ("PNG", 4), ("TIFF", 1), *((name, 3) for name in list(WRITERS)[2:])],
)
def test_values_of_fewer_bits_in_a_16_bit_file_are_scaled_by_them_and_that_is_said(name, channels, bits, monkeypatch):
    said = []
    monkeypatch.setattr("mmjepa.processing_mmjepa.logger.warning_once", said.append)
    white = 2**bits - 1
    values = np.linspace(0, white, 20 * 30 * channels).round().astype(np.uint16).reshape(20, 30, channels)
    if channels == 4:
        values[..., 3] = 65535  # not transparent
    expected = np.broadcast_to((values[..., :3] * 255.0 / white).round(), (20, 30, 3))
    assert np.abs(np.asarray(decode_image(WRITERS[name](values))) - expected).max() == 0
    assert said and f"none of more than {bits} bits: {white} is taken for white" in said[0]


@pytest.mark.parametrize(("stated", "brightest"), [(4095, 16), (3000, 16), (65535, 1), (100, 255), (None, 255)])
def test_what_a_tiff_file_says_of_its_largest_value_goes_before_the_range(stated, brightest):
    tags = {} if stated is None else {0x0119: stated}
    file = saved(Image.fromarray(np.full((2, 2), 255, np.uint16)), format="TIFF", tiffinfo=tags)
    assert decode_image(file).getpixel((0, 0)) == (brightest,) * 3


@pytest.mark.parametrize(("stated", "brightest"), [(12, 16), (16, 1), (8, 255), (None, 255)])
def test_what_a_png_file_says_of_its_bits_goes_before_the_range(stated, brightest):
    file = png_16(np.full((2, 2, 1), 255), stated)
    assert decode_image(file).getpixel((0, 0)) == (brightest,) * 3


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "a pointer of Git LFS.*git lfs pull"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (bytes(128) + b"DICM" + bytes(100), "a DICOM file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%PDF-1.7", "a PDF"),
        (b"\x93NUMPY\1\0", "a numpy array"),
        (b"PK\3\4", "an archive"),
        (b"", "it is empty"),
        (b"no image", "no image in a format that Pillow knows"),
        (saved(Image.new("RGB", (90, 90), "red"), format="JPEG")[:700], "truncated"),
        (saved(Image.new("L", (9, 9)), format="EPS"), "a PostScript program"),
    ],
)
def test_what_can_not_be_read_says_why(processor, file, reason):
    with pytest.raises(ValueError, match=f"Pillow can't read \\(.*{reason}.*\\): give the bytes of a whole image"):
        processor(images=file)


def test_an_image_of_too_many_pixels_says_so(processor, image_file, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match="more than 1000 pixels: cut out a part, or save it smaller"):
        processor(images=str(image_file))


def large_text(zipped: bool) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 2_000_000, zip=zipped)
    return info


@pytest.mark.parametrize(
    "extra",
    [{"icc_profile": bytes(2_000_000)}, {"pnginfo": large_text(True)}, {"pnginfo": large_text(False)}],
    ids=["profile", "packed text", "text"],
)
def test_a_png_with_a_large_text_or_colour_profile_is_read(image, pixels, extra):
    file = saved(image, format="PNG", **extra)
    assert np.array_equal(np.asarray(decode_image(file)), pixels)
    assert base64_image(base64.b64encode(file).decode()) == file


def test_an_image_is_turned_as_its_exif_tag_says(processor, image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    turned = processor(images=tmp_path / "turned.png", return_tensors="pt")["pixel_values"]
    assert turned.equal(
        processor(images=image.transpose(Image.Transpose.ROTATE_270), return_tensors="pt")["pixel_values"]
    )


def test_long_text_is_truncated_to_the_position_limit_with_one_warning(processor, warnings_again):
    long = "is necrosis seen? " * 40
    for _ in range(2):
        batch = processor(text=["yes", long], answers=["no", long], return_tensors="pt")
    assert batch["input_ids"].shape == batch["labels"].shape == (2, processor.tokenizer.model_max_length)
    assert batch["input_ids"][1, -1] == processor.tokenizer.eos_token_id
    assert [record.getMessage() for record in warnings_again.records] == [
        "Text of more than 32 tokens is truncated to its first 32."
    ]


def test_text_at_the_position_limit_is_kept_without_a_warning(processor, warnings_again):
    words = "yes" * 30
    batch = processor(text=[words], return_tensors="pt")
    assert batch["input_ids"].shape == (1, processor.tokenizer.model_max_length)
    assert processor.decode(batch["input_ids"], skip_special_tokens=True) == [words]
    assert not warnings_again.records


def test_arguments_reach_the_part_they_are_for(processor, image):
    batch = processor(
        images=image,
        text="yes",
        text_kwargs={"padding": "max_length", "max_length": 12},
        images_kwargs={"crop_size": {"height": 14, "width": 14}},
        return_tensors="np",
    )
    assert batch["input_ids"].shape == (1, 12)
    assert batch["pixel_values"].shape == (1, 3, 14, 14)


@pytest.mark.parametrize("to_array", [np.asarray, torch.tensor, list, tuple])
def test_an_index_of_whole_numbers_is_taken_in_every_form(processor, image, to_array):
    batch = processor([image, image], QUESTIONS[:2], image_index=to_array([1, 0]), return_tensors="pt")
    assert batch["image_index"].tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1, 255])
def test_a_tensor_of_any_floating_type_is_the_same_image(processor, dtype, scale):
    values = torch.linspace(0, 1, 3 * 30 * 30, requires_grad=True).view(3, 30, 30)
    batch = processor(images=[(values * scale).to(dtype)], return_tensors="pt")
    expected = processor(images=[(values * 255).detach().round().byte()], return_tensors="pt")
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"], atol=0.04, rtol=0)


def test_an_array_of_bfloat16_is_the_same_image_as_one_of_float32(processor):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.linspace(0, 1, 900, dtype=np.float32).reshape(30, 30).astype(ml_dtypes.bfloat16)
    batches = [processor(images=array, return_tensors="np") for array in (values, values.astype(np.float32))]
    np.testing.assert_array_equal(batches[0]["pixel_values"], batches[1]["pixel_values"])


def test_an_unknown_argument_is_reported(processor, warnings_again):
    processor(text="yes", magnification=40)
    assert "`magnification` is not a valid argument" in warnings_again.text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "nothing to process: give `images`"),
        (
            {"images": 2, "text": 3},
            ValueError,
            "2 images for 3 questions: give one image a question, or `image_index`",
        ),
        ({"images": 2, "text": 3, "image_index": [0, 1]}, ValueError, "image_index holds 2 numbers for 3 questions"),
        ({"images": 2, "text": 3, "image_index": [0, 1, 2]}, ValueError, "is 2 for question 2: give 0 to 1"),
        ({"images": 2, "text": 3, "image_index": [0, -1, 1]}, ValueError, "is -1 for question 1: give 0 to 1"),
        (
            {"images": 2, "text": 2, "image_index": [0.7, 1]},
            TypeError,
            r"\[0.7, 1\]: give a list with the whole number",
        ),
        ({"images": 2, "text": 2, "image_index": [True, False]}, TypeError, "the whole number of an image"),
        ({"images": 2, "text": 2, "image_index": np.array([0.0, 1.0])}, TypeError, "the whole number of an image"),
        ({"images": 2, "text": 2, "image_index": torch.tensor([0.0, 1.0])}, TypeError, "the whole number of an image"),
        ({"images": 2, "text": 2, "image_index": torch.tensor([True, True])}, TypeError, "the whole number of an"),
        ({"images": 2, "text": 2, "image_index": ["0", "1"]}, TypeError, "the whole number of an image"),
        ({"images": 2, "text": 2, "image_index": 1}, TypeError, "image_index is 1: give a list"),
        ({"images": np.full((4, 4), 1j)}, ValueError, "values of type complex128: give numbers"),
        ({"text": 2, "answers": ["yes"]}, ValueError, "1 answers for 2 questions"),
        ({"text": 2, "answers": ["yes", None]}, TypeError, "`answers` holds a NoneType: give a string"),
        ({"text": 7.5}, TypeError, "`text` holds a float: give a string"),
        ({"images": [{"path": "a.png"}]}, TypeError, "an image is a dict: give a PIL image"),
        (
            {"images": "no-such-file.png"},
            ValueError,
            "'no-such-file.png' is no file, .*give the path of",
        ),
        ({"images": Path("slides", "none.png")}, ValueError, "'slides/none.png' is no file"),
        ({"images": "data:image/png;base64,AAAA"}, ValueError, "no image in base64"),
        ({"images": b"GIF8"}, ValueError, "an image is 4 bytes that Pillow can't read .*: give the bytes of a whole"),
        ({"images": np.zeros((5, 30, 30))}, ValueError, r"an array \(5, 30, 30\): give \(H, W\)"),
        ({"images": np.full((3, 30, 30), -0.5)}, ValueError, "values from -0.5 to -0.5: give 0 to 1, 0 to 255"),
        ({"images": [[], []], "text": 2}, ValueError, "question 0 comes with 0 images: give one image a question"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(processor, image, arguments, error, message):
    if isinstance(arguments.get("images"), int):
        arguments = {**arguments, "images": [image] * arguments["images"]}
    if isinstance(arguments.get("text"), int):
        arguments = {**arguments, "text": QUESTIONS[: arguments["text"]]}
    with pytest.raises(error, match=message):
        processor(**arguments)


def turn(role, question, image=None):
    content = [{"type": "text", "text": question}] if question else []
    return {"role": role, "content": content + ([] if image is None else [{"type": "image", "image": image}])}


def test_a_chat_of_an_image_and_a_question_is_that_image_and_that_question(processor, image, image_file):
    chats = [[turn("user", QUESTIONS[0], image)], [turn("user", QUESTIONS[1], str(image_file))]]
    assert processor.apply_chat_template(chats[0]) == QUESTIONS[0]
    batch = processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    expected = processor(images=[image, image], text=QUESTIONS[:2], return_tensors="pt")
    assert set(batch) == set(expected)
    for name in expected:
        assert batch[name].equal(expected[name])


def test_a_later_turn_of_a_chat_is_asked_by_its_own_text_about_the_image_of_the_first(processor, image):
    system = {"role": "system", "content": "You are a pathologist."}
    chat = [system, turn("user", QUESTIONS[0], image), turn("assistant", "yes"), turn("user", QUESTIONS[1])]
    batch = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    expected = processor(images=image, text=QUESTIONS[1], return_tensors="pt")
    for name in expected:
        assert batch[name].equal(expected[name])


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (turn("assistant", "it is"), "ends with a turn of the assistant that says 'it is': end it with a turn of the"),
        (turn("user", ""), "ends with a turn of the user that says '': .* asks a question"),
    ],
)
def test_a_chat_that_does_not_end_with_a_question_is_refused(processor, image, last, message):
    with pytest.raises(Exception, match=message):  # a TemplateError of jinja2
        processor.apply_chat_template([turn("user", QUESTIONS[0], image), last])


def test_a_chat_about_two_images_is_refused(processor, image):
    chat = [turn("user", QUESTIONS[0], image), turn("assistant", "yes"), turn("user", QUESTIONS[1], image)]
    with pytest.raises(ValueError, match="question 0 comes with 2 images: give one image a question"):
        processor.apply_chat_template(chat, tokenize=True, return_dict=True)


def test_a_saved_and_loaded_processor_is_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = MMJepaProcessor.from_pretrained(tmp_path)
    assert loaded.to_json_string() == (tmp_path / "processor_config.json").read_text() == processor.to_json_string()
    assert loaded.chat_template == processor.chat_template
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert loaded.tokenizer.model_max_length == processor.tokenizer.model_max_length


def test_a_saved_processor_loads_where_the_package_is_not_installed(processor, image, image_file, tmp_path):
    processor.save_pretrained(tmp_path / "saved")
    code = {f"{name}_mmjepa.py" for name in ("configuration", "fetching", "processing")}
    assert {path.name for path in (tmp_path / "saved").glob("*.py")} == code
    script = """
import sys
sys.modules["mmjepa"] = None  # so that importing it fails
import torch
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
processor.save_pretrained(sys.argv[1] + "-again")
processor = AutoProcessor.from_pretrained(sys.argv[1] + "-again", trust_remote_code=True)
torch.save(dict(processor(images=sys.argv[2], text="what is present?", return_tensors="pt")), sys.argv[3])
"""
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "saved", image_file, tmp_path / "batch.pt"],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
    )
    expected = processor(images=image, text="what is present?", return_tensors="pt")
    loaded = torch.load(tmp_path / "batch.pt", weights_only=True)
    assert set(loaded) == set(expected)
    for name in expected:
        assert loaded[name].equal(expected[name])
