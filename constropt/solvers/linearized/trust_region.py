"""First-order steps towards one linearised constraint, in a trust region that adapts (Alg. 1.3; Yao et al., 2019)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import given, require_whole
from constropt.evaluation import Evaluation
from constropt.features import BOX, Takes
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.linearized.alternatives import alternatives, beyond, nearest, require_norm, smallest


@dataclass(frozen=True, eq=False)
class RegionState:
    """Per row: the columns in play, ``(batch, m)``, later the chosen one, ``(batch, 1)``; the ``radius``; the chosen
    ``value`` at the last point and its ``predicted`` decrease by the last step; the rows that have ended. ``(batch,)``.
    """

    columns: Tensor
    radius: Tensor
    value: Tensor
    predicted: Tensor
    done: Tensor


@dataclass(frozen=True, eq=False)
class TrustRegion(Solver[RegionState]):
    """min ||x - x0||_p  s.t.  one of m functions <= 0,  x in a box, p = 2 or inf, by Alg. 1.3.

    Of the ``candidates`` that are smallest at x0 (None: all) the one whose linearised zero is nearest there is
    followed. With g its gradient and f its value, a step goes ``min(radius, f / ||g||_q)`` along the steepest direction
    of the p-norm (a thousandth of ``||x - x0||_p`` on, within the radius), and ``overshoot`` times as far beyond. The
    decrease of f over what the gradient predicts of the step, after clipping, then decides: above ``high`` the radius
    grows by the factor ``eta``, at most to ``most``; below ``low`` it shrinks by it, at least to ``least``. With
    ``eta=1`` it is constant. A row ends at its first feasible point.

    One forward and one backward pass a step; the first has a backward pass for every candidate, in one batched call.

    Raises ``ValueError`` for another p, several constraints or equalities, without a box, and for values out of range.
    """

    takes = Takes(least=1, most=1, alternatives=True, domains=BOX, objective_gradient=False)

    p: float = 2.0
    radius: float = 0.001
    least: float = 0.0005
    most: float = 0.05
    eta: float = 1.2
    low: float = 0.5
    high: float = 0.9
    overshoot: float = 0.02
    candidates: int | None = None
    tolerance: float | None = 0.0
    check_every: int = 1

    def __post_init__(self) -> None:
        require_norm(self.p, (2.0, torch.inf))
        require_whole(**given(candidates=self.candidates))
        least, most = self.least, self.most
        if not 0 < least <= self.radius <= most:
            raise ValueError(f"radius: needs 0 < least <= radius <= most, got {least}, {self.radius} and {most}")
        if not self.eta >= 1:
            raise ValueError(f"eta: takes a factor >= 1, got {self.eta}; 1 keeps the radius constant")
        if not self.low <= self.high:
            raise ValueError(f"low, high: need low <= high, got {self.low} and {self.high}")
        if not self.overshoot >= 0:
            raise ValueError(f"overshoot: takes a fraction >= 0 of the step, got {self.overshoot}; published is 0.02")

    def init(self, run: Run, point: Evaluation) -> RegionState:
        values = alternatives(point).detach()
        zero = torch.zeros_like(values[:, 0])
        return RegionState(smallest(values, self.candidates), zero + self.radius, zero, zero, zero.bool())

    def step(self, run: Run, state: RegionState, point: Evaluation, index: int) -> Proposal[RegionState]:
        feasible = point.violation() <= run.tolerance
        done = state.done | feasible
        if bool(done.all()):  # the loop looks at every step in any case: the last points need no gradients
            return Proposal(x=point.x.detach(), state=state, finished=done)
        with torch.enable_grad():
            values = alternatives(point).gather(1, state.columns)
        cut = nearest(point, values, self.p)
        value = values.detach().gather(1, cut.index.unsqueeze(1)).squeeze(1)
        radius = self._adapted(state, value) if index else state.radius
        x = point.x.detach()
        distance = torch.minimum(beyond(cut, x - run.x0, self.p).value.clamp_min(0), radius)
        steepest = cut.normal if self.p == 2 else cut.normal.sign()
        step = -(1 + self.overshoot) * distance.unsqueeze(1) * steepest
        moved = run.problem.domain.project(x + step.to(x.dtype).view_as(x))
        predicted = -cut.scale * (cut.normal * (moved - x).flatten(1).to(step)).sum(1)
        columns = state.columns.gather(1, cut.index.unsqueeze(1))
        return Proposal(moved, RegionState(columns, radius, value, predicted, done), finished=done)

    def _adapted(self, state: RegionState, value: Tensor) -> Tensor:
        """The radius after a step that has brought the chosen function to ``value``."""
        decrease = state.value - value
        grown = (state.radius * self.eta).clamp_max(self.most)
        shrunk = (state.radius / self.eta).clamp_min(self.least)
        radius = torch.where(decrease > self.high * state.predicted, grown, state.radius)
        return torch.where(decrease < self.low * state.predicted, shrunk, radius)
