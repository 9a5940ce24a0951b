"""FastAP (Cakir, He, Xia, Kulis & Sclaroff 2019) in the logarithmic form that splits (Eq. A I-21, A I-22)."""

from __future__ import annotations

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.precision import at_least_float32
from constropt.problems.metric_learning.base import PairwiseLoss
from constropt.problems.metric_learning.pairs import Relations, check_embeddings, over_rows, squared_distances, unit


class FastAP(PairwiseLoss):
    """The mean over queries of ``- E_{d | R+} log P(D <= d | R+)  +  E_{d | R+} log( P(D <= d) / P(R+) )``.

    The first term is the tightness, the second the contrastive part. D is a query's squared l2 distance to the others,
    all normalised, in ``[0, 4]``, and its distributions are histograms of ``bins`` bins in which a pair lies in its two
    nearest ones by linear weights; R+ is a positive pair. By Jensen's inequality the loss of a query is at least minus
    the logarithm of its average precision ``sum_d P(D = d | R+) P(R+ | D <= d)`` (A I-21), which
    :meth:`average_precision` gives; one minus its mean is the published loss.

    The text's (A I-22) weights the sums by ``P(D = d, R+)`` and drops ``log P(R+)``; then it is no bound (with all
    positives first it says ``0 >= -P(R+) log P(R+)``). Queries without positives do not count.

    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    >>> float(FastAP()(z, torch.tensor([0, 0, 1, 1])).abs())
    0.0
    """

    normalised = True

    def __init__(self, bins: int = 10) -> None:
        super().__init__()
        require_whole(bins=bins)
        self.bins = bins

    def rows(self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        share, within, overall, prior, some = self._distributions(queries, gallery, positive, negative)
        # bins without a positive have weight 0, and no logarithm is taken there
        counted = share > 0
        tightness = torch.where(counted, -share * torch.where(counted, within, 1).log(), 0).sum(1)
        contrastive = torch.where(counted, share * torch.where(counted, overall / prior, 1).log(), 0).sum(1)
        return tightness, contrastive, some.to(tightness)

    def average_precision(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean over queries of FastAP, a scalar in [0, 1] (Eq. A I-21)."""
        check_embeddings(embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            compared = unit(at_least_float32(embeddings))
            relations = Relations.within(labels, len(embeddings))
            precision, some = over_rows(self._precisions, compared, compared, relations)
            return precision.sum() / some.sum().clamp_min(1)

    def _precisions(self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        share, within, overall, prior, some = self._distributions(queries, gallery, positive, negative)
        counted = share > 0
        terms = share * within * prior / torch.where(counted, overall, 1)
        return torch.where(counted, terms, 0).sum(1), some.to(share)

    def _distributions(
        self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Per row: P(D = d | R+), P(D <= d | R+), P(D <= d), each ``(rows, bins + 1)``, P(R+) ``(rows, 1)``, and
        whether it has positives.
        """
        # in units of the bins' width; a row's histogram by two scatters, not by rows x columns x bins
        place = squared_distances(queries, gallery).clamp_max(4) * (self.bins / 4)
        lower = place.detach().floor().clamp_max(self.bins - 1)
        upper_weight = place - lower
        lower = lower.long()

        def histogram(mask: Tensor) -> Tensor:
            empty = place.new_zeros(len(place), self.bins + 1)
            below = empty.scatter_add(1, lower, torch.where(mask, 1 - upper_weight, 0))
            return below.scatter_add(1, lower + 1, torch.where(mask, upper_weight, 0))

        near, far = histogram(positive), histogram(negative)
        count = positive.sum(1, keepdim=True)
        total = count + negative.sum(1, keepdim=True)
        some = count[:, 0] > 0
        share = near / count.clamp_min(1)
        return share, share.cumsum(1), (near + far).cumsum(1) / total.clamp_min(1), count.clamp_min(1) / total, some
