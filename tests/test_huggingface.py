"""Hugging Face data sets from disk."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from constropt.checks import MissingExtra
from constropt.lab.data.load import load_data


@pytest.fixture
def folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3)
    features = datasets.Features(
        {"id": datasets.Value("int64"), "img": datasets.Image(), "fine": datasets.ClassLabel(names=["a", "b"])}
    )

    def part(rows: slice):
        return datasets.Dataset.from_dict(
            {
                "id": [0] * len(pixels[rows]),
                "img": [image.fromarray(p) for p in pixels[rows]],
                "fine": [0, 1, 1][: len(pixels[rows])],
            },
            features=features,
        )

    datasets.DatasetDict({"train": part(slice(0, 3)), "test": part(slice(3, 6))}).save_to_disk(tmp_path / "set")
    return tmp_path / "set", pixels


@pytest.mark.filterwarnings("ignore")
def test_both_splits_are_read(folder):
    path, pixels = folder
    for split, rows in (("train", slice(0, 3)), ("test", slice(3, 6))):
        inputs, labels = load_data(f"hf:{path}", split=split)
        expected = torch.from_numpy(pixels[rows]).movedim(3, 1) / 255
        torch.testing.assert_close(inputs, expected)
        assert labels.tolist() == [0, 1, 1]


@pytest.mark.filterwarnings("ignore")
def test_what_is_missing_is_named(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"only": datasets.Dataset.from_dict({"text": ["a"]})}).save_to_disk(tmp_path / "texts")
    with pytest.raises(ValueError, match="has no split 'test'; it has only"):
        load_data(f"hf:{tmp_path / 'texts'}")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "flat")
    with pytest.raises(ValueError, match=r"no column of type Image; it has text \(Value\)"):
        load_data(f"hf:{tmp_path / 'flat'}")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install constropt\[data\]"):
        load_data("hf:somewhere")
