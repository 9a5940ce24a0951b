"""A walk along the boundary of the constraint to its point nearest to x0, from a feasible start: Brendel & Bethge."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from constropt.checks import given, got, require_positive, require_within
from constropt.evaluation import Evaluation
from constropt.features import FINITE_BOX, Takes
from constropt.precision import at_least_float32
from constropt.problem import ConstrainedProblem
from constropt.prox import project_l0
from constropt.rows import by_row, per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import row_norm
from constropt.solvers.linearized.alternatives import require_norm, room
from constropt.solvers.linearized.cuts import meet_l0, meet_l1, meet_l2, meet_linf

# Halvings of the multiplier of the trust region, and for each Newton passes on the multiplier of the cut.
_HALVINGS, _PASSES = 12, 6
# The cut counts as met, before it is met exactly, up to this part of the radius.
_SLACK = 0.02
_MEET = {0.0: meet_l0, 1.0: meet_l1, 2.0: meet_l2, torch.inf: meet_linf}


@dataclass(frozen=True, eq=False)
class WalkState:
    """``start``: where the walk begins; ``normal``: the averaged gradient, ``(batch, n)``; ``first``: the radius of
    the first trust region, ``(batch,)``."""

    start: Tensor
    normal: Tensor
    first: Tensor


@dataclass(frozen=True, eq=False)
class BoundaryWalk(Solver[WalkState]):
    """min ``||x - x0||_p`` s.t. h(x) <= 0 and a finite box, p = 0, 1, 2 or inf (Brendel et al., NeurIPS 2019).

    ``starts``, of the shape of x0, are points with h <= 0; ``searches`` bisections between x0 and each of them, in the
    geometry of the norm, lead to the boundary (a forward pass each). From there every step goes to the point nearest to
    x0 that meets the linearised constraint and lies in the box and within ``radius`` of the present point in the l2
    norm (:func:`step_on_cut`). The gradient is averaged with the earlier ones (``momentum`` their weight); h is aimed
    at ``-(overshoot - 1) |h|``, just beyond the boundary. ``radius`` is multiplied by ``decay`` every ``1 / decays`` of
    the steps, and at most once a step; for rows of n entries it is by default a third of the box's diagonal,
    ``sqrt(n) / 3`` times its mean width, so that a short walk, too, may lead from one end of the box to the other. The
    constraint itself is linearised, of several entries the worst. Without ``starts`` the walk begins at x0, towards the
    boundary. One forward and one backward pass a step; the first is spent on x0 itself, to find the rows that need no
    change.

    Raises ``ValueError`` unless the problem has exactly one constraint, an inequality that must hold in full, and a
    finite box as its domain, and for ``starts`` of another shape or outside the box; ``TypeError`` for no tensor.
    """

    takes = Takes(least=1, most=1, domains=FINITE_BOX, objective_gradient=False)

    p: float = 2.0
    starts: Tensor | None = None
    radius: float | None = None
    decay: float = 0.5
    decays: int = 20
    overshoot: float = 1.1
    momentum: float = 0.8
    searches: int = 10
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        require_norm(self.p, tuple(_MEET))
        require_positive("a length", ", or None", **given(radius=self.radius))
        if not 0 < self.decay <= 1 or self.decays < 1:
            raise ValueError(f"decay, decays: need 0 < decay <= 1 and decays >= 1, got {self.decay}, {self.decays}")
        require_within("[1, 2)", "must lie", " (1 aims at the boundary itself)", overshoot=self.overshoot)
        require_within("[0, 1)", momentum=self.momentum)
        if self.searches < 0:
            raise ValueError(f"searches: takes a number of bisections >= 0, got {self.searches}")

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        starts = self.starts
        if starts is None:
            return
        if not isinstance(starts, Tensor):
            raise TypeError(f"starts: takes a tensor like the inputs, got {got(starts)}")
        if (starts.shape, starts.dtype, starts.device) != (x0.shape, x0.dtype, x0.device):
            found = f"{got(x0)} on {x0.device}, got {got(starts)} on {starts.device}"
            raise ValueError(f"starts: takes a tensor like the inputs, {found}")
        if not bool(problem.domain.contains(starts).all()):  # NaN is not contained either
            raise ValueError("starts: must be finite and within the bounds; clamp them first")

    def init(self, run: Run, point: Evaluation) -> WalkState:
        x0, bounds = run.x0, run.problem.domain.bounds(run.x0)
        assert bounds is not None
        width = at_least_float32((bounds[1] - bounds[0]).flatten(1))
        first = width.shape[1] ** 0.5 / 3 * width.mean(1)
        first = first if self.radius is None else torch.full_like(first, self.radius)
        start = x0 if self.starts is None else self._boundary(run, self.starts.detach())
        return WalkState(start, torch.zeros_like(width), first)

    def step(self, run: Run, state: WalkState, point: Evaluation, index: int) -> Proposal[WalkState]:
        if index == 0 and self.starts is not None:
            return Proposal(x=state.start, state=state)
        value, gradient = _worst(point)
        averaged = state.normal.any(1, keepdim=True)
        normal = torch.where(averaged, torch.lerp(gradient.to(state.normal), state.normal, self.momentum), gradient)
        lower, upper = room(run.problem, run.x0, normal)
        # rounding may have left the box
        delta = torch.minimum(torch.maximum((point.x.detach() - run.x0).flatten(1).to(normal), lower), upper)
        target = (normal * delta).sum(1) - value - (self.overshoot - 1) * value.abs()
        waited = int(self.starts is not None)
        decays = (index - waited) * min(self.decays, run.steps) // run.steps
        radius = state.first * self.decay**decays
        moved = step_on_cut(self.p, delta, normal, target, lower, upper, radius)
        moved = moved + 0 * target.unsqueeze(1)  # NaN passes, for the loop to notice
        x = run.problem.domain.project(run.x0 + moved.to(run.x0).view_as(run.x0))
        return Proposal(x=x, state=replace(state, normal=normal))

    def _boundary(self, run: Run, starts: Tensor) -> Tensor:
        """A point where the way from x0 to each start crosses the boundary, by bisection, on the feasible side."""
        low = starts.new_zeros(starts.shape[0])
        high = torch.ones_like(low)
        for _ in range(self.searches):
            middle = (low + high) / 2
            point = run.evaluate(self._between(run.x0, starts, middle), grad=False)
            feasible = point.violation() <= run.tolerance
            low, high = torch.where(feasible, low, middle), torch.where(feasible, middle, high)
        return run.problem.domain.project(self._between(run.x0, starts, high))

    def _between(self, x0: Tensor, starts: Tensor, share: Tensor) -> Tensor:
        """From x0 (share 0) to the start (1): its largest entries, or all reduced by a size, or scaled, or capped."""
        delta = starts - x0
        if self.p == 0:
            between = project_l0(delta, share * row_norm(delta, 0))
        elif self.p == 2:
            between = per_row(share, delta) * delta
        else:
            size = row_norm(delta, torch.inf)
            level = per_row(size * (share if self.p > 2 else 1 - share), delta)
            capped = delta.clamp(-level, level)
            between = capped if self.p > 2 else delta - capped
        # a share of 1 is the start itself
        return torch.where(per_row(share, delta) == 1, starts, x0 + between)


def _worst(point: Evaluation) -> tuple[Tensor, Tensor]:
    """The largest counted value of each row, ``(batch,)``, and its gradient, ``(batch, n)``, at least in float32."""
    mask = point.masks[0]
    with torch.enable_grad():
        value = by_row(point.values[0])
        value = (value if mask is None else torch.where(by_row(mask), value, -torch.inf)).amax(1)
    gradient = at_least_float32(point.pull_back((value, torch.ones_like(value))).flatten(1))
    return value.detach().to(gradient), gradient


def step_on_cut(
    p: float, start: Tensor, normal: Tensor, target: Tensor, lower: Tensor, upper: Tensor, radius: Tensor
) -> Tensor:
    """One step along a linearised boundary (Brendel et al., 2019), row by row and without a loop over rows:

        min ||z||_p   s.t.   normal . z <= target,   lower <= z <= upper,   ||z - start||_2 <= radius

    for p = 0, 1, 2 or inf. Tables ``(batch, n)``, ``target`` and ``radius`` ``(batch,)``; 0 and ``start`` are in the
    box. It is the optimum without the trust region, where that lies within. Elsewhere the Lagrangian is minimised in
    closed form, by ``clip(shrink(start - nu normal))``, where the trust region's multiplier is that of the shrinking,
    which a bisection makes as strong as the radius allows, and nu meets the cut. For p = 0 the entries that are 0 stay
    0, but for the one that helps most, and the result is no global optimum. Where the cut is out of reach, the step is
    as long as the radius and leads to its nearest point. A row whose ``normal`` is 0 stays.

    >>> start, box = torch.tensor([[-0.3, -0.4]]), torch.full((1, 2), 0.5)
    >>> normal, target = torch.tensor([[0.0, 1.0]]), torch.tensor([-0.4])
    >>> for radius in (0.1, 1.0):
    ...     step_on_cut(2.0, start, normal, target, -box, box, torch.tensor([radius])).round(decimals=3)
    tensor([[-0.2000, -0.4000]])
    tensor([[ 0.0000, -0.4000]])
    """
    length = torch.linalg.vector_norm(normal, dim=1)
    flat = length == 0
    length = torch.where(flat, 1, length)
    normal, target = normal / length.unsqueeze(1), target / length

    optimum = _MEET[p](torch.zeros_like(start), normal, target.clamp_max(0), lower, upper)
    within = _distance(optimum, start) <= radius
    if p == 0:
        normal = _sparse(start, normal, lower, upper, radius)
    reached = meet_l2(start, normal, _at_most(target, normal, start), lower, upper)
    away = _distance(reached, start)
    part = (radius / torch.where(away > 0, away, 1)).clamp_max(1)
    nearest = start + part.unsqueeze(1) * (reached - start)
    bound = ~within & (away <= radius)
    # looking costs nothing where there is no device to wait for
    if start.device.type != "cpu" or bool(bound.any()):
        limited = _limited(p, start, normal, target, lower, upper, radius, nearest)
        nearest = torch.where(bound.unsqueeze(1), limited, nearest)
    moved = torch.where(within.unsqueeze(1), optimum, nearest)
    return torch.where(flat.unsqueeze(1), start, moved)


def _limited(
    p: float, start: Tensor, normal: Tensor, target: Tensor, lower: Tensor, upper: Tensor, radius: Tensor, best: Tensor
) -> Tensor:
    """The optimum on the sphere of the trust region; ``best``, which meets cut and radius, is where it starts."""
    low, high = torch.zeros_like(target), torch.ones_like(target)
    nu = accepted = torch.zeros_like(target)
    size = torch.linalg.vector_norm(start, ord=torch.inf if p == torch.inf else 2, dim=1)
    for _ in range(_HALVINGS):
        strength = (low + high) / 2
        level = _level(p, strength, radius, size).unsqueeze(1)
        below, above = torch.zeros_like(nu), torch.full_like(nu, torch.inf)
        for _ in range(_PASSES):
            z, excess, slope = _shrunk(p, start - nu.unsqueeze(1) * normal, normal, target, level, lower, upper)
            off = torch.where(nu > 0, excess.abs(), excess) > _SLACK / 10 * radius
            if start.device.type == "cpu" and not bool(off.any()):
                break
            below, above = torch.where(excess > 0, nu, below), torch.where(excess > 0, above, nu)
            # not below 0: where the cut is met without it, it does not bind
            newton = (nu + excess / torch.where(slope > 0, slope, 1)).clamp_min(0)
            halfway = torch.where(above.isfinite(), (below + above) / 2, 2 * nu + radius)
            better = torch.where((slope > 0) & (newton >= below) & (newton <= above), newton, halfway)
            nu = torch.where(off, better, nu)  # a row ends where it would without the others
        else:
            z, excess, _ = _shrunk(p, start - nu.unsqueeze(1) * normal, normal, target, level, lower, upper)
        fits = (excess <= _SLACK * radius) & (_distance(z, start) <= radius)
        best = torch.where(fits.unsqueeze(1), z, best)
        low, high = torch.where(fits, strength, low), torch.where(fits, high, strength)
        nu = accepted = torch.where(fits, nu, accepted)
    # on the cut exactly: by the entries that are not 0, if they can, so that sparse points stay sparse
    usable = normal if p > 1 else torch.where(best != 0, normal, 0)
    best = meet_l2(best, usable, _at_most(target, usable, best), lower, upper)
    return best if p > 1 else meet_l1(best, normal, _at_most(target, normal, best), lower, upper)


def _level(p: float, strength: Tensor, radius: Tensor, size: Tensor) -> Tensor:
    """What :func:`_shrunk` takes, of a strength in [0, 1], on a scale where the radius is at a strength of order 1.

    p = 0, 1: the threshold; 2: the factor; inf: the cap.
    """
    if p == 0:
        return radius * strength
    if p == torch.inf:
        return (size + radius * (1 - 2 * strength)).clamp_min(0)
    growth = radius * strength / (1 - strength)
    return growth if p == 1 else 1 / (1 + growth / size.clamp_min(torch.finfo(size.dtype).tiny))


def _shrunk(
    p: float, v: Tensor, normal: Tensor, target: Tensor, level: Tensor, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``clip(shrink(v))``, its excess over the cut, and how fast that falls with nu."""
    if p == 0:
        free = v.abs() > level
        shrunk = torch.where(free, v, 0)
    elif p == 1:
        shrunk = v - v.clamp(-level, level)
        free = shrunk != 0
    elif p == 2:
        shrunk = v * level
        free = level > 0
    else:
        shrunk = v.clamp(-level, level)
        free = v == shrunk
    z = shrunk.clamp(lower, upper)
    slope = (normal.square() * (free & (z == shrunk))).sum(1)
    return z, (normal * z).sum(1) - target, slope * level.squeeze(1) if p == 2 else slope


def _sparse(start: Tensor, normal: Tensor, lower: Tensor, upper: Tensor, radius: Tensor) -> Tensor:
    """The normal on the entries of ``start`` other than 0, and on the one other entry that gains most by its move."""
    zero = start == 0
    room = torch.minimum(torch.where(normal > 0, -lower, upper), radius.unsqueeze(1))
    gain = torch.where(zero, normal.abs() * room, -1)
    chosen = ~zero.scatter(1, gain.argmax(1, keepdim=True), False)
    return torch.where(chosen, normal, 0)


def _at_most(target: Tensor, normal: Tensor, point: Tensor) -> Tensor:
    """The target, or where the point is beyond it already: what makes it stay."""
    return torch.minimum(target, (normal * point).sum(1))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a - b, dim=1)
