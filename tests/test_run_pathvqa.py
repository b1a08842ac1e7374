"""The script, from flags to files: on drawn slides, on stand-ins of published checkpoints and of PathVQA itself."""

import io
import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from safetensors.torch import load_file
from transformers import BartForConditionalGeneration, Dinov2Model
from transformers.training_args import ParallelMode

from mmjepa import run_pathvqa
from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.data.drawn_slides import write_drawn_slides
from mmjepa.export.parts import rebuild_from_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training import reading
from mmjepa.training.arguments import CONFIG_FIELDS, ModelArguments, parse_arguments
from mmjepa.training.building import build, image_processor_of_size
from mmjepa.training.run_folder import find_checkpoint

ROOT = Path(__file__).parent.parent

TINY_VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
TINY_TEXT = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
    "vocab_size": 320,
}
FROM_RANDOM = ["--vision_config", json.dumps(TINY_VISION), "--text_config", json.dumps(TINY_TEXT)]
FAST = ["--dataloader_num_workers", "0", "--preprocessing_num_workers", "1", "--disable_tqdm", "true", "--use_cpu"]


@pytest.fixture(scope="session")
def slides(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data") / "slides"
    write_drawn_slides(folder, num_train=8, num_validation=4, num_test=3, image_size=32)
    return str(folder)


@pytest.fixture
def folders(tmp_path) -> list[str]:
    return ["--ckpt_dir", str(tmp_path / "checkpoints"), "--log_dir", str(tmp_path / "logs")]


def parsed(*flags):
    return parse_arguments([*FROM_RANDOM, *flags])


@pytest.mark.parametrize(
    ("flag", "value", "group", "name", "expected"),
    [
        ("batch_size", "5", 2, "per_device_train_batch_size", 5),
        ("per_device_train_batch_size", "5", 2, "train_batch_size", 5),
        ("num_workers", "3", 2, "dataloader_num_workers", 3),
        ("max_train_samples", "7", 1, "max_train_samples", 7),
        ("max_val_samples", "7", 1, "max_val_samples", 7),
        ("max_eval_samples", "7", 1, "max_val_samples", 7),
        ("fast_dev_run", "true", 2, "max_steps", 2),
        ("max_epochs", "9", 2, "num_train_epochs", 9),
        ("lr_img", "0.5", 2, "lr_img", 0.5),
        ("lr_dec", "0.25", 2, "learning_rate", 0.25),
        ("m_image_tokens", "3", 0, "num_image_tokens", 3),
        ("log_dir", "here", 2, "log_dir", "here"),
        ("ckpt_dir", "there", 2, "output_dir", "there"),
        ("export_dir", "out", 2, "export_dir", "out"),
        ("use_cosine_schedule", "true", 2, "lr_scheduler_type", "cosine"),
        ("warmup_ratio", "0.5", 2, "warmup_steps", 0.5),
        ("gradient_checkpointing", "true", 2, "gradient_checkpointing", True),
        ("accumulate_grad_batches", "4", 2, "gradient_accumulation_steps", 4),
        ("gradient_clip_val", "2.5", 2, "max_grad_norm", 2.5),
        ("precision", "bf16", 2, "bf16", True),
        ("precision", "fp16", 2, "fp16", True),
        ("precision", "bf16-mixed", 2, "bf16", True),
        ("precision", "16-mixed", 2, "fp16", True),
        ("project_image", "false", 0, "project_image", False),
        ("lambda_align", "0.1", 0, "lambda_align", 0.1),
        ("lambda_ce", "2", 0, "lambda_ce", 2.0),
        ("align_warmup_epochs", "2", 2, "align_warmup_epochs", 2.0),
    ],
)
def test_every_flag_reaches_what_it_sets(flag, value, group, name, expected):
    arguments = parsed(f"--{flag}", value, "--use_cpu")
    assert getattr(arguments[group], name) == expected
    default = getattr(parsed("--use_cpu")[group], name)
    assert default != expected


def test_defaults_are_the_documented_ones():
    model, data, training = parsed("--use_cpu")
    assert (training.per_device_train_batch_size, training.dataloader_num_workers) == (16, 4)
    assert (training.num_train_epochs, training.lr_img, training.learning_rate) == (3, 3e-4, 3e-5)
    rows = Dataset.from_dict({"question": ["is it?"], "answer": ["yes"]})
    config = build(model, rows)[1].config
    assert (config.num_image_tokens, config.lambda_align, config.lambda_ce) == (8, 0.5, 1.0)
    assert (training.align_warmup_epochs, training.warmup_steps, training.max_grad_norm) == (1, 0.06, 1.0)
    assert (training.log_dir, training.output_dir, training.export_dir) == ("./logs", "./checkpoints", None)
    assert not (training.use_cosine_schedule or training.gradient_checkpointing or training.bf16 or training.fp16)
    assert data.dataset_name == "flaviagiammarino/path-vqa"


def test_every_flag_of_a_name_of_the_configuration_is_passed_to_it():
    flags = {field.name for field in fields(MMJepaConfig)} & {field.name for field in fields(ModelArguments)}
    assert flags == {"vision_config", "text_config", *CONFIG_FIELDS}


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_file_of_flags_works_and_flags_after_it_win(tmp_path, suffix):
    flags = {"vision_config": TINY_VISION, "text_config": TINY_TEXT, "batch_size": 6, "lr_img": 0.01, "use_cpu": True}
    flags["augmentations"] = ["flip", "stain"]
    path = tmp_path / f"run{suffix}"
    path.write_text(json.dumps(flags) if suffix == ".json" else yaml.safe_dump(flags))
    model, _, training = parse_arguments([str(path), "--lr_img", "0.02"])
    assert model.vision_fields == TINY_VISION
    assert (training.per_device_train_batch_size, training.lr_img) == (6, 0.02)
    assert training.augmentations == ["flip", "stain"]


def test_without_a_model_named_it_is_the_published_pair_and_beside_one_of_the_pair_the_other():
    for flags, expected in (
        ([], ("facebook/dinov2-base", "facebook/bart-base")),
        (["--image_encoder", "mine"], ("mine", "facebook/bart-base")),
        (["--text_model", "mine"], ("facebook/dinov2-base", "mine")),
    ):
        model, _, _ = parse_arguments([*flags, "--fast_dev_run", "--batch_size", "2", "--use_cpu"])
        assert (model.image_encoder, model.text_model) == expected


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([*FROM_RANDOM, "--model_name_or_path", "x"], "--vision_config, --text_config beside --model_name_or_path"),
        (["--model_name_or_path", "x", "--tokenizer_name", "y"], "--tokenizer_name beside --model_name_or_path"),
        ([*FROM_RANDOM, "--text_model", "x"], "--text_model, --vision_config, --text_config"),
        (FROM_RANDOM[:2], "--vision_config: give --vision_config and --text_config together"),
    ],
)
def test_a_model_named_in_two_ways_or_half_is_refused_by_the_flags_names(flags, named):
    with pytest.raises(ValueError, match=named):
        parse_arguments([*flags, "--use_cpu"])


