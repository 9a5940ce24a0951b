"""Pairs of embeddings: who is similar to whom, how far apart they are, and the losses that are sums over them.

Everything quadratic in metric learning goes through :func:`over_rows`, so no pair matrix is ever whole in memory once
it is large: what a loss keeps alive at a time is at most about one ``n x n`` matrix, usually far less.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from constropt.checks import are_whole, got
from constropt.precision import at_least_float32
from constropt.problems.distances.base import root

RowFunction = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]

# entries of one block: what fits a processor's cache (and lies below what its allocator keeps in pieces, which a few
# megabytes at a time grow to several matrices); on a GPU, where launches cost, a 32nd of the matrix up to 2^24, as a
# block's function keeps up to sixteen times its size alive
_CACHE, _MOST, _SHARE = 2**18, 2**24, 32


def check_embeddings(embeddings: Tensor, name: str = "embeddings") -> None:
    """``ValueError``/``TypeError`` unless ``embeddings`` is a finite floating ``(n, d)`` tensor with n, d >= 1."""
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        takes = f"a floating point tensor of shape (n, d), got {got(embeddings)}"
        raise TypeError(f"{name}: takes {takes}; convert it with .float()")
    if embeddings.dim() != 2 or embeddings.numel() == 0:
        takes = f"shape (n, d), n samples of d features, got {tuple(embeddings.shape)}"
        raise ValueError(f"{name}: takes {takes}; flatten what the network returns with .flatten(1)")
    if not bool(embeddings.detach().isfinite().all()):
        rows = (~embeddings.detach().isfinite().all(1)).nonzero().flatten().tolist()
        found = f"NaN or infinity in {len(rows)} rows, the first {rows[:5]}"
        cure = "look for a division by zero or an overflow in the network, or lower the learning rate"
        raise ValueError(f"{name}: takes finite values, got {found}; {cure}")


def check_labels(labels: Tensor, count: int, name: str = "labels", of: str = "embeddings") -> None:
    """``ValueError``/``TypeError`` unless ``labels`` holds one whole number for each of ``count`` samples."""
    if not are_whole(labels):
        raise TypeError(f"{name}: takes a tensor of whole numbers, one class a sample, got {got(labels)}")
    if labels.shape != (count,):
        takes = f"one class for each of the {count} rows of {of}, shape ({count},), got {tuple(labels.shape)}"
        raise ValueError(f"{name}: takes {takes}; pass the labels of the very samples that were embedded")


def is_pair_matrix(labels: Tensor) -> bool:
    """Whether ``labels`` are relative: a boolean matrix of positive pairs in place of one class a sample."""
    return isinstance(labels, Tensor) and labels.dtype == torch.bool and labels.dim() == 2


def check_pairs(pairs: Tensor, count: int) -> None:
    """``ValueError`` unless ``pairs`` is a symmetric ``(count, count)`` matrix."""
    if pairs.shape != (count, count):
        takes = f"shape ({count}, {count}), one row and column a sample"
        raise ValueError(f"labels: as a matrix of positive pairs takes {takes}, got {tuple(pairs.shape)}")
    if not bool((pairs == pairs.T).all()):
        cure = "similar being mutual; pass labels | labels.T"
        raise ValueError(f"labels: a matrix of positive pairs must be symmetric, {cure}")


@dataclass(frozen=True, eq=False)
class Relations:
    """Which pairs (row of the queries, column of the gallery) are positive and which negative.

    ``rows`` and ``columns`` are classes, or ``pairs`` is the ``(n, N)`` matrix of positive pairs. ``own`` is the
    column that is the row's own sample, neither positive nor negative; ``counted`` says which columns count.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    pairs: Tensor | None = None
    own: Tensor | None = None
    counted: Tensor | None = None

    @classmethod
    def within(cls, labels: Tensor, count: int, *, negatives: bool = True) -> Relations:
        """Those of ``count`` samples, ``labels`` classes or positive pairs; ``ValueError`` without needed negatives."""
        if is_pair_matrix(labels):
            check_pairs(labels, count)
            one_class = (labels | torch.eye(count, dtype=torch.bool, device=labels.device)).all()
            relations = cls(pairs=labels, own=torch.arange(count, device=labels.device))
        else:
            check_labels(labels, count)
            one_class = (labels == labels[0]).all()
            relations = cls(rows=labels, columns=labels, own=torch.arange(count, device=labels.device))
        if negatives and bool(one_class):
            why = f"all {count} samples of the batch are of one class, and this loss needs negative pairs"
            raise ValueError(f"labels: {why}; draw batches of at least two classes, or skip this one")
        return relations

    def block(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Booleans ``(stop - start, N)``: the positive and the negative pairs of these rows."""
        if self.pairs is not None:
            positive = self.pairs[start:stop].clone()
        else:
            assert self.rows is not None and self.columns is not None
            positive = self.rows[start:stop, None] == self.columns
        negative = ~positive
        if self.counted is not None:
            positive &= self.counted
            negative &= self.counted
        if self.own is not None:
            own = self.own[start:stop, None]
            positive.scatter_(1, own, False)
            negative.scatter_(1, own, False)
        return positive, negative


def over_rows(function: RowFunction, queries: Tensor, gallery: Tensor, relations: Relations) -> tuple[Tensor, ...]:
    """``function(queries, gallery, positive, negative)`` of every row, each result ``(n,)``, by blocks of rows.

    ``function`` may build the block of the pair matrix freely. Where there are several blocks nothing of one is kept
    for the backward pass: it is computed again there, so memory stays that of one block.
    """
    n, width = len(queries), len(gallery)
    entries = _CACHE if queries.device.type == "cpu" else max(_CACHE, min(n * width // _SHARE, _MOST))
    size = min(n, max(16, entries // width))  # fewer rows make slow products

    def block(queries: Tensor, gallery: Tensor, start: int) -> tuple[Tensor, ...]:
        return function(queries, gallery, *relations.block(start, start + len(queries)))

    if size == n:
        return block(queries, gallery, 0)
    keep = torch.is_grad_enabled() and (queries.requires_grad or gallery.requires_grad)
    results: list[tuple[Tensor, ...]] = []
    for start in range(0, n, size):
        part = queries[start : start + size]
        if keep:
            recomputed = checkpoint(block, part, gallery, start, use_reentrant=False, preserve_rng_state=False)
            results.append(recomputed)  # pyright: ignore[reportArgumentType]
        else:
            results.append(block(part, gallery, start))
    return tuple(torch.cat(column) for column in zip(*results))


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """``||a_i - b_j||^2``: ``(..., n, N)`` from ``(..., n, d)`` and ``(..., N, d)``, never negative.

    By one matrix product, about b's mean: its error is some units in the last place of the embeddings' squared spread.
    """
    center = b.detach().mean(-2, keepdim=True)
    a, b = a - center, b - center
    norms = a.square().sum(-1, keepdim=True) + b.square().sum(-1).unsqueeze(-2)
    return torch.clamp_min(norms - 2 * (a @ b.mT), 0)


def unit(embeddings: Tensor) -> Tensor:
    """Rows scaled to norm 1, a row of zeros left as it is with derivative 0: their products are cosines."""
    norm = root(embeddings.square().sum(-1, keepdim=True))
    return torch.where(norm > 0, embeddings / torch.where(norm > 0, norm, 1), 0)


def masked_logsumexp(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """``log sum exp`` over the masked entries of every row, and whether it has any; 0 with derivative 0 without."""
    some = mask.any(1)
    filled = values.masked_fill(~mask & some[:, None], -torch.inf)
    return torch.where(some, filled.logsumexp(1), 0), some


def class_sums(embeddings: Tensor, labels: Tensor, count: int) -> Tensor:
    """The sum of each class's embeddings, ``(count, d)``."""
    return embeddings.new_zeros(count, embeddings.shape[1]).index_add(0, labels, embeddings)


def class_sizes(labels: Tensor, count: int) -> Tensor:
    """How many samples each class has, ``(count,)``."""
    return torch.bincount(labels, minlength=count)


class SplitLoss(nn.Module):
    """A loss ``loss(embeddings, labels)`` that is the sum of a tightness and a contrastive part (Table 2.2).

    ``embeddings`` is ``(n, d)``, in any floating type, computed in float32 at least; ``labels`` int64 ``(n,)`` or, for
    the pairwise losses, a boolean symmetric ``(n, n)`` matrix of positive pairs (its diagonal does not matter).
    A subclass gives :meth:`split`, and ``needs_pairs`` where a batch should hold several samples of each class.
    Non-finite embeddings and labels of another length raise ``ValueError``.
    """

    needs_pairs = False

    @abstractmethod
    def split(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of embeddings that are checked and in full precision."""

    def parts(self, embeddings: Tensor, labels: Tensor, **context: Any) -> tuple[Tensor, Tensor]:
        """Tightness and contrastive part, scalars, by one computation."""
        check_embeddings(embeddings)
        # pair sums in half precision lose everything: autocast has no say here
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.split(at_least_float32(embeddings), labels, **context)

    def forward(self, embeddings: Tensor, labels: Tensor, **context: Any) -> Tensor:
        tightness, contrastive = self.parts(embeddings, labels, **context)
        return tightness + contrastive

    def tightness(self, embeddings: Tensor, labels: Tensor, **context: Any) -> Tensor:
        """The part that pulls samples of one class together, a scalar."""
        return self.parts(embeddings, labels, **context)[0]

    def contrastive(self, embeddings: Tensor, labels: Tensor, **context: Any) -> Tensor:
        """The part that pushes samples apart, a scalar."""
        return self.parts(embeddings, labels, **context)[1]


class PairwiseLoss(SplitLoss):
    """A loss that is a weighted mean over the rows of a pair matrix; a batch of one class raises ``ValueError``.

    A subclass gives :meth:`rows`, and says with ``normalised`` whether it compares embeddings scaled to norm 1.
    """

    needs_pairs = True
    normalised = False

    @abstractmethod
    def rows(self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        """The two parts' sums and the weights of rows, ``(rows,)``; a sample with itself is no positive or negative."""

    def split(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        compared = unit(embeddings) if self.normalised else embeddings
        return self.mean(compared, compared, Relations.within(labels, len(embeddings)))

    def mean(self, queries: Tensor, gallery: Tensor, relations: Relations) -> tuple[Tensor, Tensor]:
        """The parts over the mean of the rows' weights; 0, differentiable, where no row has any."""
        tightness, contrastive, weight = over_rows(self.rows, queries, gallery, relations)
        total = weight.sum().clamp_min(1)
        return tightness.sum() / total, contrastive.sum() / total


def class_labels(labels: Tensor, loss: nn.Module) -> Tensor:
    """``labels``, once it is sure that they are classes: ``ValueError`` for a pair matrix, with what takes one."""
    if is_pair_matrix(labels):
        takes = "one class a sample, shape (n,), got a matrix of positive pairs"
        cure = "use a pairwise loss or SPCE, which take relative labels"
        raise ValueError(f"labels: {type(loss).__name__} takes {takes}; {cure}")
    return labels
