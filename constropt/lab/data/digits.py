"""The digits that scikit-learn embeds."""

from __future__ import annotations

import numpy as np

from constropt.checks import MissingExtra
from constropt.lab.data.labelled import require_split

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
