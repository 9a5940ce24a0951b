"""Projection on level sets of the objective, the radius driven by feasibility: with the l2 norm, DDN (Alg. 3.1)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constropt.checks import require_within
from constropt.evaluation import Evaluation
from constropt.features import Takes, is_finite_box
from constropt.problem import ConstrainedProblem
from constropt.rows import beside
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import cosine, row_norm


@dataclass(frozen=True, eq=False)
class LevelSetState:
    """``delta``: the unrounded perturbation that the last point came from; ``radius``: its level, ``(batch, 1, ...)``;
    ``limit``: the level of the farthest corner of the domain, beyond which a radius means nothing."""

    delta: Tensor
    radius: Tensor
    limit: Tensor


@dataclass(frozen=True, eq=False)
class LevelSetProjection(Solver[LevelSetState]):
    """min D(x - x0) s.t. h(x) <= 0, for an objective D that is positively homogeneous in x - x0 (every norm).

    Direction and norm are decoupled: a normalised step of length ``size`` (cosine-annealed to ``final`` times itself)
    down the constraint's surrogate, then delta is scaled to the sphere D = radius, which shrinks by ``1 - gamma``
    where the row is feasible and grows by ``1 + gamma`` where not (Rony et al., 2019). ``quantize``: the number of
    levels that the evaluated points are rounded to inside the domain's box (256 for 8-bit images); delta itself stays
    unrounded, since rounding it at every step would lose the small moves.
    """

    takes = Takes(least=1, most=1, fraction=True, surrogate=True, objective_gradient=False)

    size: float = 1.0
    final: float = 0.01
    radius: float = 1.0
    gamma: float = 0.05
    quantize: int | None = None
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        if self.quantize is not None and self.quantize < 2:
            takes = "the number of levels, at least 2 (256 for 8 bits), or None"
            raise ValueError(f"quantize: takes {takes}, got {self.quantize!r}")
        require_within("(0, 1)", gamma=self.gamma)

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        if self.quantize is not None and not is_finite_box(problem.domain, x0):
            raise ValueError("quantize: needs a finite Box as the problem's domain")

    def init(self, run: Run, point: Evaluation) -> LevelSetState:
        x = point.x.detach()
        radius = beside(x.new_full(x.shape[:1], self.radius), x)
        bounds = run.problem.domain.bounds(x)
        if bounds is None:
            return LevelSetState(torch.zeros_like(x), radius, torch.full_like(radius, torch.inf))
        lower, upper = bounds
        limit = self._level(run, torch.where(upper - x > x - lower, upper - x, lower - x))
        return LevelSetState(torch.zeros_like(x), torch.minimum(radius, limit), limit)

    def step(self, run: Run, state: LevelSetState, point: Evaluation, index: int) -> Proposal[LevelSetState]:
        feasible = point.violation() <= run.tolerance
        descent = -point.pull_back((point.direction(0), point.counted(0)))
        size = cosine(1, self.final, index, run.steps)
        length = beside(row_norm(descent, 2), descent)
        # a row without a gradient stays where it is; NaN passes, for the loop to notice
        delta = state.delta + torch.where(length == 0, 0, self.size * size * descent / length)
        smaller, larger = state.radius * (1 - self.gamma), state.radius * (1 + self.gamma)
        radius = torch.minimum(torch.where(beside(feasible, delta), smaller, larger), state.limit)
        delta = delta * (radius / self._level(run, delta).clamp_min(torch.finfo(delta.dtype).tiny))
        x = run.problem.domain.project(run.x0 + delta)
        delta = x - run.x0
        if self.quantize is not None:
            x = _rounded(x, run, self.quantize)
        return Proposal(x=x, state=LevelSetState(delta, radius, state.limit))

    def _level(self, run: Run, delta: Tensor) -> Tensor:
        with torch.no_grad():
            assert run.problem.objective is not None  # refused: this solver does not take feasibility problems
            return beside(run.problem.objective(run.x0 + delta, None), delta)


def _rounded(x: Tensor, run: Run, levels: int) -> Tensor:
    """x on the grid of ``levels`` values between the sides of the box."""
    bounds = run.problem.domain.bounds(x)
    assert bounds is not None
    lower, upper = bounds
    width = (upper - lower) / (levels - 1)
    return lower + ((x - lower) / width).round() * width
