"""Streaming: every row once a pass whoever reads it, images kept together, and a resumed run that goes on exactly."""

import io
import itertools
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value
from PIL import Image as PILImage

from mmjepa import run_pathvqa
from mmjepa.data import streaming
from mmjepa.data.errors import DataError
from mmjepa.data.images import prepare, prepare_image
from mmjepa.data.rows import load_rows
from mmjepa.data.streaming import StreamedVqaData, stream_rows
from mmjepa.training.arguments import MMJepaTrainingArguments
from mmjepa.training.trainer import MMJepaTrainer

FEATURES = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})


def write_shards(folder: Path, num_shards: int) -> str:
    """60 questions about 15 images in parquet files, and a small validation split; the files' columns in capitals."""
    random = np.random.default_rng(0)
    images = [PILImage.fromarray(random.integers(0, 255, (28, 28, 3), np.uint8)) for _ in range(15)]
    rows = [{"image": images[row // 4], "question": f"what is {row}?", "answer": f"{row % 7}"} for row in range(60)]
    rows[5]["answer"] = None
    whole = Dataset.from_list(rows, features=FEATURES).rename_column("question", "Question")
    for shard in range(num_shards):
        part = whole.shard(num_shards, shard, contiguous=True)
        part.to_parquet(folder / f"train-{shard:05d}-of-{num_shards:05d}.parquet")
    whole.select(range(10)).to_parquet(folder / "validation-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture(scope="module", params=[4, 3])
def folder(request, tmp_path_factory) -> str:
    """As many shards as all workers of two processes, and fewer."""
    return write_shards(tmp_path_factory.mktemp("shards"), request.param)


@pytest.fixture
def make_stream(folder, image_processor):
    """A function that makes the streamed data, with arguments of one's own."""

    def make(**arguments) -> StreamedVqaData:
        rows, others = stream_rows(folder)
        settings = {
            "batch_size": 8,
            "questions_per_image": 4,
            "buffer_size": 1000,
            "seed": 3,
            "max_unreadable": 0,
            **arguments,
        }
        return StreamedVqaData(rows, others["train"], image_processor, **settings)

    return make


class OnePass(torch.utils.data.IterableDataset):
    """One pass over a stream that has no end."""

    def __init__(self, stream: StreamedVqaData, number: int):
        self.stream = stream
        self.number = number

    def __iter__(self):
        return self.stream.one_pass(self.number)


def questions(rows) -> list[str]:
    return [row["question"] for row in rows]


def test_every_row_comes_once_a_pass_over_two_processes_of_two_workers(make_stream):
    orders = []
    for number in (0, 1):
        seen = []
        for process in (0, 1):
            stream = make_stream(process_index=process, num_processes=2, buffer_size=7)
            loader = torch.utils.data.DataLoader(OnePass(stream, number), batch_size=None, num_workers=2)
            seen += questions(loader)
        assert Counter(seen) == Counter(f"what is {row}?" for row in range(60))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_passes_follow_one_another_without_end(make_stream):
    stream = iter(make_stream())
    first, second = ([next(stream) for _ in range(60)] for _ in range(2))
    assert sorted(questions(first)) == sorted(questions(second)) and questions(first) != questions(second)


def runs_of_images(stream: StreamedVqaData) -> list[int]:
    """How many questions about one image come one after the other."""
    return [len(list(rows)) for _, rows in itertools.groupby(stream.one_pass(0), key=lambda row: row["image_id"])]


def test_questions_about_an_image_in_the_buffer_come_together(make_stream):
    assert runs_of_images(make_stream()) == [4] * 15
    assert set(runs_of_images(make_stream(questions_per_image=2))) <= {2, 4}  # two groups may meet
    assert sum(runs_of_images(make_stream(buffer_size=6))) == 60


def test_streamed_rows_are_the_prepared_ones(make_stream, folder, image_processor):
    data = prepare(load_rows(folder)["train"], image_processor)
    expected = {row["question"]: row for row in (data[index] for index in range(len(data)))}
    for row in make_stream().one_pass(0):
        assert row["answer"] == expected[row["question"]]["answer"]
        assert torch.equal(row["pixels"], expected[row["question"]]["pixels"])


def test_texts_and_other_splits_are_those_of_the_whole_data_set(folder):
    _, streamed = stream_rows(folder)
    whole = load_rows(folder)
    assert streamed["train"].to_list() == whole["train"].select_columns(["question", "answer"]).to_list()
    assert streamed["validation"].to_list() == whole["validation"].to_list()


def test_a_stream_reads_classes_lists_of_one_and_dicts_as_the_whole_data_set_does(tmp_path):
    features = {"images": Sequence(Image()), "question": {"en": Value("string"), "fr": Value("string")}}
    features |= {"answer": ClassLabel(names=["no", "yes"])}
    image = {"bytes": b"image", "path": None}
    rows = [{"images": [image], "question": {"en": "what?", "fr": "quoi?"}, "answer": label} for label in (1, -1)]
    Dataset.from_list(rows, features=Features(features)).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    stream, texts = stream_rows(str(tmp_path))
    expected = [{"question": "what?", "answer": answer} for answer in ("yes", "")]
    assert texts["train"].to_list() == expected
    assert list(stream) == [{"image": image, **row} for row in expected]


def test_a_stream_of_lists_of_questions_is_refused(tmp_path):
    rows = [{"image": "a.png", "question": ["a?", "b?"], "answer": ["a", "b"]}]
    Dataset.from_list(rows).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="several questions: give each a row of its own, or leave out --streaming"):
        stream_rows(str(tmp_path))


@pytest.fixture
def own_folder(tmp_path) -> Path:
    """A folder of two shards that a test may change."""
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shards(folder, 2)
    return folder


def test_texts_are_a_table_on_the_disk_that_is_written_once(own_folder):
    (file,) = stream_rows(str(own_folder))[1]["train"].cache_files
    os.utime(file["filename"], ns=(0, 0))  # what is written again has the time of today
    assert stream_rows(str(own_folder))[1]["train"].cache_files == [file]
    assert os.stat(file["filename"]).st_mtime_ns == 0
    own_folder.joinpath("train-00001-of-00002.parquet").unlink()
    assert len(stream_rows(str(own_folder))[1]["train"]) == 30


def test_texts_are_read_without_the_images(own_folder):
    for path in own_folder.glob("train-*"):
        metadata = pq.ParquetFile(path).metadata
        whole = bytearray(path.read_bytes())
        for group, column in itertools.product(range(metadata.num_row_groups), range(metadata.num_columns)):
            chunk = metadata.row_group(group).column(column)
            if chunk.path_in_schema.startswith("image"):
                start = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
                whole[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
        path.write_bytes(whole)
    rows, texts = stream_rows(str(own_folder))
    assert texts["train"]["question"][:] == [f"what is {row}?" for row in range(60)]
    with pytest.raises(Exception, match="[Pp]age|Thrift|Image"):
        next(iter(rows))


def test_a_streamed_path_leads_into_the_data_sets_folder(own_folder, image_processor):
    image = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28, 3), np.uint8))
    image.save(own_folder / "a.png")
    rows = {"image": [{"bytes": None, "path": "a.png"}], "question": ["what?"], "answer": ["a liver"]}
    features = Features({**FEATURES, "image": Image(decode=False)})
    for file in own_folder.iterdir():
        if file.suffix == ".parquet":
            Dataset.from_dict(rows, features=features).to_parquet(file, batch_size=1)
    stream, others = stream_rows(str(own_folder))
    assert next(iter(stream))["image"]["path"] == others["validation"][0]["image"]["path"] == f"{own_folder}/a.png"


@pytest.fixture
def broken_stream(own_folder, image_processor):
    """A function that makes a stream of two shards, of so many images that can be read and such that can't."""

    def make(readable: int, broken: int, **arguments) -> StreamedVqaData:
        whole = io.BytesIO()
        PILImage.new("RGB", (28, 28), "red").save(whole, "PNG")
        images = [whole.getvalue() + bytes([number]) for number in range(readable)]
        images += [bytes([number, 0]) for number in range(broken)]
        rows = {
            "image": [{"bytes": image, "path": None} for image in images],
            "question": [f"{'whole' if row < readable else 'broken'} {row}?" for row in range(len(images))],
            "answer": ["yes"] * len(images),
        }
        whole = Dataset.from_dict(rows, features=FEATURES)
        for shard in range(2):
            whole.shard(2, shard, contiguous=False).to_parquet(own_folder / f"train-{shard:05d}-of-00002.parquet")
        stream, others = stream_rows(str(own_folder))
        return StreamedVqaData(stream, others["train"], image_processor, 8, 4, buffer_size=16, seed=3, **arguments)

    return make


def test_unreadable_images_of_a_stream_are_named_up_to_a_share(broken_stream, caplog):
    assert len(list(broken_stream(36, 4, max_unreadable=0.1).one_pass(0))) == 40
    assert {name for name in ("36", "37", "38", "39") if f"'broken {name}?'" in caplog.text} == {
        "36",
        "37",
        "38",
        "39",
    }
    assert "whole" not in caplog.text
    with pytest.raises(ValueError, match=r"train: 5 of 40 images \(12%\).*'broken .*--max_unreadable_images"):
        list(broken_stream(35, 5, max_unreadable=0.1).one_pass(0))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("readable", "broken", "allowed", "message"),
    [(0, 200, 1, "100 of 100 images"), (100, 100, 0.3, r"of 1\d\d images .* more than a share of 0.3 by")],
)
def test_a_stream_of_unreadable_images_ends_in_mid_pass(
    broken_stream, readable, broken, allowed, message, num_workers
):
    stream = broken_stream(readable, broken, max_unreadable=allowed)
    with pytest.raises(ValueError, match=message):
        list(itertools.islice(torch.utils.data.DataLoader(stream, batch_size=None, num_workers=num_workers), 150))


