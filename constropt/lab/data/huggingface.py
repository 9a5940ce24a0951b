"""Images and labels of a Hugging Face data set, from a folder that ``save_to_disk`` wrote or by its name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from constropt.checks import MissingExtra


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
        raise ValueError(
            f"hf:{location}: images must be of one size and mode, got {sorted(sizes)[:5]}; resize them with"
            " dataset.map(...) and save_to_disk"
        )
    return np.stack(images), np.asarray(found[label])


def _column(found: Any, kind: type, location: str) -> str:
    """The first column of a type."""
    names = [name for name, feature in found.features.items() if isinstance(feature, kind)]
    if not names:
        columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in found.features.items())
        raise ValueError(f"hf:{location}: has no column of type {kind.__name__}; it has {columns}")
    return names[0]
