"""Where a constraint becomes met on the way from the start to a feasible point: bisection or the secant method."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constropt.evaluation import Evaluation
from constropt.features import BOX, Takes
from constropt.problem import ConstrainedProblem
from constropt.rows import per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.linearized.alternatives import alternatives


@dataclass(frozen=True, eq=False)
class SegmentState:
    """The fractions of the way between which the boundary lies, ``(batch,)``; the alternatives' values there,
    ``(batch, m)``; the fraction under trial, and the rows that have ended."""

    low: Tensor
    high: Tensor
    at_low: Tensor
    at_high: Tensor
    trial: Tensor
    done: Tensor


@dataclass(frozen=True, eq=False)
class SegmentSearch(Solver[SegmentState]):
    """The first point of the segment from x0 to ``end``, ``(batch, *event)``, where the constraint is met, row by row.

    Two evaluations look at the ends, each further one tries a point between: the middle or, with ``secant``, the zero
    of the line through the values of the alternative that is smallest at the feasible side. n trials take ``n + 1``
    steps. Rows with an infeasible ``end``, or a feasible start, end where they are. Forward passes alone.

    Raises ``ValueError`` for an ``end`` of another shape than x0, several constraints or equalities.

    >>> from constropt import Box, inequality, solve
    >>> problem = ConstrainedProblem(
    ...     objective=lambda x, _: x.norm(dim=1),
    ...     constraints=[inequality(lambda x, _: 1 - x.sum(1))],
    ...     domain=Box(0.0, 9.0),
    ... )
    >>> solve(problem, SegmentSearch(torch.tensor([[4.0, 4.0]]), secant=True), torch.zeros(1, 2), steps=2).x
    tensor([[0.5000, 0.5000]])
    """

    takes = Takes(least=1, most=1, alternatives=True, domains=BOX, objective_gradient=False, constraint_gradients=False)

    end: Tensor
    secant: bool = False
    tolerance: float | None = 0.0

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        if self.end.shape != x0.shape:
            raise ValueError(f"end: must have the shape of x0, {tuple(x0.shape)}, got {tuple(self.end.shape)}")

    def init(self, run: Run, point: Evaluation) -> SegmentState:
        values = alternatives(point).detach()
        zero = torch.zeros_like(values[:, 0])
        return SegmentState(zero, zero + 1, values, values, zero, zero.bool())

    def step(self, run: Run, state: SegmentState, point: Evaluation, index: int) -> Proposal[SegmentState]:
        feasible = point.violation() <= run.tolerance
        values = alternatives(point).detach()
        met = feasible.unsqueeze(1)
        if index == 0:
            done, low, high, at_low, at_high, trial = feasible, state.low, state.high, values, values, state.high
        else:
            done = state.done | (~feasible & (index == 1))
            low, high = torch.where(feasible, state.low, state.trial), torch.where(feasible, state.trial, state.high)
            at_low, at_high = torch.where(met, state.at_low, values), torch.where(met, values, state.at_high)
            share = self._secant(at_low, at_high) if self.secant else 0.5
            trial = low + share * (high - low)
        between = torch.lerp(run.x0, self.end.to(run.x0), per_row(trial, run.x0).expand_as(run.x0))
        state = SegmentState(low, high, at_low, at_high, trial, done)
        return Proposal(run.problem.domain.project(between), state, finished=done)

    def _secant(self, at_low: Tensor, at_high: Tensor) -> Tensor:
        """Where between the two points the line through the values meets 0; 1 where it does not."""
        column = at_high.argmin(1, keepdim=True)
        above, below = at_low.gather(1, column).squeeze(1), at_high.gather(1, column).squeeze(1)
        share = above / (above - below)
        return torch.where((share > 0) & (share < 1), share, 1)
