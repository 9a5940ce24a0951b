"""Projection on the linearised constraint with averaged cuts: a minimal-norm solver without a learning rate.

Of the family of DeepFool, FAB and trust-region attacks: the constraint is replaced by its linearisation (a *cut*) and
the point of least norm on it is approached. Averaging the normalised cuts replaces the line search.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from constropt.checks import given, require_within
from constropt.evaluation import Evaluation
from constropt.features import FINITE_BOX, Takes
from constropt.prox import project_l1
from constropt.rows import mixed
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import DUAL
from constropt.solvers.linearized.alternatives import alternatives, require_norm, room
from constropt.solvers.linearized.cuts import meet_l1, meet_l2, meet_linf

_MEET = {1.0: meet_l1, 2.0: meet_l2, torch.inf: meet_linf}
_REACH = {1.0: 10.0, 2.0: 1.0, torch.inf: 0.3}

# The kinds of runs, in their order; the first is from x0 towards the nearest alternative.
_TO_SECOND, _FROM_ASIDE, _FROM_FARTHER, _FROM_BEST = 1, 2, 3, 4
# How far towards the middle of the box the runs start that start neither at x0 nor at the best point.
_ASIDE = {_FROM_ASIDE: 0.3, _FROM_FARTHER: 0.6}
# The run from the best point settles: the weight of the earlier cuts rises, that of the new one scales the moves.
_SETTLING = (0.3, 0.9)
# From this shrinking on less and less entries move together.
_SPREADING = 0.2
# The overshoot is kept within these limits, the lower one falling in a run, and is relative to at least this norm.
_LEAST, _MOST, _SMALLEST = (1e-3, 1e-5), 10.0, 1e-5


@dataclass(frozen=True)
class _Pace:
    """The weight of the earlier cuts, the shrinking, the trust region, how many runs, and the least length of one."""

    average: float
    shrink: tuple[float, float]
    trust: float
    runs: int
    restart_after: int


# A half-space at a time can be met in long steps; the corner of several, met together, and sparse points cannot.
_FAST = _Pace(0.5, (10.0, 0.3), 1.0, 5, 25)
_SLOW = {
    1.0: _Pace(0.5, (3.0, 0.01), 0.3, 2, 100),
    2.0: _Pace(0.7, (3.0, 0.01), 0.5, 1, 100),
    torch.inf: _Pace(0.7, (3.0, 0.01), 0.5, 1, 100),
}


@dataclass(frozen=True, eq=False)
class Cut:
    """The half-space ``normal . delta + offset <= 0`` of every row: ``(batch, n)`` and ``(batch,)``."""

    normal: Tensor
    offset: Tensor


@dataclass(frozen=True, eq=False)
class CutState:
    """What the next step needs, all ``(batch, ...)``.

    ``average``: the averaged cut; ``overshoot``: how far beyond it to go, relative to the norm; ``best``: the smallest
    feasible norm so far (infinite: none), of the delta ``closest``; ``order``: the alternatives by their value at the
    start; ``nearest`` and ``second``: the two nearest of the explored cuts at the start, ``distances`` how far.
    """

    average: Cut
    overshoot: Tensor
    best: Tensor
    closest: Tensor
    order: Tensor
    nearest: Cut
    second: Cut
    distances: tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class LinearizedProjection(Solver[CutState]):
    """min ||x - x0||_p  s.t.  h(x) <= 0,  x in a finite box: one inequality, p in {1, 2, inf}.

    The objective must be the p-norm of the difference to the start. Where the constraint declares ``alternatives``
    (it is met iff one of them is: the classes of an attack), the ``explore`` smallest at x0 are linearised there, one
    pass each, and the nearest is taken first; afterwards each step linearises the smallest one at its point. A
    constraint without them is linearised itself, of several entries the worst.

    One step, for delta = x - x0 and q dual to p: the cut is normalised, ``g / ||g||_q``, and averaged with the
    earlier ones (weight ``average`` on these); delta is shrunk by ``1 + tau``, tau falling geometrically over
    ``shrink``, then moved to where the averaged cut is met exactly inside the box, with an overshoot that halves
    where the row is feasible and doubles where not (at least 1e-3 of the norm, at the end of a run 1e-5); the move is
    limited to ``trust`` times the best norm found (before: the current norm, at least ``reach``). One forward and one
    backward pass a step; where the next run starts elsewhere, the last point of a run needs no gradient.

    The budget is split evenly into as many runs as can have ``restart_after`` steps, ``runs`` (1 to 5) at most, since a
    row ends in the basin that its first steps choose: the second is from x0 towards the second-nearest alternative, the
    third from a point 0.3 of the way to the middle of the box, where gradients differ, and of four or five the last is
    from the best point of all and settles: the weight of the earlier cuts rises from 0.3 to 0.9, unless ``average`` is
    given, and ``trust`` is times one minus it. The fourth of five is from 0.6 of the way. Where only one alternative
    was linearised the second is left out.

    For p = 1 delta is shrunk by soft thresholding, and moves in the ``spread`` of the largest entries of the cut at
    once (``meet_l1``), which falls to 0 with tau from ``tau = 0.2`` on: the exact vertex of one linearisation is far
    from that of the next. What is None depends on p and on the constraint. For p = 2 and inf, with at least two
    alternatives: ``average`` 0.5,
    ``shrink`` from 10 to 0.3, ``trust`` 1, ``runs`` 5, ``restart_after`` 25. Without them the constraint may be the
    largest of several, such as a target before all other classes, and the averaged cut has to settle on their corner:
    0.7, 3 to 0.01, 0.5, one run. For p = 1 always 0.5, 3 to 0.01, 0.3, 2 and 100. ``reach`` (in the input's units) is
    10, 1, 0.3 for p = 1, 2, inf. Raises ``ValueError`` for another p, equalities or several constraints, and for a
    domain that is no finite box.
    """

    takes = Takes(least=1, most=1, alternatives=True, domains=FINITE_BOX, objective_gradient=False)

    p: float = 2.0
    explore: int = 3
    average: float | None = None
    shrink: tuple[float, float] | None = None
    spread: float = 0.3
    trust: float | None = None
    reach: float | None = None
    runs: int | None = None
    restart_after: int | None = None
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        require_norm(self.p)
        require_within("[0, 1)", "must lie", " (0 uses the last cut alone)", **given(average=self.average))
        require_within("[0, 1]", "must lie", " (0 moves the largest entry first)", spread=self.spread)
        if self.explore < 1 or self.runs not in (None, 1, 2, 3, 4, 5):
            raise ValueError(f"explore, runs: need explore >= 1 and 1 to 5 runs, got {self.explore} and {self.runs}")

    def init(self, run: Run, point: Evaluation) -> CutState:
        values = alternatives(point).detach()
        batch, n = point.x.shape[0], point.x[0].numel()
        none = Cut(values.new_zeros(batch, n), values.new_zeros(batch))  # a cut without a normal says nothing
        ones = torch.ones_like(none.offset)
        explored = min(self.explore, values.shape[1], max(1, run.steps // 4))
        order = values.nan_to_num(nan=torch.inf).argsort(dim=1)[:, :explored]
        infinite = ones * torch.inf
        return CutState(none, ones, infinite, none.normal, order, none, none, (infinite, infinite))

    def step(self, run: Run, state: CutState, point: Evaluation, index: int) -> Proposal[CutState]:
        delta = (point.x.detach() - run.x0).flatten(1).to(state.average.normal.dtype)
        explored = state.order.shape[1]
        pace = self._pace(explored)
        kind, since, count = self._schedule(run, pace, explored, index)
        elsewhere = kind >= _FROM_ASIDE  # starts at another point than x0
        progress = since / max(count - 1, 1)
        weight, trust = self._settled(pace, kind, progress)
        feasible = point.violation() <= run.tolerance
        norm = torch.linalg.vector_norm(delta, ord=self.p, dim=1)
        better = feasible & (norm < state.best)
        best = torch.where(better, norm, state.best)
        closest = torch.where(better.unsqueeze(1), delta, state.closest)
        state = replace(state, best=best, closest=closest)

        if since == 0 and elsewhere:
            x = self._elsewhere(run, state, delta, kind)
            return Proposal(x=run.problem.domain.project(x), state=state)
        cut = self._cut(point, delta, state.order[:, index] if index < explored else None)
        average, overshoot = state.average, state.overshoot
        if index < explored:  # still at x0
            state = self._explored(run, state, cut, delta)
            average = state.nearest
        elif since == 0:  # back to x0, towards the runner-up
            average, overshoot = state.second, torch.ones_like(overshoot)
            delta, norm = torch.zeros_like(delta), torch.zeros_like(norm)
        elif since == 1 and elsewhere:
            average, overshoot = cut, torch.ones_like(overshoot)
        else:
            normal = torch.lerp(cut.normal, average.normal, weight)
            average = Cut(normal, torch.lerp(cut.offset, average.offset, weight))
            overshoot = (overshoot * torch.where(feasible, 0.5, 2.0)).clamp(_geometric(_LEAST, progress), _MOST)

        state = replace(state, average=average, overshoot=overshoot)
        if index < explored - 1:
            return Proposal(x=point.x.detach(), state=state)
        tau = _geometric(pace.shrink if self.shrink is None else self.shrink, progress)
        moved = self._move(run, state, delta, norm, tau, trust)
        x = run.x0 + moved.to(run.x0.dtype).view_as(run.x0)
        return Proposal(x=run.problem.domain.project(x), state=state)

    def _pace(self, explored: int) -> _Pace:
        return _FAST if self.p != 1 and explored > 1 else _SLOW[self.p]

    def _schedule(self, run: Run, pace: _Pace, explored: int, index: int) -> tuple[int, int, int]:
        """Which run the step belongs to, how many steps of it were before, and its length."""
        runs = pace.runs if self.runs is None else self.runs
        least = pace.restart_after if self.restart_after is None else self.restart_after
        runs = min(runs, max(run.steps // least, 1))
        kinds = list(range(runs - 1)) + [_FROM_BEST if runs > 3 else runs - 1]
        kinds = [kind for kind in kinds if explored > 1 or kind != _TO_SECOND]
        limits = [run.steps * number // len(kinds) for number in range(len(kinds) + 1)]
        number = bisect_right(limits, index) - 1
        start = max(limits[number], explored - 1)  # the looks at x0 are no moves
        return kinds[number], index - start, limits[number + 1] - start

    def _settled(self, pace: _Pace, kind: int, progress: float) -> tuple[float, float]:
        """The weight of the earlier cuts and the trust region; the run from the best point settles."""
        weight = pace.average if self.average is None else self.average
        trust = pace.trust if self.trust is None else self.trust
        if kind != _FROM_BEST:
            return weight, trust
        if self.average is None:
            weight = _SETTLING[0] + progress * (_SETTLING[1] - _SETTLING[0])
        return weight, trust * (1 - weight)

    def _elsewhere(self, run: Run, state: CutState, delta: Tensor, kind: int) -> Tensor:
        """Where a run starts that does not start at x0; the best point is the last one where there is none."""
        if kind == _FROM_BEST:
            moved = torch.where(state.best.isfinite().unsqueeze(1), state.closest, delta)
        else:
            lower, upper = room(run.problem, run.x0, delta)
            moved = _ASIDE[kind] * (lower + upper) / 2
        return run.x0 + moved.to(run.x0.dtype).view_as(run.x0)

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
        next_ = torch.where(closer, first, torch.where(runner_up, distance, next_))
        distances = torch.where(closer, distance, first), next_
        second = mixed(closer, state.nearest, mixed(runner_up, cut, state.second))
        return replace(state, nearest=mixed(closer, cut, state.nearest), second=second, distances=distances)

    def _cut(self, point: Evaluation, delta: Tensor, chosen: Tensor | None) -> Cut:
        """The normalised linearisation at the point: of the ``chosen`` alternatives, else of the smallest."""
        with torch.enable_grad():
            values = alternatives(point)
            value = values.amin(1) if chosen is None else values.gather(1, chosen.unsqueeze(1)).squeeze(1)
        g = point.pull_back((value, torch.ones_like(value))).flatten(1).to(delta.dtype)
        length = torch.linalg.vector_norm(g, ord=DUAL[self.p], dim=1)
        flat = length == 0  # no direction: a cut that says nothing
        length = torch.where(flat, 1, length)
        normal = g / length.unsqueeze(1)
        offset = value.detach().to(delta.dtype) / length - (normal * delta).sum(1)
        return Cut(normal, torch.where(flat, 0, offset))

    def _move(self, run: Run, state: CutState, delta: Tensor, norm: Tensor, tau: float, trust: float) -> Tensor:
        """The next delta: shrunk, on the averaged cut, within the trust region."""
        lower, upper = room(run.problem, run.x0, delta)
        cut = state.average
        size = torch.linalg.vector_norm(cut.normal, ord=DUAL[self.p], dim=1)
        target = -cut.offset - state.overshoot * norm.clamp_min(_SMALLEST) * size
        if self.p == 1:
            start = project_l1(delta, norm / (1 + tau))
            met = meet_l1(start, cut.normal, target, lower, upper, self.spread * min(1, tau / _SPREADING))
        else:
            met = _MEET[self.p](delta / (1 + tau), cut.normal, target, lower, upper)
        reach = _REACH[self.p] if self.reach is None else self.reach
        radius = trust * torch.where(state.best.isfinite(), state.best, norm.clamp_min(reach))
        step = met - delta
        length = torch.linalg.vector_norm(step, ord=self.p, dim=1)
        fraction = (radius / torch.where(length > 0, length, 1)).clamp_max(1)
        return delta + fraction.unsqueeze(1) * step


def _geometric(ends: tuple[float, float], progress: float) -> float:
    """From the first of the ``ends`` to the last."""
    first, last = ends
    return first * (last / first) ** progress
