"""Projected gradient on a norm ball, along the steepest direction of that norm: FGSM, BIM, MI-FGSM, PGD."""

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import require_positive, require_within
from constropt.domain import L1Ball, L2Ball, LinfBall
from constropt.evaluation import Evaluation
from constropt.features import NORM_BALL, Takes
from constropt.rows import per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import normalised, row_norm


@dataclass(frozen=True, eq=False)
class ProjectedGradient(Solver[Tensor]):
    """min g(x) over a ball: ``x <- P(x - size radius d)``, d of unit norm, the steepest direction in the ball's norm.

    ``size`` is relative to the radius of each row's ball. The direction is the sign of the gradient for
    :class:`~constropt.LinfBall`, the normalised gradient for :class:`~constropt.L2Ball`, and for
    :class:`~constropt.L1Ball` the signs of the fraction ``dense`` of entries with the largest gradient that the box
    lets move (SLIDE: Tramer & Boneh, 2019). The projection, on ball and box together, is exact. With ``momentum`` the
    direction is that of ``m <- momentum m + grad / ||grad||_1`` (MI-FGSM: Dong et al., 2018). Constraints are not
    followed: they only say which points are feasible, and the best of those is returned. Rows without a gradient stay.

    Raises ``ValueError`` for a domain that is no ball, and for values out of range.

    >>> from constropt import ConstrainedProblem, solve
    >>> center = torch.zeros(1, 2)
    >>> problem = ConstrainedProblem(objective=lambda x, _: x @ torch.tensor([3.0, -4.0]), domain=L2Ball(5.0, center))
    >>> solve(problem, ProjectedGradient(size=1.0), center, steps=1).x
    tensor([[-3.,  4.]])
    """

    takes = Takes(fraction=True, domains=NORM_BALL, constraint_gradients=False)

    size: float = 0.1
    momentum: float | None = None
    dense: float = 0.01
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        require_positive("a step", " relative to the radius", size=self.size)
        if self.momentum is not None and not self.momentum >= 0:
            raise ValueError(f"momentum: takes a decay >= 0, or None, got {self.momentum}; the published one is 1")
        require_within("(0, 1]", "takes the fraction of entries", " that an l1 step moves", dense=self.dense)

    def init(self, run: Run, point: Evaluation) -> Tensor:
        return torch.zeros_like(point.x.detach())

    def step(self, run: Run, state: Tensor, point: Evaluation, index: int) -> Proposal[Tensor]:
        domain = run.problem.domain
        assert isinstance(domain, LinfBall | L2Ball | L1Ball)
        x = point.x.detach()
        gradient = point.gradient(1.0, ())
        if self.momentum is not None:
            state = gradient = self.momentum * state + normalised(gradient, 1)
        direction = self._direction(domain, x, gradient)
        x = domain.project(x - self.size * per_row(radii(domain, x), x) * direction)
        return Proposal(x=x, state=state, multipliers=tuple(torch.zeros_like(v) for v in point.values))

    def _direction(self, domain: LinfBall | L2Ball | L1Ball, x: Tensor, gradient: Tensor) -> Tensor:
        if isinstance(domain, LinfBall):
            return gradient.sign()
        if isinstance(domain, L2Ball):
            return normalised(gradient, 2)
        if domain.box is not None:
            lower, upper = domain.box.bounds(x)
            blocked = torch.where(gradient > 0, x <= lower, x >= upper)
            # NaN passes, for the loop to notice
            gradient = torch.where(blocked & ~gradient.isnan(), 0, gradient)
        amount = gradient.abs().flatten(1)
        return signs_from(gradient, amount.topk(max(int(self.dense * amount.shape[1]), 1), dim=1).values[:, -1])


def radii(domain: LinfBall | L2Ball | L1Ball, x: Tensor) -> Tensor:
    """The radius of each row's ball, ``(batch,)`` in the dtype of x."""
    return torch.as_tensor(domain.radius, dtype=x.dtype, device=x.device).expand(x.shape[0])


def signs_from(gradient: Tensor, least: Tensor) -> Tensor:
    """The signs of the entries of a row that are no smaller than ``least``, ``(batch,)``, at unit l1 norm."""
    chosen = torch.where(gradient.abs() >= per_row(least, gradient), gradient.sign(), 0)
    lost = per_row(row_norm(gradient, 1), gradient) * 0  # 0, or NaN in a row that has one
    return normalised(chosen, 1) + lost