def train(stream: StreamedVqaData, model, processor, folder: Path, resume_from: str | None = None, **arguments):
    """The losses by step of sixteen steps over a stream."""
    trainer = MMJepaTrainer(
        model=model,
        args=MMJepaTrainingArguments(
            output_dir=str(folder),
            max_steps=16,
            per_device_train_batch_size=8,
            logging_steps=1,
            save_strategy="steps",
            save_steps=3,
            save_total_limit=None,
            eval_strategy="no",
            load_best_model_at_end=False,
            metric_for_best_model=None,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **arguments,
        ),
        train_dataset=stream,
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=resume_from)
    history = trainer.state.log_history
    return {(line["step"], name): line[name] for line in history for name in ("loss", "train_ce") if name in line}


@pytest.mark.parametrize("folder", [4], indirect=True)
def test_a_resumed_run_goes_on_with_the_rows_that_were_not_seen(make_stream, make_model, processor, tmp_path):
    """Stopped in the first of three passes, with two workers; the warm-up is a pass over all rows, 7.5 steps."""
    losses = []
    for resume_from in (None, str(tmp_path / "checkpoint-3")):
        torch.manual_seed(0)
        model = make_model()
        for module in model.modules():
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        losses.append(train(make_stream(), model, processor, tmp_path, resume_from, dataloader_num_workers=2))
    whole, resumed = losses
    assert {step for step, name in whole if name == "train_ce"} == set(range(9, 17))
    assert {step for step, name in resumed if name == "loss"} == set(range(4, 17)) | {1, 2, 3}
    assert resumed == pytest.approx(whole)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_dropped_batches_change_no_later_one(make_stream, num_workers):
    def batches(dropped: int) -> list[list[str]]:
        stream = make_stream()
        stream.dropped_batches = dropped
        loader = torch.utils.data.DataLoader(stream, 8, collate_fn=list, num_workers=num_workers)
        return [
            [f"{row['question']} {row['image_id']} {row['pixels'].sum()}" for row in batch]
            for batch in itertools.islice(loader, 20)
        ]

    whole, resumed = batches(0), batches(11)  # into the second pass
    assert resumed[11:] == whole[11:] and resumed[0] != whole[0]


