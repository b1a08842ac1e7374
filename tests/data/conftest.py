"""What the tests of data share."""

import datasets
import pytest


@pytest.fixture(autouse=True)
def dataset_cache(tmp_path, monkeypatch):
    """What `datasets` caches goes where the test's files go."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "dataset_cache")
