"""The smooth term h of a splitting: its value, its gradient, and the search for a step that its curvature allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.splitting.operators import Step, checked, positive


@dataclass(frozen=True, eq=False)
class Smooth:
    """h by ``value``, ``(batch, *event) -> (batch,)``, or by ``gradient``, ``(batch, *event)``, or both.

    Without ``gradient`` the value is differentiated; without ``value`` no step can be searched. Rows have to be
    independent: the value of a row depends on that row alone.

    >>> h = Smooth(lambda x: x.square().sum(1) / 2)
    >>> h.at(torch.tensor([[3.0, 4.0]]))
    (tensor([12.5000]), tensor([[3., 4.]]))
    """

    value: Callable[[Tensor], Tensor] | None = None
    gradient: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.value is None and self.gradient is None:
            raise ValueError("Smooth: takes a value, a gradient or both, got neither")

    def slope(self, x: Tensor) -> Tensor:
        """The gradient alone."""
        return self.at(x)[1] if self.gradient is None else checked("smooth.gradient", self.gradient(x), x)

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient; ``ValueError`` if there is no value or it is not ``(batch,)``."""
        if self.gradient is not None:
            return self.level(x), self.slope(x)
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            level = self.level(point)
            if not level.requires_grad:
                return level, torch.zeros_like(x)
            (gradient,) = torch.autograd.grad(level.sum(), point, allow_unused=True)
        return level.detach(), torch.zeros_like(x) if gradient is None else gradient

    def level(self, x: Tensor) -> Tensor:
        """h(x), ``(batch,)``."""
        if self.value is None:
            raise ValueError(
                "smooth: to search a step, h needs its value; give Smooth(value, gradient), or a fixed step"
            )
        level = self.value(x)
        if not isinstance(level, Tensor) or level.shape != x.shape[:1]:
            got = tuple(level.shape) if isinstance(level, Tensor) else type(level).__name__
            raise ValueError(f"smooth: must return one value a row, (batch,) = ({x.shape[0]},), got {got}")
        return level


def as_smooth(smooth: Smooth | Callable[[Tensor], Tensor]) -> Smooth:
    """A callable is h's value. Raises ``TypeError`` for anything else."""
    if isinstance(smooth, Smooth):
        return smooth
    if not callable(smooth):
        raise TypeError(f"smooth: takes h(x) -> (batch,) or Smooth(value, gradient), got {type(smooth).__name__}")
    return Smooth(smooth)


@dataclass(frozen=True)
class Backtracking:
    """A step found by trial, per row: from ``initial``, a number or ``(batch,)``, shrunk wherever h bends too much.

    The step t is refused, and multiplied by ``shrink`` in (0, 1), while ``h(p) > h(y) + <grad h(y), p - y> +
    ||p - y||^2 / (2t)`` with p the proximal step from y (Beck & Teboulle 2009). Every trial counts as an iteration. It
    never grows again, so start rather too large.
    """

    initial: Step = 1.0
    shrink: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.shrink < 1:
            raise ValueError(f"Backtracking: shrink must lie in (0, 1), got {self.shrink}")


def step_rule(step: Step | Backtracking, x: Tensor) -> tuple[Tensor, float | None]:
    """The (first) step as ``(batch, 1, ...)``, and what a refused one is multiplied by; None for fixed steps."""
    if isinstance(step, Backtracking):
        return positive("step.initial", step.initial, x), step.shrink
    return positive("step", step, x), None
