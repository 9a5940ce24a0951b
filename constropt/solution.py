"""What a solver returns: the best point of every row, what is known of it, and whether it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from constropt.evaluation import Evaluation
from constropt.problem import ConstrainedProblem
from constropt.rows import beside, by_row


class Status(IntEnum):
    """How a row ended. ``Status(int).message`` says it in words."""

    CONVERGED = 0
    APPROXIMATE = 1
    BUDGET_SPENT = 2
    INFEASIBLE = 3
    UNBOUNDED = 4
    DIVERGED = 5

    @property
    def message(self) -> str:
        return _MESSAGES[self]


_MESSAGES = {
    Status.CONVERGED: "converged: the KKT conditions hold to the tolerance (to first order: a saddle is not excluded)",
    Status.APPROXIMATE: "approximate KKT point: feasible and stationary, but the multipliers do not settle",
    Status.BUDGET_SPENT: "budget spent: the best point found within the steps is returned",
    Status.INFEASIBLE: "infeasible: the violation has a positive minimum here; the least violating point is returned",
    Status.UNBOUNDED: "unbounded: the objective decreases without limit on feasible points",
    Status.DIVERGED: "diverged: a value or gradient became non-finite; the best point before is returned",
}


class KKTResiduals(NamedTuple):
    """First-order optimality of each row, ``(batch,)`` each; all zero at a KKT point.

    ``stationarity``: ``||P_C(x - dL/dx) - x||_inf`` with L the Lagrangian; ``feasibility``: the largest violation of a
    counted entry; ``complementarity``: the largest ``|min(mu, -y)|`` of an inequality entry, 0 for equalities.
    """

    stationarity: Tensor
    feasibility: Tensor
    complementarity: Tensor


def kkt_residuals(
    problem: ConstrainedProblem[Any], point: Evaluation, multipliers: Sequence[Tensor], gradient: Tensor | None = None
) -> KKTResiduals:
    """The residuals at an evaluated point for given multipliers, one tensor per constraint, broadcastable to its value.

    ``gradient`` is that of the Lagrangian at these multipliers, where the caller has it already.
    """
    if gradient is None:
        weights = [m if mask is None else torch.where(mask, m, 0) for m, mask in zip(multipliers, point.masks)]
        gradient = point.gradient(1.0, weights)
    x = point.x.detach()
    forward_step = x - gradient
    if problem.nonsmooth is not None:
        forward_step = problem.nonsmooth.prox(forward_step, 1.0)
    stationarity = (problem.domain.project(forward_step) - x).abs().flatten(1).amax(1)
    gaps = [
        by_row(torch.where(point.counted(i), torch.minimum(mu.expand_as(y), -y.detach()).abs(), 0)).amax(1)
        for i, (mu, y, equal) in enumerate(zip(multipliers, point.values, point.equalities))
        if not equal and y.numel()
    ]
    complementarity = torch.stack(gaps).amax(0) if gaps else torch.zeros_like(stationarity)
    return KKTResiduals(stationarity, point.violation(), complementarity)


@dataclass(frozen=True, eq=False)
class Solution:
    """The result of :func:`constropt.solve`, one entry per row unless said otherwise.

    ``x`` is the best feasible iterate, else the least violating one; ``objective``, ``violation`` and ``feasible``
    are those of a clean forward pass on exactly this ``x``. ``status`` holds :class:`Status` codes, ``multipliers``
    the estimates at ``x`` (one tensor per constraint), ``duals`` the solver's final dual state (a warm start).
    ``forwards`` and ``backwards`` count the model passes spent on each row; ``first_feasible`` is the step that first
    met all constraints, -1 if none did. ``trace`` is what the solver recorded per step, if asked.
    """

    problem: ConstrainedProblem[Any] = field(repr=False)
    x: Tensor = field(repr=False)
    objective: Tensor
    feasible: Tensor
    violation: Tensor
    status: Tensor
    multipliers: tuple[Tensor, ...] = field(repr=False)
    duals: Any = field(repr=False)
    forwards: Tensor = field(repr=False)
    backwards: Tensor = field(repr=False)
    first_feasible: Tensor = field(repr=False)
    trace: dict[str, Tensor] | None = field(default=None, repr=False)

    def kkt(self) -> KKTResiduals:
        """The residuals at ``x`` with ``multipliers``: one more forward and backward pass.

        A feasible point alone proves nothing about optimality; small residuals do, to first order.
        """
        return kkt_residuals(self.problem, self.problem.evaluate(self.x), self.multipliers)

    def messages(self) -> list[str]:
        """The status of each row in words."""
        return [Status(code).message for code in self.status.tolist()]


def continued(earlier: Solution, later: Solution) -> Solution:
    """``later``, which went on from ``earlier``, with the passes of both."""
    return replace(later, forwards=earlier.forwards + later.forwards, backwards=earlier.backwards + later.backwards)


def best_of(first: Solution, *others: Solution) -> Solution:
    """The best of several solutions of one problem from the same start, row by row; passes are added up.

    Feasible beats infeasible; among feasible rows the lower objective wins, among infeasible ones the lower violation,
    and the earlier solution in a tie. ``duals`` and ``trace`` are the first solution's.
    """
    best = first
    for other in others:
        better = _better(other.feasible, other.objective, other.violation, best)

        def chosen(new: Tensor, old: Tensor, rows: Tensor = better) -> Tensor:
            return torch.where(beside(rows, old), new, old)

        later = best.first_feasible < 0
        taken = {
            name: chosen(getattr(other, name), getattr(best, name))
            for name in ("x", "objective", "feasible", "violation", "status")
        }
        multipliers = tuple(chosen(new, old) for new, old in zip(other.multipliers, best.multipliers))
        first_feasible = torch.where(later & (other.first_feasible >= 0), other.first_feasible, best.first_feasible)
        best = continued(other, replace(best, **taken, multipliers=multipliers, first_feasible=first_feasible))
    return best


def _better(feasible: Tensor, objective: Tensor, violation: Tensor, best: Solution | BestPoint) -> Tensor:
    """Feasible beats infeasible; the lower objective wins among feasible rows, the lower violation among others."""
    lower, less = objective < best.objective, violation < best.violation
    return torch.where(feasible, ~best.feasible | lower, ~best.feasible & less)


@dataclass(eq=False)
class BestPoint:
    """Running record of the best point of every row: the one place where "best" is decided.

    Feasible beats infeasible; among feasible rows the lower objective wins, among infeasible ones the lower
    violation. A non-finite value never wins. Rows that the solver certifies as converged are taken as they are and
    then kept.
    """

    x: Tensor
    objective: Tensor
    violation: Tensor
    feasible: Tensor
    first_feasible: Tensor
    certified: Tensor
    multipliers: tuple[Tensor, ...]

    @classmethod
    def start(cls, x: Tensor, point: Evaluation) -> BestPoint:
        infinite = torch.full_like(point.objective.detach(), torch.inf)
        none = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
        never = torch.full((x.shape[0],), -1, device=x.device)
        multipliers = tuple(torch.zeros_like(v) for v in point.values)
        return cls(x.clone(), infinite, infinite.clone(), none, never, none.clone(), multipliers)

    def update(
        self,
        point: Evaluation,
        tolerance: float,
        step: int,
        multipliers: Sequence[Tensor] | None = None,
        certified: Tensor | None = None,
    ) -> None:
        """Take the better (or ``certified``) rows of ``point`` over; rows of one problem are judged together."""
        objective, violation = point.total(), point.violation()
        if not point.independent:
            objective = objective.sum().expand_as(objective)
        feasible = (violation <= tolerance) & objective.isfinite()
        better = _better(feasible, objective, violation, self) & objective.isfinite()
        if certified is not None:
            better = better | certified
        better = better & ~self.certified
        self.certified = self.certified if certified is None else self.certified | certified
        self.first_feasible = torch.where(feasible & (self.first_feasible < 0), step, self.first_feasible)
        self.x = torch.where(beside(better, self.x), point.x.detach(), self.x)
        self.objective = torch.where(better, objective, self.objective)
        self.violation = torch.where(better, violation, self.violation)
        self.feasible = torch.where(better, feasible, self.feasible)
        if multipliers is not None:
            self.multipliers = tuple(
                torch.where(beside(better, old), new.detach().to(old).expand_as(old), old)
                for new, old in zip(multipliers, self.multipliers)
            )