@pytest.mark.parametrize("precision", ["32", "32-true"])
def test_float32_is_trained_in_where_asked_for_though_the_gpu_has_bfloat16(gpus, precision):
    _, _, training = parsed("--precision", precision)
    assert not (training.bf16 or training.fp16)


def test_left_to_itself_bfloat16_is_taken_only_where_the_gpu_does_not_emulate_it(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not parsed()[2].bf16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert parsed()[2].bf16


@pytest.fixture
def gpus(monkeypatch) -> int:
    """A machine that says that it has three GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    return 3


def test_of_several_gpus_one_is_used_and_the_log_says_how_to_use_all(gpus, caplog):
    _, _, training = parsed("--batch_size", "4")
    assert training.n_gpu == 1 and training.parallel_mode == ParallelMode.NOT_PARALLEL
    assert training.train_batch_size == 4
    assert caplog.text.count("torchrun --nproc_per_node 3") == 1


def test_run_on_drawn_slides_writes_everything_a_user_is_promised(slides, folders, tmp_path, capsys):
    export = tmp_path / "export"
    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", slides, "--max_epochs", "2", "--do_predict"]
    results = run_pathvqa.main([*flags, "--export_dir", str(export), "--logging_steps", "1"])
    checkpoints = tmp_path / "checkpoints"

    assert results == json.loads((checkpoints / "all_results.json").read_text())
    for name in ("accuracy", "yes_no_accuracy", "open_accuracy", "image_gain", "align", "ce"):
        assert f"eval_{name}" in results
    for control in ("majority", "shuffled_images", "blank_images"):
        assert f"eval_accuracy_{control}" in results
    assert "train_runtime" in results and "test_accuracy" in results
    assert "image gain" in capsys.readouterr().out

    rows = [json.loads(line) for line in (checkpoints / "eval_answers.jsonl").read_text().splitlines()]
    correct = sum(row["prediction"] == row["answer"] for row in rows) / len(rows)
    assert results["eval_accuracy"] == pytest.approx(correct)
    assert PILImage.open(checkpoints / "eval_answers.png").size[0] > 500
    assert len(list(checkpoints.glob("checkpoint-*"))) <= 2
    assert list((tmp_path / "logs" / "mmjepa_joint").glob("events*"))

    saved = MMJepaForConditionalGeneration.from_pretrained(checkpoints)
    rebuilt = rebuild_from_parts(export)
    processor = MMJepaProcessor.from_pretrained(checkpoints)
    inputs = processor(images=np.zeros((32, 32, 3), np.uint8), text=rows[0]["question"], return_tensors="pt")
    assert torch.equal(saved.generate(**inputs), rebuilt.generate(**inputs))


@pytest.fixture(scope="module")
def trained(slides, tmp_path_factory) -> Path:
    """The folder of a run of one epoch of four steps, a checkpoint after each; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    flags = [*FROM_RANDOM, *FAST, "--dataset_name", slides, "--max_steps", "4", "--batch_size", "8"]
    flags += ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9", "--do_predict"]
    flags += ["--eval_strategy", "steps", "--eval_steps", "1", "--align_warmup_epochs", "0"]
    run_pathvqa.main([*flags, "--output_dir", str(folder), "--log_dir", str(folder / "logs")])
    return folder


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(trained, tmp_path / "copied")


@pytest.fixture
def prepared(monkeypatch) -> list[int]:
    """Grows by the number of its rows with each split whose images are prepared."""
    counts: list[int] = []
    own = reading.prepare

    def prepare(rows, *rest):
        counts.append(len(rows))
        return own(rows, *rest)

    monkeypatch.setattr(reading, "prepare", prepare)
    return counts


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def evaluate(slides, tmp_path):
    """A function that runs the script on a saved model without training."""

    def run(model: Path, *flags: str) -> dict[str, float]:
        flags = ("--model_name_or_path", str(model), "--do_train", "false", "--dataset_name", slides, *flags)
        return run_pathvqa.main([*FAST, "--log_dir", str(tmp_path / "logs"), *flags])

    return run


def test_saved_model_is_evaluated_again_with_the_same_numbers(trained, evaluate, tmp_path):
    first = json.loads((trained / "all_results.json").read_text())
    second = evaluate(trained, "--output_dir", str(tmp_path / "again"))
    for name in ("eval_accuracy", "eval_ce", "eval_align", "eval_accuracy_blank_images"):
        assert second[name] == pytest.approx(first[name], abs=1e-6), name


def test_an_evaluation_writes_numbers_and_answers_and_neither_prepares_training_images_nor_writes_a_card(
    trained, evaluate, tmp_path, prepared, capsys
):
    results = evaluate(trained, "--output_dir", str(tmp_path / "again"))
    files = set(contents(tmp_path / "again"))
    assert files == {"eval_results.json", "all_results.json", "eval_answers.jsonl", "eval_answers.png"}
    assert results == json.loads((tmp_path / "again" / "all_results.json").read_text())
    assert len(prepared) == 1 and "eval_accuracy_majority" in results
    assert "model:" not in capsys.readouterr().out


def test_an_evaluation_beside_its_model_keeps_the_trainings_card_numbers_and_checkpoints(copied, evaluate):
    before = contents(copied)
    evaluate(copied, "--output_dir", str(copied), "--max_val_samples", "5")
    after = contents(copied)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"eval_results.json", "all_results.json", "eval_answers.jsonl", "eval_answers.png"}
    kept, own = (json.loads(files["all_results.json"]) for files in (before, after))
    assert all(own[name] == value for name, value in kept.items() if not name.startswith(("eval_", "epoch")))
    assert len(after["eval_answers.jsonl"].splitlines()) == 5


