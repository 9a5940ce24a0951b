"""The contrastive loss (Hadsell, Chopra & LeCun 2006; Eq. 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from constropt.problems.metric_learning.base import PairwiseLoss, positive_number
from constropt.problems.metric_learning.pairs import root, squared_distances


class Contrastive(PairwiseLoss):
    """``(1/n) sum_i sum_{j: y_j = y_i} D_ij^2  +  (1/n) sum_i sum_{j: y_j != y_i} max(0, m - D_ij)^2``.

    D is the l2 distance of the embeddings as given (normalise them beforehand if they are to be compared by angle);
    both sums run over ordered pairs. The first term is the tightness, the second the contrastive part. ``margin`` is
    m, in the embeddings' units. See :func:`contrastive_margins` for the margins as constraints with multipliers.

    >>> z = torch.tensor([[0.0], [1.0], [1.5]])
    >>> loss = Contrastive(margin=1.0)
    >>> y = torch.tensor([0, 0, 1])
    >>> [round(float(part), 4) for part in (loss(z, y), loss.tightness(z, y), loss.contrastive(z, y))]
    [0.8333, 0.6667, 0.1667]
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        positive_number(margin=margin)
        self.margin = margin

    def rows(self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        squares = squared_distances(queries, gallery)
        tightness = torch.where(positive, squares, 0).sum(1)
        short = torch.where(negative, self.margin - root(squares), 0).clamp_min(0)
        return tightness, short.square().sum(1), torch.ones_like(tightness)
