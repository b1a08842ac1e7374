"""Batches of whole images' questions, and the order they come in."""

from collections import Counter

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from data_sets import encoded, noise, rows_of

from mmjepa.data.batches import SIDES, ImageGroupedSampler, VqaCollator, alignment_text
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


@pytest.fixture(scope="module")
def image_ids():
    """1,000 questions about 130 images, as unevenly as PathVQA's and in no order."""
    return np.random.default_rng(0).geometric(1 / 7.7, 1000).cumsum() % 130


def batches_of(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@pytest.mark.parametrize(("batch_size", "questions_per_image"), [(16, 8), (16, 1), (4, 8), (7, 3), (2000, 8)])
def test_every_question_comes_once_an_epoch(image_ids, batch_size, questions_per_image):
    sampler = ImageGroupedSampler(image_ids, batch_size, questions_per_image, seed=0)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(len(sampler))) == list(range(1000))


def test_order_is_decided_by_seed_and_epoch(image_ids):
    def order(seed, epoch):
        sampler = ImageGroupedSampler(image_ids, 16, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3, 1) == order(3, 1)
    assert len({tuple(order(seed, epoch)) for seed in (3, 4) for epoch in (0, 1)}) == 4


def test_batches_hold_few_images_and_of_none_more_than_its_share(image_ids):
    batches = batches_of(list(ImageGroupedSampler(image_ids, 16, 8, seed=0)), 16)
    images = [Counter(image_ids[rows].tolist()) for rows in batches]
    # 130 images of about 7.7 questions fill 63 batches: two to three images in most of them.
    assert np.mean([len(counts) for counts in images]) < 3.5
    # Only a batch that got two groups of one image has more than 8 of its questions.
    assert np.mean([max(counts.values()) <= 8 for counts in images]) > 0.8


def test_groups_that_fit_a_batch_are_not_split():
    image_ids = np.repeat(np.arange(40), 5)
    batches = batches_of(list(ImageGroupedSampler(image_ids, 15, 5, seed=0)), 15)
    assert all(set(Counter(image_ids[rows].tolist()).values()) == {5} for rows in batches)


def test_other_questions_of_an_image_stand_together_in_another_epoch():
    sampler = ImageGroupedSampler(np.repeat(np.arange(5), 16), 8, 8, seed=0)
    together = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        together.append({frozenset(rows) for rows in batches_of(list(sampler), 8)})
    assert not together[0] & together[1]


def test_one_question_per_image_is_a_plain_shuffle(image_ids):
    order = list(ImageGroupedSampler(image_ids, 16, 1, seed=0))
    images = [len(set(image_ids[rows].tolist())) for rows in batches_of(order, 16)]
    rng = np.random.default_rng(1)
    shuffled = [len(set(rng.permutation(image_ids)[:16].tolist())) for _ in range(1000)]
    assert np.mean(images) == pytest.approx(np.mean(shuffled), abs=0.4)
    assert abs(np.corrcoef(order, range(1000))[0, 1]) < 0.1


def prepared_loader(image_ids, num_processes: int, process: int):
    """The Trainer's loader of row numbers, as accelerate prepares it for one of several processes."""
    sampler = ImageGroupedSampler(image_ids, 8, 8, seed=0)
    loader = torch.utils.data.DataLoader(list(range(len(image_ids))), batch_size=8, sampler=sampler)
    return prepare_data_loader(
        loader, num_processes=num_processes, process_index=process, put_on_device=False, rng_types=None
    )


def epoch_rows(loader, epoch: int) -> list[list[int]]:
    loader.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


def test_accelerates_loader_gets_another_order_each_epoch_and_skips_exactly(image_ids):
    loader = prepared_loader(image_ids, 1, 0)
    first, second = epoch_rows(loader, 0), epoch_rows(loader, 1)
    assert first != second and len(second) == 125
    resumed = skip_first_batches(prepared_loader(image_ids, 1, 0), 50)
    assert epoch_rows(resumed, 1) == second[50:]


def test_two_processes_share_the_batches_of_one(image_ids):
    one = epoch_rows(prepared_loader(image_ids[:992], 1, 0), 1)
    shares = [epoch_rows(prepared_loader(image_ids[:992], 2, process), 1) for process in range(2)]
    assert [batch for step in zip(*shares, strict=True) for batch in step] == one
