"""Batches seen row by row: one problem a row, ``(batch, *event)``, and one number a row, ``(batch,)``."""

from torch import Tensor


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
