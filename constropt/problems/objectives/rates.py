"""Constraints on rates: equal rates of positive decisions over groups, and Neyman-Pearson classification.

    minimise  E[cross-entropy]   subject to   P(s > 0 | group a) - P(s > 0 | group b) <= eps   for all a, b

is demographic parity; with both rates among the positives only, equal opportunity (Hardt, Price & Srebro, *Equality of
opportunity in supervised learning*, NeurIPS 2016; as constrained optimization: Cotter et al., JMLR 2019). The fewest
misses under a bound on the rate of false alarms,

    minimise  P(s <= 0 | positive)   subject to   P(s > 0 | negative) <= alpha

over the parameters of a network with score s, is Neyman-Pearson classification (Neyman & Pearson 1933; Scott & Nowak,
*A Neyman-Pearson approach to statistical learning*, IEEE Trans. Inf. Theory 2005). By their lemma the optimum alarms
where the likelihood ratio is above a threshold, and that threshold is the multiplier.
"""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from constropt.checks import got, require_number, require_whole
from constropt.duals import ConstantRho, MultiplierUpdate
from constropt.lagrangian import AugmentedLagrangian
from constropt.precision import at_least_float32
from constropt.training import TRAINING, ConstrainedLoss, on_average


def straight_through(strict: Tensor, surrogate: Tensor) -> Tensor:
    """The values of ``strict`` with the gradient of ``surrogate``, of the same shape.

    A rate is a mean of zeros and ones, without a gradient. With this as the surrogate of a constraint on it, the
    penalty is weighted by ``dP/dy`` at the rate itself, as the multipliers are, so that training comes to rest where
    the *rate* meets its bound, whatever rho is. A surrogate's own value would not do: a hinge or a logistic loss lies
    above the rate, and ``mu + rho y`` is too large by rho times the difference.

    >>> score = torch.tensor([-1.0, 2.0], requires_grad=True)
    >>> rate = straight_through((score > 0).float(), score.sigmoid())
    >>> rate.tolist(), [round(slope, 3) for slope in torch.autograd.grad(rate.sum(), score)[0].tolist()]
    ([0.0, 1.0], [0.197, 0.105])
    """
    return strict.detach() + (surrogate - surrogate.detach())


