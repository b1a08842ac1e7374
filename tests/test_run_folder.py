"""What a run leaves in its folder, and the runs that start from there: evaluated, resumed, overwritten."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import FAST, FROM_RANDOM

from mmjepa import run_pathvqa
from mmjepa.data.images import VqaData
from mmjepa.data.rows import load_rows
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training.arguments import parse_arguments
from mmjepa.training.building import build
from mmjepa.training.checkpoints import newest_checkpoint
from mmjepa.training.run_folder import content_hash, find_checkpoint

KIND = "(what|where|how|how_many|is_are|other)"


@pytest.fixture(scope="module")
def trained(slides, tmp_path_factory) -> Path:
    """The folder of a run of four steps with a checkpoint after each. Tests don't change it."""
    folder = tmp_path_factory.mktemp("trained")
    flags = [*FROM_RANDOM, *FAST, "--dataset_name", slides, "--max_steps", "4", "--batch_size", "8"]
    flags += ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9", "--do_predict"]
    flags += ["--eval_strategy", "steps", "--eval_steps", "1", "--align_warmup_epochs", "0"]
    run_pathvqa.main([*flags, "--output_dir", str(folder), "--log_dir", str(folder / "logs")])
    return folder


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A copy of that folder, which a test may change."""
    return shutil.copytree(trained, tmp_path / "copied")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def evaluate(slides, tmp_path):
    """A function that runs the script on a saved model without training."""

    def run(model: Path, *flags: str) -> dict[str, float]:
        flags = ("--model_name_or_path", str(model), "--do_train", "false", "--dataset_name", slides, *flags)
        return run_pathvqa.main([*FAST, "--log_dir", str(tmp_path / "logs"), *flags])

    return run


def test_every_number_of_a_run_stands_on_the_pages_of_numbers(trained):
    """In the first column of their tables, where a beginning of names ends with _, and an ending begins with it."""
    pages = Path(run_pathvqa.__file__).parent.glob("docs/numbers*.md")
    cells = [cell for page in pages for cell in re.findall(r"^\| (`.*?) \|", page.read_text(), re.MULTILINE)]
    names = {name.replace("<kind>", KIND) for cell in cells for name in re.findall("`(.*?)`", cell)}
    starts, ends = {name for name in names if name.endswith("_")}, {name for name in names if name.startswith("_")}
    known = re.compile("({})*({})({})*".format(*("|".join(group) for group in (starts, names - starts - ends, ends))))
    numbers = json.loads((trained / "all_results.json").read_text())
    assert len(numbers) > 100
    assert [name for name in numbers if not known.fullmatch(name)] == []


def test_what_a_training_chose_is_shown_at_its_start_and_kept_in_run_json(slides, tmp_path, capsys):
    shutil.copytree(slides, tmp_path / "data", ignore=shutil.ignore_patterns("validation.csv"))
    flags = [*FROM_RANDOM, *FAST, "--dataset_name", str(tmp_path / "data"), "--max_steps", "1"]
    flags += ["--validation_split_percentage", "25", "--max_answer_tokens", "7", "--image_mean", "0.25"]
    run_pathvqa.main([*flags, "--image_std", "0.5", "--output_dir", str(tmp_path / "out")])
    chosen = json.loads((tmp_path / "out" / "run.json").read_text())["chosen"]
    shown = capsys.readouterr().out.splitlines()[1:11]
    assert [" ".join(line.split()) for line in shown] == [f"{name}: {text}" for name, text in chosen.items()]
    assert chosen["device"].startswith("cpu, 1 process, in float32")
    assert "28 x 28 pixels" in chosen["images"] and chosen["colours"].startswith("less 0.25 0.25 0.25, divided by 0.5")
    processor = MMJepaProcessor.from_pretrained(tmp_path / "out")
    assert f"trained on the training texts, {len(processor.tokenizer)} tokens" in chosen["tokenizer"]
    assert "read up to 32 tokens, answers written up to 7" in chosen["texts"]
    assert "held out of train: 25 % of the images, by seed 0" in chosen["validation"]


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
    assert files == {"eval_results.json", "all_results.json", "eval_answers.jsonl", "eval_answers.png", "report.html"}
    assert results == json.loads((tmp_path / "again" / "all_results.json").read_text())
    assert len(prepared) == 1 and "eval_accuracy_majority" in results
    assert "model:" not in capsys.readouterr().out


def test_an_evaluation_beside_its_model_keeps_the_trainings_card_numbers_and_checkpoints(copied, evaluate):
    before = contents(copied)
    evaluate(copied, "--output_dir", str(copied), "--max_val_samples", "5")
    after = contents(copied)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {
        "eval_results.json",
        "all_results.json",
        "eval_answers.jsonl",
        "eval_answers.png",
        "report.html",
    }
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


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
def test_a_run_is_made_again_from_its_run_file_to_the_bit(slides, tmp_path, streaming):
    train, validation = tmp_path / "shards" / "train.parquet", tmp_path / "shards" / "validation.parquet"
    for path in (train, validation):
        load_rows(slides)[path.stem].to_parquet(path)
    (tmp_path / "flags.yaml").write_text("batch_size: 4\naugmentations: [crop, flip]\nmax_answer_tokens: 4\n")
    flags = [str(tmp_path / "flags.yaml"), *FROM_RANDOM, *FAST, "--dataset_name", str(tmp_path / "shards")]
    flags += ["--image_folder", slides]
    flags += ["--max_steps=3", "--max_val_samples", "4", "--lr_img", "0.01", "--seed", "7", "--batch_size", "8"]
    flags += ["--hub_token", "secret", "--overwrite_output_dir", *(["--streaming"] if streaming else [])]
    folder, again = tmp_path / "first", tmp_path / "again"
    run_pathvqa.main([*flags, "--output_dir", str(folder), "--resume_from_checkpoint", "false"])
    torch.manual_seed(99)
    run_pathvqa.main([str(folder / "run.json"), "--output_dir", str(again)])
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    first, second = (json.loads((path / "run.json").read_text()) for path in (folder, again))
    assert first["flags"].pop("output_dir") == str(folder) and second["flags"].pop("output_dir") == str(again)
    assert first == second and "secret" not in (folder / "run.json").read_text()
    assert first["flags"]["batch_size"] == "8" and first["flags"]["augmentations"] == ["crop", "flip"]
    assert first["data"]["train"]["questions"] == 56
    assert first["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    with pytest.raises(ValueError, match="an earlier run"):
        run_pathvqa.main([str(folder / "run.json")])


def test_the_hash_of_data_changes_with_a_word_or_a_pixel_alone(data):
    words = VqaData(
        data.questions.map(lambda row, number: {"answer": "no" if number == 3 else row["answer"]}, with_indices=True),
        data.pixels,
    )
    pixels = VqaData(
        data.questions,
        data.pixels.with_format("numpy").map(
            lambda row, number: {"pixels": row["pixels"] // (2 if number == 3 else 1)}, with_indices=True
        ),
    )
    same = VqaData(data.questions.select(range(24)), data.pixels.select(range(6)))
    assert content_hash(same) == content_hash(data)
    reordered = VqaData(data.questions, data.pixels.select([1, 0, *range(2, 6)]))
    assert content_hash(reordered) != content_hash(data)
    assert len({content_hash(other) for other in (data, words, pixels)}) == 3


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
    with pytest.raises(ValueError, match="an earlier run"):  # no checkpoint to resume, but files in the way
        run_pathvqa.main([*training_flags(slides, other, tmp_path), "--resume_from_checkpoint"])


def test_overwriting_removes_what_the_earlier_run_left_and_nothing_else(copied, slides, tmp_path):
    own = {"notes.txt", "checkpoint-best/kept.txt", "logs/mine.txt"}
    for name in own:
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_text("mine")
    assert any("events" in name for name in contents(copied))
    results = run_pathvqa.main([*training_flags(slides, copied, tmp_path), "--overwrite_output_dir"])
    files = contents(copied)
    assert {name for name in files if files[name] == b"mine"} == own
    assert results == json.loads(files["all_results.json"]) and "test_accuracy" not in results
    assert {path.name for path in copied.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-best"}
    assert not (copied / "test_answers.jsonl").exists() and not any("events" in name for name in files)
    assert "Measured on the test split" not in files["README.md"].decode()


def test_a_finished_training_on_a_stream_is_resumed_to_its_evaluation_alone(slides, tmp_path):
    """A stream has no end, and the library counts its epochs without one."""
    for split in ("train", "validation"):
        load_rows(slides)[split].to_parquet(tmp_path / "shards" / f"{split}.parquet")
    flags = [*training_flags(str(tmp_path / "shards"), tmp_path / "run", tmp_path), "--streaming"]
    flags += ["--image_folder", slides]
    flags += ["--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1"]
    first = run_pathvqa.main(flags)
    again = run_pathvqa.main([*flags, "--resume_from_checkpoint"])
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 1
    assert again["eval_loss"] == first["eval_loss"]


def test_a_resumed_run_reports_only_its_own_numbers(copied, slides, tmp_path):
    flags = training_flags(slides, copied, tmp_path)
    results = run_pathvqa.main([*flags, "--max_steps", "5", "--resume_from_checkpoint"])
    assert results == json.loads((copied / "all_results.json").read_text()) and "test_accuracy" not in results
    history = json.loads((copied / "trainer_state.json").read_text())["log_history"]
    assert [line["step"] for line in history if "train_runtime" in line] == [5]
    assert not (copied / "test_results.json").exists()


def test_a_saved_model_is_fine_tuned_with_another_loss_weight_and_its_card_names_it(trained, slides, tmp_path):
    assert "Trained from random weights on slides." in (trained / "README.md").read_text()
    flags = training_flags(slides, tmp_path / "further", tmp_path)[len(FROM_RANDOM) :]
    run_pathvqa.main(["--model_name_or_path", str(trained), *flags, "--lambda_align", "0.125", "--bf16_text_encoder"])
    saved = load_file(tmp_path / "further" / "model.safetensors")
    assert saved["encoder.text_encoder.layers.0.fc1.weight"].dtype == torch.bfloat16
    assert json.loads((tmp_path / "further" / "config.json").read_text())["lambda_align"] == 0.125
    assert f"Fine-tuned from {trained.name} on slides." in (tmp_path / "further" / "README.md").read_text()


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# What may happen to a checkpoint, and what is said of it.
BREAK = {
    "model.safetensors is cut off": lambda checkpoint: cut_off(checkpoint / "model.safetensors"),
    "optimizer.pt is cut off": lambda checkpoint: cut_off(checkpoint / "optimizer.pt"),
    "rng_state.pth is cut off": lambda checkpoint: cut_off(checkpoint / "rng_state.pth"),
    "trainer_state.json is cut off": lambda checkpoint: cut_off(checkpoint / "trainer_state.json"),
    "optimizer* is missing": lambda checkpoint: (checkpoint / "optimizer.pt").unlink(),
    "trainer_state.json is missing": lambda checkpoint: (checkpoint / "trainer_state.json").unlink(),
    "model*.safetensors is missing": lambda checkpoint: [path.unlink() for path in checkpoint.glob("*")],
    "its save was cut off": lambda checkpoint: (checkpoint / "checkpoint-is-incomplete.txt").touch(),
}


@pytest.mark.parametrize("value", [[], ["true"], ["last"], ["FOLDER"]], ids=["bare", "true", "last", "folder"])
def test_resuming_finds_the_newest_complete_checkpoint(trained, copied, value, tmp_path, caplog):
    output = tmp_path / "new" if value == ["FOLDER"] else copied
    flags = [str(copied) if item == "FOLDER" else item for item in value]
    shutil.copytree(copied / "checkpoint-4", copied / "checkpoint-10")  # not the newest by the order of letters alone
    flags = [*FROM_RANDOM, "--use_cpu", "--output_dir", str(output), "--resume_from_checkpoint", *flags]
    args = parse_arguments(flags)[2]
    assert find_checkpoint(args) == str(copied / "checkpoint-10") and not caplog.text
    (copied / "checkpoint-10" / "optimizer.pt").unlink()
    shutil.rmtree(copied / "checkpoint-4")
    (copied / "checkpoint-4").mkdir()
    assert find_checkpoint(args) == str(copied / "checkpoint-3")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "checkpoint-10 is broken (optimizer* is missing)" in caplog.text


@pytest.mark.parametrize("fault", BREAK)
def test_a_broken_checkpoint_is_reported_and_never_resumed_from(trained, fault, tmp_path, caplog):
    for number in (1, 2):
        shutil.copytree(trained / f"checkpoint-{number}", tmp_path / f"checkpoint-{number}")
    BREAK[fault](tmp_path / "checkpoint-2")
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    assert "checkpoint-2 is broken" in caplog.text and fault in caplog.text
    flags = [*FROM_RANDOM, "--use_cpu", "--resume_from_checkpoint", str(tmp_path / "checkpoint-2")]
    with pytest.raises(ValueError, match="name another checkpoint"):
        find_checkpoint(parse_arguments(flags)[2])


def test_a_named_checkpoint_is_resumed_and_without_any_it_is_an_error_or_a_new_start(trained, tmp_path, caplog):
    def find(*flags):
        args = parse_arguments([*FROM_RANDOM, "--use_cpu", "--output_dir", str(tmp_path), *flags])[2]
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
        [
            *flags,
            "--lambda_align",
            "0.125",
            "--lambda_ce",
            "3",
            "--lambda_answer",
            "0",
            "--attn_implementation",
            "eager",
        ]
    )
    config = build(arguments)[1].config
    assert (config.lambda_align, config.lambda_ce, config._attn_implementation) == (0.125, 3.0, "eager")
    assert config.lambda_answer == 0 and config.predict_answer
    unchanged = build(parse_arguments(flags)[0])[1].config
    assert (unchanged.lambda_align, unchanged.lambda_ce) == (0.5, 1.0)


def test_flags_that_a_saved_model_cannot_change_are_refused_by_name(trained):
    flags = {
        "num_image_tokens": "4",
        "visual_prefix": "pooled",
        "image_pooling": "mean",
        "project_image": "false",
        "alignment_loss": "cosine",
        "alignment_target": "embedding",
    }
    arguments, _, _ = parse_arguments(
        ["--model_name_or_path", str(trained), "--use_cpu", *(f"--{name}={value}" for name, value in flags.items())]
    )
    with pytest.raises(ValueError, match="can't change") as error:
        build(arguments)
    assert all(f"--{name}" in str(error.value) for name in flags)
