"""Projection on the linearised constraint with averaged cuts: a minimal-norm solver without a learning rate.

Of the family of DeepFool, FAB and trust-region attacks: the constraint is replaced by its linearisation (a *cut*) and
the point of least norm on it is approached. Averaging the normalised cuts replaces the line search.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from constropt.problem import ConstrainedProblem, Evaluation
from constropt.prox.projections import project_l1
from constropt.solvers.alternatives import alternatives, room
from constropt.solvers.base import Proposal, Run, Solver, refuse_fractions
from constropt.solvers.cuts import meet_l1, meet_l2, meet_linf
from constropt.solvers.directions import DUAL

_MEET = {1.0: meet_l1, 2.0: meet_l2, torch.inf: meet_linf}
_AVERAGE = {1.0: 0.5, 2.0: 0.7, torch.inf: 0.7}
_TRUST = {1.0: 0.3, 2.0: 0.5, torch.inf: 0.5}
_REACH = {1.0: 10.0, 2.0: 1.0, torch.inf: 0.3}

# From this shrinking on less and less entries move together.
_SPREADING = 0.2
# The overshoot is kept within these limits, and is relative to at least this norm.
_LEAST, _MOST, _SMALLEST = 1e-3, 10.0, 1e-5


@dataclass(frozen=True)
class Cut:
    """The half-space ``normal . delta + offset <= 0`` of every row: ``(batch, n)`` and ``(batch,)``."""

    normal: Tensor
    offset: Tensor

    def where(self, rows: Tensor, other: Cut) -> Cut:
        """This cut where ``rows``, the other one elsewhere."""
        return Cut(
            torch.where(rows.unsqueeze(1), self.normal, other.normal), torch.where(rows, self.offset, other.offset)
        )


@dataclass(frozen=True)
class CutState:
    """What the next step needs, all ``(batch, ...)``.

    ``average``: the averaged cut; ``overshoot``: how far beyond it to go, relative to the norm; ``best``: the smallest
    feasible norm so far (infinite: none); ``order``: the alternatives by their value at the start; ``nearest`` and
    ``second``: the two nearest of the explored cuts at the start, ``distances`` how far they are.
    """

    average: Cut
    overshoot: Tensor
    best: Tensor
    order: Tensor
    nearest: Cut
    second: Cut
    distances: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LinearizedProjection(Solver[CutState]):
    """min ||x - x0||_p  s.t.  h(x) <= 0,  x in a finite box: one inequality, p in {1, 2, inf}.

    The objective must be the p-norm of the difference to the start. Where the constraint declares ``alternatives``
    (it is met iff one of them is: the classes of an attack), the ``explore`` smallest at x0 are linearised there, one
    pass each, and the nearest is taken first; afterwards each step linearises the smallest one at its point. A
    constraint without them is linearised itself, of several entries the worst.

    One step, for delta = x - x0 and q dual to p: the cut is normalised, ``g / ||g||_q``, and averaged with the
    earlier ones (weight ``average`` on these); delta is shrunk by ``1 + tau``, tau falling geometrically over
    ``shrink``, then moved to where the averaged cut is met exactly inside the box, with an overshoot that halves
    where the row is feasible and doubles where not; the move is limited to ``trust`` times the best norm found
    (before: the current norm, at least ``reach``). From ``runs * restart_after`` steps on the budget is split into
    ``runs`` (1 or 2) runs, the second from x0 towards the second-nearest alternative: another basin. One forward and
    one backward pass a step.

    For p = 1 delta is shrunk by soft thresholding, and moves in the ``spread`` of the largest entries of the cut at
    once (:func:`~constropt.solvers.cuts.meet_l1`), which falls to 0 with tau from ``tau = 0.2`` on: the exact vertex
    of one linearisation is far from that of the next.

    ``average``, ``trust`` and ``reach`` (in the input's units) default by p: 0.5, 0.7, 0.7; 0.3, 0.5, 0.5; and 10, 1,
    0.3 for p = 1, 2, inf. Raises ``ValueError`` for another p, equalities or several constraints, and for a domain
    that is no finite box.
    """

    p: float = 2.0
    explore: int = 3
    average: float | None = None
    shrink: tuple[float, float] = (3.0, 0.01)
    spread: float = 0.3
    trust: float | None = None
    reach: float | None = None
    runs: int = 2
    restart_after: int = 100
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        if self.p not in _MEET:
            raise ValueError(f"p: takes 1, 2 or inf, got {self.p!r}")
        if self.average is not None and not 0 <= self.average < 1:
            raise ValueError(f"average: must lie in [0, 1), got {self.average}; 0 uses the last cut alone")
        if not 0 <= self.spread <= 1:
            raise ValueError(f"spread: must lie in [0, 1], got {self.spread}; 0 moves the largest entry first")
        if self.explore < 1 or self.runs not in (1, 2):
            raise ValueError(f"explore, runs: need explore >= 1 and runs 1 or 2, got {self.explore} and {self.runs}")

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        if len(problem.constraints) != 1 or problem.constraints[0].equality:
            raise ValueError(
                "constraints: LinearizedProjection takes exactly one inequality;"
                " use solve(problem, None, ...) for others"
            )
        refuse_fractions(problem, self)
        bounds = problem.domain.bounds(x0)
        if bounds is None or not bool(torch.stack(bounds).isfinite().all()):
            raise ValueError(f"domain: LinearizedProjection needs a finite Box, got {problem.domain}")

    def init(self, run: Run, point: Evaluation) -> CutState:
        values = alternatives(point).detach()
        batch, n = point.x.shape[0], point.x[0].numel()
        none = Cut(values.new_zeros(batch, n), values.new_zeros(batch))  # a cut without a normal says nothing
        ones = torch.ones_like(none.offset)
        explored = min(self.explore, values.shape[1], max(1, run.steps // 4))
        order = values.nan_to_num(nan=torch.inf).argsort(dim=1)[:, :explored]
        infinite = ones * torch.inf
        return CutState(none, ones, infinite, order, none, none, (infinite, infinite))

    def step(self, run: Run, state: CutState, point: Evaluation, index: int) -> Proposal[CutState]:
        delta = (point.x.detach() - run.x0).flatten(1).to(state.average.normal.dtype)
        explored, start, count = state.order.shape[1], *self._schedule(run, state, index)
        feasible = point.violation() <= run.tolerance
        norm = torch.linalg.vector_norm(delta, ord=self.p, dim=1)
        best = torch.where(feasible, torch.minimum(norm, state.best), state.best)

        cut = self._cut(point, delta, state.order[:, index] if index < explored else None)
        average, overshoot = state.average, state.overshoot
        if index < explored:  # still at x0
            state = self._explored(run, state, cut, delta)
            average = state.nearest
        elif index == start:  # the second run: back to x0, towards the runner-up
            average, overshoot = state.second, torch.ones_like(overshoot)
            delta, norm = torch.zeros_like(delta), torch.zeros_like(norm)
        else:
            weight = _AVERAGE[self.p] if self.average is None else self.average
            average = Cut(
                torch.lerp(cut.normal, average.normal, weight), torch.lerp(cut.offset, average.offset, weight)
            )
            overshoot = (overshoot * torch.where(feasible, 0.5, 2.0)).clamp(_LEAST, _MOST)

        state = replace(state, average=average, overshoot=overshoot, best=best)
        multipliers = tuple(torch.zeros_like(v) for v in point.values)
        if index < explored - 1:
            return Proposal(x=point.x.detach(), state=state, multipliers=multipliers)
        first, last = self.shrink
        tau = first * (last / first) ** ((index - start) / max(count - 1, 1))
        moved = self._move(run, state, delta, norm, tau)
        x = run.x0 + moved.to(run.x0.dtype).view_as(run.x0)
        return Proposal(x=run.problem.domain.project(x), state=state, multipliers=multipliers)

    def _schedule(self, run: Run, state: CutState, index: int) -> tuple[int, int]:
        """The index of the present run's first move, and the number of its moves."""
        explored = state.order.shape[1]
        half = run.steps // 2
        if self.runs == 1 or run.steps < 2 * self.restart_after or explored < 2:
            return explored - 1, run.steps - explored + 1
        return (explored - 1, half - explored + 1) if index < half else (half, run.steps - half)

    def _explored(self, run: Run, state: CutState, cut: Cut, delta: Tensor) -> CutState:
        """The state after another cut at x0, ranked by the exact distance to it within the box."""
        lower, upper = room(run.problem, run.x0, delta)
        met = _MEET[self.p](delta, cut.normal, -cut.offset, lower, upper)
        # the cuts that say nothing or cannot be met are the farthest
        reached = ((cut.normal * met).sum(1) + cut.offset) <= 1e-4 * cut.offset.abs()
        length = torch.linalg.vector_norm(met, ord=self.p, dim=1)
        distance = torch.where(reached & cut.normal.any(1), length, torch.inf)
        first, next_ = state.distances
        closer = distance < first
        runner_up = closer | (distance < next_)
        distances = (
            torch.where(closer, distance, first),
            torch.where(closer, first, torch.where(runner_up, distance, next_)),
        )
        second = state.nearest.where(closer, cut.where(runner_up, state.second))
        return replace(state, nearest=cut.where(closer, state.nearest), second=second, distances=distances)

    def _cut(self, point: Evaluation, delta: Tensor, chosen: Tensor | None) -> Cut:
        """The normalised linearisation at the point: of the ``chosen`` alternatives, else of the smallest."""
        with torch.enable_grad():
            values = alternatives(point)
            value = values.amin(1) if chosen is None else values.gather(1, chosen.unsqueeze(1)).squeeze(1)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), point.x)
        else:
            gradient = torch.zeros_like(point.x)
        g = gradient.flatten(1).to(delta.dtype)
        length = torch.linalg.vector_norm(g, ord=DUAL[self.p], dim=1)
        flat = length == 0  # no direction: a cut that says nothing
        length = torch.where(flat, 1, length)
        normal = g / length.unsqueeze(1)
        offset = value.detach().to(delta.dtype) / length - (normal * delta).sum(1)
        return Cut(normal, torch.where(flat, 0, offset))

    def _move(self, run: Run, state: CutState, delta: Tensor, norm: Tensor, tau: float) -> Tensor:
        """The next delta: shrunk, on the averaged cut, within the trust region."""
        lower, upper = room(run.problem, run.x0, delta)
        cut = state.average
        beyond = (
            state.overshoot * norm.clamp_min(_SMALLEST) * torch.linalg.vector_norm(cut.normal, ord=DUAL[self.p], dim=1)
        )
        if self.p == 1:
            start = project_l1(delta, norm / (1 + tau))
            met = meet_l1(start, cut.normal, -cut.offset - beyond, lower, upper, self.spread * min(1, tau / _SPREADING))
        else:
            met = _MEET[self.p](delta / (1 + tau), cut.normal, -cut.offset - beyond, lower, upper)
        trust = _TRUST[self.p] if self.trust is None else self.trust
        reach = _REACH[self.p] if self.reach is None else self.reach
        radius = trust * torch.where(state.best.isfinite(), state.best, norm.clamp_min(reach))
        step = met - delta
        length = torch.linalg.vector_norm(step, ord=self.p, dim=1)
        fraction = (radius / torch.where(length > 0, length, 1)).clamp_max(1)
        return delta + fraction.unsqueeze(1) * step
