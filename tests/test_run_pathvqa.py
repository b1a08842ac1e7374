"""The script, from flags to files: on drawn slides, on stand-ins of published checkpoints and of PathVQA itself."""

import io
import itertools
import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from safetensors.torch import load_file
from tiny import FAST, FROM_RANDOM, TEXT, VISION
from transformers import BartForConditionalGeneration, Dinov2Model, GenerationConfig
from transformers.training_args import ParallelMode

from mmjepa import run_pathvqa
from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.export.parts import rebuild_from_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training.arguments import CONFIG_FIELDS, ModelArguments, parse_arguments
from mmjepa.training.building import build, image_processor_of_size


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
    flags = {"vision_config": VISION, "text_config": TEXT, "batch_size": 6, "lr_img": 0.01, "use_cpu": True}
    flags["augmentations"] = ["flip", "stain"]
    path = tmp_path / f"run{suffix}"
    path.write_text(json.dumps(flags) if suffix == ".json" else yaml.safe_dump(flags))
    model, _, training = parse_arguments([str(path), "--lr_img", "0.02"])
    assert model.vision_fields == VISION
    assert (training.per_device_train_batch_size, training.lr_img) == (6, 0.02)
    assert training.augmentations == ["flip", "stain"]


def test_each_part_that_is_not_named_is_the_published_one():
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
def test_float32_is_used_where_asked_for_though_the_gpu_has_bfloat16(gpus, precision):
    _, _, training = parsed("--precision", precision)
    assert not (training.bf16 or training.fp16)


def test_bfloat16_is_the_default_only_where_the_gpu_does_not_emulate_it(gpus, monkeypatch):
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


@pytest.fixture
def new_images(tmp_path) -> Path:
    """A folder of three images and a table of questions about them, two of them with an answer."""
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("red", "blue", "grey"):
        PILImage.new("RGB", (30, 40), name).save(folder / f"{name}.png")
    lines = ["image,question,answer", "red.png,is it?,yes", "red.png,what is present?,the liver", "blue.png,is it?,"]
    (folder / "table.csv").write_text("\n".join(lines))
    return folder


