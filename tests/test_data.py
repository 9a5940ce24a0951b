"""Data sets by specification: values, shapes, splits, and what a user reads when something is missing."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from constropt.lab.data.load import KINDS, load_data
from constropt.lab.data.readers import read_idx

REAL = Path(os.environ.get("CONSTROPT_DATA", Path(__file__).resolve().parent.parent / "../shared/data"))


def real(name: str) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{name} is not there (CONSTROPT_DATA)")
    return path


def idx(values: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, kind, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5) * 2


LABELS = np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)


def test_digits_splits_are_fixed_and_disjoint():
    from sklearn.datasets import load_digits

    train, test = load_data("digits", split="train"), load_data("digits")
    assert len(train.inputs) == 1297 and len(test.inputs) == 500
    raw = load_digits()
    everything = torch.cat([train.inputs, test.inputs])
    assert torch.equal(everything[:, 0] * 16, torch.from_numpy(raw.images).float())
    assert torch.cat([train.labels, test.labels]).tolist() == raw.target.tolist()
    assert everything.min() == 0 and everything.max() == 1 and test.labels.dtype == torch.int64


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["mnist", "fashion-mnist", "idx"])
def test_idx_files(tmp_path, images, kind, compressed):
    suffix, pack = (".gz", gzip.compress) if compressed else ("", bytes)
    for prefix, shift in (("train", 0), ("t10k", 1)):
        (tmp_path / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images + shift)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS)))
    train, test = (load_data(f"{kind}:{tmp_path}", split=split) for split in ("train", "test"))
    assert train.inputs.shape == (6, 1, 4, 5) and train.inputs.dtype == torch.float32
    assert torch.equal((train.inputs * 255).round().byte()[:, 0], torch.from_numpy(images))
    assert torch.equal((test.inputs * 255).round().byte()[:, 0], torch.from_numpy(images + 1))
    assert train.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG", "first two bytes"),
        (b"", "first two bytes"),
        (idx(LABELS)[:6], "inside its header"),
        (idx(LABELS)[:-1], "holds 5 bytes"),
        (idx(LABELS, kind=13), "type 0x0d"),
        (gzip.compress(idx(LABELS), mtime=0)[:20], "damaged gzip"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, content, message):
    path = tmp_path / "file-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


def test_npz_by_split_plain_and_channels_last(tmp_path, images):
    np.savez(
        tmp_path / "a.npz", train_images=images, train_labels=LABELS, test_images=images[:2], test_labels=LABELS[:2]
    )
    assert len(load_data(f"npz:{tmp_path}/a.npz", split="train").inputs) == 6
    assert len(load_data(f"npz:{tmp_path}/a.npz").inputs) == 2
    color = np.stack([images] * 3, axis=3)
    np.savez(tmp_path / "b.npz", images=color, labels=LABELS)
    loaded = load_data(f"npz:{tmp_path}/b.npz").inputs
    assert loaded.shape == (6, 3, 4, 5)
    assert torch.equal((loaded[:, 1] * 255).round().byte(), torch.from_numpy(images))
    np.savez(tmp_path / "c.npz", images=(images / 255).astype(np.float64), labels=LABELS)
    assert torch.allclose(load_data(f"npz:{tmp_path}/c.npz").inputs, loaded[:, :1], atol=1e-7)


def test_safetensors_and_cifar10(tmp_path):
    inputs, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    save_file({"inputs": inputs, "labels": labels}, tmp_path / "a.safetensors")
    loaded = load_data(f"safetensors:{tmp_path}/a.safetensors")
    assert torch.equal(loaded.inputs, inputs) and torch.equal(loaded.labels, labels)
    np.savez(tmp_path / "cifar.npz", images=(inputs.numpy() * 255).astype(np.uint8), labels=labels.numpy())
    assert load_data(f"cifar10:{tmp_path}/cifar.npz").inputs.shape == (4, 3, 32, 32)
    np.savez(tmp_path / "small.npz", images=np.zeros((2, 8, 8), np.uint8), labels=LABELS[:2])
    with pytest.raises(ValueError, match="32x32"):
        load_data(f"cifar10:{tmp_path}/small.npz")


def test_a_missing_folder_or_file_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError) as error:
        load_data(f"mnist:{tmp_path}/nowhere")
    for part in (f"{tmp_path}/nowhere", "no such directory", "t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"):
        assert part in str(error.value)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(LABELS))
    with pytest.raises(ValueError, match="no labels in .*t10k-labels-idx1-ubyte.gz"):
        load_data(f"mnist:{tmp_path}")
    with pytest.raises(ValueError, match="does not exist"):
        load_data(f"npz:{tmp_path}/a.npz")
    with pytest.raises(ValueError, match="is a directory"):
        load_data(f"safetensors:{tmp_path}")


@pytest.mark.parametrize("spec", ["minst:there", "imagenet", ""])
def test_an_unknown_kind_lists_the_known(spec):
    with pytest.raises(ValueError) as error:
        load_data(spec)
    assert all(kind in str(error.value) for kind in KINDS)


@pytest.mark.parametrize(("spec", "form"), [("mnist", "mnist:DIR"), ("digits:here", "digits"), ("npz:", "npz:FILE")])
def test_a_specification_of_the_wrong_form(spec, form):
    with pytest.raises(ValueError, match=f"should read {form}"):
        load_data(spec)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": LABELS}, "looked for test_images and test_labels, or images and labels; it holds x"),
        ({"images": np.zeros((6, 4)), "labels": LABELS}, "shape \\(6, 4\\)"),
        ({"images": np.zeros((6, 4, 4)), "labels": LABELS[:5]}, "one label per image"),
        ({"images": np.zeros((6, 4, 4)), "labels": LABELS / 2}, "integers"),
        ({"images": np.zeros((6, 4, 4)), "labels": LABELS.astype(int) - 1}, "from -1"),
        ({"images": np.full((6, 4, 4), 255.0), "labels": LABELS}, "\\[0, 1\\]"),
        ({"images": np.full((6, 4, 4), np.nan), "labels": LABELS}, "\\[0, 1\\]"),
        ({"images": np.zeros((6, 4, 4), np.int64), "labels": LABELS}, "uint8 or floating"),
    ],
)
def test_bad_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_data(f"npz:{tmp_path}/bad.npz")


def test_files_that_are_something_else(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.safetensors").write_text("no tensors at all")
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object), labels=LABELS)
    for spec in ("npz:text.npz", "safetensors:text.safetensors", "npz:objects.npz"):
        kind, name = spec.split(":")
        with pytest.raises(ValueError):
            load_data(f"{kind}:{tmp_path / name}")
    with pytest.raises(ValueError, match="split"):
        load_data("digits", split="validation")


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("mnist", "mnist", (10000, 1, 28, 28)),
        ("fashion_mnist/fashion_mnist_40k.npz", "npz", (10000, 1, 28, 28)),
        ("cifar10/cifar10_test.npz", "cifar10", (9966, 3, 32, 32)),
    ],
)
def test_real_data(name, kind, shape):
    inputs, labels = load_data(f"{kind}:{real(name)}")
    assert inputs.shape == shape and inputs.max() == 1 and sorted(labels.unique().tolist()) == list(range(10))
