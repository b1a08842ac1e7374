"""Processor and model from flags: the size of images, their borders, and checkpoints that lack a file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import FAST, FROM_RANDOM
from transformers import AutoImageProcessor

from mmjepa import run_pathvqa
from mmjepa.evaluation.asking import load_saved
from mmjepa.export.parts import export_parts
from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor
from mmjepa.training.arguments import parse_arguments
from mmjepa.training.building import build, new_image_processor, whole_images


def built(*flags):
    return build(parse_arguments([*flags, "--use_cpu"])[0])


@pytest.fixture
def published(checkpoints, tokenizer, image_processor, tmp_path) -> dict[str, str]:
    """Folders of a DINOv2 for 28 pixels a side and a BART, with their processors, as they are published."""
    folders = {name: str(shutil.copytree(checkpoints[name], tmp_path / name)) for name in ("vision", "text")}
    image_processor.save_pretrained(folders["vision"])
    tokenizer.save_pretrained(folders["text"])
    return folders


@pytest.fixture
def joined(published) -> list[str]:
    return ["--image_encoder", published["vision"], "--text_model", published["text"]]


def bordered() -> np.ndarray:
    """A wide black image with white at its right border."""
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, -5:] = 255
    return image


@pytest.mark.parametrize("make", ["random", "published"])
def test_nothing_of_an_image_is_cut_off(joined, make):
    if make == "random":
        processor = whole_images(new_image_processor(), 28)
    else:
        processor = built(*joined)[0].image_processor
    pixels = processor(bordered(), return_tensors="pt")["pixel_values"][0]  # (3, 28, 28)
    assert pixels.shape == (3, 28, 28)
    assert (pixels[..., -1] > pixels[..., 0] + 1).all()


def test_the_published_crop_can_be_kept_and_cuts_the_borders_off(joined, published):
    processor = built(*joined, "--center_crop")[0].image_processor
    pixels = processor(bordered(), return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, 28, 28)
    assert torch.equal(pixels[..., -1], pixels[..., 0])
    expected = AutoImageProcessor.from_pretrained(published["vision"])(bordered(), return_tensors="pt")
    assert torch.equal(pixels, expected["pixel_values"][0])


@pytest.mark.parametrize("flags", [["--image_size", "42"], []])
def test_the_crop_belongs_to_a_published_image_encoder_at_its_own_size(flags):
    with pytest.raises(ValueError, match="--center_crop keeps the image processor"):
        parse_arguments([*(FROM_RANDOM if not flags else []), *flags, "--center_crop"])


def test_a_run_at_another_image_size_saves_a_model_that_answers_at_it(joined, slides, tmp_path):
    folder = str(tmp_path / "run")
    flags = [*FAST, "--dataset_name", slides, "--batch_size", "4", "--max_steps", "2", "--output_dir", folder]
    run_pathvqa.main([*joined, *flags, "--image_size", "42"])
    model = MMJepaForConditionalGeneration.from_pretrained(folder)
    processor = MMJepaProcessor.from_pretrained(folder)
    inputs = processor(images=bordered(), text="what?", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 42, 42)
    assert model.get_image_features(inputs["pixel_values"]).last_hidden_state.shape[1] == 1 + 6 * 6
    assert len(model.generate(**inputs)) == 1
    # A saved model, too, goes on at a size of one's choice.
    assert built("--model_name_or_path", folder, "--image_size", "56")[0].image_processor.size["height"] == 56
    assert built("--model_name_or_path", folder)[0].image_processor.size["height"] == 42


@pytest.mark.parametrize(("size", "allowed"), [(30, "28 or 35"), (3, "7 or 14")])
def test_an_image_size_that_patches_do_not_fill_is_refused(joined, size, allowed):
    with pytest.raises(ValueError, match=f"patches of 7: give an --image_size of {allowed}"):
        built(*joined, "--image_size", str(size))


def test_a_crop_is_not_kept_where_no_file_says_it(joined, published):
    Path(published["vision"], "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="has no preprocessor_config.json.*without --center_crop"):
        built(*joined, "--image_mean", "0.5", "--image_std", "0.5", "--center_crop")


def test_exported_parts_start_a_new_model(make_model, processor, tmp_path):
    model = make_model()
    export_parts(model, processor, tmp_path)
    flags = ["--image_encoder", str(tmp_path / "image_encoder"), "--text_model", str(tmp_path / "generator_bart")]
    new_processor, new_model = built(*flags)
    assert new_processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert new_processor.image_processor.size["height"] == processor.image_processor.crop_size["height"]
    for part in ("encoder.image_encoder", "decoder"):
        expected, found = (dict(one.get_submodule(part).state_dict()) for one in (model, new_model))
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize("revision", ["v1", "main"])
def test_a_pinned_revision_is_that_of_every_part_that_is_loaded(saved_folder, tmp_path, monkeypatch, revision):
    """In the Hub's cache v1 is the whole model, and main lacks all but its configuration."""
    cache = tmp_path / "models--somebody--model"
    hashes = {"v1": "1" * 40, "main": "2" * 40}
    shutil.copytree(saved_folder, cache / "snapshots" / hashes["v1"])
    (cache / "snapshots" / hashes["main"]).mkdir(parents=True)
    shutil.copy(Path(saved_folder, "config.json"), cache / "snapshots" / hashes["main"])
    (cache / "refs").mkdir()
    for name, commit in hashes.items():
        (cache / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def load_both() -> list[int]:
        same = built("--model_name_or_path", "somebody/model", "--model_revision", revision)[1]
        return [model.num_parameters() for model in (load_saved("somebody/model", revision)[0], same)]

    if revision == "v1":
        assert len(set(load_both())) == 1
    else:
        with pytest.raises(OSError, match="somebody/model"):
            load_both()
