"""Scores and labels, checked, flattened to a row per labelled entry, and binned: where metrics and scalings start."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from constropt.checks import are_whole, require_below, require_one_of, require_whole
from constropt.precision import at_least_float32
from constropt.problems.dense_metrics import confusion

_BLOCK = 2**22  # numbers worked on at once: 4,194 samples of 1,000 classes, or 200,000 pixels of 21
_TOLERANCE = 1e-2  # of a sum of probabilities: those rounded to bfloat16 pass, a forgotten softmax does not


@dataclass(frozen=True, eq=False)
class BinStatistics:
    """``sums`` over the entries of each bin, float64: ``(3, bins)``, or ``(3, K, bins)`` with bins for every class.

    They are the number of entries, the sum of their confidences and the number of hits, those that were right.
    Statistics of several batches add up to those of all.
    """

    sums: Tensor

    @property
    def count(self) -> Tensor:
        return self.sums[0]

    @property
    def confidence(self) -> Tensor:
        return self.sums[1]

    @property
    def hits(self) -> Tensor:
        return self.sums[2]

    def __add__(self, other: BinStatistics) -> BinStatistics:
        return BinStatistics(self.sums + other.sums)

    def accuracy(self) -> Tensor:
        """The fraction of hits in each bin (A_m of Eq. 6.14), NaN where it is empty."""
        return self.hits / self.count

    def mean_confidence(self) -> Tensor:
        """The mean confidence in each bin (C_m of Eq. 6.14), NaN where it is empty."""
        return self.confidence / self.count

    def error(self, norm: str = "l1") -> Tensor:
        """The calibration error ``()``, or ``(K,)`` per class; NaN without entries.

        With the gap ``|A_m - C_m|`` and the share ``w_m = |B_m| / N`` of each bin: ``"l1"`` is the sum of ``w_m gap``
        (Eq. 6.14), ``"l2"`` the root of the sum of ``w_m gap^2``, ``"max"`` the largest gap of bins with entries.

        >>> statistics = BinStatistics(torch.tensor([[1.0, 3.0], [0.4, 2.4], [0.0, 3.0]]))
        >>> statistics.error("l1"), statistics.error("max")
        (tensor(0.2500), tensor(0.4000))
        """
        total = self.count.sum(-1)
        excess = (self.hits - self.confidence).abs()  # |B_m| times the gap: 0 in an empty bin
        if norm == "l1":
            error = excess.sum(-1) / total
        elif norm == "l2":
            error = (excess.square() / self.count.clamp(min=1)).sum(-1).div(total).sqrt()
        else:
            error = (excess / self.count.clamp(min=1)).amax(-1)
        return error.where(total > 0, torch.nan)


def check_bins(bins: int, norm: str = "l1") -> None:
    """``ValueError`` for a number of bins or a norm that there is not."""
    require_whole(bins=bins)
    require_one_of("norm", norm, ("l1", "l2", "max"))


def bin_index(confidence: Tensor, bins: int) -> Tensor:
    """The bin of each confidence, int32: bin m of 0 .. bins - 1 is ``(m / bins, (m + 1) / bins]``; 0 is in the first.

    Edges are rounded to the dtype of the confidence, so that 0.2 lies on the edge 1/5 in every dtype.

    >>> bin_index(torch.tensor([0.0, 0.2, 0.21, 1.0]), 5)
    tensor([0, 0, 1, 4], dtype=torch.int32)
    """
    # k / bins is rounded once; linspace multiplies a rounded step. The ends are open: nothing lies outside of the bins.
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    return torch.bucketize(confidence, edges.to(confidence.dtype), out_int32=True)


def equal_count(confidence: Tensor, hits: Tensor, bins: int) -> BinStatistics:
    """Statistics ``(bins,)`` of entries sorted by confidence and split into bins of as equal a count as can be.

    The first ``entries % bins`` bins hold one entry more than the others, as ``numpy.array_split`` has it; with fewer
    entries than bins the last ones are empty. Entries of one confidence count as hits by the fraction of hits among all
    of them, the mean over the orders they could be sorted in: the order of the data does not matter, and a constant
    confidence gives |accuracy - confidence|.

    >>> equal_count(torch.tensor([0.6, 0.9, 0.6]), torch.tensor([True, True, False]), 2).hits
    tensor([1., 1.], dtype=torch.float64)
    """
    entries = len(confidence)
    confidence, order = confidence.double().sort()
    _, group, size = confidence.unique_consecutive(return_inverse=True, return_counts=True)
    tied = torch.zeros(len(size), dtype=torch.float64, device=confidence.device)
    tied.index_add_(0, group, hits[order].double()).div_(size)
    sizes = entries // bins + (torch.arange(bins, device=confidence.device) < entries % bins).long()
    index = torch.arange(bins, device=confidence.device).repeat_interleave(sizes)
    return _sums(index, confidence, tied[group], bins)


def _sums(index: Tensor, confidence: Tensor, hits: Tensor, bins: int) -> BinStatistics:
    sums = torch.zeros(3, bins, dtype=torch.float64, device=confidence.device)
    sums[0] = torch.bincount(index, minlength=bins)
    sums[1].index_add_(0, index, confidence.double())
    sums[2].index_add_(0, index, hits.double())
    return BinStatistics(sums)


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries that count: ``scores`` ``(entries, K)`` and ``labels`` ``(entries,)``, int64.

    Logits are float32 or float64. Probabilities keep the dtype they came in, so that they are compared with edges of
    bins as they are: 0.2 in half precision is not 0.2 in float32. What a metric adds up over blocks of entries is a
    method: a total is ``(2,)``, the sum over the entries and their number.
    """

    scores: Tensor
    labels: Tensor
    from_logits: bool

    def probabilities(self) -> Tensor:
        """``(entries, K)``, rows that sum to 1."""
        return self.scores.softmax(1) if self.from_logits else self.scores

    def predictions(self) -> Tensor:
        """``(entries,)``: the class of the largest score, the first of equal ones."""
        return self.scores.max(1).indices

    def hits(self) -> Tensor:
        """``(entries,)``, boolean: whether the prediction is the label."""
        return self.predictions() == self.labels

    def confidence(self) -> Tensor:
        """``(entries,)``: the probability of the prediction."""
        return self.probabilities().amax(1)

    def top_bins(self, bins: int) -> BinStatistics:
        """Statistics ``(bins,)`` of the predicted class in bins of equal width."""
        confidence = self.confidence()
        return _sums(bin_index(confidence, bins), confidence, self.hits(), bins)

    def class_bins(self, bins: int) -> BinStatistics:
        """Statistics ``(K, bins)`` in bins of equal width: for class k of the k-th probability, a hit being label k."""
        probabilities, classes, device = self.probabilities(), self.scores.shape[1], self.labels.device
        index = bin_index(probabilities, bins) + bins * torch.arange(classes, dtype=torch.int32, device=device)
        sums = torch.zeros(3, classes * bins, dtype=torch.float64, device=device)
        sums[0] = torch.bincount(index.flatten(), minlength=classes * bins)
        sums[1].index_add_(0, index.flatten(), probabilities.flatten().double())
        sums[2] = torch.bincount(index.gather(1, self.labels[:, None]).squeeze(1), minlength=classes * bins)
        return BinStatistics(sums.reshape(3, classes, bins))

    def brier_total(self) -> Tensor:
        """Of the sum over classes of the squared difference to 1 for the label and 0 for the others."""
        p = at_least_float32(self.probabilities())
        difference = p.scatter_add(1, self.labels[:, None], p.new_full((len(p), 1), -1))
        return _total(difference.square().sum(1, dtype=torch.float64))

    def log_total(self) -> Tensor:
        """Of minus the logarithm of the label's probability, infinite where that is 0."""
        label = self.labels[:, None]
        if self.from_logits:
            return _total(-self.scores.log_softmax(1).gather(1, label))
        return _total(-self.scores.gather(1, label).double().log())

    def hit_total(self) -> Tensor:
        """Of the hits."""
        return _total(self.hits())

    def confusion_counts(self) -> Tensor:
        """Counts ``(K, K)``, int64: labels by predictions."""
        return confusion(self.predictions(), self.labels, self.scores.shape[1], ignore_index=None)


