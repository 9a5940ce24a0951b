"""Samples with labels, in memory, and the splits that they come in."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
