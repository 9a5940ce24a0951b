"""Confidences in bins: what is summed in each, over any number of batches, and the calibration error of the sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import require_whole

NORMS = ("l1", "l2", "max")


@dataclass(frozen=True)
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
    if norm not in NORMS:
        raise ValueError(f"norm: takes one of {', '.join(NORMS)}, got {norm!r}")


def bin_index(confidence: Tensor, bins: int) -> Tensor:
    """The bin of each confidence, int32: bin m of 0 .. bins - 1 is ``(m / bins, (m + 1) / bins]``; 0 is in the first.

    Edges are rounded to the dtype of the confidence, so that 0.2 lies on the edge 1/5 in every dtype.

    >>> bin_index(torch.tensor([0.0, 0.2, 0.21, 1.0]), 5)
    tensor([0, 0, 1, 4], dtype=torch.int32)
    """
    # k / bins is rounded once; linspace multiplies a rounded step. The ends are open: nothing lies outside of the bins.
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    return torch.bucketize(confidence, edges.to(confidence.dtype), out_int32=True)


def equal_width(confidence: Tensor, hits: Tensor, bins: int) -> BinStatistics:
    """Statistics ``(bins,)`` of entries in bins of equal width, ``confidence`` and ``hits`` being ``(entries,)``."""
    return _sums(bin_index(confidence, bins), confidence, hits, bins)


def equal_width_per_class(probabilities: Tensor, labels: Tensor, bins: int) -> BinStatistics:
    """Statistics ``(K, bins)``: for class k the confidence of an entry is its k-th probability, a hit its label k.

    ``probabilities`` are ``(entries, K)``, ``labels`` ``(entries,)``.
    """
    classes = probabilities.shape[1]
    index = bin_index(probabilities, bins) + bins * torch.arange(classes, dtype=torch.int32, device=labels.device)
    hit = index.gather(1, labels[:, None]).squeeze(1)
    sums = torch.zeros(3, classes * bins, dtype=torch.float64, device=labels.device)
    sums[0] = torch.bincount(index.flatten(), minlength=classes * bins)
    sums[1].index_add_(0, index.flatten(), probabilities.flatten().double())
    sums[2] = torch.bincount(hit, minlength=classes * bins)
    return BinStatistics(sums.reshape(3, classes, bins))


def equal_count(confidence: Tensor, hits: Tensor, bins: int) -> BinStatistics:
    """Statistics ``(bins,)`` of entries sorted by confidence and split into bins of as equal a count as can be.

    The first ``entries % bins`` bins hold one entry more than the others, as ``numpy.array_split`` has it; with fewer
    entries than bins the last ones are empty. Entries of one confidence may lie on both sides of an edge: each then
    counts as a hit by the fraction of hits among all of them, the mean over the orders they could be sorted in. So the
    result does not depend on the order of the data, and a constant confidence gives |accuracy - confidence|.

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
