"""What an evaluation says of the rows that a model may have been trained on."""

import re

import pytest

from mmjepa.training.reading import hold_out_note

NOW = {"percentage": 10.0, "seed": 0, "group_column": None, "images": "0123456789"}


@pytest.mark.parametrize(
    ("trainings", "words"),
    [
        ([NOW], None),
        ([NOW, NOW], None),
        ([], "not known on which rows the model was trained"),
        ([None], "held out nothing, .* If it was trained on these data, it was trained on rows that are held out now"),
        ([NOW | {"seed": 1}], "10 % of the images, by seed 1 .* 10 % of the images, by seed 0 .* trained on rows"),
        ([NOW | {"percentage": 5.0}], "held out 5 % .* The model was trained on rows that are held out now"),
        ([NOW | {"group_column": "slide"}], "of the groups by 'slide', .* The model was trained on rows"),
        ([NOW | {"percentage": 20.0}], "held out 20 % .* An image that is in both data was held out then too"),
        ([NOW | {"images": "abc"}], "data abc.*data 01234567.* An image that is in both data was held out then too"),
        ([NOW | {"images": "abc", "seed": 1}], "If it was trained on these data"),
        ([NOW, None], "held out nothing"),
    ],
)
def test_what_a_training_held_out_is_compared_with_what_is_held_out_now(trainings, words):
    note = hold_out_note(trainings, NOW)
    assert note is None if words is None else re.search(words, note)