def _total(values: Tensor) -> Tensor:
    return torch.stack([values.sum(dtype=torch.float64), values.new_tensor(len(values), dtype=torch.float64)])


Sums = TypeVar("Sums", Tensor, BinStatistics)


def summed(
    measure: Callable[[Entries], Sums], scores: Tensor, labels: Tensor, from_logits: bool, ignore_index: int | None
) -> Sums:
    """The sum of what ``measure`` makes of :func:`blocks` of entries."""
    parts = blocks(scores, labels, from_logits=from_logits, ignore_index=ignore_index)
    return functools.reduce(lambda done, part: done + part, map(measure, parts))


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
    if not are_whole(labels):
        raise TypeError(f"labels: takes the integers of classes, got {labels.dtype}")
    if scores.dim() < 2 or scores.shape[1] < 2:
        takes, cure = (
            "(batch, K) or (batch, K, *dims) with K >= 2",
            "for two classes and one score p, stack 1 - p and p",
        )
        raise ValueError(f"{name}: takes {takes}, got {tuple(scores.shape)}; {cure}")
    shape = (scores.shape[0], *scores.shape[2:])
    if labels.shape != shape:
        takes = f"shape {shape} for {name} of shape {tuple(scores.shape)}"
        raise ValueError(f"labels: takes {takes}, got {tuple(labels.shape)}")
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
        if ignore_index is not None and not bool((counted := label != ignore_index).all()):
            part, label = part[counted], label[counted]
        part = at_least_float32(part) if from_logits else part
        if len(label):
            _check(part, label, from_logits, ignore_index, name)
        yield Entries(part, label, from_logits)


def _check(scores: Tensor, labels: Tensor, from_logits: bool, ignore_index: int | None, name: str) -> None:
    cure = f" since K = {scores.shape[1]}; entries without a class are labelled ignore_index={ignore_index}"
    require_below(scores.shape[1], labels, "labels: take", cure)
    largest = scores.amax(1)  # NaN where a row holds one
    if from_logits:
        tests = [("logits need a finite largest one", largest, largest.isfinite())]
    else:
        smallest, sums = scores.amin(1), scores.sum(1, dtype=torch.float64)
        tests = [  # written so that NaN fails
            ("probabilities must lie in [0, 1]", smallest, smallest >= 0),
            ("probabilities must lie in [0, 1]", largest, largest <= 1 + _TOLERANCE),
            ("probabilities must sum to 1", sums, (sums - 1).abs() <= _TOLERANCE),
        ]
    for takes, value, fits in tests:
        if not bool(fits.all()):
            row, cure = int((~fits).nonzero()[0]), "" if from_logits else "; from_logits=True takes logits"
            raise ValueError(f"{name}: {takes}, got {float(value[row]):.6g} in entry {row}{cure}")
