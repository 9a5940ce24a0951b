"""Scalable neighbourhood component analysis (Wu, Efros & Yu 2018), within a batch or against a memory bank."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_whole
from constropt.precision import at_least_float32
from constropt.problems.metric_learning.base import PairwiseLoss, positive_number
from constropt.problems.metric_learning.pairs import Relations, check_embeddings, check_labels, masked_logsumexp, unit


class SNCA(PairwiseLoss):
    """``-(1/n) sum_i log sum_{j: y_j = y_i, j != i} exp(s_ij/sigma) + (1/n) sum_i log sum_{k != i} exp(s_ik/sigma)``.

    s is the cosine, ``sigma`` the paper's temperature 0.05. The first term is the tightness, the second the contrastive
    part (Table 2.2; the thesis's proof leaves ``j = i`` out of both, and so does this). Rows without a positive have no
    first term: they count in neither, and the mean is over the others.

    With a ``bank`` (:class:`MemoryBank`) the sums run over what it remembers of the whole data set, without gradient;
    then the call is ``loss(embeddings, labels, indices=indices)``, ``indices`` int64 ``(n,)`` saying which samples of
    the data set these are (their own entries do not count), and after the optimiser's step
    ``loss.bank.update(indices, embeddings, labels)``.

    >>> loss = SNCA(sigma=1.0)
    >>> round(float(loss(torch.eye(4), torch.tensor([0, 0, 1, 1]))), 4)      # 1 of 3 equally similar: log 3
    1.0986
    """

    normalised = True

    def __init__(self, sigma: float = 0.05, *, bank: MemoryBank | None = None) -> None:
        super().__init__()
        positive_number(sigma=sigma)
        self.sigma, self.bank = sigma, bank

    def split(self, embeddings: Tensor, labels: Tensor, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.bank is None:
            if indices is not None:
                raise ValueError("indices: are positions in a memory bank, and there is none; pass SNCA(bank=...)")
            return super().split(embeddings, labels)
        if indices is None:
            raise ValueError(
                "indices: with a memory bank, takes the positions of the samples in the data set, got None"
            )
        relations = self.bank.relations(indices, labels, len(embeddings))
        return self.mean(unit(embeddings), self.bank.embeddings.to(embeddings.dtype), relations)

    def rows(self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        similarity = queries @ gallery.mT / self.sigma
        same, some = masked_logsumexp(similarity, positive)
        all_others, _ = masked_logsumexp(similarity, positive | negative)
        return -same, torch.where(some, all_others, 0), some.to(similarity)


class MemoryBank(nn.Module):
    """The normalised embedding and label that every sample of a data set had when it was last seen.

    ``size`` samples of ``dimension`` features. An entry counts once it was updated, and moves by ``v <- unit(m v +
    (1 - m) unit(z))`` with ``momentum`` m (0.5, the paper's). Its buffers ``embeddings`` ``(size, dimension)``,
    ``labels`` and ``filled`` are part of a ``state_dict``.

    >>> bank = MemoryBank(size=100, dimension=8)
    >>> bank.update(torch.tensor([3, 7]), torch.randn(2, 8), torch.tensor([0, 1]))
    >>> int(bank.filled.sum())
    2
    """

    embeddings: Tensor
    labels: Tensor
    filled: Tensor

    def __init__(self, size: int, dimension: int, momentum: float = 0.5) -> None:
        super().__init__()
        require_whole(size=size, dimension=dimension)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: takes a value in [0, 1), got {momentum}")
        self.momentum = momentum
        self.register_buffer("embeddings", torch.zeros(size, dimension))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.bool))

    @torch.no_grad()
    def update(self, indices: Tensor, embeddings: Tensor, labels: Tensor) -> None:
        """Remember the samples at these positions; no position may occur twice."""
        check_embeddings(embeddings)
        check_labels(labels, len(embeddings))
        self._check_indices(indices, len(embeddings))
        if len(indices.unique()) != len(indices):
            raise ValueError("indices: takes every sample once, got some position twice; drop the duplicates")
        new = unit(at_least_float32(embeddings)).to(self.embeddings)
        moved = functional.normalize(torch.lerp(new, self.embeddings[indices], self.momentum), dim=1)
        self.embeddings[indices] = torch.where(self.filled[indices, None], moved, new)
        self.labels[indices] = labels.to(self.labels)
        self.filled[indices] = True

    def relations(self, indices: Tensor, labels: Tensor, count: int) -> Relations:
        """The relations of a batch of ``count`` samples at these positions to all that is remembered."""
        check_labels(labels, count)
        self._check_indices(indices, count)
        if not bool((self.filled & (self.labels != labels[0])).any() | (labels != labels[0]).any()):
            raise ValueError(
                "labels: the batch and the memory bank hold one class, and this loss needs negative pairs; fill the"
                " bank first, by bank.update(indices, embeddings, labels) on a pass over the data"
            )
        return Relations(rows=labels, columns=self.labels, own=indices, counted=self.filled)

    def _check_indices(self, indices: Tensor, count: int) -> None:
        check_labels(indices, count, name="indices")
        low, high = indices.min().item(), indices.max().item()
        if low < 0 or high >= len(self.filled):
            raise ValueError(
                f"indices: takes positions 0 to {len(self.filled) - 1} of the memory bank, got {low} to {high}; build"
                " it with the size of the data set"
            )
