"""Projection of the point and of the start on the nearest linearised boundary, from both sides of it: FAB."""

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import given, require_whole, require_within
from constropt.evaluation import Evaluation
from constropt.features import BOX, Takes
from constropt.rows import beside, per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import normalised, row_norm
from constropt.solvers.linearized.alternatives import alternatives, nearest, onto, require_norm, room, smallest


@dataclass(frozen=True, eq=False)
class BoundaryState:
    """``order``: the columns of the alternatives in play, ``(batch, m)``; ``best``: the least norm of a feasible point
    (infinite: none); ``done``: rows whose start is feasible."""

    order: Tensor
    best: Tensor
    done: Tensor


@dataclass(frozen=True, eq=False)
class BoundaryProjection(Solver[BoundaryState]):
    """min ||x - x0||_p  s.t.  one of m functions <= 0,  x in a box (FAB: Croce & Hein, 2020).

    The functions are what the constraint declares as ``alternatives``. A step linearises the ``candidates`` that were
    smallest at x0 (None: all) and takes the hyperplane pi that is nearest to x in the p-norm. With P the exact
    projection on pi within the box, ``d = P(x) - x``, ``d0 = P(x0) - x0`` and ``a = min(||d|| / (||d|| + ||d0||),
    alpha)``:

        x <- clip((1 - a) (x + eta d) + a (x0 + eta d0))

    A feasible x is kept if it is the best, and the next step starts from ``x0 + beta (x - x0)``. ``steps`` is split
    into ``runs``; all but the first start at random, ``min(best norm, radius) / 2`` away from x0. With ``single`` each
    run follows one alternative alone, the smallest at x0 first, and only those after the last one start at random.

    An iteration is two forward passes (one at the very first) and as many backward passes as there are alternatives in
    play, in one batched call. The random draw is the same in all rows, from a generator of its own.

    Raises ``ValueError`` for another p than 1, 2, inf, for several constraints or equalities, and without a box.
    """

    takes = Takes(least=1, most=1, alternatives=True, domains=BOX, objective_gradient=False)

    p: float = 2.0
    alpha: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    candidates: int | None = None
    runs: int = 1
    radius: float = 1.0
    single: bool = False
    seed: int = 0
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        require_norm(self.p)
        require_whole(**given(candidates=self.candidates))
        require_within("[0, 1]", alpha=self.alpha, beta=self.beta)
        if not self.eta >= 1:
            raise ValueError(f"eta: takes an extrapolation >= 1, got {self.eta}; published is 1.05")
        if self.runs < 1 or not self.radius > 0:
            raise ValueError(f"runs, radius: need runs >= 1 and radius > 0, got {self.runs} and {self.radius}")

    def init(self, run: Run, point: Evaluation) -> BoundaryState:
        values = alternatives(point)
        infinite = torch.full_like(values[:, 0].detach(), torch.inf)
        return BoundaryState(smallest(values, self.candidates), infinite, torch.zeros_like(infinite, dtype=torch.bool))

    def step(self, run: Run, state: BoundaryState, point: Evaluation, index: int) -> Proposal[BoundaryState]:
        feasible = point.violation() <= run.tolerance
        x = point.x.detach()
        norm = row_norm((x - run.x0).to(state.best), self.p)
        best = torch.where(feasible, torch.minimum(state.best, norm), state.best)
        done = state.done | (feasible & (index == 0))

        number, first = self._run(run, index)
        if index:
            base = torch.where(beside(feasible, x), run.x0 + self.beta * (x - run.x0), x)
            point = run.evaluate(self._start(run, best, number, state.order.shape[1]) if first else base)
        order = state.order
        if self.single:
            column = number % order.shape[1]
            order = order[:, column : column + 1]
        moved = run.problem.domain.project(self._move(run, point, order))
        return Proposal(moved, BoundaryState(state.order, best, done), finished=done)

    def _run(self, run: Run, index: int) -> tuple[int, bool]:
        """The number of the run that a step belongs to, and whether it is the first of it."""
        length = max(run.steps // self.runs, 1)
        number = min(index // length, self.runs - 1)
        return number, index == number * length

    def _start(self, run: Run, best: Tensor, number: int, alternatives: int) -> Tensor:
        """x0, or a point near it at random."""
        if self.single and number < alternatives:
            return run.x0
        generator = torch.Generator().manual_seed(self.seed + number)
        draw = torch.empty(1, run.x0[0].numel(), dtype=torch.float64)
        draw = 2 * draw.uniform_(generator=generator) - 1 if self.p == torch.inf else draw.normal_(generator=generator)
        draw = normalised(draw, self.p).to(run.x0).view(1, *run.x0.shape[1:])
        return run.problem.domain.project(run.x0 + per_row(best.clamp_max(self.radius) / 2, run.x0) * draw)

    def _move(self, run: Run, point: Evaluation, order: Tensor) -> Tensor:
        """The convex combination of the two extrapolated projections, before it is clipped."""
        with torch.enable_grad():
            values = alternatives(point).gather(1, order)
        cut = nearest(point, values, self.p)
        x = point.x.detach()
        # all in coordinates relative to x, where the cut needs no difference of large numbers
        lower, upper = room(run.problem, x, cut.normal)
        zero, start = torch.zeros_like(cut.normal), (run.x0 - x).flatten(1).to(cut.normal)
        d = onto(cut, zero, self.p, lower, upper)
        d0 = onto(cut, start, self.p, lower, upper) - start
        length, length0 = row_norm(d, self.p), row_norm(d0, self.p)
        share = (length / (length + length0).clamp_min(torch.finfo(d.dtype).tiny)).clamp_max(self.alpha).unsqueeze(1)
        move = (1 - share) * self.eta * d + share * (start + self.eta * d0)
        return x + move.to(x.dtype).view_as(x)
