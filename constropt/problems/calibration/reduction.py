"""What all calibration losses share: which entries count, their checks, and the mean over them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from constropt.precision import at_least_float32


class Batch(NamedTuple):
    """``logits`` ``(batch, K, *dims)`` in float32 at least, int64 ``labels`` and bool ``counted`` ``(batch, *dims)``.

    An entry that does not count has logits 0 and label 0, so that nothing in it, NaN included, reaches a loss or a
    gradient.
    """

    logits: Tensor
    labels: Tensor
    counted: Tensor


def counted_labels(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Which labels count, ``(batch, *dims)``; first of all, what is wrong with the arguments (see
    :func:`checked_batch`).

    >>> counted_labels(torch.zeros(2, 3), torch.tensor([1, -100]), -100)
    tensor([ True, False])
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits: takes a floating point tensor, got {logits.dtype}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: takes class numbers of dtype int64, got {labels.dtype}; use labels.long()")
    if logits.dim() < 2 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            "logits and labels: take (batch, K, *dims) and (batch, *dims), got"
            f" {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError(
            f"logits: takes at least 2 classes in dimension 1, got {classes}; a binary problem has 2 logits"
        )
    counted = labels != ignore_index
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = labels[counted & ((labels < 0) | (labels >= classes))]
        if wrong.numel():
            raise ValueError(
                f"labels: takes classes from 0 to {classes - 1} or ignore_index, {ignore_index}, got"
                f" {wrong.unique()[:5].tolist()} in {wrong.numel()} of {labels.numel()} entries"
            )
    return counted


def checked_batch(logits: Tensor, labels: Tensor, ignore_index: int) -> Batch:
    """``logits`` ``(batch, K)`` or ``(batch, K, *dims)`` and int64 ``labels`` ``(batch, *dims)``, checked, as a
    :class:`Batch`.

    Raises ``TypeError`` for logits that are not floating point or labels that are not int64; ``ValueError`` for shapes
    that do not match, fewer than two classes and, on the CPU, where looking costs no synchronisation, labels outside
    ``0 .. K-1`` other than ``ignore_index``.

    >>> found = checked_batch(torch.zeros(2, 3), torch.tensor([1, -100]), -100)
    >>> found.labels.tolist(), found.counted.tolist()
    ([1, 0], [True, False])
    """
    counted = counted_labels(logits, labels, ignore_index)
    return Batch(at_least_float32(logits).masked_fill(~counted.unsqueeze(1), 0), labels.where(counted, 0), counted)


def mean_counted(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of ``values`` over the entries that count; a differentiable 0 where none does.

    >>> mean_counted(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
    tensor(1.5000)
    """
    return values.where(counted, 0).sum() / counted.sum().clamp_min(1)


def of_label(values: Tensor, labels: Tensor) -> Tensor:
    """The entry of ``values`` ``(batch, K, *dims)`` at the class of ``labels``, ``(batch, *dims)``.

    >>> of_label(torch.tensor([[0.1, 0.9], [0.4, 0.6]]), torch.tensor([1, 0]))
    tensor([0.9000, 0.4000])
    """
    return values.gather(1, labels.unsqueeze(1)).squeeze(1)


class EntrywiseLoss(nn.Module):
    """A loss that is the mean over the counted entries of a value per entry, which a subclass gives in ``entrywise``.

    Called as ``loss(logits, labels)``: ``logits`` ``(batch, K)`` or ``(batch, K, *dims)``, ``labels`` int64 ``(batch,
    *dims)`` where ``ignore_index`` does not count. Computed in float32 at least, under autocast and for half precision
    logits too. Raises what :func:`checked_batch` raises.
    """

    def __init__(self, *, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def entrywise(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The value ``(batch, *dims)`` of each entry; ``labels`` all are classes."""
        raise NotImplementedError

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the counted entries, a scalar."""
        logits, labels, counted = checked_batch(logits, labels, self.ignore_index)
        return mean_counted(self.entrywise(logits, labels), counted)
