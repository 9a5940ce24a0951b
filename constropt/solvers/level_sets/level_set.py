"""Projection on level sets of the objective, the radius driven by feasibility: DDN (Alg. 3.1) is this with the l2
norm.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.problem import ConstrainedProblem
from constropt.solvers.base import Proposal, Run, Solver


@dataclass(frozen=True)
class LevelSetState:
    """``delta``: the unrounded perturbation that the last point came from; ``radius``: its level, ``(batch, 1, ...)``;
    ``limit``: the level of the farthest corner of the domain, beyond which a radius means nothing."""

    delta: Tensor
    radius: Tensor
    limit: Tensor


@dataclass(frozen=True)
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
            raise ValueError(
                f"quantize: takes the number of levels, at least 2 (256 for 8 bits), or None, got {self.quantize!r}"
            )
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma: must lie in (0, 1), got {self.gamma}")

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        bounds = problem.domain.bounds(x0)
        if self.quantize is not None and (bounds is None or not bool(torch.isfinite(torch.stack(bounds)).all())):
            raise ValueError("quantize: needs a finite Box as the problem's domain")

    def init(self, run: Run, point: Evaluation) -> LevelSetState:
        x = point.x.detach()
        radius = x.new_full((x.shape[0], *[1] * (x.dim() - 1)), self.radius)
        bounds = run.problem.domain.bounds(x)
        if bounds is None:
            return LevelSetState(torch.zeros_like(x), radius, torch.full_like(radius, torch.inf))
        lower, upper = bounds
        limit = self._level(run, torch.where(upper - x > x - lower, upper - x, lower - x))
        return LevelSetState(torch.zeros_like(x), torch.minimum(radius, limit), limit)

    def step(self, run: Run, state: LevelSetState, point: Evaluation, index: int) -> Proposal[LevelSetState]:
        feasible = point.violation() <= run.tolerance
        descent = -point.pull_back((point.direction(0), point.counted(0)))
        size = self.final + (1 - self.final) * (1 + math.cos(math.pi * index / run.steps)) / 2
        length = _norm(descent)
        # a row without a gradient stays where it is; NaN passes, for the loop to notice
        delta = state.delta + torch.where(length == 0, 0, self.size * size * descent / length)
        rows = feasible.view(-1, *[1] * (delta.dim() - 1))
        radius = torch.where(rows, state.radius * (1 - self.gamma), state.radius * (1 + self.gamma))
        radius = torch.minimum(radius, state.limit)
        delta = delta * (radius / self._level(run, delta).clamp_min(torch.finfo(delta.dtype).tiny))
        x = run.problem.domain.project(run.x0 + delta)
        delta = x - run.x0
        if self.quantize is not None:
            x = _rounded(x, run, self.quantize)
        return Proposal(x=x, state=LevelSetState(delta, radius, state.limit))

    def _level(self, run: Run, delta: Tensor) -> Tensor:
        with torch.no_grad():
            assert run.problem.objective is not None  # refused: this solver does not take feasibility problems
            level = run.problem.objective(run.x0 + delta, None)
        return level.view(-1, *[1] * (delta.dim() - 1))


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows.flatten(1), dim=1).view(-1, *[1] * (rows.dim() - 1))


def _rounded(x: Tensor, run: Run, levels: int) -> Tensor:
    """x on the grid of ``levels`` values between the sides of the box."""
    bounds = run.problem.domain.bounds(x)
    assert bounds is not None
    lower, upper = bounds
    width = (upper - lower) / (levels - 1)
    return lower + ((x - lower) / width).round() * width