def test_predicting_alone_answers_the_test_split_and_no_other(trained, evaluate, tmp_path):
    results = evaluate(trained, "--output_dir", str(tmp_path / "test"), "--do_eval", "false", "--do_predict")
    assert "test_accuracy" in results and not any(name.startswith(("eval_", "train_")) for name in results)
    assert not (tmp_path / "test" / "eval_answers.jsonl").exists()


def test_exporting_alone_needs_no_data(trained, evaluate, tmp_path):
    flags = ["--do_eval", "false", "--export_dir", str(tmp_path / "parts"), "--output_dir", str(tmp_path / "run")]
    assert evaluate(trained, *flags, "--dataset_name", "nowhere") == {}
    assert (tmp_path / "parts" / "generator_bart" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "all_results.json").exists()


def test_a_run_that_is_asked_for_nothing_says_so(trained, evaluate):
    with pytest.raises(ValueError, match="nothing to do"):
        evaluate(trained, "--do_eval", "false")


def test_without_do_eval_training_evaluates_nothing_and_needs_no_validation_split(path_vqa, folders, tmp_path):
    Path(path_vqa, "data", "validation-00000-of-00001.parquet").unlink()
    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", path_vqa, "--max_epochs", "1", "--batch_size", "4"]
    results = run_pathvqa.main([*flags, "--do_eval", "false", "--align_warmup_epochs", "0"])
    assert results["train_samples"] == 12 and not any("eval" in name for name in results)
    history = json.loads((tmp_path / "checkpoints" / "trainer_state.json").read_text())["log_history"]
    assert not any("eval" in name for line in history for name in line)


