"""A ball that grows or shrinks with feasibility, and a normalised step projected on it: FMN (Alg. 1.6)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import require_positive
from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.precision import at_least_float32
from constropt.prox import project_l0, project_l1, project_l2, project_linf
from constropt.rows import by_row, per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import DUAL, cosine, normalised, row_norm

_PROJECTIONS = {0.0: project_l0, 1.0: project_l1, 2.0: project_l2, torch.inf: project_linf}


@dataclass(frozen=True, eq=False)
class MinimumNormState:
    """Per row, ``(batch,)``: the ``radius`` of the ball, the ``best`` norm of a feasible point (infinite before), and
    the ``limit``, the norm of the farthest corner of the domain."""

    radius: Tensor
    best: Tensor
    limit: Tensor


@dataclass(frozen=True, eq=False)
class MinimumNorm(Solver[MinimumNormState]):
    """min ``||x - x0||_p`` s.t. h(x) <= 0, by FMN (Alg. 1.6; Pintor et al., 2021), p = 0, 1, 2 or inf.

    g is the gradient of the mean of the constraint's surrogate over its counted entries, L the mean of its positive
    part: of a mean that met entries make negative, the absolute value would drive the radius away. Each step sets the
    radius -- to ``||delta||_p + L / ||g||_q`` until the row is first feasible (but at least to ``1 + gamma`` times the
    last one, which is not in the paper: the box may take from delta at every step what the estimate has added), then
    larger or smaller by the factor ``1 +- gamma``, and no larger than the best norm where the row is feasible --, moves
    by ``size`` along the l2-normalised -g, projects on the ball of that radius, and then on the domain. ``size`` and
    ``gamma`` decay along a cosine to ``final_size`` times itself and to ``final_gamma``. For p = 0 the radius is a
    number of entries: it starts at 1, is not estimated, is rounded down, and changes by at least 1. Feasibility is the
    problem's, so a constraint of which a fraction nu must hold decides by that. The surrogate should be the signed
    distance to the boundary in some unit, such as a logit difference: it estimates the first radius.

    Raises ``ValueError`` unless the problem has exactly one constraint, an inequality.
    """

    takes = Takes(least=1, most=1, fraction=True, surrogate=True, objective_gradient=False)

    p: float = torch.inf
    size: float = 1.0
    final_size: float = 0.01
    gamma: float = 0.05
    final_gamma: float = 0.001
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        if self.p not in _PROJECTIONS:
            raise ValueError(f"p: takes one of {list(_PROJECTIONS)}, got {self.p}")
        require_positive("a step", size=self.size)
        if not 0 < self.final_gamma <= self.gamma < 1:
            raise ValueError(f"gamma: needs 0 < final_gamma <= gamma < 1, got {self.final_gamma} and {self.gamma}")

    def init(self, run: Run, point: Evaluation) -> MinimumNormState:
        x = point.x.detach()
        # half precision counts entries to 256 (bfloat16) and knows no change by 0.001
        infinite = at_least_float32(x.new_full(x.shape[:1], torch.inf))
        first = torch.ones_like(infinite) if self.p == 0 else infinite
        bounds = run.problem.domain.bounds(x)
        if bounds is None:
            return MinimumNormState(first, infinite, infinite)
        lower, upper = bounds
        return MinimumNormState(first, infinite, row_norm(torch.maximum(upper - x, x - lower).to(infinite), self.p))

    def step(self, run: Run, state: MinimumNormState, point: Evaluation, index: int) -> Proposal[MinimumNormState]:
        gamma = cosine(self.gamma, self.final_gamma, index, run.steps)
        size = self.size * cosine(1, self.final_size, index, run.steps)
        x = point.x.detach()
        amount, gradient = self._mean(point)
        delta = x - run.x0
        norm = row_norm(delta.to(state.radius), self.p)
        feasible = point.violation() <= run.tolerance
        best = torch.where(feasible, torch.minimum(state.best, norm), state.best)
        if self.p == 0:
            smaller = torch.minimum(state.radius - 1, (state.radius * (1 - gamma)).floor())
            larger = torch.maximum(state.radius + 1, (state.radius * (1 + gamma)).floor())
        else:
            boundary = norm + amount / row_norm(gradient, DUAL[self.p]).clamp_min(torch.finfo(x.dtype).tiny)
            smaller = state.radius * (1 - gamma)
            # at a tie the estimate is the norm itself: a linear model would stay there for ever
            larger = torch.where(state.radius.isfinite(), state.radius, norm) * (1 + gamma)
            larger = torch.where(best.isfinite(), larger, torch.maximum(larger, boundary))
        radius = torch.where(feasible, torch.minimum(smaller, best).clamp_min(0), larger)
        radius = torch.minimum(radius, state.limit)
        delta = self._project(run, delta - size * normalised(gradient, 2), radius)
        return Proposal(x=run.problem.domain.project(run.x0 + delta), state=MinimumNormState(radius, best, state.limit))

    def _project(self, run: Run, delta: Tensor, radius: Tensor) -> Tensor:
        """On the ball; for p = 1 on ball and box at once: what a later clip takes from the few entries of a sparse
        delta, no other entry would get, and the row would be stuck."""
        bounds = run.problem.domain.bounds(delta) if self.p == 1 else None
        if bounds is None:
            return _PROJECTIONS[self.p](delta, radius)
        return project_l1(delta, radius, lower=bounds[0] - run.x0, upper=bounds[1] - run.x0)

    def _mean(self, point: Evaluation) -> tuple[Tensor, Tensor]:
        """The mean positive part of the counted entries' surrogate, ``(batch,)``, and the gradient of the mean."""
        value, counts = point.direction(0), point.counted(0)
        entries = at_least_float32(by_row(value.detach()).clamp_min(0))
        number = by_row(counts).sum(1).clamp_min(1).to(entries)
        mean = torch.where(by_row(counts), entries, 0).sum(1) / number
        return mean.to(point.x), point.pull_back((value, counts / per_row(number, value)))
