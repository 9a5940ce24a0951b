"""Alternating steps: where a row is infeasible reduce its constraint, where feasible its objective (PerC-AL)."""

import math
from dataclasses import dataclass

import torch

from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.rows import per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import normalised


@dataclass(frozen=True)
class Alternating(Solver[None]):
    """min g(x) s.t. h(x) <= 0, by normalised steps down h where it is violated and down g where it is met (Alg. 1.4).

    ``x <- P(x - size dh / ||dh||_2)`` in infeasible rows, h by its surrogate where it has one, and ``x <- P(x -
    objective_size dg / ||dg||_2)`` in feasible ones (Zhao, Liu & Larson, CVPR 2020). Both sizes, in the units of x,
    decay along a cosine, to ``final`` and ``objective_final`` times themselves. Each row takes the one gradient that
    it needs: one backward pass a step. Rows without a gradient stay.

    Raises ``ValueError`` unless the problem has exactly one constraint, an inequality, and no nonsmooth term, and for
    sizes that are not > 0.

    >>> from constropt import ConstrainedProblem, inequality, solve
    >>> problem = ConstrainedProblem(
    ...     objective=lambda x, _: x.norm(dim=1), constraints=[inequality(lambda x, _: 1.0 - x[:, 0])]
    ... )
    >>> solution = solve(problem, Alternating(), torch.full((1, 2), 0.1), steps=200)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 1)
    ([True], 1.0)
    """

    takes = Takes(least=1, most=1, fraction=True, surrogate=True)

    size: float = 1.0
    objective_size: float = 0.5
    final: float = 0.01
    objective_final: float = 0.1
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        for name in ("size", "objective_size", "final", "objective_final"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be > 0, got {getattr(self, name)}")

    def init(self, run: Run, point: Evaluation) -> None:
        return None

    def step(self, run: Run, state: None, point: Evaluation, index: int) -> Proposal[None]:
        cosine = (1 + math.cos(math.pi * index / run.steps)) / 2
        down_h = self.size * (self.final + (1 - self.final) * cosine)
        down_g = self.objective_size * (self.objective_final + (1 - self.objective_final) * cosine)
        x = point.x.detach()
        feasible = point.violation() <= run.tolerance
        h = point.direction(0)
        weights = point.counted(0) & ~feasible.view(-1, *[1] * (h.dim() - 1))
        gradient = point.pull_back((h, weights), (point.objective, feasible))
        size = torch.where(feasible, down_g, down_h)
        moved = run.problem.domain.project(x - per_row(size, x) * normalised(gradient, 2))
        return Proposal(x=moved, state=None, multipliers=(weights.to(h),))
