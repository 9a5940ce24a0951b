"""A walk along the boundary of the constraint to its point nearest to x0, from a feasible start: Brendel & Bethge."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from constropt.evaluation import Evaluation
from constropt.features import FINITE_BOX, Takes
from constropt.problem import ConstrainedProblem
from constropt.prox import project_l0
from constropt.rows import by_row, per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import row_norm
from constropt.solvers.linearized.boundary_step import step_on_cut


@dataclass(frozen=True)
class WalkState:
    """``start``: where the walk begins; ``normal``: the averaged gradient, ``(batch, n)``; ``first``: the radius of
    the first trust region, ``(batch,)``."""

    start: Tensor
    normal: Tensor
    first: Tensor


@dataclass(frozen=True)
class BoundaryWalk(Solver[WalkState]):
    """min ``||x - x0||_p`` s.t. h(x) <= 0 and a finite box, p = 0, 1, 2 or inf (Brendel et al., NeurIPS 2019).

    ``starts``, of the shape of x0, are points with h <= 0; ``searches`` bisections between x0 and each of them, in the
    geometry of the norm, lead to the boundary (a forward pass each). From there every step goes to the point
    nearest to x0 that meets the linearised constraint and lies in the box and within ``radius`` of the present point in
    the l2 norm (``step_on_cut``). The gradient is averaged with the earlier ones
    (``momentum`` their weight); h is aimed at ``-(overshoot - 1) |h|``, just beyond the boundary. ``radius`` is
    multiplied by ``decay`` every ``1 / decays`` of the steps, and at most once a step; for rows of n entries it is by
    default a third of the box's diagonal, ``sqrt(n) / 3`` times its mean width, so that a short walk, too, may lead
    from one end of the box to the other. The constraint itself is linearised, of several entries the worst. Without
    ``starts`` the walk begins at x0, towards the boundary. One forward and one backward pass a step; the first is spent
    on x0 itself, to find the rows that need no change.

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
        if self.p not in (0, 1, 2, torch.inf):
            raise ValueError(f"p: takes 0, 1, 2 or inf, got {self.p!r}")
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius: takes a length > 0, or None, got {self.radius}")
        if not 0 < self.decay <= 1 or self.decays < 1:
            raise ValueError(f"decay, decays: need 0 < decay <= 1 and decays >= 1, got {self.decay}, {self.decays}")
        if not 1 <= self.overshoot < 2:
            raise ValueError(f"overshoot: must lie in [1, 2), 1 aims at the boundary itself, got {self.overshoot}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: must lie in [0, 1), got {self.momentum}")
        if self.searches < 0:
            raise ValueError(f"searches: takes a number of bisections >= 0, got {self.searches}")

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        if self.starts is not None:
            if not isinstance(self.starts, Tensor):
                raise TypeError(f"starts: takes a tensor like the inputs, got {type(self.starts).__name__}")
            if self.starts.shape != x0.shape or self.starts.dtype != x0.dtype or self.starts.device != x0.device:
                raise ValueError(
                    f"starts: takes a tensor like the inputs, {x0.dtype} of shape {tuple(x0.shape)} on {x0.device},"
                    f" got {self.starts.dtype} of shape {tuple(self.starts.shape)} on {self.starts.device}"
                )
            # NaN is not contained either
            if not bool(problem.domain.contains(self.starts).all()):
                raise ValueError("starts: must be finite and within the bounds; clamp them first")

    def init(self, run: Run, point: Evaluation) -> WalkState:
        x0 = run.x0
        bounds = run.problem.domain.bounds(x0)
        assert bounds is not None
        kind = torch.promote_types(x0.dtype, torch.float32)
        width = (bounds[1] - bounds[0]).flatten(1).to(kind)
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
        bounds = run.problem.domain.bounds(run.x0)
        assert bounds is not None
        lower, upper = ((side - run.x0).flatten(1).to(normal) for side in bounds)
        # rounding may have left the box
        delta = torch.minimum(torch.maximum((point.x.detach() - run.x0).flatten(1).to(normal), lower), upper)
        target = (normal * delta).sum(1) - value - (self.overshoot - 1) * value.abs()
        waited = int(self.starts is not None)
        decays = (index - waited) * min(self.decays, run.steps) // run.steps
        radius = state.first * self.decay**decays
        moved = step_on_cut(self.p, delta, normal, target, lower, upper, radius)
        # NaN passes, for the loop to notice
        moved = moved + 0 * target.unsqueeze(1)
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
    kind = torch.promote_types(point.x.dtype, torch.float32)
    gradient = point.pull_back((value, torch.ones_like(value)))
    return value.detach().to(kind), gradient.flatten(1).to(kind)
