"""Samples with labels, in memory."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LabelledData(NamedTuple):
    """``inputs``: float32 ``(samples, channels, height, width)`` in [0, 1]; ``labels``: int64 ``(samples,)``, or
    ``(samples, height, width)`` for data with a label per pixel.
    """

    inputs: Tensor
    labels: Tensor
