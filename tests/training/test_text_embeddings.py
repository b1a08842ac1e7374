"""A second start encodes no text: embeddings are kept on disk, and found by what they were made of alone."""

import copy
import os
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import distributed, multiprocessing

from mmjepa.evaluation.cache_files import keep_newest
from mmjepa.training import text_embeddings as module
from mmjepa.training.building import train_tokenizer
from mmjepa.training.targets import TrainingTargets, fit_targets
from mmjepa.training.text_embeddings import TextEmbeddings

CPU = torch.device("cpu")
TEXTS = ["where is the tumour?", "no", "is necrosis seen?", "no", "", "what is present? in the liver"]


@pytest.fixture
def folder(features_cache) -> Path:
    """Where the embeddings are kept."""
    return features_cache.parent / "texts"


@pytest.fixture
def model(make_model):
    torch.manual_seed(3)
    return make_model(alignment_text="proposition", alignment_target="whitened", lambda_answer=0.25)


@pytest.fixture
def questions() -> Dataset:
    rows = {"question": ["where is it?"] * 40 + ["is it seen?"], "answer": [f"upper left {n}" for n in range(41)]}
    return Dataset.from_dict(rows | {"image_id": list(range(41))})


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """The texts that were encoded, in order."""
    texts: list[str] = []
    encode = TextEmbeddings._encode

    def note_and_encode(self, part):
        texts.extend(part)
        return encode(self, part)

    monkeypatch.setattr(TextEmbeddings, "_encode", note_and_encode)
    return texts


def read(model, processor, texts=TEXTS) -> dict[str, torch.Tensor]:
    """The embedding of each text."""
    parts = list(TextEmbeddings(model, processor, CPU).parts(texts))
    return {text: row for part, pooled in parts for text, row in zip(part, pooled, strict=True)}


def start(model, processor, questions) -> TrainingTargets:
    """What a training does with its texts before the first step."""
    fit_targets(model, processor, questions, CPU)
    targets = TrainingTargets(questions, model.config, num_wrong=2, side_words="en")
    targets.embed(model, processor, CPU)
    return targets


def test_a_text_has_the_embedding_that_it_has_alone(model, processor, monkeypatch):
    monkeypatch.setattr(module, "TEXTS_A_BATCH", 2)
    found = read(model, processor)
    assert set(found) == set(TEXTS) - {""}
    for text, embedding in found.items():
        expected = model.encoder.encode_texts(**processor(text=text, return_tensors="pt"))[0]
        torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-5)


def test_a_start_encodes_each_text_once_and_a_second_start_none(model, processor, questions, encoded):
    before = copy.deepcopy(model)
    first = start(model, processor, questions)
    assert len(encoded) == len(set(encoded)) and set(encoded) >= {*first.statements.texts, *first.answers}
    encoded.clear()
    second = start(before, processor, questions)
    assert encoded == []
    for name, value in model.state_dict().items():
        assert torch.equal(before.state_dict()[name], value), name
    assert torch.equal(first.statement_embeds.rows, second.statement_embeds.rows)
    assert torch.equal(first.answer_embeds, second.answer_embeds)


def test_targets_are_fitted_as_the_model_does_it_by_itself(model, processor, questions):
    own = copy.deepcopy(model)
    start(model, processor, questions)
    statements = [f"{row['question']} {row['answer']}" for row in questions]
    own.fit_targets(processor, statements, questions["answer"])
    for spaces in zip(model.target_spaces(), own.target_spaces(), strict=True):
        fitted, expected = (dict(space.state_dict()) for space in spaces)
        torch.testing.assert_close(fitted, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("other", ["weights", "bfloat16", "tokenizer", "texts", "attention"])
def test_what_was_made_of_something_else_is_not_found(model, processor, encoded, other):
    read(model, processor)
    encoded.clear()
    texts = TEXTS
    if other == "weights":
        model.encoder.text_encoder.layers[1].fc1.bias.data[0] += 1
    elif other == "bfloat16":
        model.encoder.text_encoder.to(torch.bfloat16)
    elif other == "attention":
        model.set_attn_implementation("eager")
    elif other == "tokenizer":
        processor = copy.copy(processor)
        processor.tokenizer = train_tokenizer(["is it seen?"], 280)
    else:
        texts = [*TEXTS, "one more"]
    read(model, processor, texts)
    assert set(encoded) == set(texts) - {""}


def test_a_tokenizer_that_was_used_in_between_is_the_same(model, processor, encoded):
    read(model, processor)
    encoded.clear()
    processor(text=["no", "where?"], padding=True, truncation=True, max_length=3)
    read(model, processor)
    assert encoded == []


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def with_another_shape(path: Path) -> None:
    save_file({"pooled": load_file(path)["pooled"][1:].clone()}, path)


def with_another_name(path: Path) -> None:
    save_file({"embeds": load_file(path)["pooled"].clone()}, path)


@pytest.mark.parametrize("damage", [cut_off, with_another_shape, with_another_name, Path.unlink])
def test_a_broken_file_is_ignored_and_written_again(model, processor, folder, encoded, damage):
    expected = {text: row.clone() for text, row in read(model, processor).items()}
    (path,) = folder.iterdir()
    damage(path)
    for again in (True, False):
        encoded.clear()
        found = read(model, processor)
        assert bool(encoded) == again
        assert all(torch.equal(found[text], row) for text, row in expected.items())


def test_a_training_goes_on_where_nothing_can_be_written(model, processor, folder, caplog):
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("no folder")
    assert set(read(model, processor)) == set(TEXTS) - {""}
    assert "the next start encodes its texts again" in caplog.text


def test_the_files_that_were_used_longest_ago_are_deleted(model, processor, folder, monkeypatch):
    read(model, processor, ["no"])
    (first,) = folder.iterdir()
    read(model, processor, ["in the liver"])
    for path in folder.iterdir():
        os.utime(path, (1, 1) if path == first else (2, 2))
    read(model, processor, ["no"])
    keep_newest(folder, first.stat().st_size)
    assert list(folder.iterdir()) == [first]


def encode_twice(rank: int, folder: Path) -> None:
    """One of two processes that have no disk in common; the second one's files are those of another start."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    constants.HF_HOME = str(folder / f"home-{rank}")
    model, processor, texts = torch.load(folder / "parts.pt", weights_only=False)
    module.TEXTS_A_BATCH = 2
    torch.save([list(read(model, processor, texts).values()) for _ in range(2)], folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_embeddings_of_one_to_the_bit(model, processor, tmp_path, monkeypatch):
    texts = [f"is it {number}?" * (1 + number % 3) for number in range(9)]
    torch.save((model, processor, texts), tmp_path / "parts.pt")
    multiprocessing.spawn(encode_twice, (tmp_path,), nprocs=2)
    monkeypatch.setattr(module, "TEXTS_A_BATCH", 2)
    expected = list(read(model, processor, texts).values())
    for rank in (0, 1):
        for found in torch.load(tmp_path / f"{rank}.pt"):
            assert all(map(torch.equal, found, expected))
    assert [path.name for path in sorted(tmp_path.glob("home-*"))] == ["home-0"]
