"""The tensors of a batch of rows."""

import pytest
import torch
from data_sets import encoded, noise, rows_of

from mmjepa.data.collator import VqaCollator, tokens_of_views
from mmjepa.data.images import prepare
from mmjepa.data.pixels import normalize_pixels
from mmjepa.data.statements import statement_of


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
        "align_signs",
        "keep_sides",
        "row_ids",
        "answer_places",
    }
    assert batch["row_ids"].tolist() == [3, 0, 2, 4, 1]
    assert torch.equal(batch["labels"].flatten()[batch["answer_places"]], batch["labels"][batch["labels"] != -100])
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
    assert statement_of(empty, setting, {}).text == expected
    assert absent == "" or "answer" in absent or statement_of(missing, setting, {}).text == expected


def test_statements_are_what_a_batch_is_aligned_to(data, processor):
    batch = VqaCollator(processor, "statement")(data.__getitems__([0, 3]))
    expected = processor(text=["is it a liver? yes", "what is seen? necrosis in the liver"], return_tensors="pt")
    assert torch.equal(batch["align_input_ids"], expected["input_ids"])


def test_a_row_without_a_question_teaches_no_answer_and_one_without_a_text_no_alignment(data, processor):
    batch = VqaCollator(processor, "caption")(data.__getitems__([5, 6, 7]))  # without: nothing, question, both
    assert (batch["labels"] != -100).any(dim=1).tolist() == [True, False, False]
    assert batch["align_attention_mask"].any(dim=1).tolist() == [True, True, False]


@pytest.mark.parametrize(("side_words", "expected"), [("none", [False, True, True]), ("en", [False, False, True])])
def test_a_batch_says_of_which_images_a_text_would_be_wrong_for_the_mirror_image(
    data, processor, side_words, expected
):
    rows = data.__getitems__([0, 1, 2, 3])  # about images 0, 1, 1, 2
    rows[0] = {**rows[0], "question": "is the brightest leftover stain bottomless?"}
    rows[2] = {**rows[2], "answer": "to the LEFT"}
    rows[3] = {**rows[3], "caption": "a dorsal view"}
    batch = VqaCollator(processor, as_bytes=True, side_words=side_words)(rows)
    assert batch["keep_sides"].tolist() == expected


@pytest.mark.parametrize("setting", ["question", "statement", "caption"])
def test_texts_of_views_are_those_that_name_the_mirrored_sides(data, processor, setting):
    rows = data.__getitems__([0, 1, 2, 3])  # about images 0, 1, 1, 2
    rows[1] |= {"question": "what is on the left?", "answer": "Bottom right", "caption": "above"}
    batch = VqaCollator(processor, setting, as_bytes=True, side_words="en")(rows)
    for flips, mirrored in [
        ([3, 0, 0], {}),
        ([0, 1, 0], {"question": "what is on the right?", "answer": "Bottom left"}),
        ([0, 2, 1], {"answer": "Top right", "caption": "below"}),
        ([2, 3, 1], {"question": "what is on the right?", "answer": "Top left", "caption": "below"}),
    ]:
        tokens = tokens_of_views(batch, torch.tensor(flips))
        expected = VqaCollator(processor, setting)([rows[0], {**rows[1], **mirrored}, *rows[2:]])
        assert set(tokens) == set(expected) - {"pixel_values", "image_ids", "image_index", "align_signs"}
        for name, padding in {"input_ids": 1, "attention_mask": 0, "labels": -100, "align_input_ids": 1}.items():
            for row in range(4) if name in tokens else ():
                read, told = tokens[name][row], expected[name][row]
                assert torch.equal(read[read != padding], told[told != padding])


@pytest.mark.parametrize("side_words", ["none", "en"])
def test_a_batch_without_words_to_swap_has_no_texts_of_views(data, processor, side_words):
    rows = data.__getitems__([0, 1])
    if side_words == "none":
        rows[0]["question"] = "is it on the left?"
    batch = VqaCollator(processor, as_bytes=True, side_words=side_words)(rows)
    assert tokens_of_views(batch, torch.tensor([3, 1])) == {}


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
