"""Splittings that need the two proximity operators and nothing else: Douglas-Rachford and ADMM."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from constropt.checks import got, require_within

from .linear import Linear, LinearMap, as_linear
from .loop import Method, Move, SplittingResult, StopOptions, Variable, run
from .terms import Operator, Proximable, Step, as_operator, checked, positive, rows


class ReflectionState(NamedTuple):
    """s, and what the last update passed: x = prox_f(s) and u, a subgradient of g."""

    s: Tensor
    x: Tensor
    u: Tensor


@dataclass(frozen=True, eq=False)
class DouglasRachford(Method[ReflectionState]):
    """x = prox_{t f}(s),  y = prox_{t g}(2x - s),  s+ = s + relaxation (y - x)."""

    f: Operator
    g: Operator
    step: Tensor
    relaxation: float

    def init(self, x: Tensor) -> ReflectionState:
        return ReflectionState(x, x, torch.zeros_like(x))

    def update(self, state: ReflectionState, count: int) -> Move[ReflectionState]:
        x = self.f(state.s, self.step, None)
        reflected = 2 * x - state.s
        y = self.g(reflected, self.step, None)
        s = torch.add(state.s, y - x, alpha=self.relaxation)
        return Move(ReflectionState(s, x, (reflected - y) / self.step), (Variable(state.s, s),))

    def result(self, state: ReflectionState) -> tuple[Tensor, Tensor | None]:
        return state.x, state.u


def douglas_rachford(
    f: Proximable, g: Proximable, x0: Tensor, *, step: Step = 1.0, relaxation: float = 1.0, **stop: Unpack[StopOptions]
) -> SplittingResult:
    """Minimise ``f(x) + g(x)``, both convex and known by their prox (Lions & Mercier 1979; Eckstein & Bertsekas 1992).

    Every ``step`` > 0 (a number or ``(batch,)``) converges; the best is of the size of ``|x|`` over that of a
    subgradient. ``relaxation`` lies in (0, 2). The residual is that of s. For the prox of f + g at z pass
    ``with_distance(f, z)`` for one of the two.

    Returns x with f's constraints met exactly, and the dual u, a subgradient of g. Raises ``TypeError`` or
    ``ValueError`` for a term without a prox, shapes, ``step``, ``relaxation`` and an ``x0`` that is not finite.

    >>> from constropt import Box, prox
    >>> from constropt.splitting import with_distance
    >>> z = torch.tensor([[3.0, -1.0, 2.0]])
    >>> douglas_rachford(with_distance(Box(-1.5, 1.5), z), lambda x, step: prox.linf(x, 1.5 * step), z).x
    tensor([[ 1.5000, -1.0000,  1.5000]])
    """
    require_within("(0, 2)", relaxation=relaxation)
    size, terms = positive("step", step, rows("x0", x0)), (as_operator("f", f), as_operator("g", g))
    return run(DouglasRachford(*terms, size, relaxation), x0, **stop)


class SplitState(NamedTuple):
    """x, z (= Lx in the limit) and the scaled multiplier w = step u."""

    x: Tensor
    z: Tensor
    w: Tensor


@dataclass(frozen=True, eq=False)
class ADMM(Method[SplitState]):
    """x+ = argmin f(x) + ||Lx - z + w||^2 / (2t),  z+ = prox_{t g}(Lx+ + w),  w+ = w + Lx+ - z+."""

    x_update: Operator
    g: Operator
    linear: LinearMap | None
    step: Tensor
    relaxation: float

    def init(self, x: Tensor) -> SplitState:
        z = x if self.linear is None else self.linear(x)
        return SplitState(x, z, torch.zeros_like(z))

    def update(self, state: SplitState, count: int) -> Move[SplitState]:
        target = state.z - state.w
        x = self.x_update(target, self.step, None)
        image = x if self.linear is None else self.linear(x)
        image = torch.lerp(state.z, image, self.relaxation)
        source = image + state.w
        z = self.g(source, self.step, None)
        w = source - z
        moves = Variable(state.z, z, source), Variable(state.w, w, source), Variable(state.x, x, target)
        return Move(SplitState(x, z, w), moves)

    def result(self, state: SplitState) -> tuple[Tensor, Tensor | None]:
        return state.x, state.w / self.step


def admm(
    f: Proximable,
    g: Proximable,
    x0: Tensor,
    *,
    linear: Linear = None,
    step: Step = 1.0,
    relaxation: float = 1.0,
    **stop: Unpack[StopOptions],
) -> SplittingResult:
    """Minimise ``f(x) + g(Lx)`` by alternating directions (Gabay & Mercier 1976; Boyd et al. 2011), ``step`` = 1/rho.

    ``f(v, step)`` returns ``argmin over x of f(x) + ||Lx - v||^2 / (2 step)``: the prox of f where L is the identity
    (``linear=None``), else the caller's solver, a least-squares solve as a rule; its ``step`` has the shape
    ``(batch, 1, ...)`` of v's dimensions. ``g`` by its prox. Every ``step`` > 0 converges, ``relaxation`` lies in
    (0, 2). The residual is that of Lx, of the multiplier and of x.

    Returns x, and the dual u, a subgradient of g at Lx. Raises ``TypeError`` or ``ValueError`` as
    :func:`douglas_rachford`, and where ``f`` returns another shape than x0's.

    >>> from constropt import Box
    >>> a = torch.tensor([[2.0, 0.3]])
    >>> nearest = lambda v, step: (step * a + v) / (step + 1)  # the prox of ||x - a||^2 / 2
    >>> admm(nearest, Box(0.0, 1.0), torch.zeros(1, 2)).x
    tensor([[1.0000, 0.3000]])
    """
    require_within("(0, 2)", relaxation=relaxation)
    x0 = rows("x0", x0)
    map_ = as_linear(linear, x0)
    with torch.no_grad():
        image = x0 if map_ is None else map_(x0)
    x_update = as_operator("f", f) if map_ is None else _solver(f, x0)
    return run(ADMM(x_update, as_operator("g", g), map_, positive("step", step, image), relaxation), x0, **stop)


def _solver(f: Any, x0: Tensor) -> Operator:
    """The x-update as the method calls it; ``TypeError`` for what is no solver, a term with a prox included."""
    if not callable(f) or hasattr(f, "prox"):
        raise TypeError(f"f: with a linear map, takes f(v, step) -> x, got {got(f)}; pass a solver")
    return lambda v, step, _: checked("f", f(v, step), x0)
