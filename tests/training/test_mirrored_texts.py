"""What rows about flipped images read and answer."""

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Image

from mmjepa.data.images import prepare


@pytest.fixture(scope="module")
def places(image_processor):
    """128 questions about 32 images whose upper left quarter is the brightest; each eighth keeps its sides."""
    texts = [
        ("where is it?", "Upper left"),
        ("is it left?", "yes"),
        ("is it red?", "no"),
        ("what is at the top?", "it"),
    ]
    rows: dict = {"image": [], "question": [], "answer": [], "caption": []}
    for number in range(32):
        pixels = np.full((28, 28, 3), number, np.uint8)
        pixels[:14, :14] = 200
        for question, answer in texts:
            rows["image"].append(PIL.Image.fromarray(pixels))
            rows["question"].append(question)
            rows["answer"].append(answer)
            rows["caption"].append("a dorsal view" if number % 8 == 0 else "")
    encoded = Dataset.from_dict(rows).cast_column("image", Image()).cast_column("image", Image(decode=False))
    return prepare(encoded, image_processor)


def test_a_row_about_a_flipped_image_reads_the_swapped_words_and_answers_with_them(make_trainer, places, processor):
    trainer = make_trainer(augmentations=["flip", "stain"])
    trainer.model.train()
    batch = trainer.data_collator(places.__getitems__(range(128)))
    inputs = trainer.model_inputs(batch)
    pixels = inputs["pixel_values"].mean(dim=1)  # (I, H, W)
    quarters = pixels.unflatten(1, (2, 14)).unflatten(3, (2, 14)).mean(dim=(2, 4)).flatten(1)  # (I, 4)
    flips = quarters.argmax(dim=1)  # (I,)
    assert len(flips.unique()) == 4 and not flips[::8].any()
    shown = {"skip_special_tokens": True}
    questions = processor.tokenizer.batch_decode(inputs["input_ids"], **shown)
    answers = processor.tokenizer.batch_decode(inputs["labels"].clamp(min=0), **shown)
    texts = processor.tokenizer.batch_decode(inputs["align_input_ids"], **shown)
    for row, image in enumerate(inputs["image_index"].tolist()):
        side, end = ("right" if flips[image] % 2 else "left"), ("bottom" if flips[image] >= 2 else "top")
        expected = [
            ("where is it?", f"{'Upper' if end == 'top' else 'Lower'} {side}"),
            *((f"is it {side}?", "yes"), ("is it red?", "no"), (f"what is at the {end}?", "it")),
        ][row % 4]
        assert (questions[row], answers[row], texts[row]) == (*expected, " ".join(expected))
    trainer.model.eval()
    assert torch.equal(trainer.model_inputs(batch)["input_ids"], batch["input_ids"])


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
