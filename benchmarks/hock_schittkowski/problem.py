"""The record of one problem and the helpers that turn book formulas into batched functions.

Source of the collection: W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes,
Lecture Notes in Economics and Mathematical Systems 187, Springer, 1981.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BatchFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HSProblem:
    """One Hock-Schittkowski problem: minimise ``objective`` subject to ``inequalities <= 0``, ``equalities == 0``
    and ``lower <= x <= upper``."""

    number: int
    x0: tuple[float, ...]
    optimum: float
    objective: BatchFunction
    inequalities: BatchFunction | None = None
    equalities: BatchFunction | None = None
    lower: tuple[float, ...] | None = None
    upper: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Make every coordinate a float, so that ``torch.tensor(problem.x0)`` never is an integer tensor."""
        object.__setattr__(self, "x0", tuple(map(float, self.x0)))
        if self.lower is not None:
            object.__setattr__(self, "lower", tuple(map(float, self.lower)))
        if self.upper is not None:
            object.__setattr__(self, "upper", tuple(map(float, self.upper)))


def scalar(formula: Callable[..., Tensor]) -> BatchFunction:
    """Batched function ``(batch, n) -> (batch,)`` from a formula in the coordinates ``x1, ..., xn``."""

    def function(x: Tensor) -> Tensor:
        return formula(*x.unbind(1))

    return function


def equal(formula: Callable[..., tuple[Tensor, ...]]) -> BatchFunction:
    """Batched function ``(batch, n) -> (batch, p)`` from expressions required to be zero."""

    def function(x: Tensor) -> Tensor:
        return torch.stack(formula(*x.unbind(1)), 1)

    return function


def nonnegative(formula: Callable[..., tuple[Tensor, ...]]) -> BatchFunction:
    """Batched ``g(x) <= 0`` from expressions which the book requires to be ``>= 0`` (so the sign is flipped)."""

    def function(x: Tensor) -> Tensor:
        return -torch.stack(formula(*x.unbind(1)), 1)

    return function
