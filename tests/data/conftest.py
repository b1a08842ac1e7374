"""What all tests of data need."""

import datasets
import pytest


@pytest.fixture(autouse=True)
def dataset_cache(tmp_path, monkeypatch):
    """`datasets` keeps its cache in the test's own folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "dataset_cache")
