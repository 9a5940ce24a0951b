"""The triplet loss (Weinberger & Saul 2009; Eq. 1.3), with semi-hard, hard or all triplets, never a cubic tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from constropt.problems.metric_learning.base import PairwiseLoss, positive_number
from constropt.problems.metric_learning.pairs import squared_distances

MINING = ("semi-hard", "hard", "all")


class Triplet(PairwiseLoss):
    """The mean over triplets (anchor, positive, negative) of ``max(0, D_ap^2 - D_an^2 + m)``.

    D is the l2 distance of the embeddings as given, ``margin`` is m, in its square's units. ``mining`` says which
    triplets there are:

    - ``"semi-hard"`` (default; FaceNet, Schroff et al. 2015): one for every positive pair (a, p), the nearest negative
      that is farther from a than p is; the farthest negative where none is.
    - ``"hard"`` (Hermans et al. 2017): one for every anchor, its farthest positive and its nearest negative.
    - ``"all"``: all of them, in O(n^2 log n) by sums over sorted distances.

    The natural split: a triplet that violates its margin gives ``D_ap^2`` to the tightness and ``m - D_an^2`` to the
    contrastive part, any other triplet nothing to either. Anchors without positives have no triplets.

    >>> z = torch.tensor([[0.0], [1.0], [1.1]])
    >>> round(float(Triplet(margin=0.5)(z, torch.tensor([0, 0, 1]))), 3)
    0.89
    """

    def __init__(self, margin: float = 0.2, *, mining: str = "semi-hard") -> None:
        super().__init__()
        positive_number(margin=margin)
        if mining not in MINING:
            raise ValueError(f"mining: takes one of {', '.join(MINING)}, got {mining!r}")
        self.margin, self.mining = margin, mining

    def rows(self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        squares = squared_distances(queries, gallery)
        count = negative.sum(1, keepdim=True)
        valid = positive & (count > 0)
        if self.mining == "hard":
            near = squares.masked_fill(~negative, torch.inf).amin(1)
            far = squares.masked_fill(~positive, -torch.inf).amax(1)
            return self._hinge(far, near, valid.any(1))
        ordered = squares.masked_fill(~negative, torch.inf).sort(1).values
        column, valid = _columns(valid)
        far = squares.gather(1, column)
        if self.mining == "all":
            return self._all(far, ordered, valid, count)
        beyond = torch.searchsorted(ordered.detach(), far.detach(), right=True)
        near = ordered.gather(1, torch.minimum(beyond, count - 1).clamp_min(0))
        return tuple(part.sum(1) for part in self._hinge(far, near, valid))

    def _hinge(self, positive: Tensor, negative: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both parts and the weight of triplets, from their two squared distances."""
        active = valid & (positive - negative + self.margin > 0)
        tightness = torch.where(active, positive, 0)
        return tightness, torch.where(active, self.margin - negative, 0), valid.to(tightness)

    def _all(self, far: Tensor, ordered: Tensor, valid: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sums over all triplets: a pair (a, p) violates with the negatives up to ``D_ap^2 + m``, its first
        ones in order.
        """
        violating = torch.searchsorted(ordered.detach(), (far + self.margin).detach())
        sums = ordered.masked_fill(ordered.isinf(), 0).cumsum(1)
        sums = torch.where(violating > 0, sums.gather(1, (violating - 1).clamp_min(0)), 0)
        number = violating.to(far)
        tightness = torch.where(valid, number * far, 0)
        contrastive = torch.where(valid, number * self.margin - sums, 0)
        return tightness.sum(1), contrastive.sum(1), (valid * count).sum(1).to(tightness)


def _columns(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The columns where ``mask`` is true, row by row from the left, ``(rows, most in a row)``, and which entries of
    that are filled: positives are few, and searching for whole rows would cost more than the sort.
    """
    row, column = mask.nonzero(as_tuple=True)
    count = mask.sum(1)
    slot = torch.arange(len(row), device=mask.device) - (count.cumsum(0) - count)[row]
    most = int(count.max())
    columns = column.new_zeros(len(mask), most).index_put((row, slot), column)
    return columns, torch.arange(most, device=mask.device) < count[:, None]
