"""Alternating steps: where a row is infeasible reduce its constraint, where feasible its objective (PerC-AL)."""

from dataclasses import dataclass

import torch

from constropt.checks import require_positive
from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.rows import beside, per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import cosine, normalised


@dataclass(frozen=True, eq=False)
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
        require_positive(size=self.size, objective_size=self.objective_size)
        require_positive(final=self.final, objective_final=self.objective_final)

    def init(self, run: Run, point: Evaluation) -> None:
        return None

    def step(self, run: Run, state: None, point: Evaluation, index: int) -> Proposal[None]:
        down_h = self.size * cosine(1, self.final, index, run.steps)
        down_g = self.objective_size * cosine(1, self.objective_final, index, run.steps)
        x = point.x.detach()
        feasible = point.violation() <= run.tolerance
        h = point.direction(0)
        weights = point.counted(0) & ~beside(feasible, h)
        gradient = point.pull_back((h, weights), (point.objective, feasible))
        size = torch.where(feasible, down_g, down_h)
        moved = run.problem.domain.project(x - per_row(size, x) * normalised(gradient, 2))
        return Proposal(x=moved, state=None, multipliers=(weights.to(h),))
