"""Projection on the nearest of several linearised constraints, until one is met: DeepFool and SuperDeepFool."""

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import given, require_whole
from constropt.evaluation import Evaluation
from constropt.features import BOX, Takes
from constropt.rows import beside
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.linearized.alternatives import alternatives, beyond, nearest, onto, require_norm, smallest


@dataclass(frozen=True, eq=False)
class NearestState:
    """``order``: the columns of the alternatives in play, ``(batch, m)``; ``done``: rows that have ended; ``aligned``:
    rows whose present point came from an alignment; ``base``: what the next alignment adds to, in the shape of x."""

    order: Tensor
    done: Tensor
    aligned: Tensor
    base: Tensor


@dataclass(frozen=True, eq=False)
class NearestProjection(Solver[NearestState]):
    """min ||x - x0||_p  s.t.  one of m functions <= 0,  x in a box (DeepFool: Moosavi-Dezfooli et al., 2016).

    The functions are what the constraint declares as ``alternatives``; one that declares none is linearised itself. A
    step linearises the ``candidates`` that were smallest at x0 (None: all), goes to the nearest linearised zero in the
    p-norm, a thousandth of ``||x - x0||_p`` on, and ``overshoot`` times as far beyond, and is then clipped to the box;
    a row ends at its first feasible point.

    ``align`` (p = 2; Abroshan et al., 2023): at a feasible point the displacement is projected on the normal
    there, of unit length w, ``x <- x0 + (w . (x - x0)) w``, and the row ends when that point is feasible too; else the
    projections go on from it. With ``accumulate`` the multiple of w is added to the last such point instead of x0;
    the point where a row ends then lies far beyond the boundary, in a good direction, and is returned as it is.

    ``steps`` are iterations: one forward pass and as many backward passes as there are candidates, in one batched call.

    Raises ``ValueError`` for another p than 1, 2, inf, for several constraints or equalities, and without a box.
    """

    takes = Takes(least=1, most=1, alternatives=True, domains=BOX, objective_gradient=False)

    p: float = 2.0
    overshoot: float = 0.02
    candidates: int | None = None
    align: bool = False
    accumulate: bool = False
    tolerance: float | None = 0.0
    check_every: int = 1

    def __post_init__(self) -> None:
        require_norm(self.p)
        require_whole(**given(candidates=self.candidates))
        if not self.overshoot >= 0:
            raise ValueError(f"overshoot: takes a fraction >= 0 of the step, got {self.overshoot}; published is 0.02")
        if self.align and self.p != 2:
            raise ValueError(f"align: is for p = 2, whose steps are along normals, got p = {self.p}")
        if self.accumulate and not self.align:
            raise ValueError("accumulate: says what an alignment adds to; pass align=True too")

    def init(self, run: Run, point: Evaluation) -> NearestState:
        order = smallest(alternatives(point), self.candidates)
        none = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        return NearestState(order, none, none, run.x0)

    def step(self, run: Run, state: NearestState, point: Evaluation, index: int) -> Proposal[NearestState]:
        feasible = point.violation() <= run.tolerance
        # the start cannot be improved on
        ends = feasible & (state.aligned | (index == 0)) if self.align else feasible
        done = state.done | ends
        aligning = feasible & ~done
        if bool(done.all()):  # the loop looks at every step in any case: the last points need no gradients
            return Proposal(x=point.x.detach(), state=state, finished=done, certified=ends if self.accumulate else None)
        with torch.enable_grad():
            values = alternatives(point).gather(1, state.order)
        cut = nearest(point, values, self.p, aligning if self.align else None)
        x = point.x.detach()
        free = torch.full_like(cut.normal, torch.inf)
        move = onto(beyond(cut, x - run.x0, self.p), torch.zeros_like(free), self.p, -free, free)
        proposal = x + ((1 + self.overshoot) * move).to(x.dtype).view_as(x)
        base = state.base
        if self.align:
            share = (cut.normal * (x - run.x0).flatten(1).to(cut.normal)).sum(1, keepdim=True)
            rows = beside(aligning, x)
            proposal = torch.where(rows, base + (share * cut.normal).to(x.dtype).view_as(x), proposal)
            base = torch.where(rows, proposal, base) if self.accumulate else base
        state = NearestState(state.order, done, aligning, base)
        # the first point of the right direction is a longer way than those before it: to be searched back along
        certified = ends if self.accumulate else None
        return Proposal(run.problem.domain.project(proposal), state, finished=done, certified=certified)
