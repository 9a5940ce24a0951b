"""Pairwise cross-entropy (PCE, Eq. 2.12) and its simplification (SPCE, Eq. 2.15), both in O(nKd)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import got, require_below, require_positive
from constropt.precision import at_least_float32
from constropt.problems.metric_learning.classifier import check_classes, linear_in
from constropt.problems.metric_learning.pairs import (
    Relations,
    SplitLoss,
    check_embeddings,
    class_labels,
    class_sizes,
    class_sums,
    is_pair_matrix,
    over_rows,
)

EIGENVALUE = "eigenvalue"


class PCE(SplitLoss):
    """``-(1/(2 lambda n^2)) sum_i sum_{j: y_j = y_i} z_i^T z_j`` and ``(1/n) sum_i log sum_k exp( (1/(lambda n)) sum_j
    p_jk z_i^T z_j ) - (1/(2 lambda)) sum_k ||c_k^s||^2``: tightness and contrastive part (Eq. 2.12).

    p are the probabilities of ``classifier``, an ``nn.Linear`` from d features to K classes that is shared with whoever
    trains it, and ``c_k^s = (1/n) sum_i p_ik z_i`` its soft means; ``j = i`` counts. With ``S_k`` the sum of class k
    over n and C the soft means the loss is ``-||S||^2/(2 lambda) + mean LSE(Z C^T/lambda) - ||C||^2/(2 lambda)``:
    O(nKd) time, O(nK + Kd) memory, no pairs.

    ``lam`` is lambda: a constant (1, with which SPCE is cross-entropy at the classifier S), or ``"eigenvalue"`` for
    A I-11, the least eigenvalue of all ``A_k``, at least ``floor`` (see :func:`least_eigenvalue`; no gradient through
    it). PCE is a lower bound of the cross-entropy only in special cases: see :func:`bound_report`.

    >>> loss = PCE(nn.Linear(8, 3, bias=False))
    >>> z, y = torch.randn(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    >>> bool(loss(z, y) == loss.tightness(z, y) + loss.contrastive(z, y))
    True
    """

    def __init__(self, classifier: nn.Linear, lam: float | str = 1.0, *, floor: float = 1e-3) -> None:
        super().__init__()
        if not isinstance(classifier, nn.Linear):
            raise TypeError(f"classifier: takes the nn.Linear from d features to K classes, got {got(classifier)}")
        _check_lam(lam, floor)
        self.classifier, self.lam, self.floor = classifier, lam, floor

    def split(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        check_classes(class_labels(labels, self), embeddings, self.classifier.weight)
        probabilities = linear_in(self.classifier, embeddings).softmax(1)
        return pce_parts(embeddings, labels, probabilities, _lam(self.lam, embeddings, probabilities, self.floor))


def pce_parts(embeddings: Tensor, labels: Tensor, probabilities: Tensor, lam: Tensor | float) -> tuple[Tensor, Tensor]:
    """The two parts of Eq. 2.12 from ``(n, d)`` embeddings and the ``(n, K)`` probabilities p, in O(nKd)."""
    n, classes = probabilities.shape
    hard = class_sums(embeddings, labels.long(), classes) / n
    soft = probabilities.mT @ embeddings / n
    spread = (embeddings @ (soft / lam).mT).logsumexp(1).mean()
    return -hard.square().sum() / (2 * lam), spread - soft.square().sum() / (2 * lam)


@torch.no_grad()
def least_eigenvalue(embeddings: Tensor, probabilities: Tensor) -> Tensor:
    """``min_k sigma_min(A_k)`` with ``A_k = (1/n) sum_i (p_ik - p_ik^2) z_i z_i^T`` (Eq. A I-11), a scalar, detached.

    In float64, by batches of classes of about 2^24 entries. ``ValueError`` when n < d: every A_k is singular, lambda 0.

    >>> float(least_eigenvalue(torch.eye(2), torch.full((2, 2), 0.5)))
    0.125
    """
    n, dimension = embeddings.shape
    if n < dimension:
        why = f"got n = {n} < d = {dimension}, where every A_k is singular; pass a constant lam, or more samples"
        raise ValueError(f"embeddings: the eigenvalue lambda takes at least as many samples as features, {why}")
    z = embeddings.double()
    variance = (probabilities.double() * (1 - probabilities.double()) / n).mT
    least = [
        torch.linalg.eigvalsh((z.mT * rows[:, None]) @ z)[:, 0].amin()
        for rows in variance.split(max(1, 2**24 // (max(n, dimension) * dimension)))
    ]
    return torch.stack(least).amin().to(embeddings.dtype)


class SPCE(SplitLoss):
    """``-(1/n^2) sum_i sum_{j: y_j = y_i} z_i^T z_j + (1/n) sum_i log sum_k exp( (1/n) sum_{j: y_j = k} z_i^T z_j )``:
    tightness and contrastive part (Eq. 2.15), ``j = i`` counted.

    It is cross-entropy with the classifier tied to the data, ``theta_k = S_k = (1/n) sum_{j: y_j = k} z_j``, and
    computed as that: O(nKd) time, O(nK + Kd) memory. K are the classes that occur in the batch; with ``num_classes``
    those that do not occur count as well, ``exp(0)`` each. Raises ``ValueError`` for a batch of one class.

    For normalised embeddings its logits are O(1/K), too small to train many classes with; hence the variants:
    ``temperature`` t divides the logits, and ``class_mean=True`` takes the mean of a class for ``S_k``.
    ``exclude_self=True`` leaves ``j = i`` out of a sample's own class (a sample that is alone in it then has logit 0).

    Relative labels, a boolean ``(n, n)`` matrix of positive pairs: sample i's class is the set ``N_i`` of i and its
    positives, and the sum over k runs over the *distinct* sets among them, so a sample may be in many. It stays a
    cross-entropy whose right answer is ``N_i``, with the tightness of Eq. 2.15 unchanged, and it is Eq. 2.15 exactly
    where the pairs come from classes. (Maximal sets of mutually positive samples, the other reading of the thesis's
    appendix I, Sec. 5, are exponentially many, and none of them need be ``N_i``.)

    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> y = torch.tensor([0, 0, 1])
    >>> round(float(SPCE()(z, y)), 4), round(float(SPCE()(z, y[:, None] == y)), 4)
    (0.4563, 0.4563)
    """

    needs_pairs = True

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        class_mean: bool = False,
        exclude_self: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        require_positive(temperature=temperature)
        self.temperature, self.class_mean, self.exclude_self = temperature, class_mean, exclude_self
        self.num_classes = num_classes

    def split(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        sums, sizes, own = self._sets(embeddings, labels)
        n, sizes = len(embeddings), sizes.to(embeddings)[:, None]
        weights = sums / (self.temperature * (sizes.clamp_min(1) if self.class_mean else n))
        logits = embeddings @ weights.mT
        if self.exclude_self:
            others = (sizes[own] - 1).clamp_min(1) if self.class_mean else n
            target = ((sums[own] - embeddings) * embeddings).sum(1, keepdim=True) / (self.temperature * others)
            logits = logits.scatter(1, own[:, None], target)
        elif is_pair_matrix(labels):
            target = logits.gather(1, own[:, None])
        else:
            # sum_i z_i^T theta_{y_i} class by class, whose gradient needs no (n, K) matrix of its own
            target = (weights * sums).sum() / n
        contrastive = logits.logsumexp(1)
        if self.num_classes is not None and len(sums) < self.num_classes:
            # absent classes have logit 0
            absent = torch.tensor(float(self.num_classes - len(sums))).log().to(contrastive)
            contrastive = torch.logaddexp(contrastive, absent)
        return -target.mean(), contrastive.mean()

    def _sets(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of each class (or distinct set of positives), its size, and which one is each sample's."""
        n = len(embeddings)
        Relations.within(labels, n)
        if is_pair_matrix(labels):
            if self.num_classes is not None:
                why = "a matrix of positive pairs has no absent classes"
                raise ValueError(f"labels: {why}; build SPCE without num_classes")
            reflexive = labels | torch.eye(n, dtype=torch.bool, device=labels.device)
            sets, own = reflexive.unique(dim=0, return_inverse=True)
            return _set_sums(sets, embeddings), sets.sum(1), own
        classes, own = labels.unique(return_inverse=True)
        if self.num_classes is not None:
            require_below(self.num_classes, classes, "labels: takes classes")
        return class_sums(embeddings, own, len(classes)), class_sizes(own, len(classes)), own


def _set_sums(sets: Tensor, embeddings: Tensor) -> Tensor:
    """The sums of the embeddings of each of the ``(m, n)`` sets, the matrix in floats never whole."""
    (sums,) = over_rows(
        lambda _, gallery, members, others: (members.to(gallery.dtype) @ gallery,),
        embeddings.detach().new_zeros(len(sets), 1),
        embeddings,
        Relations(pairs=sets),
    )
    return sums


@dataclass(frozen=True)
class BoundReport:
    """Cross-entropy, PCE and SPCE at one classifier, and whether the first is at least the second."""

    cross_entropy: float
    pce: float
    spce: float
    lam: float
    samples: int
    classes: int
    dimension: int

    @property
    def gap(self) -> float:
        """L_CE - L_PCE, which Proposition 2.1 says is not negative."""
        return self.cross_entropy - self.pce

    @property
    def holds(self) -> bool:
        """Whether L_CE >= L_PCE here."""
        return self.gap >= 0

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "FAILS"
        return (
            f"n = {self.samples}, K = {self.classes}, d = {self.dimension}, lambda = {self.lam:.4g}\n"
            f"  L_CE   {self.cross_entropy:12.6f}\n"
            f"  L_PCE  {self.pce:12.6f}   L_CE >= L_PCE {verdict}, gap {self.gap:+.4g}\n"
            f"  L_SPCE {self.spce:12.6f}"
        )


@torch.no_grad()
def bound_report(
    embeddings: Tensor,
    labels: Tensor,
    classifier_weight: Tensor,
    *,
    lam: float | str = 1.0,
    floor: float = 1e-3,
    temperature: float = 1.0,
) -> BoundReport:
    """L_CE, L_PCE and L_SPCE on these embeddings, and whether the bound L_CE >= L_PCE of Proposition 2.1 holds.

    It does not in general: A I-11 makes only the diagonal blocks of the Hessian of h_2 positive, and the soft means are
    those of the current p, not of the minimiser. With many classes it fails as soon as the classifier fits.
    ``classifier_weight`` is theta, ``(K, d)``, without a bias, as in the proof (for one, append a constant feature 1 to
    the embeddings). ``lam``, ``floor`` are as for :class:`PCE`, ``temperature`` for :class:`SPCE` of all K classes.

    >>> z = torch.eye(3).repeat(4, 1)
    >>> report = bound_report(z, torch.arange(3).repeat(4), torch.eye(3))
    >>> report.holds, round(report.gap, 3)
    (False, -0.423)
    """
    if not isinstance(classifier_weight, Tensor) or classifier_weight.dim() != 2:
        takes = "theta of shape (K, d), such as linear.weight"
        raise ValueError(f"classifier_weight: takes {takes}, got {got(classifier_weight)}")
    check_embeddings(embeddings)
    check_embeddings(classifier_weight, "classifier_weight")
    check_classes(labels, embeddings, classifier_weight)
    _check_lam(lam, floor)
    z = at_least_float32(embeddings)
    logits = z @ classifier_weight.to(z.dtype).mT
    probabilities = logits.softmax(1)
    used = _lam(lam, z, probabilities, floor)
    classes, dimension = classifier_weight.shape
    cross_entropy = float(functional.cross_entropy(logits, labels.long()))
    pce = float(sum(pce_parts(z, labels, probabilities, used)))
    spce = float(SPCE(temperature, num_classes=classes)(z, labels))
    return BoundReport(cross_entropy, pce, spce, float(used), len(z), classes, dimension)


def _lam(lam: float | str, embeddings: Tensor, probabilities: Tensor, floor: float) -> Tensor | float:
    if isinstance(lam, str):
        return least_eigenvalue(embeddings, probabilities).clamp_min(floor)
    return float(lam)


def _check_lam(lam: float | str, floor: float) -> None:
    if isinstance(lam, str) and lam != EIGENVALUE:
        raise ValueError(f"lam: takes a number > 0 or {EIGENVALUE!r}, got {lam!r}")
    require_positive(floor=floor) if isinstance(lam, str) else require_positive(lam=lam)
