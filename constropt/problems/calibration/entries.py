"""Scores and labels, checked and flattened to one row per labelled entry: what every metric and scaling starts from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from constropt.precision import at_least_float32
from constropt.problems.calibration.binning import BinStatistics

_BLOCK = 2**22  # numbers worked on at once: 4,194 samples of 1,000 classes, or 200,000 pixels of 21
_TOLERANCE = 1e-2  # of a sum of probabilities: those rounded to bfloat16 pass, a forgotten softmax does not


@dataclass(frozen=True)
class Entries:
    """Entries that count: ``scores`` ``(entries, K)`` and ``labels`` ``(entries,)``, int64.

    Logits are float32 or float64. Probabilities keep the dtype they came in, so that they are compared with edges of
    bins as they are: 0.2 in half precision is not 0.2 in float32.
    """

    scores: Tensor
    labels: Tensor
    from_logits: bool

    def probabilities(self) -> Tensor:
        """``(entries, K)``, rows that sum to 1."""
        return self.scores.softmax(1) if self.from_logits else self.scores

    def log_loss(self) -> Tensor:
        """``(entries,)``: minus the logarithm of the label's probability, infinite where that is 0."""
        label = self.labels[:, None]
        if self.from_logits:
            return -self.scores.log_softmax(1).gather(1, label).squeeze(1)
        return -self.scores.gather(1, label).squeeze(1).double().log()

    def squared_error(self) -> Tensor:
        """``(entries,)``: the sum over classes of the squared difference to 1 for the label and 0 for the others."""
        p = at_least_float32(self.probabilities())
        difference = p.scatter_add(1, self.labels[:, None], p.new_full((len(p), 1), -1))
        return difference.square().sum(1, dtype=torch.float64)

    def predictions(self) -> Tensor:
        """``(entries,)``: the class of the largest score, the first of equal ones."""
        return self.scores.max(1).indices

    def hits(self) -> Tensor:
        """``(entries,)``, boolean: whether the prediction is the label."""
        return self.predictions() == self.labels

    def confidence(self) -> Tensor:
        """``(entries,)``: the probability of the prediction."""
        return self.probabilities().amax(1)


Sums = TypeVar("Sums", Tensor, BinStatistics)


def summed(
    measure: Callable[[Entries], Sums], scores: Tensor, labels: Tensor, from_logits: bool, ignore_index: int | None
) -> Sums:
    """The sum of what ``measure`` makes of :func:`blocks` of entries."""
    parts = blocks(scores, labels, from_logits=from_logits, ignore_index=ignore_index)
    return functools.reduce(lambda done, part: done + part, map(measure, parts))


def total(values: Tensor) -> Tensor:
    """``(2,)``, float64: the sum of ``(entries,)`` values and their number, which add up over blocks."""
    return torch.stack([values.sum(dtype=torch.float64), values.new_tensor(len(values), dtype=torch.float64)])


def blocks(
    scores: Tensor, labels: Tensor, *, from_logits: bool, ignore_index: int | None, name: str = "scores"
) -> Iterator[Entries]:
    """The entries that count, some samples at a time, so that the memory needed does not grow with the data.

    ``scores`` are ``(batch, K)`` or ``(batch, K, *dims)``, ``labels`` integers ``(batch, *dims)``; entries labelled
    ``ignore_index`` are left out, whatever their scores. Raises ``TypeError``/``ValueError`` at once for wrong types
    and shapes, and with the block that holds them for labels outside ``[0, K)``, NaN, logits without a softmax, and
    probabilities that are none; ``name`` is what messages call the scores.
    """
    for argument, value in ((name, scores), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{argument}: takes a tensor, got {type(value).__name__}")
    if not isinstance(from_logits, bool):
        raise TypeError(f"from_logits: takes True for logits and False for probabilities, got {from_logits!r}")
    if not scores.is_floating_point():
        raise TypeError(f"{name}: takes floating point numbers, got {scores.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels: takes the integers of classes, got {labels.dtype}")
    if scores.dim() < 2 or scores.shape[1] < 2:
        raise ValueError(
            f"{name}: takes (batch, K) or (batch, K, *dims) with K >= 2, got {tuple(scores.shape)}; "
            "for two classes and one score p, stack 1 - p and p"
        )
    shape = (scores.shape[0], *scores.shape[2:])
    if labels.shape != shape:
        raise ValueError(
            f"labels: takes shape {shape} for {name} of shape {tuple(scores.shape)}, got {tuple(labels.shape)}"
        )
    if labels.device != scores.device:
        raise ValueError(f"labels: must be where {name} are, on {scores.device}, got {labels.device}")
    return _blocks(scores.detach(), labels, from_logits, ignore_index, name)


def _blocks(
    scores: Tensor, labels: Tensor, from_logits: bool, ignore_index: int | None, name: str
) -> Iterator[Entries]:
    classes = scores.shape[1]
    rows = max(1, _BLOCK // max(1, scores[:1].numel()))
    for part, label in zip(scores.split(rows), labels.split(rows)):
        part, label = part.movedim(1, -1).reshape(-1, classes), label.reshape(-1).long()
        if ignore_index is not None:
            counted = label != ignore_index
            if not bool(counted.all()):
                part, label = part[counted], label[counted]
        if from_logits:
            part = at_least_float32(part)
        if len(label):
            _check(part, label, from_logits, ignore_index, name)
        yield Entries(part, label, from_logits)


def _check(scores: Tensor, labels: Tensor, from_logits: bool, ignore_index: int | None, name: str) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise ValueError(
            f"labels: take 0 to {scores.shape[1] - 1} since K = {scores.shape[1]}, got {low} to {high}; "
            f"entries without a class are labelled ignore_index={ignore_index}"
        )
    largest = scores.amax(1)  # NaN where a row holds one
    if from_logits:
        if not bool(largest.isfinite().all()):
            raise ValueError(f"{name}: logits need a finite largest one, got {_first(largest, ~largest.isfinite())}")
        return
    smallest, sums = scores.amin(1), scores.sum(1, dtype=torch.float64)
    for what, value, fits in (
        ("lie in [0, 1]", smallest, smallest >= 0),  # written so that NaN fails
        ("lie in [0, 1]", largest, largest <= 1 + _TOLERANCE),
        ("sum to 1", sums, (sums - 1).abs() <= _TOLERANCE),
    ):
        if not bool(fits.all()):
            raise ValueError(
                f"{name}: probabilities must {what}, got {_first(value, ~fits)}; from_logits=True takes logits"
            )


def _first(values: Tensor, wrong: Tensor) -> str:
    row = int(wrong.nonzero()[0])
    return f"{float(values[row]):.6g} in entry {row}"