def test_test_images_are_touched_only_when_asked_for_and_a_missing_split_is_an_error_that_lists_the_others(
    path_vqa, folders, prepared
):
    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", path_vqa, "--max_epochs", "1", "--batch_size", "4"]
    run_pathvqa.main([*flags, "--align_warmup_epochs", "0"])
    assert prepared == [12, 9]  # and not the 6 of test
    Path(path_vqa, "data", "test-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match="has the splits train, validation but no test"):
        run_pathvqa.main([*flags, "--do_predict", "--overwrite_output_dir"])


def training_flags(slides, folder, tmp_path) -> list[str]:
    flags = [*FROM_RANDOM, *FAST, "--dataset_name", slides, "--max_steps", "1", "--batch_size", "8"]
    flags += ["--align_warmup_epochs", "0", "--max_val_samples", "4"]
    return [*flags, "--output_dir", str(folder), "--log_dir", str(tmp_path / "logs")]


def test_training_into_another_runs_folder_is_refused_and_leaves_it_as_it_was(copied, slides, tmp_path, evaluate):
    before = contents(copied)
    with pytest.raises(ValueError, match=r"an earlier run \(all_results.json, checkpoint-1, .*--overwrite_output"):
        run_pathvqa.main(training_flags(slides, copied, tmp_path))
    other = shutil.copytree(copied, tmp_path / "other")
    with pytest.raises(ValueError, match="holds another run"):
        evaluate(other, "--output_dir", str(copied))
    with pytest.raises(ValueError, match="would remove what this run starts from"):
        evaluate(copied, "--output_dir", str(copied), "--overwrite_output_dir")
    assert contents(copied) == before
    for checkpoint in other.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(ValueError, match="an earlier run"):  # to go on from there is nothing, to begin again too much
        run_pathvqa.main([*training_flags(slides, other, tmp_path), "--resume_from_checkpoint"])


def test_overwriting_removes_what_the_earlier_run_left_and_nothing_else(copied, slides, tmp_path):
    own = {"notes.txt", "checkpoint-best/kept.txt", "logs/mine.txt"}
    for name in own:
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_text("mine")
    results = run_pathvqa.main([*training_flags(slides, copied, tmp_path), "--overwrite_output_dir"])
    files = contents(copied)
    assert {name for name in files if files[name] == b"mine"} == own
    assert results == json.loads(files["all_results.json"]) and "test_accuracy" not in results
    assert {path.name for path in copied.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-best"}
    assert not (copied / "test_answers.jsonl").exists()
    assert "Measured on the test split" not in files["README.md"].decode()


def test_a_run_that_is_gone_on_with_has_its_own_numbers_alone(copied, slides, tmp_path):
    flags = training_flags(slides, copied, tmp_path)
    results = run_pathvqa.main([*flags, "--max_steps", "5", "--resume_from_checkpoint"])
    assert results == json.loads((copied / "all_results.json").read_text()) and "test_accuracy" not in results
    history = json.loads((copied / "trainer_state.json").read_text())["log_history"]
    assert [line["step"] for line in history if "train_runtime" in line] == [5]
    assert not (copied / "test_results.json").exists()


def test_a_saved_model_is_trained_further_with_what_can_change_and_its_card_says_from_what(trained, slides, tmp_path):
    assert "Trained from random weights on slides." in (trained / "README.md").read_text()
    flags = training_flags(slides, tmp_path / "further", tmp_path)[len(FROM_RANDOM) :]
    run_pathvqa.main(["--model_name_or_path", str(trained), *flags, "--lambda_align", "0.125", "--bf16_text_encoder"])
    saved = load_file(tmp_path / "further" / "model.safetensors")
    assert saved["encoder.text_encoder.layers.0.fc1.weight"].dtype == torch.bfloat16
    assert json.loads((tmp_path / "further" / "config.json").read_text())["lambda_align"] == 0.125
    assert f"Fine-tuned from {trained.name} on slides." in (tmp_path / "further" / "README.md").read_text()


@pytest.mark.parametrize("value", [[], ["true"], ["last"], ["FOLDER"]], ids=["bare", "true", "last", "folder"])
def test_resuming_finds_the_newest_complete_checkpoint(trained, copied, value, tmp_path):
    output = tmp_path / "new" if value == ["FOLDER"] else copied
    flags = [str(copied) if item == "FOLDER" else item for item in value]
    shutil.copytree(copied / "checkpoint-4", copied / "checkpoint-10")  # not the newest by the order of letters alone
    for checkpoint, missing in ((10, "optimizer.pt"), (4, "trainer_state.json"), (3, "model.safetensors")):
        (copied / f"checkpoint-{checkpoint}" / missing).unlink()
    args = parsed("--use_cpu", "--output_dir", str(output), "--resume_from_checkpoint", *flags)[2]
    assert find_checkpoint(args) == str(copied / "checkpoint-2")


def test_resuming_from_a_named_checkpoint_takes_that_one_and_from_nothing_is_an_error_or_a_start(
    trained, tmp_path, caplog
):
    def find(*flags):
        args = parsed("--use_cpu", "--output_dir", str(tmp_path), *flags)[2]
        return find_checkpoint(args)

    assert find("--resume_from_checkpoint", str(trained / "checkpoint-3")) == str(trained / "checkpoint-3")
    assert find() is None and not caplog.text
    with pytest.raises(ValueError, match=f"{tmp_path}/none holds no complete checkpoint"):
        find("--resume_from_checkpoint", str(tmp_path / "none"))
    assert find("--resume_from_checkpoint") is None
    assert "training starts from the beginning" in caplog.text


def test_a_saved_models_weights_of_the_losses_and_attention_change_by_flag(trained):
    flags = ["--model_name_or_path", str(trained), "--use_cpu", "--num_image_tokens", "8"]  # 8 it has
    arguments, _, _ = parse_arguments(
        [*flags, "--lambda_align", "0.125", "--lambda_ce", "3", "--attn_implementation", "eager"]
    )
    config = build(arguments)[1].config
    assert (config.lambda_align, config.lambda_ce, config._attn_implementation) == (0.125, 3.0, "eager")
    unchanged = build(parse_arguments(flags)[0])[1].config
    assert (unchanged.lambda_align, unchanged.lambda_ce) == (0.5, 1.0)


def test_what_a_saved_model_can_not_change_is_refused_by_name(trained):
    flags = {
        "num_image_tokens": "4",
        "visual_prefix": "pooled",
        "image_pooling": "mean",
        "project_image": "false",
        "alignment_loss": "infonce",
        "alignment_target": "centered",
    }
    arguments, _, _ = parse_arguments(
        ["--model_name_or_path", str(trained), "--use_cpu", *(f"--{name}={value}" for name, value in flags.items())]
    )
    with pytest.raises(ValueError, match="can't change") as error:
        build(arguments)
    assert all(f"--{name}" in str(error.value) for name in flags)


@pytest.fixture
def bart_folder(checkpoints, tmp_path) -> Path:
    """A BART without tokenizer files, as the project's own export leaves it."""
    return shutil.copytree(checkpoints["text"], tmp_path / "bart")


def processor_of(checkpoints, image_processor, text_model: Path) -> MMJepaProcessor:
    image_processor.save_pretrained(checkpoints["vision"])
    flags = ["--image_encoder", checkpoints["vision"], "--text_model", str(text_model), "--use_cpu"]
    return build(parse_arguments(flags)[0])[0]


def test_a_bart_folder_without_tokenizer_files_is_refused(bart_folder, checkpoints, image_processor):
    for path in bart_folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match=rf"{bart_folder} has 5 tokens, .*vocabulary of 300.*--tokenizer_name"):
        processor_of(checkpoints, image_processor, bart_folder)


@pytest.mark.parametrize("fault", ["more tokens", "far fewer tokens", "other special tokens", "none"])
def test_a_tokenizer_of_another_vocabulary_is_refused(fault, bart_folder, checkpoints, tokenizer, image_processor):
    tokenizer.save_pretrained(bart_folder)
    bart = BartForConditionalGeneration.from_pretrained(bart_folder)
    if fault == "more tokens":
        bart.resize_token_embeddings(len(tokenizer) - 1)
    elif fault == "far fewer tokens":
        bart.resize_token_embeddings(3 * len(tokenizer))
    elif fault == "other special tokens":
        bart.config.pad_token_id = 7
    bart.save_pretrained(bart_folder)
    if fault == "none":
        assert len(processor_of(checkpoints, image_processor, bart_folder).tokenizer) == len(tokenizer)
    else:
        with pytest.raises(ValueError, match=str(bart_folder)):
            processor_of(checkpoints, image_processor, bart_folder)


def test_the_model_is_written_as_onnx_graphs_that_answer_alike(slides, folders, tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    pytest.importorskip("torch", minversion="2.11", reason="transformers exports to ONNX with torch 2.11 and newer")
    from mmjepa.export.onnx import OnnxModel

    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", slides, "--fast_dev_run", "--max_answer_tokens", "6"]
    run_pathvqa.main([*flags, "--onnx_dir", str(tmp_path / "onnx")])
    model = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "checkpoints")
    row = DatasetDict.load_from_disk(slides)["validation"][0]
    answers = []
    for folder, tensors in (("checkpoints", "pt"), ("onnx", "np")):
        processor = MMJepaProcessor.from_pretrained(tmp_path / folder)
        inputs = processor(images=row["image"], text=row["question"], return_tensors=tensors)
        asked = model if tensors == "pt" else OnnxModel(tmp_path / "onnx")
        answers.append(asked.generate(**inputs).tolist())
    assert answers[0] == answers[1]


def test_onnx_without_its_packages_is_refused_before_training(monkeypatch):
    monkeypatch.setattr("mmjepa.training.arguments.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"onnxruntime, onnxscript: pip install 'mmjepa\[onnx\]'"):
        parsed("--onnx_dir", "onnx")


def test_blank_images_leave_nothing_for_the_image_to_bring(slides, folders):
    results = run_pathvqa.main(
        [*FROM_RANDOM, *FAST, *folders, "--dataset_name", slides, "--blank_images", "--max_epochs", "1"]
    )
    assert results["eval_image_gain"] == 0
    assert results["eval_accuracy"] == results["eval_accuracy_blank_images"]


def test_a_bfloat16_text_encoder_is_trained_beside_and_stays_as_it_was(slides, folders, tmp_path):
    flags = [*FROM_RANDOM, *FAST, *folders, "--dataset_name", slides, "--fast_dev_run"]
    run_pathvqa.main([*flags, "--bf16_text_encoder", "--align_warmup_epochs", "0"])
    saved = load_file(tmp_path / "checkpoints" / "model.safetensors")
    for name, weight in saved.items():
        assert weight.dtype == (torch.bfloat16 if name.startswith("encoder.text_encoder.") else torch.float32), name
    model = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "checkpoints")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_centered_targets_are_centred_on_the_alignment_texts_once(folders, tmp_path):
    """One row has a question, one a caption alone; a saved model keeps its mean, whatever it is trained on."""
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "red.jpg").write_bytes(encoded(PILImage.new("RGB", (30, 30), "red")))
    lines = ["image,question,answer,caption", "red.jpg,is it?,yes,", "red.jpg,,no,a red slide"]
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join(lines))
    run_pathvqa.main(
        [*FROM_RANDOM, *FAST, *folders, "--dataset_name", str(folder), "--max_epochs", "1", "--batch_size", "1"]
        + ["--alignment_target", "centered"]
    )
    saved = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "checkpoints")
    processor = MMJepaProcessor.from_pretrained(tmp_path / "checkpoints")
    text = processor(text=["a red slide", "is it?"], return_tensors="pt")
    mean = saved.encoder.encode_texts(**text).mean(0)
    torch.testing.assert_close(saved.alignment.text_mean, mean, atol=1e-5, rtol=0)

    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join([*lines[:2], "red.jpg,what is seen?,no,"]))
    again = ["--model_name_or_path", str(tmp_path / "checkpoints"), "--output_dir", str(tmp_path / "again")]
    run_pathvqa.main([*again, *FAST, "--dataset_name", str(folder), "--fast_dev_run"])
    further = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(further.alignment.text_mean, saved.alignment.text_mean)