def count_images(monkeypatch) -> list[int]:
    """How many images each call of the image encoder is given, from now on."""
    counts: list[int] = []
    forward = Dinov2Model.forward

    def count_and_encode(self, pixel_values, *args, **kwargs):
        counts.append(len(pixel_values))
        return forward(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(Dinov2Model, "forward", count_and_encode)
    return counts


def predict_alone(saved_folder, folders, *flags) -> dict[str, float]:
    """A run of a saved model that reads no data set and trains nothing."""
    alone = ["--do_train", "false", "--do_eval", "false", "--dataset_name", "there/is-none"]
    return run_pathvqa.main(["--model_name_or_path", saved_folder, *FAST, *folders, *alone, *flags])


def test_new_images_are_answered_without_a_data_set(saved_folder, folders, new_images, tmp_path, monkeypatch):
    counts = count_images(monkeypatch)
    questions = ["is necrosis seen?", "where?"]
    results = predict_alone(saved_folder, folders, "--predict_data", str(new_images), "--predict_question", *questions)
    assert results == {} and sum(counts) == 3 + 1  # each image, and the black one, once
    table = pd.read_parquet(tmp_path / "checkpoints" / "predictions.parquet")
    assert list(table) == ["image", "question", "answer", "probability", "answer_without_image"]
    files = [str(new_images / f"{name}.png") for name in ("blue", "grey", "red")]
    assert list(zip(table["image"], table["question"], strict=True)) == list(itertools.product(files, questions))

    model = MMJepaForConditionalGeneration.from_pretrained(saved_folder)
    processor = MMJepaProcessor.from_pretrained(saved_folder)
    for row in table.itertuples():
        for image, answer in ((row.image, row.answer), (np.zeros((28, 28, 3), np.uint8), row.answer_without_image)):
            inputs = processor(images=image, text=row.question, return_tensors="pt")
            assert processor.decode(model.generate(**inputs), skip_special_tokens=True)[0].strip() == answer


def test_answers_to_a_table_stand_beside_the_truths_that_it_has(saved_folder, folders, new_images, tmp_path):
    results = predict_alone(saved_folder, folders, "--predict_data", str(new_images / "table.csv"))
    table = pd.read_parquet(tmp_path / "checkpoints" / "predictions.parquet")
    assert list(table["image"]) == ["red.png", "red.png", "blue.png"]
    assert list(table["truth"]) == ["yes", "the liver", None]
    assert list(table["correct"]) == [*(table["answer"] == table["truth"])[:2], None]
    assert results["predict_accuracy"] == (table["answer"] == table["truth"]).sum() / 2
    with pytest.raises(ValueError, match=r"holds another run .*predictions\.parquet"):
        predict_alone(saved_folder, folders, "--predict_data", str(new_images / "table.csv"))


def test_any_split_is_answered_and_evaluated_in_place_of_test(path_vqa, saved_folder, folders, tmp_path, monkeypatch):
    flags = ["--model_name_or_path", saved_folder, *FAST, *folders, "--dataset_name", path_vqa, "--do_train", "false"]
    counts = count_images(monkeypatch)
    results = run_pathvqa.main([*flags, "--do_eval", "false", "--predict_split", "train"])
    assert results["predict_count"] == 12 and not any(name.startswith(("eval", "test")) for name in results)
    (trainer_pass,) = [counts[:1]]
    table = pd.read_parquet(tmp_path / "checkpoints" / "predictions.parquet")
    lines = (tmp_path / "checkpoints" / "predict_answers.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    for column, name in (("answer", "prediction"), ("truth", "answer"), ("answer_without_image", "blank")):
        assert list(table[column]) == [row[name] for row in answers]
    assert table["correct"].mean() == results["predict_accuracy"]
    with pytest.raises(ValueError, match="has the splits .* but no extra: .*--predict_split"):
        run_pathvqa.main([*flags, "--predict_split", "extra", "--overwrite_output_dir"])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--predict_split", "train", "--predict_data", "x"], "--predict_split and --predict_data"),
        (["--predict_question", "where?"], "--predict_question asks about the images of --predict_data"),
        (
            ["--predict_split", "train", "--streaming", "--max_steps", "2"],
            "--predict_split train needs all its images",
        ),
    ],
)
def test_what_is_predicted_is_named_once(flags, named):
    with pytest.raises(ValueError, match=named):
        parsed("--use_cpu", *flags)


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


def test_blank_images_bring_no_image_gain(slides, folders):
    results = run_pathvqa.main(
        [*FROM_RANDOM, *FAST, *folders, "--dataset_name", slides, "--blank_images", "--max_epochs", "1"]
    )
    assert results["eval_image_gain"] == 0
    assert results["eval_accuracy"] == results["eval_accuracy_blank_images"]


def test_a_bfloat16_text_encoder_is_saved_in_bfloat16_and_all_else_in_float32(slides, folders, tmp_path):
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


def test_a_saved_model_that_is_trained_further_keeps_its_generation_settings_unless_a_flag_says_otherwise(
    saved_folder, slides, folders, tmp_path
):
    start = shutil.copytree(saved_folder, tmp_path / "start")
    saved = GenerationConfig.from_pretrained(start)
    saved.update(num_beams=2, length_penalty=0.5, max_new_tokens=5)
    saved.save_pretrained(start)
    flags = ["--model_name_or_path", str(start), *FAST, *folders, "--dataset_name", slides, "--fast_dev_run"]
    flags += ["--do_eval", "false"]
    run_pathvqa.main(flags)
    assert GenerationConfig.from_pretrained(tmp_path / "checkpoints").to_diff_dict() == saved.to_diff_dict()
    run_pathvqa.main([*flags, "--max_answer_tokens", "3", "--overwrite_output_dir"])
    saved.max_new_tokens = 3
    assert GenerationConfig.from_pretrained(tmp_path / "checkpoints").to_diff_dict() == saved.to_diff_dict()


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
