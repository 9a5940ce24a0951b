"""Losses over the pairs of a batch: the contrastive loss (Hadsell, Chopra & LeCun 2006; Eq. 2.2), the triplet loss
(Weinberger & Saul 2009; Eq. 1.3) without a cubic tensor, multi-similarity (Wang, Han, Huang, Dong & Scott 2019), and
FastAP (Cakir, He, Xia, Kulis & Sclaroff 2019) in the logarithmic form that splits (Eq. A I-21, A I-22).
"""

import torch
from torch import Tensor

from constropt.checks import require_one_of, require_positive, require_whole
from constropt.precision import at_least_float32
from constropt.problems.metric_learning.pairs import (
    PairwiseLoss,
    Relations,
    check_embeddings,
    masked_logsumexp,
    over_rows,
    root,
    squared_distances,
    unit,
)


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
        require_positive(margin=margin)
        self.margin = margin

    def rows(self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        squares = squared_distances(queries, gallery)
        tightness = torch.where(positive, squares, 0).sum(1)
        short = torch.where(negative, self.margin - root(squares), 0).clamp_min(0)
        return tightness, short.square().sum(1), torch.ones_like(tightness)


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
        require_positive(margin=margin)
        require_one_of("mining", mining, ("semi-hard", "hard", "all"))
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
        """Sums over all triplets: a pair (a, p) violates with its first negatives in order, up to ``D_ap^2 + m``."""
        violating = torch.searchsorted(ordered.detach(), (far + self.margin).detach())
        sums = ordered.masked_fill(ordered.isinf(), 0).cumsum(1)
        sums = torch.where(violating > 0, sums.gather(1, (violating - 1).clamp_min(0)), 0)
        number = violating.to(far)
        tightness = torch.where(valid, number * far, 0)
        contrastive = torch.where(valid, number * self.margin - sums, 0)
        return tightness.sum(1), contrastive.sum(1), (valid * count).sum(1).to(tightness)


def _columns(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The columns where ``mask`` is true, from the left, ``(rows, most in a row)``, and which entries are filled."""
    # positives are few: searching for whole rows would cost more than the sort
    row, column = mask.nonzero(as_tuple=True)
    count = mask.sum(1)
    slot = torch.arange(len(row), device=mask.device) - (count.cumsum(0) - count)[row]
    most = int(count.max())
    columns = column.new_zeros(len(mask), most).index_put((row, slot), column)
    return columns, torch.arange(most, device=mask.device) < count[:, None]


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
        require_positive(alpha=alpha, beta=beta)
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
        """Per row P(D = d | R+), P(D <= d | R+), P(D <= d), ``(rows, bins + 1)``, P(R+), and whether R+ occurs."""
        # in units of the bins' width; a row's histogram by two scatters, not by rows x columns x bins
        place = squared_distances(queries, gallery).clamp_max(4) * (self.bins / 4)
        floor = place.detach().floor().clamp_max(self.bins - 1)
        upper_weight, lower = place - floor, floor.long()

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
