"""Neighbourhood component analysis (Goldberger et al. 2005; Eq. 1.4) and Proxy-NCA (Movshovitz-Attias et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from constropt.checks import require_whole
from constropt.problems.metric_learning.base import PairwiseLoss, SplitLoss, class_labels, positive_number
from constropt.problems.metric_learning.cross_entropy import check_classes
from constropt.problems.metric_learning.pairs import masked_logsumexp, squared_distances, unit


class NCA(PairwiseLoss):
    """``- sum_{i, j: y_ij = 1, j != i} log( exp(s_ij/t) / sum_{k != i} exp(s_ik/t) )``, s the cosine (Eq. 1.4).

    The logarithm is inside the sum over positives, unlike :class:`SNCA`'s. ``temperature`` is t. ``reduction="sum"``
    is the equation; ``"mean"`` divides by the number of positive pairs, which does not grow with the batch. The
    tightness is ``-sum s_ij/t`` over positive pairs, the contrastive part the log partition functions.

    >>> loss = NCA(temperature=1.0)
    >>> round(float(loss(torch.eye(4), torch.tensor([0, 0, 1, 1]))), 4)      # 4 pairs, log 3 each
    4.3944
    """

    normalised = True

    def __init__(self, temperature: float = 0.1, *, reduction: str = "sum") -> None:
        super().__init__()
        positive_number(temperature=temperature)
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction: takes 'sum' (Eq. 1.4) or 'mean' (over positive pairs), got {reduction!r}")
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
        positive_number(temperature=temperature)
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
