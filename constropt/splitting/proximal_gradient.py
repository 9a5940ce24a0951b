"""Forward-backward and its accelerated form, as data and a pure update, for whatever operator is handed over.

    x+ = T(y),   T = prox_{t f} (I - t grad h),   y = x, or  y = x + a_k (x - x_previous)  where accelerated

In a dual problem T acts on the dual variable, and the primal point that it passes is kept as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from constropt.splitting.loop import Method, Move, Variable, select, spread


class Applied(NamedTuple):
    """T(y); the primal point, in a dual problem; which rows accept T(y), ``(batch,)``, where steps are searched."""

    after: Tensor
    primal: Tensor | None = None
    accepted: Tensor | None = None


class GradientState(NamedTuple):
    """x, the point y that T is applied to and the momentum's counter t (None: not accelerated), the step, the primal
    point of a dual problem."""

    x: Tensor
    y: Tensor | None
    t: Tensor | None
    step: Tensor
    primal: Tensor | None


def beck_teboulle(t: Tensor) -> Tensor:
    """``t+ = (1 + sqrt(1 + 4 t^2)) / 2`` (FISTA, 2009)."""
    return (1 + (1 + 4 * t.square()).sqrt()) / 2


def chambolle_dossal(t: Tensor) -> Tensor:
    """``t_k = (k + a - 1) / a`` with a = 3 (2015): for a > 2 the iterates converge, not only the values."""
    return t + 1 / 3


@dataclass(frozen=True, eq=False)
class ProximalGradient(Method[GradientState]):
    """``momentum``: t -> t+, None for plain forward-backward; ``shrink``: what a refused step is multiplied by.

    ``primal``: where the primal point of a dual problem starts, the z whose distance it minimises.
    ``restart``: momentum starts anew where it points uphill, ``<y - x+, x+ - x> > 0`` (O'Donoghue & Candes 2015).
    """

    operator: Callable[[Tensor, Tensor], Applied]
    step: Tensor
    momentum: Callable[[Tensor], Tensor] | None = None
    restart: bool = False
    shrink: float = 0.5
    primal: Tensor | None = None

    def init(self, x: Tensor) -> GradientState:
        primal = None if self.primal is None else self.primal.clone()
        if self.momentum is None:
            return GradientState(x, None, None, self.step, primal)
        return GradientState(x, x, torch.ones_like(self.step), self.step, primal)

    def update(self, state: GradientState, count: int) -> Move[GradientState]:
        at = state.x if state.y is None else state.y
        after, primal, accepted = self.operator(at, state.step)
        new = GradientState(after, None, None, state.step, primal)
        if self.momentum is not None and state.t is not None:
            t = state.t
            if self.restart:
                uphill = ((at - after) * (after - state.x)).flatten(1).sum(1) > 0
                t = torch.where(spread(uphill, t), 1, t)
            following = self.momentum(t)
            y = torch.addcmul(after, (t - 1) / following, after - state.x)
            new = new._replace(y=y, t=following)
        if accepted is not None:
            keep = spread(accepted, after)
            shrunk = torch.where(keep, state.step, state.step * self.shrink)
            new = select(accepted, new, state)._replace(step=shrunk)
            after = torch.where(keep, after, at)
        variables = (Variable(at, after),)
        if primal is not None and state.primal is not None:
            variables = (*variables, Variable(state.primal, primal, self.primal))
        return Move(new, variables, accepted)

    def result(self, state: GradientState) -> tuple[Tensor, Tensor | None]:
        return (state.x, None) if state.primal is None else (state.primal, state.x)
