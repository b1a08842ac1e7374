"""Any images, questions and rows give tensors of the right shapes, or an error of this project: no crash below it."""

import json

import pytest
from data_sets import encoded, noise
from fuzzing import IMAGE_FORMATS, TABLES, fuzz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mmjepa.data.collator import VqaCollator
from mmjepa.data.images import prepare
from mmjepa.data.rows import drop_unanswered, load_rows

REFUSED = (ValueError, TypeError)
# The same examples in every run; the fixtures are not changed by an example.
FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
IMAGES = st.one_of(
    *(arrays(kind, array_shapes(max_dims=4, max_side=9)) for kind in ("uint8", "uint16", "float32", "bool")),
    st.binary(max_size=20),
    st.sampled_from([None, 3, "", "lost.png", encoded(noise(0)), encoded(noise(0, 1, 1), "GIF"), noise(1)]),
)
ODD_TEXTS = ["", " ", "\0", "\u202eabc", "\ud800", "a" * 3000, "<s></s><pad>"]
TEXTS = st.one_of(st.text(max_size=40), st.sampled_from(ODD_TEXTS))
FEW_TEXTS = st.lists(TEXTS, max_size=3)


@FEW
@given(images=st.lists(IMAGES, max_size=3), questions=FEW_TEXTS, answers=st.none() | FEW_TEXTS)
def test_the_processor_gives_tensors_or_says_what_is_wrong(processor, images, questions, answers):
    try:
        batch = processor(images=images, text=questions, answers=answers, return_tensors="pt")
    except REFUSED:
        return
    assert batch["pixel_values"].shape == (len(images), 3, 28, 28) and batch["pixel_values"].isfinite().all()
    assert batch["input_ids"].shape == batch["attention_mask"].shape and len(batch["input_ids"]) == len(questions)
    assert batch["input_ids"].max() < len(processor.tokenizer)
    if answers is not None:
        assert len(batch["labels"]) == len(questions)


@FEW
@given(questions=st.lists(TEXTS, min_size=1, max_size=4), index=st.lists(st.integers(-2, 4), max_size=5))
def test_any_image_index_is_followed_or_refused(processor, questions, index):
    images = [noise(0), noise(1)]
    try:
        batch = processor(images=images, text=questions, image_index=index, return_tensors="pt")
    except REFUSED:
        return
    assert batch["image_index"].tolist() == index and set(index) <= {0, 1} and len(index) == len(questions)


CELLS = st.one_of(st.none(), TEXTS, st.integers(), st.floats(), st.booleans(), st.lists(TEXTS, max_size=3))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"image": st.sampled_from(["a.png", "b.png", "lost.png", "", None, "\0"]), "question": CELLS, "answer": CELLS}
    ),
    max_size=5,
)


@settings(FEW, max_examples=15)
@given(rows=ROWS)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_any_table_gives_batches_or_says_what_is_wrong(tmp_path_factory, processor, image_processor, rows, suffix):
    folder = tmp_path_factory.mktemp("rows")
    for number, name in enumerate("ab"):
        noise(number).save(folder / f"{name}.png")
    with open(folder / f"train.{suffix}", "w", errors="surrogatepass") as file:
        if suffix == "csv":
            file.write("image,question,answer\n")
        for row in rows:
            file.write(json.dumps(row) if suffix == "jsonl" else ",".join(str(value) for value in row.values()))
            file.write("\n")
    try:
        data = prepare(drop_unanswered(load_rows(str(folder))["train"], "train"), image_processor)
    except REFUSED:
        return
    batch = VqaCollator(processor)(data.__getitems__(list(range(len(data)))))
    assert len(batch["labels"]) == len(batch["image_index"]) == max(len(data), 1)
    assert batch["image_index"].max() < len(batch["pixel_values"]) and batch["pixel_values"].isfinite().all()


def test_changed_bytes_of_images_and_tables_are_read_or_refused_with_a_clear_error(tmp_path):
    counts, found = fuzz(range(4000), seed=0, kept=tmp_path)
    assert found == []
    assert len({name for name, _ in counts}) == len(IMAGE_FORMATS) + len(TABLES)
    assert all(counts[name, "refused"] for name in IMAGE_FORMATS)


def test_what_is_no_clear_error_is_found_and_its_file_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("fuzzing.read_image", lambda *_: 1 / 0)
    _, found = fuzz(range(20), seed=0, kept=tmp_path / "kept")
    assert "ZeroDivisionError" in found[0] and len(list((tmp_path / "kept").iterdir())) == len(found)
