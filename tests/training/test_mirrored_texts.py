"""What rows about flipped images read and answer."""

from collections import defaultdict

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Image

from mmjepa.data.images import prepare
from mmjepa.training.targets import TrainingTargets

PLACES = ["Upper left", "Upper right", "Lower left", "Lower right"]


@pytest.fixture(scope="module")
def places(image_processor):
    """128 questions about 32 images, each bright in one quarter. A caption says that every fifth keeps its sides."""
    rows: dict = {"image": [], "question": [], "answer": [], "caption": []}
    for number in range(32):
        quarter = number % 4
        pixels = np.full((2, 14, 2, 14, 3), number, np.uint8)
        pixels[quarter // 2, :, quarter % 2] = 200
        rows["image"] += [PIL.Image.fromarray(pixels.reshape(28, 28, 3))] * 4
        rows["question"] += ["where is it?", "is it left?", "is it red?", "what is at the top?"]
        rows["answer"] += [PLACES[quarter], "no" if quarter % 2 else "yes", "no", "it"]
        rows["caption"] += ["a dorsal view" if number % 5 == 0 else ""] * 4
    encoded = Dataset.from_dict(rows).cast_column("image", Image()).cast_column("image", Image(decode=False))
    return prepare(encoded, image_processor)


def texts_about(shown: int, own: int) -> list[tuple[str, str]]:
    """Questions and answers about an image whose quarter `own` was bright, in whose view it is `shown`."""
    mirrored = shown ^ own  # 1: from left to right, 2: from top to bottom
    return [
        ("where is it?", PLACES[shown]),
        (f"is it {'right' if mirrored & 1 else 'left'}?", "no" if own & 1 else "yes"),
        ("is it red?", "no"),
        (f"what is at the {'bottom' if mirrored & 2 else 'top'}?", "it"),
    ]


@pytest.fixture
def seen(make_trainer, places):
    """What the model read in a step of all 128 rows, and the model."""
    trainer = make_trainer(augmentations=["flip", "stain"], per_device_train_batch_size=128, max_steps=1)
    trainer.train_dataset = places
    read: list[dict] = []
    with trainer.model.register_forward_pre_hook(lambda _, args, inputs: read.append(inputs), with_kwargs=True):
        trainer.train()
    return read[0], trainer.model.eval()


def texts_of(seen: dict, processor) -> list[tuple[str, str]]:
    """The question and the answer of each row."""
    ids = (seen["input_ids"], seen["labels"].clamp(min=0))
    return list(zip(*(processor.tokenizer.batch_decode(part, skip_special_tokens=True) for part in ids), strict=True))


def shown_quarters(seen: dict) -> list[int]:
    """Which quarter of each row's view is bright."""
    quarters = (
        seen["pixel_values"].mean(dim=1).unflatten(1, (2, 14)).unflatten(3, (2, 14)).mean(dim=(2, 4))
    )  # (I, 2, 2)
    return quarters.flatten(1).argmax(dim=1)[seen["image_index"]].tolist()


def test_rows_about_flipped_images_ask_and_answer_with_the_swapped_words(seen, processor):
    seen, _ = seen
    numbers = seen["image_ids"][seen["image_index"]].tolist()
    found = defaultdict(set)
    for number, shown, texts in zip(numbers, shown_quarters(seen), texts_of(seen, processor), strict=True):
        found[number, shown].add(texts)
    assert len(found) == 32
    for (number, shown), texts in found.items():
        assert texts == set(texts_about(shown, number % 4))
        assert shown == number % 4 or number % 5
    assert {shown ^ number % 4 for number, shown in found} == {0, 1, 2, 3}


def test_statements_and_answers_about_flipped_images_have_the_swapped_words(seen, processor):
    seen, model = seen
    texts = texts_of(seen, processor)
    statements = [question if answer in ("yes", "no") else f"{question} {answer}" for question, answer in texts]
    expected = model.encode_texts(**processor(text=statements, return_tensors="pt"))
    torch.testing.assert_close(seen["statements"]["embeds"], expected, atol=1e-4, rtol=0)
    answers = seen["answers"]
    expected = model.encode_answers(**processor(text=[answer for _, answer in texts], return_tensors="pt"))
    torch.testing.assert_close(answers["targets"][answers["right"]], expected, atol=1e-4, rtol=0)


def test_wrong_statements_about_flipped_images_are_wrong_of_what_is_seen(seen, processor):
    seen, model = seen
    places = model.encode_texts(**processor(text=[f"where is it? {place}" for place in PLACES], return_tensors="pt"))
    wrong, has_wrong = seen["statements"]["wrong_embeds"], seen["statements"]["has_wrong"]
    for row, (shown, (question, _)) in enumerate(zip(shown_quarters(seen), texts_of(seen, processor), strict=True)):
        if question == "where is it?":
            said = wrong[row] @ places.T  # (K, 4)
            torch.testing.assert_close(said.amax(dim=1), torch.ones(2), atol=1e-4, rtol=0)
            assert has_wrong[row].all() and shown not in said.argmax(dim=1)


def test_a_resumed_run_swaps_the_same_words_whatever_loads_its_data(make_trainer, places, tmp_path):
    settings = {"augmentations": ["flip"], "per_device_train_batch_size": 32}
    settings |= {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None}
    whole, resumed = make_trainer(**settings), make_trainer(**settings, dataloader_num_workers=1)
    whole.train_dataset = resumed.train_dataset = places
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / "checkpoint-3"))
    assert resumed.state.global_step == 8
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_answers_are_as_frequent_as_in_all_four_views(make_config):
    rows = Dataset.from_dict({"question": ["where?"] * 3 + ["is it?"], "answer": ["Upper left"] * 3 + ["no"]})
    targets = TrainingTargets(rows, make_config(), num_wrong=0, side_words="en")
    counts = dict(zip(targets.answers, targets.answer_counts.tolist(), strict=True))
    places = dict.fromkeys(["Upper left", "upper right", "lower left", "lower right"], 0.75)
    assert counts == {**places, "no": 1}
    assert TrainingTargets(rows, make_config(), num_wrong=0).answer_counts.tolist() == [3, 1]
