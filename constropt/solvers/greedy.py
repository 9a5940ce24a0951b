"""Greedy accumulation of the gradient of what is still unmet: DAG (Alg. IV-1), ASMA."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import require_positive
from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.rows import per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import normalised


@dataclass(frozen=True, eq=False)
class GreedyAccumulation(Solver[Tensor]):
    """Alg. IV-1: ``delta <- delta - size g / ||g||_p``, g the gradient of the unmet entries' surrogates, summed;
    ``x = P(x0 + delta)``.

    Entries that are met, or do not count, drop out of g. delta is not clipped: an entry of x that the domain holds
    back has no gradient any more. ``p``: the norm that normalises g in every row (inf or 2), or None for g as it is;
    ``size``: a number, or a function of the evaluated point to ``(batch,)``. ``pull`` adds ``pull delta`` to g: 2
    descends the squared l2 norm of delta along with the constraints. With ``stop`` a row ends at its first feasible
    point, and the loop when all rows have; otherwise the best feasible point is kept, as always.

    Raises ``ValueError`` unless the problem has exactly one constraint, an inequality.
    """

    takes = Takes(least=1, most=1, fraction=True, surrogate=True, objective_gradient=False)

    size: float | Callable[[Evaluation], Tensor] = 0.003
    p: float | None = torch.inf
    pull: float = 0.0
    stop: bool = True
    tolerance: float | None = 0.0
    check_every: int = 1

    def __post_init__(self) -> None:
        if not callable(self.size):
            require_positive("a step", ", or a function of the point", size=self.size)

    def init(self, run: Run, point: Evaluation) -> Tensor:
        return torch.zeros_like(point.x.detach())

    def step(self, run: Run, state: Tensor, point: Evaluation, index: int) -> Proposal[Tensor]:
        feasible = point.violation() <= run.tolerance
        if self.stop and bool(feasible.all()):  # the loop looks at every step in any case
            return Proposal(x=point.x.detach(), state=state, finished=feasible)
        unmet = point.violations()[0] > 0
        gradient = point.pull_back((point.direction(0), unmet))
        raw = run.x0 + state
        # the derivative of the projection; NaN passes, for the loop to notice
        gradient = torch.where((point.x.detach() == raw) | gradient.isnan(), gradient, 0) + self.pull * state
        if self.p is not None:
            gradient = normalised(gradient, self.p)
        size = per_row(self.size(point), state) if callable(self.size) else self.size
        delta = state - size * gradient
        return Proposal(run.problem.domain.project(run.x0 + delta), delta, finished=feasible if self.stop else None)