def test_from_random_weights_nothing_of_an_image_is_cut_off():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, -5:] = 255
    pixels = image_processor_of_size(28)(image, return_tensors="pt")["pixel_values"][0]  # (3, 28, 28)
    assert pixels.shape == (3, 28, 28)
    assert (pixels[..., -1] > pixels[..., 0] + 1).all()


def encoded(image: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture
def path_vqa(tmp_path) -> str:
    """A folder of parquet shards of the published data set's schema: the same bytes on every row of an image."""
    random = np.random.default_rng(0)
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    folder = tmp_path / "path-vqa" / "data"
    folder.mkdir(parents=True)
    for split, images in (("train", 4), ("validation", 3), ("test", 2)):
        rows = []
        for _ in range(images):
            bytes_ = encoded(PILImage.fromarray(random.integers(0, 255, (30, 40, 3), np.uint8)))
            for question, answer in (
                ("is necrosis seen?", "yes"),
                ("what is present?", "the liver"),
                ("is it?", "no"),
            ):
                rows.append({"image": {"bytes": bytes_, "path": None}, "question": question, "answer": answer})
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder.parent)


def test_published_checkpoints_and_data_set_are_trained_offline(
    path_vqa, checkpoints, tokenizer, image_processor, folders, tmp_path, monkeypatch
):
    """The path of --dataset_name flaviagiammarino/path-vqa --image_encoder dinov2 --text_model bart, on stand-ins."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer.save_pretrained(checkpoints["text"])
    image_processor.save_pretrained(checkpoints["vision"])
    flags = ["--image_encoder", checkpoints["vision"], "--text_model", checkpoints["text"], "--dataset_name", path_vqa]
    results = run_pathvqa.main([*flags, *FAST, *folders, "--batch_size", "4", "--max_epochs", "1", "--do_predict"])
    assert results["train_samples"] == 12 and results["eval_count_what"] == 3 and results["test_count_what"] == 2

    trained = MMJepaForConditionalGeneration.from_pretrained(tmp_path / "checkpoints")
    start = Dinov2Model.from_pretrained(checkpoints["vision"])
    assert not torch.equal(trained.encoder.image_encoder.layernorm.weight, start.layernorm.weight)
    assert trained.generation_config.forced_bos_token_id == 0
    assert trained.generation_config.forced_eos_token_id == 2
    assert trained.generation_config.num_beams in (None, 1)


@pytest.fixture
def broken_table(tmp_path) -> str:
    """A folder of tables of three images, of which one can be read."""
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(encoded(PILImage.new("RGB", (30, 30), "red")))
    (folder / "broken.jpg").write_bytes(b"not an image")
    lines = ["image,question,answer", "good.jpg,is it?,yes", "broken.jpg,is it?,no", "missing.jpg,is it?,no"]
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return str(folder)


def test_missing_and_broken_images_are_counted_and_named(folders, broken_table, caplog):
    flags = ["--dataset_name", broken_table, "--fast_dev_run", "--max_unreadable_images", "0.7"]
    with caplog.at_level("WARNING"):
        run_pathvqa.main([*FROM_RANDOM, *FAST, *folders, *flags])
    assert "train: 2 images are missing or can't be decoded" in caplog.text
    assert "broken.jpg" in caplog.text and "missing.jpg" in caplog.text and "good.jpg" not in caplog.text


def test_more_unreadable_images_than_the_flag_allows_are_refused(folders, broken_table):
    with pytest.raises(ValueError, match=r"train: 2 of 3 images \(67%\).*0.6 by --max_unreadable_images"):
        flags = ["--dataset_name", broken_table, "--max_unreadable_images", "0.6"]
        run_pathvqa.main([*FROM_RANDOM, *FAST, *folders, *flags])


def write_wrong_paths(folder):
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("image,question,answer\na.jpg,is it?,yes\nb.jpg,is it?,no\n")
    return [str(folder / "a.jpg"), str(folder / "b.jpg")]


def write_unquoted_commas(folder):
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("image,question,answer\na.jpg,small, is it?,yes\nb.jpg,red, is it?,no\n")
    return [str(folder / "small"), str(folder / "red")]


def write_parquet_of_wrong_paths(folder):
    features = Features({"image": Image(decode=False), "question": Value("string"), "answer": Value("string")})
    images = [{"path": path, "bytes": None} for path in ("/no/a.jpg", "b.jpg")]
    for split in ("train", "validation"):
        rows = {"image": images, "question": ["is it?"] * 2, "answer": ["yes", "no"]}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet", batch_size=2)
    return ["/no/a.jpg", str(folder / "b.jpg")]


@pytest.mark.parametrize("write", [write_wrong_paths, write_unquoted_commas, write_parquet_of_wrong_paths])
def test_a_split_without_a_readable_image_is_always_refused_with_paths_tried(folders, tmp_path, write):
    folder = tmp_path / "table"
    folder.mkdir()
    paths = write(folder)
    flags = ["--dataset_name", str(folder), "--max_unreadable_images", "1"]
    with pytest.raises(ValueError, match=r"train: 2 of 2 images .* data set's folder.* quotes") as error:
        run_pathvqa.main([*FROM_RANDOM, *FAST, *folders, *flags])
    assert all(path in str(error.value) for path in paths)


@pytest.mark.parametrize("share", ["10", "-0.1"])
def test_a_share_of_unreadable_images_is_between_0_and_1(share):
    with pytest.raises(ValueError, match=f"--max_unreadable_images is {float(share)}"):
        parsed("--max_unreadable_images", share)


def test_a_data_set_without_validation_is_refused(folders, tmp_path):
    (tmp_path / "train.csv").write_text("image,question,answer\ngood.jpg,is it?,yes")
    with pytest.raises(ValueError, match="no validation"):
        run_pathvqa.main([*FROM_RANDOM, *FAST, *folders, "--dataset_name", str(tmp_path)])
