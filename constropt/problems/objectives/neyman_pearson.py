"""Neyman-Pearson classification: the fewest misses under a bound on the rate of false alarms.

    minimise  P(s <= 0 | positive)   subject to   P(s > 0 | negative) <= alpha

over the parameters of a network with score s (Neyman & Pearson 1933; Scott & Nowak, *A Neyman-Pearson approach to
statistical learning*, IEEE Trans. Inf. Theory 2005). By their lemma the optimum alarms where the likelihood ratio is
above a threshold, and that threshold is the multiplier.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from constropt.duals import ConstantRho, MultiplierUpdate
from constropt.lagrangian import AugmentedLagrangian
from constropt.problems.objectives.rates import binary_scores, check_integers, straight_through
from constropt.training import ConstrainedLoss, on_average

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
    negatives adds no penalty, one without positives no objective.

    Raises ``ValueError`` unless ``0 < alpha < 1``.

    >>> criterion = NeymanPearson(alpha=0.25)
    >>> score, labels = torch.tensor([2.0, 1.0, -3.0, -4.0, -5.0, 0.5]), torch.tensor([1, 1, 0, 0, 0, 0])
    >>> criterion.update_duals(lambda x: x, [(score, labels)])
    >>> criterion.levels, criterion.multipliers  # one alarm among four negatives: at the bound, mu stays
    (tensor(0.), tensor(0.1000))
    """

    def __init__(self, alpha: float, *, lagrangian: AugmentedLagrangian = RATE) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha: the bound on the rate of false alarms must lie in (0, 1), got {alpha}")
        super().__init__(
            _misses,
            [
                on_average(
                    partial(_alarms, alpha=float(alpha)),
                    surrogate=partial(_soft_alarms, alpha=float(alpha)),
                    mask=_negative,
                    name="false alarms",
                )
            ],
            lagrangian=lagrangian,
        )
        self.alpha = float(alpha)

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
