"""Files that a training leaves: checkpoints of each kind count as whole when they are, and who may read weights."""

import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_trainings import logged
from torch.distributed.checkpoint import FileSystemWriter, save

from mmjepa.export.parts import export_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.training.checkpoints import checkpoint_problems, newest_checkpoint
from mmjepa.training.trainer import MMJepaTrainer


@pytest.fixture
def umask():
    """A umask that lets the group read, and nobody else."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def make_lora_trainer(make_trainer):
    """A function that makes a trainer of adapters on the decoder, the same each time, with a checkpoint a step."""
    peft = pytest.importorskip("peft")

    def make(**arguments) -> MMJepaTrainer:
        trainer = make_trainer(save_strategy="steps", save_steps=1, max_steps=3, lr_img=1e-2, **arguments)
        torch.manual_seed(2)
        config = peft.LoraConfig(r=4, target_modules=r"decoder\..*\.(q_proj|v_proj)")
        model = peft.get_peft_model(trainer.model, config)
        given = {"train_dataset": trainer.train_dataset, "processing_class": trainer.processing_class}
        return MMJepaTrainer(model, trainer.args, **given)

    return make


def test_a_training_of_adapters_goes_on_from_its_newest_whole_checkpoint(make_lora_trainer, tmp_path, umask):
    whole = make_lora_trainer(save_total_limit=None)
    whole.train()
    folder = tmp_path / "checkpoints"
    weights = folder / "checkpoint-3" / "adapter_model.safetensors"
    assert modes(folder) == {0o640}
    weights.write_bytes(weights.read_bytes()[:-10])
    assert checkpoint_problems(folder / "checkpoint-3") == ["adapter_model.safetensors is cut off"]
    assert newest_checkpoint(folder) == str(folder / "checkpoint-2")
    resumed = make_lora_trainer(save_total_limit=None)
    resumed.train(resume_from_checkpoint=True)
    assert logged(resumed, "loss") == logged(whole, "loss") and resumed._initial_global_step == 2
    for name, weight in whole.model.state_dict().items():
        assert weight.equal(resumed.model.state_dict()[name]), name


def test_the_adapters_of_a_decoder_train_without_an_alignment_warmup(make_lora_trainer):
    trainer = make_lora_trainer(align_warmup_epochs=1)
    trainer.train()
    assert logged(trainer, "train_ce").keys() == {1, 2, 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint's files but for weights and optimizer; of the latter there is only a folder as FSDP shards it."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint-1"
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    torch.save({}, folder / "scheduler.pt")
    shard(folder / "optimizer_0")
    return folder


def shard(folder: Path) -> None:
    state = {"weight": torch.arange(1000.0), "other": torch.ones(10), "step": 3}
    save({"state": state}, storage_writer=FileSystemWriter(folder))


@pytest.mark.parametrize("part", ["pytorch_model_fsdp_0", "optimizer_0"])
def test_a_sharded_checkpoint_is_whole_when_all_its_parts_are(checkpoint, tmp_path, part):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-1")
    assert checkpoint_problems(folder) == ["model*.safetensors is missing"]
    shard(folder / "pytorch_model_fsdp_0")
    assert checkpoint_problems(folder) == [] and newest_checkpoint(tmp_path) == str(folder)
    index, (data,) = folder / part / ".metadata", (folder / part).glob("*.distcp")
    os.truncate(data, data.stat().st_size - 1)
    assert checkpoint_problems(folder) == [f"{part}/{data.name} is cut off"] and newest_checkpoint(tmp_path) is None
    data.unlink()
    assert checkpoint_problems(folder) == [f"{part}/{data.name} is missing"]
    os.truncate(index, index.stat().st_size // 2)
    assert checkpoint_problems(folder) == [f"{part}/.metadata is cut off"]
    index.unlink()
    assert checkpoint_problems(folder) == [f"{part}/.metadata is missing"]


@pytest.mark.parametrize("name", ["pytorch_model_fsdp.bin", "pytorch_model_fsdp_rank0.bin"])
def test_weights_that_fsdp_saves_whole_are_known_when_they_are_cut_off(checkpoint, tmp_path, name):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-1")
    torch.save({"weight": torch.ones(1000)}, folder / name)
    assert checkpoint_problems(folder) == []
    os.truncate(folder / name, 500)
    assert checkpoint_problems(folder) == [f"{name} is cut off"]


def test_a_checkpoint_in_several_files_lacks_none_of_them(make_model, checkpoint, tmp_path, umask):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-1")
    make_model().save_pretrained(folder, max_shard_size="200KB")
    assert checkpoint_problems(folder) == [] and len(names := sorted(folder.glob("model-*.safetensors"))) > 1
    assert {path.stat().st_mode & 0o777 for path in names} == {0o640}
    names[1].unlink()
    assert checkpoint_problems(folder) == [f"{names[1].name} is missing"]


def test_what_deepspeed_saves_is_whole_without_other_weights(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-1")
    for path in folder.glob("*_0"):
        shutil.rmtree(path)
    (folder / "latest").write_text("global_step1")
    (folder / "global_step1").mkdir()
    states = folder / "global_step1" / "mp_rank_00_model_states.pt"
    torch.save({"module": torch.ones(1000)}, states)
    assert checkpoint_problems(folder) == []
    os.truncate(states, 500)
    assert checkpoint_problems(folder) == ["global_step1/mp_rank_00_model_states.pt is cut off"]


def test_saved_and_exported_weights_have_the_mode_that_the_umask_says(make_trainer, processor, tmp_path, umask):
    trainer = make_trainer(max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    export_parts(trainer.model, processor, tmp_path / "parts")
    trainer.model.save_pretrained(tmp_path / "saved", max_shard_size="200KB")
    MMJepaForConditionalGeneration.from_pretrained(tmp_path / "saved").save_pretrained(save_directory=tmp_path / "by")
    for folder in ("checkpoints", "parts", "saved", "by"):
        assert modes(tmp_path / folder) == {0o640}, folder


def test_the_index_of_shards_runs_nothing_that_it_names(tmp_path):
    class Program:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    part = tmp_path / "checkpoint-1" / "optimizer_0"
    part.mkdir(parents=True)
    index = SimpleNamespace(storage_data={Program(): SimpleNamespace(relative_path="x", offset=0, length=1)})
    (part / ".metadata").write_bytes(pickle.dumps(index))
    assert "optimizer_0/x is missing" in checkpoint_problems(part.parent)
    assert not (tmp_path / "made").exists()