def binary_scores(output: Tensor) -> Tensor:
    """One score per sample, ``(batch,)``, positive where the positive class is decided on: of scores ``(batch,)`` or
    ``(batch, 1)``, or of logits ``(batch, 2)``, z_1 - z_0; float32 at least.

    Raises ``ValueError`` for other shapes, ``TypeError`` for what is no floating point tensor.

    >>> binary_scores(torch.tensor([[1.0, 3.0], [0.0, -1.0]]))
    tensor([ 2., -1.])
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise TypeError(f"output: takes a tensor of floating point scores, got {got(output)}")
    output = at_least_float32(output)
    if output.dim() == 1:
        return output
    if output.dim() == 2 and output.shape[1] in (1, 2):
        return output.squeeze(1) if output.shape[1] == 1 else output[:, 1] - output[:, 0]
    takes = "scores of shape (batch,) or (batch, 1), or logits of shape (batch, 2)"
    raise ValueError(f"output: takes {takes}, got {tuple(output.shape)}")


def check_integers(name: str, values: Tensor, scores: Tensor, below: int) -> None:
    """Raise unless ``values`` is one integer (or boolean) per score, on the CPU, where a look is free, < ``below``."""
    if not isinstance(values, Tensor) or values.is_floating_point() or values.is_complex():
        raise TypeError(f"{name}: takes a tensor of integers 0 to {below - 1}, got {got(values)}; .long() makes them")
    if values.shape != scores.shape:
        raise ValueError(f"{name}: takes the shape (batch,) = {tuple(scores.shape)}, got {tuple(values.shape)}")
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = values[(values < 0) | (values >= below)]
        if len(wrong):
            raise ValueError(f"{name}: takes integers 0 to {below - 1}, got {wrong.unique().tolist()[:5]}")


class _EqualRates(ConstrainedLoss):
    """Cross-entropy with a constraint on the difference of rates for each ordered pair of groups.

    A difference of two means over different samples is no mean over samples, but this is one: a sample i of group a
    has, for the pair (a, b), the value ``d_i - r_b - eps`` with d_i its decision and r_b the rate of group b *in the
    same batch*. Over the samples of group a, which the mask selects, its mean is the difference of the rates of a
    batch, exactly; over many random batches it is the difference of the population's, since r_b has no bias and does
    not depend on group a. No share of the groups has to be known.
    """

    given: ClassVar[int | None] = None  # the label among which rates are taken; None: among all

    def __init__(self, groups: int, eps: float, *, lagrangian: AugmentedLagrangian = TRAINING) -> None:
        require_whole(2, groups=groups)
        require_number(0, 1, eps=eps)
        options = {"groups": groups, "eps": float(eps), "given": self.given}
        constraint = on_average(
            partial(_differences, **options),
            surrogate=partial(_soft_differences, **options),
            mask=partial(_pairs, groups=groups, given=self.given),
            shape=(groups, groups),
            name="rates",
        )
        super().__init__(partial(_decision_loss, groups=groups), [constraint], lagrangian=lagrangian)
        self.groups, self.eps = groups, float(eps)


class DemographicParity(_EqualRates):
    """Cross-entropy, subject to rates of positive decisions that differ by at most ``eps`` over the groups.

    ``criterion(output, (labels, group))``: scores ``(batch,)`` or ``(batch, 1)``, positive decisions being scores > 0,
    or logits ``(batch, 2)``; ``labels`` ``(batch,)`` of 0 and 1, ``group`` ``(batch,)`` of 0 to ``groups`` - 1. The
    target may also be one tensor ``(batch, 2)`` with these two columns.

    ``criterion.multipliers``, ``(groups, groups)``, has in row a and column b the price of rate(a) - rate(b) <= eps,
    and ``criterion.levels`` how far it is exceeded (negative: slack); the diagonal means nothing. Gradients are those
    of the mean sigmoid of the scores. Update the duals on held-out data in large batches that mix the groups: pairs of
    which a batch lacks one group are left out of it. Raises ``ValueError`` unless ``groups >= 2`` and ``0 <= eps < 1``,
    and for labels and groups out of range.

    >>> criterion = DemographicParity(groups=2, eps=0.1)
    >>> score, labels = torch.tensor([1.0, 2.0, 1.0, -1.0]), torch.tensor([1, 1, 0, 0])
    >>> criterion.update_duals(lambda x: x, [(score, (labels, torch.tensor([0, 0, 1, 1])))])
    >>> criterion.levels  # rates 1 and 1/2
    tensor([[    nan,  0.4000],
            [-0.6000,     nan]])
    >>> print(f"{criterion.multipliers[0, 1]:.3f}")
    0.400
    """


class EqualOpportunity(_EqualRates):
    """:class:`DemographicParity` *among positives*: true positive rates differ by at most ``eps`` over the groups.

    >>> criterion = EqualOpportunity(groups=2, eps=0.1)
    >>> score, labels = torch.tensor([1.0, 2.0, 1.0, -1.0]), torch.tensor([1, 1, 1, 0])
    >>> criterion.update_duals(lambda x: x, [(score, (labels, torch.tensor([0, 0, 1, 1])))])
    >>> criterion.levels[0, 1]  # both rates are 1
    tensor(-0.1000)
    """

    given = 1


def _split(target: Any) -> tuple[Tensor, Tensor]:
    """Labels and groups of a target."""
    if isinstance(target, Tensor) and target.dim() == 2 and target.shape[1] == 2:
        return target[:, 0], target[:, 1]
    if isinstance(target, (tuple, list)) and len(target) == 2:
        return target[0], target[1]
    takes = "a pair (labels, group), or a tensor (batch, 2) of these columns"
    raise TypeError(f"target: takes {takes}, got {got(target)}")


def _decision_loss(output: Tensor, target: Any, *, groups: int) -> Tensor:
    (labels, group), score = _split(target), binary_scores(output)
    check_integers("labels", labels, score, below=2)
    check_integers("group", group, score, below=groups)
    return functional.binary_cross_entropy_with_logits(score, labels.to(score.dtype), reduction="none")


def _members(target: Any, groups: int, given: int | None) -> Tensor:
    """``(batch, groups)``, boolean: who counts for the rate of which group."""
    labels, group = _split(target)
    members = group[:, None] == torch.arange(groups, device=group.device)
    return members if given is None else members & (labels == given)[:, None]


def _pairs(output: Tensor, target: Any, *, groups: int, given: int | None) -> Tensor:
    """``(batch, a, b)``: samples of group a, where the batch has some of another group b to compare with."""
    members = _members(target, groups, given)
    different = ~torch.eye(groups, dtype=torch.bool, device=members.device)
    return members[:, :, None] & members.any(0) & different


def _above(decisions: Tensor, target: Any, groups: int, given: int | None, eps: float) -> Tensor:
    """``d_i - r_b - eps``, ``(batch, a, b)``, the same for all a: which of them counts, the mask says."""
    members = _members(target, groups, given)
    rates = torch.where(members, decisions[:, None], 0).sum(0) / members.sum(0).clamp_min(1)
    return (decisions[:, None] - rates - eps)[:, None, :].expand(-1, groups, -1)


def _differences(output: Tensor, target: Any, *, groups: int, given: int | None, eps: float) -> Tensor:
    score = binary_scores(output)
    # a NaN score is no positive decision by comparison: it must not pass for a negative one
    decisions = torch.where(score.isnan(), score, (score > 0).to(score.dtype))
    return _above(decisions, target, groups, given, eps)


def _soft_differences(output: Tensor, target: Any, *, groups: int, given: int | None, eps: float) -> Tensor:
    strict = _differences(output, target, groups=groups, given=given, eps=eps)
    return straight_through(strict, _above(binary_scores(output).sigmoid(), target, groups, given, eps))


# In units of alpha the multiplier is alpha times the slope of the ROC curve at alpha. That curve is concave and ends
# at 1, so this is at most 1: the safeguard, without which mu runs away while the network is still far from the bound.
RATE = AugmentedLagrangian("PHR", MultiplierUpdate(maximum=1.0), ConstantRho(), mu=0.1, rho=0.1)


class NeymanPearson(ConstrainedLoss):
    """The mean logistic loss of the positives, subject to a rate of false alarms of at most ``alpha``.

    ``criterion(output, labels)``: scores ``(batch,)`` or ``(batch, 1)``, an alarm being a score > 0, or logits
    ``(batch, 2)``, an alarm being z_1 > z_0; ``labels`` ``(batch,)``, 1 for positives, 0 for negatives.

    The constraint is relative, ``rate / alpha - 1 <= 0`` among the negatives; the gradient is that of their logistic
    loss. So every dual state stands for a weighted cross-entropy: ``criterion.weight()`` is the weight of the
    negatives, and with a network that can represent it the score is the log-likelihood ratio minus log(weight).
    ``lagrangian`` replaces penalty, dual updates and initial values.

    Update the duals on held-out data: a rate measured where the network was fitted is too low. A batch without
    negatives adds no penalty, one without positives no objective. Raises ``ValueError`` unless ``0 < alpha < 1``.

    >>> criterion = NeymanPearson(alpha=0.25)
    >>> score, labels = torch.tensor([2.0, 1.0, -3.0, -4.0, -5.0, 0.5]), torch.tensor([1, 1, 0, 0, 0, 0])
    >>> criterion.update_duals(lambda x: x, [(score, labels)])
    >>> criterion.levels, criterion.multipliers  # one alarm among four negatives: at the bound, mu stays
    (tensor(0.), tensor(0.1000))
    """

    def __init__(self, alpha: float, *, lagrangian: AugmentedLagrangian = RATE) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha: the bound on the rate of false alarms must lie in (0, 1), got {alpha}")
        alpha = float(alpha)
        soft = partial(_soft_alarms, alpha=alpha)
        bound = on_average(partial(_alarms, alpha=alpha), surrogate=soft, mask=_negative, name="false alarms")
        super().__init__(_misses, [bound], lagrangian=lagrangian)
        self.alpha = alpha

    def weight(self) -> Tensor:
        """What a negative's loss counts beside a positive's at the optimum, ``mu / alpha``: a likelihood ratio."""
        return self.state_of(self.constraints[0]).mu / self.alpha


def _misses(output: Tensor, labels: Tensor) -> Tensor:
    score = binary_scores(output)
    check_integers("labels", labels, score, below=2)
    return functional.softplus(-score[labels == 1])


def _alarms(output: Tensor, labels: Tensor, *, alpha: float) -> Tensor:
    score = binary_scores(output)
    # a NaN score is no alarm by comparison: it must not pass for one that is below zero
    return torch.where(score.isnan(), score, (score > 0).to(score.dtype) / alpha - 1)


def _soft_alarms(output: Tensor, labels: Tensor, *, alpha: float) -> Tensor:
    return straight_through(_alarms(output, labels, alpha=alpha), functional.softplus(binary_scores(output)) / alpha)


def _negative(output: Tensor, labels: Tensor) -> Tensor:
    return labels == 0
