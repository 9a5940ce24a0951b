"""The multi-similarity loss (Wang, Han, Huang, Dong & Scott 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from constropt.problems.metric_learning.base import PairwiseLoss, positive_number
from constropt.problems.metric_learning.pairs import masked_logsumexp


class MultiSimilarity(PairwiseLoss):
    """``(1/n) sum_i (1/a) log(1 + sum_{j: y_j = y_i, j != i} exp(-a (s_ij - m)))`` and the same over negatives with
    ``exp(b (s_ij - m))`` (Table 2.2).

    s is the cosine; a, b and m are ``alpha``, ``beta`` and ``margin``, the paper's 2, 50 and 1 (its lambda). The
    thesis's proof counts ``j != i``, and so does this. A row without positives has a first term of 0.

    ``mining``: the paper's epsilon (0.1 there; default none, as in Table 2.2): only negatives more similar than the
    least similar positive less epsilon, and positives less similar than the most similar negative plus epsilon, count.

    >>> loss = MultiSimilarity()
    >>> round(float(loss(torch.eye(4), torch.tensor([0, 0, 1, 1]))), 4)
    1.0635
    """

    normalised = True

    def __init__(
        self, alpha: float = 2.0, beta: float = 50.0, margin: float = 1.0, *, mining: float | None = None
    ) -> None:
        super().__init__()
        positive_number(alpha=alpha, beta=beta)
        self.alpha, self.beta, self.margin, self.mining = alpha, beta, margin, mining

    def rows(self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        cosine = queries @ gallery.mT
        if self.mining is not None:
            positive, negative = self._mined(cosine.detach(), positive, negative, self.mining)
        tightness = _log_one_plus(-self.alpha * (cosine - self.margin), positive) / self.alpha
        contrastive = _log_one_plus(self.beta * (cosine - self.margin), negative) / self.beta
        return tightness, contrastive, torch.ones_like(tightness)

    @staticmethod
    def _mined(cosine: Tensor, positive: Tensor, negative: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """The informative pairs; none at all in a row that has no informative positive or no informative negative."""
        farthest = cosine.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
        nearest = cosine.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
        positive = positive & (cosine - epsilon < nearest)
        negative = negative & (cosine + epsilon > farthest)
        both = positive.any(1, keepdim=True) & negative.any(1, keepdim=True)
        return positive & both, negative & both


def _log_one_plus(exponents: Tensor, mask: Tensor) -> Tensor:
    """``log(1 + sum exp(exponents))`` over the masked entries of a row, without overflow; 0 where there are none."""
    total, some = masked_logsumexp(exponents, mask)
    return torch.where(some, torch.logaddexp(total, torch.zeros_like(total)), 0)
