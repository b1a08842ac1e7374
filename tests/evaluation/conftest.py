"""What several tests of evaluation need."""

import pytest


@pytest.fixture
def encoded(monkeypatch, model):
    """The numbers of images that the model encodes, batch by batch."""
    counts: list[int] = []
    encode = model.get_image_features

    def count_and_encode(pixel_values, **kwargs):
        counts.append(len(pixel_values))
        return encode(pixel_values, **kwargs)

    monkeypatch.setattr(model, "get_image_features", count_and_encode)
    return counts