@pytest.mark.parametrize("folder", [4], indirect=True)
def test_a_resumed_stream_does_not_decode_the_images_of_earlier_steps(
    make_stream, make_model, processor, tmp_path, monkeypatch
):
    decoded = []

    def counted(row, *arguments):
        decoded.append(row["question"])
        return prepare_image(row, *arguments)

    monkeypatch.setattr(streaming, "prepare_image", counted)
    train(make_stream(), make_model(), processor, tmp_path, dataloader_num_workers=0)
    whole = list(decoded)
    decoded.clear()
    resume_from = str(tmp_path / "checkpoint-9")
    train(make_stream(), make_model(), processor, tmp_path, resume_from, dataloader_num_workers=0)
    assert len(whole) == 15 + 15 + 2  # 16 steps of 8 rows are two passes and two more images
    assert decoded[-4:] == whole[-4:] and len(decoded) < 0.6 * len(whole)


@pytest.mark.parametrize("folder", [4], indirect=True)
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--max_steps"),
        (["--max_steps", "2", "--blank_images", "true"], "--blank_images"),
        (["--max_steps", "2", "--max_train_samples", "9"], "--max_train_samples"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(folder, tmp_path, flags, message):
    model = ["--vision_config", "{}", "--text_config", "{}", "--use_cpu", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match=message):
        run_pathvqa.main([*model, "--dataset_name", folder, "--streaming", *flags])


def test_a_folder_without_parquet_files_is_not_streamed(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.json").write_text(json.dumps({"image": "a.png", "question": "q", "answer": "a"}))
    with pytest.raises(ValueError, match="parquet"):
        stream_rows(str(tmp_path))
