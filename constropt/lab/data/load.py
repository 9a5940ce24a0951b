"""Data sets by a short specification: images as float32 in [0, 1] and integer labels, all in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from constropt.lab.data.digits import read_digits
from constropt.lab.data.huggingface import load_huggingface
from constropt.lab.data.idx import find_idx, read_idx
from constropt.lab.data.labelled import LabelledData
from constropt.lab.data.scenes import digit_scenes, load_camvid

_SCENES = {"train": 500, "test": 100}

KINDS = {
    "digits": "the 1,797 8x8 digits embedded in scikit-learn; the last 500 are the test split",
    "mnist:DIR": "IDX files train-* and t10k-*, gzip or not",
    "fashion-mnist:DIR": "the same for Fashion-MNIST",
    "idx:DIR": "the same for any other set",
    "npz:FILE": "keys images, labels or {train,test}_images, {train,test}_labels; uint8, or floats in [0, 1]",
    "cifar10:FILE": "an npz file of 32x32 color images",
    "safetensors:FILE": "tensors inputs and labels",
    "scenes": "colored digits on 64x64 backgrounds with a label per pixel, 500 to train and 100 to test",
    "hf:NAME": "a Hugging Face data set of images and labels, or a folder that save_to_disk wrote",
    "camvid:DIR": "CamVid's road scenes with a label per pixel: {train,test}/*.png and {train,test}annot/*.png",
}


def load_data(spec: str, *, split: str = "test") -> LabelledData:
    """The ``split`` ("train" or "test") of the data set that ``spec`` names (see :data:`KINDS`).

    A file that holds one set only (keys ``images``/``labels``, safetensors) is returned whatever the split.
    Raises ``ValueError`` for an unknown kind (naming the known ones), a missing file (naming what was looked for) or
    contents of the wrong shape or range, and :class:`MissingExtra` where scikit-learn is needed and absent.

    >>> inputs, labels = load_data("digits")
    >>> inputs.shape, inputs.dtype, labels.shape
    (torch.Size([500, 1, 8, 8]), torch.float32, torch.Size([500]))
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: takes 'train' or 'test', got {split!r}")
    kind, _, location = spec.partition(":")
    if kind not in _LOADERS:
        known = "; ".join(f"{name} ({text})" for name, text in KINDS.items())
        raise ValueError(f"data: unknown kind {kind!r} in {spec!r}; known are {known}")
    takes = next(name for name in KINDS if name.split(":")[0] == kind)
    if bool(location) != (":" in takes):
        raise ValueError(f"data: {spec!r} should read {takes}")
    inputs, labels = _LOADERS[kind](location, split)
    return _checked(spec, inputs, labels)


def _idx(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = find_idx(Path(location), split)
    return read_idx(images), read_idx(labels)


def _npz(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    path = _existing_file(location)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _pick(str(path), arrays, split, ("images", "labels"))
    except (zipfile.BadZipFile, AttributeError, EOFError, TypeError) as error:
        raise ValueError(f"{path}: no npz file ({error})") from None


def _cifar10(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _npz(location, split)
    if images.ndim != 4 or sorted(images.shape[1:]) != [3, 32, 32]:
        raise ValueError(f"{location}: CIFAR-10 images are 32x32 in color, got an array of shape {images.shape}")
    return images, labels


def _safetensors(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = _existing_file(location)
    try:
        return _pick(str(path), load_file(path), split, ("inputs", "labels"))
    except SafetensorError as error:
        raise ValueError(f"{path}: no safetensors file ({error})") from None


def _scenes(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    scenes = digit_scenes(_SCENES[split], split=split)
    return scenes.inputs.numpy(), scenes.labels.numpy()


def _camvid(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    scenes = load_camvid(location, split)
    return scenes.inputs.numpy(), scenes.labels.numpy()


_LOADERS: dict[str, Callable[[str, str], tuple[np.ndarray, np.ndarray]]] = {
    "digits": read_digits,
    "mnist": _idx,
    "fashion-mnist": _idx,
    "idx": _idx,
    "npz": _npz,
    "cifar10": _cifar10,
    "safetensors": _safetensors,
    "scenes": _scenes,
    "camvid": _camvid,
    "hf": load_huggingface,
}


def _existing_file(location: str) -> Path:
    path = Path(location)
    if not path.is_file():
        state = "is a directory" if path.is_dir() else "does not exist"
        raise ValueError(f"no data file {path.absolute()}: it {state}")
    return path


def _pick(
    path: str, arrays: Mapping[str, np.ndarray], split: str, names: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays under the names of the split, else under the plain ``names``."""
    for images, labels in ((f"{split}_{names[0]}", f"{split}_{names[1]}"), names):
        if images in arrays and labels in arrays:
            return arrays[images], arrays[labels]
    tried = f"{split}_{names[0]} and {split}_{names[1]}, or {names[0]} and {names[1]}"
    raise ValueError(f"{path}: looked for {tried}; it holds {', '.join(sorted(arrays)) or 'nothing'}")


def _checked(spec: str, images: np.ndarray, labels: np.ndarray) -> LabelledData:
    """As tensors, channels second, bytes divided by 255; everything that an evaluation relies on verified once."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = np.moveaxis(images, 3, 1)
    if images.ndim != 4:
        raise ValueError(f"data {spec!r}: images must be (N, H, W) or (N, C, H, W), got shape {images.shape}")
    if len(images) == 0 or labels.shape not in (images.shape[:1], (len(images), *images.shape[2:])):
        raise ValueError(f"data {spec!r}: takes one label per image or pixel, got {labels.shape} for {images.shape}")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"data {spec!r}: labels must be integers >= 0, got {labels.dtype} from {labels.min()}")
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    elif images.dtype.kind != "f":
        raise ValueError(f"data {spec!r}: images must be uint8 or floating point, got {images.dtype}")
    inputs = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    low, high = inputs.min().item(), inputs.max().item()
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        raise ValueError(f"data {spec!r}: images must lie in [0, 1], got values from {low:g} to {high:g}")
    return LabelledData(inputs, torch.from_numpy(labels.astype(np.int64)))
