"""Equal rates of positive decisions over groups, as constraints of training.

    minimise  E[cross-entropy]   subject to   P(s > 0 | group a) - P(s > 0 | group b) <= eps   for all a, b

is demographic parity; with both rates among the positives only, equal opportunity (Hardt, Price & Srebro, *Equality of
opportunity in supervised learning*, NeurIPS 2016; as constrained optimization: Cotter et al., JMLR 2019).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from constropt.checks import require_whole
from constropt.lagrangian import AugmentedLagrangian
from constropt.problems.objectives.rates import binary_scores, check_integers, straight_through
from constropt.training import TRAINING, ConstrainedLoss, on_average


class _EqualRates(ConstrainedLoss):
    """Cross-entropy with a constraint on the difference of rates for each ordered pair of groups.

    A difference of two means over different samples is no mean over samples, but this is one: a sample i of group a
    has, for the pair (a, b), the value ``d_i - r_b - eps`` with d_i its decision and r_b the rate of group b *in the
    same batch*. Over the samples of group a, which the mask selects, its mean is the difference of the rates of a
    batch, exactly; over many random batches it is the difference of the population's, since r_b has no bias and does
    not depend on group a. No share of the groups has to be known.
    """

    def __init__(self, groups: int, eps: float, given: int | None, lagrangian: AugmentedLagrangian) -> None:
        require_whole(2, groups=groups)
        if not 0 <= eps < 1:
            raise ValueError(f"eps: the allowed difference of two rates must lie in [0, 1), got {eps}")
        options = {"groups": groups, "eps": float(eps), "given": given}
        super().__init__(
            partial(_cross_entropy, groups=groups),
            [
                on_average(
                    partial(_differences, **options),
                    surrogate=partial(_soft_differences, **options),
                    mask=partial(_pairs, groups=groups, given=given),
                    shape=(groups, groups),
                    name="rates",
                )
            ],
            lagrangian=lagrangian,
        )
        self.groups, self.eps = groups, float(eps)


class DemographicParity(_EqualRates):
    """Cross-entropy, subject to rates of positive decisions that differ by at most ``eps`` over the groups.

    ``criterion(output, (labels, group))``: scores ``(batch,)`` or ``(batch, 1)``, positive decisions being scores > 0,
    or logits ``(batch, 2)``; ``labels`` ``(batch,)`` of 0 and 1, ``group`` ``(batch,)`` of 0 to ``groups`` - 1. The
    target may also be one tensor ``(batch, 2)`` with these two columns.

    ``criterion.multipliers``, ``(groups, groups)``, has in row a and column b the price of rate(a) - rate(b) <= eps,
    and ``criterion.levels`` how far it is exceeded (negative: slack); the diagonal means nothing. Gradients are those
    of the mean sigmoid of the scores. Update the duals on held-out data in large batches that mix the groups: pairs
    of which a batch lacks one group are left out of it.

    Raises ``ValueError`` unless ``groups >= 2`` and ``0 <= eps < 1``, and for labels and groups out of range.

    >>> criterion = DemographicParity(groups=2, eps=0.1)
    >>> score, labels = torch.tensor([1.0, 2.0, 1.0, -1.0]), torch.tensor([1, 1, 0, 0])
    >>> criterion.update_duals(lambda x: x, [(score, (labels, torch.tensor([0, 0, 1, 1])))])
    >>> criterion.levels  # rates 1 and 1/2
    tensor([[    nan,  0.4000],
            [-0.6000,     nan]])
    >>> print(f"{criterion.multipliers[0, 1]:.3f}")
    0.400
    """

    def __init__(self, groups: int, eps: float, *, lagrangian: AugmentedLagrangian = TRAINING) -> None:
        super().__init__(groups, eps, None, lagrangian)


class EqualOpportunity(_EqualRates):
    """Cross-entropy, subject to rates of positive decisions *among positives* (true positive rates) that differ by at
    most ``eps`` over the groups; everything else as for :class:`DemographicParity`.

    >>> criterion = EqualOpportunity(groups=2, eps=0.1)
    >>> score, labels = torch.tensor([1.0, 2.0, 1.0, -1.0]), torch.tensor([1, 1, 1, 0])
    >>> criterion.update_duals(lambda x: x, [(score, (labels, torch.tensor([0, 0, 1, 1])))])
    >>> criterion.levels[0, 1]  # both rates are 1
    tensor(-0.1000)
    """

    def __init__(self, groups: int, eps: float, *, lagrangian: AugmentedLagrangian = TRAINING) -> None:
        super().__init__(groups, eps, 1, lagrangian)


def _split(target: Any) -> tuple[Tensor, Tensor]:
    """Labels and groups of a target."""
    if isinstance(target, Tensor) and target.dim() == 2 and target.shape[1] == 2:
        return target[:, 0], target[:, 1]
    if isinstance(target, (tuple, list)) and len(target) == 2:
        return target[0], target[1]
    got = f"a tensor of shape {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
    raise TypeError(f"target: takes a pair (labels, group), or a tensor (batch, 2) of these columns, got {got}")


def _cross_entropy(output: Tensor, target: Any, *, groups: int) -> Tensor:
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
