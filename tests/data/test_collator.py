"""The tensors of a batch of rows."""

import pytest
import torch
from data_sets import encoded, noise, rows_of

from mmjepa.data.collator import SIDES, VqaCollator, alignment_text
from mmjepa.data.images import normalize_pixels, prepare


@pytest.fixture(scope="module")
def data(image_processor):
    """Eight questions about three images. The last two rows have no question, and only one of them has a caption."""
    numbers = [0, 1, 1, 2, 0, 1, 2, 2]
    rows = rows_of([{"bytes": encoded(noise(number)), "path": None} for number in numbers]).remove_columns(
        ["question", "answer"]
    )
    rows = rows.add_column("question", [*("is it a liver?", "what is seen?") * 3, "", ""])
    rows = rows.add_column("answer", ["yes", "a tumour", "no", "necrosis in the liver", "no", "yes", "no", "yes"])
    return prepare(rows.add_column("caption", ["a caption"] * 7 + [""]), image_processor)


def test_a_batch_holds_each_image_once_and_the_processors_tensors_of_each_row(data, processor):
    rows = data.__getitems__([3, 0, 2, 4, 1])
    batch = VqaCollator(processor, "priority", as_bytes=True)(rows)
    names = {
        "pixel_values",
        "image_ids",
        "image_index",
        "input_ids",
        "attention_mask",
        "labels",
        "keep_sides",
        "row_ids",
    }
    assert batch["row_ids"].tolist() == [3, 0, 2, 4, 1]
    assert set(batch) == names
    assert batch["image_ids"].tolist() == [row["image_id"] for row in (rows[0], rows[1], rows[2])]
    assert batch["pixel_values"].shape == (3, 3, 28, 28) and batch["pixel_values"].dtype == torch.uint8
    for row, (number, example) in enumerate(zip([2, 0, 1, 0, 1], rows, strict=True)):
        alone = processor(
            images=noise(number), text=example["question"], answers=example["answer"], return_tensors="pt"
        )
        pixels = normalize_pixels(batch["pixel_values"][batch["image_index"][[row]]], processor.image_processor)
        torch.testing.assert_close(pixels, alone["pixel_values"])
        read = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row][read], alone["input_ids"][0])
        assert torch.equal(batch["labels"][row][batch["labels"][row] != -100], alone["labels"][0])
    assert batch["labels"].shape[1] == max((labels != -100).sum() for labels in batch["labels"])


def test_alignment_texts_are_there_only_where_a_row_has_no_question(data, processor):
    assert "align_input_ids" not in VqaCollator(processor, "priority")(data.__getitems__([0, 1]))
    batch = VqaCollator(processor, "priority")(data.__getitems__([0, 6, 7]))
    expected = processor(text=["is it a liver?", "a caption", "yes"], return_tensors="pt")
    assert torch.equal(batch["align_input_ids"], expected["input_ids"])
    assert torch.equal(batch["align_attention_mask"], expected["attention_mask"])


FULL_ROW = {"question": "is it?", "caption": "a liver", "answer": "yes", "text": "more"}


@pytest.mark.parametrize(
    ("setting", "absent", "expected"),
    [
        ("priority", "", "is it?"),
        ("priority", "question", "a liver"),
        ("priority", "question caption", "yes"),
        ("priority", "question caption answer", "more"),
        ("statement", "", "is it? yes"),
        ("statement", "answer", "is it?"),
        ("statement", "question", "a liver"),
        ("caption", "", "a liver"),
        ("caption", "caption", ""),
        ("answer", "", "yes"),
    ],
)
def test_the_alignment_text_is_that_of_the_setting(setting, absent, expected):
    empty = {**FULL_ROW, **dict.fromkeys(absent.split(), "")}
    missing = {name: text for name, text in FULL_ROW.items() if name not in absent.split() or name == "answer"}
    assert alignment_text(empty, setting) == expected
    assert absent == "" or "answer" in absent or alignment_text(missing, setting) == expected


def test_statements_are_what_a_batch_is_aligned_to(data, processor):
    batch = VqaCollator(processor, "statement")(data.__getitems__([0, 3]))
    expected = processor(text=["is it a liver? yes", "what is seen? necrosis in the liver"], return_tensors="pt")
    assert torch.equal(batch["align_input_ids"], expected["input_ids"])


def test_a_row_without_a_question_teaches_no_answer_and_one_without_a_text_no_alignment(data, processor):
    batch = VqaCollator(processor, "caption")(data.__getitems__([5, 6, 7]))  # without: nothing, question, both
    assert (batch["labels"] != -100).any(dim=1).tolist() == [True, False, False]
    assert batch["align_attention_mask"].any(dim=1).tolist() == [True, True, False]


def test_a_batch_says_of_which_images_a_text_names_a_side(data, processor):
    rows = data.__getitems__([0, 1, 2, 3])  # about images 0, 1, 1, 2
    rows[2] = {**rows[2], "answer": "In the upper lobe, to the LEFT"}
    rows[3] = {**rows[3], "question": "is the brightest leftover stain bottomless?"}
    assert VqaCollator(processor, as_bytes=True)(rows)["keep_sides"].tolist() == [False, True, False]


@pytest.mark.parametrize(
    "place",
    "left right leftmost Rightward left-sided top topmost bottommost uppermost lowermost upward downwards beneath "
    "underneath under underlying under-lying overlying overlies subjacent superior inferiorly anterior posterior "
    "dorsal northern counter-clockwise anticlockwise above below".split(),
)
def test_words_of_place_are_words_that_a_mirror_makes_wrong(place):
    assert SIDES.search(f"what is seen {place}?") and not SIDES.search(f"what is seen x{place}s?")


@pytest.mark.parametrize(
    "text",
    ["leftover", "bright", "cleft", "topical", "made up of", "covered", "overload", "undergo", "side", "wright"],
)
def test_words_that_only_hold_one_of_place_are_none(text):
    assert not SIDES.search(f"is it {text}?")


def test_blank_data_asks_the_same_about_one_black_image(data, processor):
    seen, blank = (
        VqaCollator(processor, as_bytes=True)(rows.__getitems__([3, 0, 2])) for rows in (data, data.blank())
    )
    assert blank["pixel_values"].shape == (1, 3, 28, 28) and blank["pixel_values"].dtype == torch.uint8
    assert blank["pixel_values"].max() == 0 < seen["pixel_values"].max()
    assert blank["image_index"].tolist() == [0, 0, 0]
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(blank[name], seen[name])


def test_a_row_alone_is_the_row_among_others(data):
    together = data.__getitems__([5, 2])[0]
    assert len(data) == 8
    assert {**data[5], "pixels": None} == {**together, "pixels": None}
    assert torch.equal(data[5]["pixels"], together["pixels"])
