"""Batches seen row by row: one problem a row, ``(batch, *event)``, and one number a row, ``(batch,)``."""

from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

S = TypeVar("S", bound=Any)


def by_row(value: Tensor) -> Tensor:
    """``(batch, *dual)`` as ``(batch, entries)``, also where dual is empty."""
    return value.reshape(value.shape[0], -1)


def beside(rows: Tensor, other: Tensor) -> Tensor:
    """``(batch,)`` with trailing dimensions of size one, to broadcast against ``other``; its dtype is kept.

    >>> import torch
    >>> beside(torch.tensor([True, False]), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    return rows.view(-1, *[1] * (other.dim() - 1))


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """As :func:`beside`, in the dtype of ``like``: factors of its rows."""
    return beside(values.to(like), like)


def mixed(rows: Tensor, new: S, old: S) -> S:
    """A dataclass of tensors, rows first, with the ``rows``, ``(batch,)`` booleans, of ``new``, others of ``old``."""
    pairs = ((field.name, getattr(new, field.name), getattr(old, field.name)) for field in fields(old))
    return replace(old, **{name: torch.where(beside(rows, b), a, b) for name, a, b in pairs})
