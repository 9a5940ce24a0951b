"""Checks of arguments, what errors say of them, and optional dependencies."""

from __future__ import annotations

import math

from torch import Tensor


def got(value: object) -> str:
    """What an argument is, for messages: dtype and shape of a tensor, else its type.

    >>> import torch
    >>> got(torch.zeros(2, 3)), got("text")
    ('float32 of shape (2, 3)', 'str')
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__


def require_number(least: float = 0.0, below: float = math.inf, /, **values: float) -> None:
    """``ValueError`` that names the first of ``values`` that is no number from ``least`` to under ``below``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < below:
            raise ValueError(f"{name}: takes a number >= {least:g} and < {below:g}, got {value!r}")


def require_whole(least: int = 1, /, **values: int) -> None:
    """``ValueError`` that names the first of ``values`` that is no whole number from ``least``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: takes a whole number >= {least}, got {value!r}")


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
