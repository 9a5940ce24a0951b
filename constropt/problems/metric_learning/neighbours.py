"""NCA (Goldberger et al. 2005; Eq. 1.4), Proxy-NCA (Movshovitz-Attias et al. 2017), SNCA (Wu, Efros & Yu 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_below, require_number, require_one_of, require_positive, require_whole
from constropt.precision import at_least_float32
from constropt.problems.metric_learning.classifier import check_classes
from constropt.problems.metric_learning.pairs import (
    PairwiseLoss,
    Relations,
    SplitLoss,
    check_embeddings,
    check_labels,
    class_labels,
    masked_logsumexp,
    squared_distances,
    unit,
)


class NCA(PairwiseLoss):
    """``- sum_{i, j: y_ij = 1, j != i} log( exp(s_ij/t) / sum_{k != i} exp(s_ik/t) )``, s the cosine (Eq. 1.4).

    Neighbourhood component analysis. The logarithm is inside the sum over positives, unlike :class:`SNCA`'s.
    ``temperature`` is t. ``reduction="sum"`` is the equation; ``"mean"`` divides by the number of positive pairs, which
    does not grow with the batch. The tightness is ``-sum s_ij/t`` over positive pairs, the rest log partition sums.

    >>> loss = NCA(temperature=1.0)
    >>> round(float(loss(torch.eye(4), torch.tensor([0, 0, 1, 1]))), 4)      # 4 pairs, log 3 each
    4.3944
    """

    normalised = True

    def __init__(self, temperature: float = 0.1, *, reduction: str = "sum") -> None:
        super().__init__()
        require_positive(temperature=temperature)
        require_one_of("reduction", reduction, ("sum", "mean"))
        self.temperature, self.reduction = temperature, reduction

    def rows(self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        similarity = queries @ gallery.mT / self.temperature
        partition, _ = masked_logsumexp(similarity, positive | negative)
        pairs = positive.sum(1).to(similarity)
        weight = pairs if self.reduction == "mean" else torch.zeros_like(pairs)
        return -torch.where(positive, similarity, 0).sum(1), pairs * partition, weight


class ProxyNCA(SplitLoss):
    """The mean of ``-log( exp(-d(z, p_y)/t) / sum_{k != y} exp(-d(z, p_k)/t) )``, with learned proxies p.

    d is the squared l2 distance of normalised embeddings and normalised proxies, a parameter ``(num_classes,
    dimension)`` that needs to be given to the optimiser. The paper's sum leaves the own class out, so the loss has no
    bound at 0; ``include_own=True`` takes it in (a softmax over proxies). The tightness is ``mean d(z, p_y)/t``, the
    contrastive part the mean log of the sum. Raises ``ValueError`` for labels outside ``[0, num_classes)``.

    >>> loss = ProxyNCA(num_classes=3, dimension=8)
    >>> loss(torch.randn(4, 8), torch.tensor([0, 1, 2, 0])).shape
    torch.Size([])
    """

    def __init__(
        self, num_classes: int, dimension: int, temperature: float = 1.0, *, include_own: bool = False
    ) -> None:
        super().__init__()
        require_positive(temperature=temperature)
        require_whole(2, num_classes=num_classes)
        require_whole(dimension=dimension)
        self.temperature, self.include_own = temperature, include_own
        self.proxies = nn.Parameter(torch.randn(num_classes, dimension))

    def split(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        check_classes(class_labels(labels, self), embeddings, self.proxies)
        proxies = unit(self.proxies.to(embeddings.dtype))
        distance = squared_distances(unit(embeddings), proxies) / self.temperature
        own = labels.long()[:, None]
        tightness = distance.gather(1, own).mean()
        others = -distance if self.include_own else (-distance).scatter(1, own, -torch.inf)
        return tightness, others.logsumexp(1).mean()


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
        require_positive(sigma=sigma)
        self.sigma, self.bank = sigma, bank

    def split(self, embeddings: Tensor, labels: Tensor, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.bank is None:
            if indices is not None:
                raise ValueError("indices: are positions in a memory bank, and there is none; pass SNCA(bank=...)")
            return super().split(embeddings, labels)
        if indices is None:
            raise ValueError("indices: with a memory bank, takes the samples' positions in the data set, got None")
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
        require_number(0, 1, momentum=momentum)
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
            cure = "fill the bank first, by bank.update(indices, embeddings, labels) on a pass over the data"
            raise ValueError(f"labels: batch and memory bank hold one class, this loss needs negative pairs; {cure}")
        return Relations(rows=labels, columns=self.labels, own=indices, counted=self.filled)

    def _check_indices(self, indices: Tensor, count: int) -> None:
        check_labels(indices, count, name="indices")
        cure = " of the memory bank; build it with the size of the data set"
        require_below(len(self.filled), indices, "indices: takes positions", cure)
