"""Samples with labels, and what they are read from: images, IDX (MNIST), Hugging Face, scikit-learn's digits."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from constropt.checks import MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image


class LabelledData(NamedTuple):
    """``inputs``: float32 ``(samples, channels, height, width)`` in [0, 1]; ``labels``: int64 ``(samples,)``, or
    ``(samples, height, width)`` for data with a label per pixel.
    """

    inputs: Tensor
    labels: Tensor


def require_split(split: str, splits: tuple[str, ...] = ("train", "test")) -> None:
    """``ValueError`` unless ``split`` is one of the ``splits``.

    >>> require_split("val")
    Traceback (most recent call last):
    ...
    ValueError: split: takes 'train' or 'test', got 'val'
    """
    if split not in splits:
        *others, last = map(repr, splits)
        raise ValueError(f"split: takes {', '.join(others)} or {last}, got {split!r}")


def existing_file(location: str | Path) -> Path:
    """The path, or ``ValueError`` that says what is there instead of a file."""
    path = Path(location)
    if not path.is_file():
        state = "is a directory" if path.is_dir() else "does not exist"
        raise ValueError(f"no data file {path.absolute()}: it {state}")
    return path


NEAREST, BILINEAR, BOX = 0, 2, 4  # PIL.Image.Resampling, without Pillow


@contextmanager
def opened_image(file: Path | IO[bytes], wrong: str, needs: str = "image files need") -> Iterator[Image]:
    """The image in ``file`` for the time of the block, in which it is decoded. ``ValueError`` beginning with ``wrong``
    for what can't be read, :class:`~constropt.lab.MissingExtra` beginning with ``needs`` without Pillow.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra(f"{needs} Pillow: pip install constropt[plot]") from None
    try:
        with Image.open(file) as image:
            yield image
    except (OSError, SyntaxError) as error:  # the former also for what Pillow can't identify
        raise ValueError(f"{wrong} ({error})") from None


_DIGITS_TEST = 500  # the last ones; the first 1,297 are for training


def read_digits(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(samples, 8, 8)`` in [0, 1] and labels of a split; they come with the package, ``location`` is empty."""
    require_split(split)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("data 'digits' needs scikit-learn: pip install constropt[data]") from None
    digits = load_digits()
    part = slice(-_DIGITS_TEST, None) if split == "test" else slice(None, -_DIGITS_TEST)
    return (digits.images[part] / 16).astype(np.float32), digits.target[part]  # type: ignore[attr-defined]


_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> np.ndarray:
    """The unsigned bytes in ``path``, in the shape that its header states; ``ValueError``, naming the file, when it is
    not IDX, is cut short, or holds another type.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":  # by content, not by name: downloads are often renamed
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file ({error})") from None
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{path}: no IDX file (its first two bytes must be zero)")
    kind, dimensions = content[2], content[3]
    if kind != _UNSIGNED_BYTE:
        raise ValueError(f"{path}: holds IDX type {kind:#04x}, only unsigned bytes ({_UNSIGNED_BYTE:#04x}) are read")
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"{path}: cut short inside its header")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    values = np.frombuffer(content, dtype=np.uint8, offset=header)
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{path}: its header states shape {shape}, it holds {values.size} bytes")
    return values.reshape(shape)


def find_idx(directory: Path, split: str) -> tuple[Path, Path]:
    """The image and the label file of ``split`` ("train" or "test") under the usual names, compressed or not;
    ``ValueError`` that lists every name tried.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    found: list[Path] = []
    for what in ("images-idx3", "labels-idx1"):
        names = [f"{prefix}-{what}{mark}ubyte{suffix}" for mark in ("-", ".") for suffix in ("", ".gz")]
        present = [directory / name for name in names if (directory / name).is_file()]
        if not present:
            state = "" if directory.is_dir() else " (there is no such directory)"
            raise ValueError(f"no {what.split('-')[0]} in {directory}{state}: looked for {', '.join(names)}")
        found.append(present[0])
    return found[0], found[1]


def load_huggingface(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(samples, height, width[, channels])`` as bytes and integer labels of one split.

    The image column is the first of type ``Image``, the label column the first of type ``ClassLabel``. A name that is
    no folder is fetched by ``datasets.load_dataset``, without running code of its own. Raises ``MissingExtra`` without
    the ``data`` extra, ``ValueError`` for a split or columns that are not there and for images of different sizes.
    """
    try:
        datasets: Any = import_module("datasets")
    except ImportError:
        raise MissingExtra("data 'hf:...' needs the package datasets: pip install constropt[data]") from None
    found = datasets.load_from_disk(location) if Path(location).is_dir() else datasets.load_dataset(location)
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise ValueError(f"hf:{location}: has no split {split!r}; it has {', '.join(found)}")
        found = found[split]
    image, label = _column(found, datasets.Image, location), _column(found, datasets.ClassLabel, location)
    images = [np.asarray(picture.convert("RGB" if picture.mode not in ("L", "1") else "L")) for picture in found[image]]
    sizes = {picture.shape for picture in images}
    if len(sizes) != 1:
        cure = "resize them with dataset.map(...) and save_to_disk"
        raise ValueError(f"hf:{location}: images must be of one size and mode, got {sorted(sizes)[:5]}; {cure}")
    return np.stack(images), np.asarray(found[label])


def _column(found: Any, kind: type, location: str) -> str:
    """The first column of a type."""
    names = [name for name, feature in found.features.items() if isinstance(feature, kind)]
    if not names:
        columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in found.features.items())
        raise ValueError(f"hf:{location}: has no column of type {kind.__name__}; it has {columns}")
    return names[0]
