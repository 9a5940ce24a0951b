"""Primal steps: how a gradient becomes the next point. Pure ``init`` / ``update``, state outside, as in optax.

Every step ends in ``prox(point, size, metric)``, which the solver hands over: the projection on the domain, or the
proximity operator of the problem's nonsmooth term. ``size`` is the step size per row, ``(batch, 1, ...)``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from constropt.checks import given, require_positive
from constropt.precision import least

S = TypeVar("S")
Prox = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Closure = Callable[[Tensor], tuple[Tensor, Tensor]]


class PrimalStep(Generic[S]):
    """Subclass with ``init(x) -> state`` and ``update(gradient, state, x, size, prox, closure) -> (x, state)``."""

    def init(self, x: Tensor) -> S:
        raise NotImplementedError  # abstract

    def update(
        self, gradient: Tensor, state: S, x: Tensor, size: Tensor, prox: Prox, closure: Closure
    ) -> tuple[Tensor, S]:
        """``closure(x) -> (loss, gradient)`` evaluates elsewhere (a counted model pass), for steps that search."""
        raise NotImplementedError  # abstract


def no_closure(x: Tensor) -> tuple[Tensor, Tensor]:
    """The closure of solvers that have no loss elsewhere: ``TypeError``."""
    raise TypeError("primal: a step that evaluates elsewhere (a line search) has no loss here; choose another")


@dataclass(frozen=True)
class Gradient(PrimalStep[None]):
    """x <- prox(x - size g): projected (or proximal) gradient."""

    def init(self, x: Tensor) -> None:
        return None

    def update(
        self, gradient: Tensor, state: None, x: Tensor, size: Tensor, prox: Prox, closure: Closure
    ) -> tuple[Tensor, None]:
        return prox(x - size * gradient, size, None), None


@dataclass(frozen=True)
class RMSPropMomentum(PrimalStep[tuple[Tensor, Tensor]]):
    """RMSProp with momentum (Sec. 4.3.2.4): v <- a v + (1 - a) g^2, m <- b m + g / sqrt(v), x <- prox(x - size m).

    v starts at 1, not 0, so that the first move is the plain gradient's; the momentum is undamped (gain 1/(1 - b)).
    """

    smoothing: float = 0.99
    momentum: float = 0.9
    floor: float = 1e-8

    def init(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(x), torch.zeros_like(x)

    def update(
        self, gradient: Tensor, state: tuple[Tensor, Tensor], x: Tensor, size: Tensor, prox: Prox, closure: Closure
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v, m = state
        v = torch.lerp(gradient.square(), v, self.smoothing)
        m = torch.addcdiv(m * self.momentum, gradient, v.sqrt().add_(least(self.floor, v)))
        return prox(torch.addcmul(x, size, m, value=-1), size, None), (v, m)


@dataclass(frozen=True)
class VariableMetric(PrimalStep[tuple[Tensor, int]]):
    """Variable-metric forward-backward (Eq. 5.17, 5.18): x <- prox^S(x - size g / s), s = sqrt(v / (1 - a^t)) + floor.

    The diagonal metric s is handed to the prox, so that it and the gradient step agree.
    """

    smoothing: float = 0.9
    floor: float = 1e-8

    def init(self, x: Tensor) -> tuple[Tensor, int]:
        return torch.zeros_like(x), 0

    def update(
        self, gradient: Tensor, state: tuple[Tensor, int], x: Tensor, size: Tensor, prox: Prox, closure: Closure
    ) -> tuple[Tensor, tuple[Tensor, int]]:
        v, t = state
        v = torch.lerp(gradient.square(), v, self.smoothing)
        metric = (v / (1 - self.smoothing ** (t + 1))).sqrt_().add_(least(self.floor, v))
        return prox(torch.addcdiv(x, gradient * size, metric, value=-1), size, metric), (v, t + 1)


OptimizerState = tuple[Tensor, torch.optim.Optimizer]


@dataclass(frozen=True, eq=False)
class TorchOptimizer(PrimalStep[OptimizerState]):
    """Any ``torch.optim`` optimizer on x: ``TorchOptimizer(lambda parameters: torch.optim.Adam(parameters, lr=1e-2))``.

    The learning rate is the optimizer's; ``size`` scales its displacement (1: as it is). Optimizers that reduce over
    their whole parameter (LBFGS) treat the batch as one problem, so rows are no longer independent; closures that ask
    for several evaluations per step (LBFGS) spend that many model passes. Optimizers keep their state in place, so a
    state of this step must not be used twice.
    """

    factory: Callable[[Iterable[Tensor]], torch.optim.Optimizer]

    def init(self, x: Tensor) -> OptimizerState:
        parameter = x.detach().clone().requires_grad_(True)
        return parameter, self.factory([parameter])

    def update(
        self, gradient: Tensor, state: OptimizerState, x: Tensor, size: Tensor, prox: Prox, closure: Closure
    ) -> tuple[Tensor, OptimizerState]:
        parameter, optimizer = state

        def evaluate() -> Any:
            loss, parameter.grad = closure(parameter.detach())
            return loss

        with torch.no_grad():
            parameter.copy_(x)
        parameter.grad = gradient.clone()
        _ = optimizer.step(evaluate) if isinstance(optimizer, torch.optim.LBFGS) else optimizer.step()
        return prox(x + size * (parameter.detach() - x), size, None), state


@dataclass(frozen=True)
class StepSize:
    """Step size per row: constant until the row is first feasible, then decaying exponentially (Sec. 4.3.2.3).

    ``initial`` is the size itself, or, if ``increase`` is given, ignored: then it is found per row so that the first
    step raises the objective by ``increase`` (in the objective's units), or less where the linearised constraints are
    met before that. ``final`` is the ratio reached at the last step; 1 keeps the size.
    """

    initial: float = 1e-2
    increase: float | None = None
    final: float = 1.0

    def __post_init__(self) -> None:
        require_positive(initial=self.initial, final=self.final, **given(increase=self.increase))

    def factor(self, index: int, steps: int, first: int) -> float:
        """The factor of the initial size at step ``index`` of ``steps``, first feasible at ``first`` (-1: not yet)."""
        return 1.0 if first < 0 else self.final ** ((index - first) / max(steps - first, 1))

    def at(self, initial: Tensor, index: int, steps: int, first_feasible: Tensor) -> Tensor:
        """``(batch,)``: the sizes at step ``index``. Factors are computed once per possible first step and looked up: a
        vectorised power rounds differently from a scalar one, and a row must not depend on its batch."""
        table = initial.new_tensor([self.factor(index, steps, first) for first in range(-1, index + 1)])
        return initial * table[first_feasible + 1]


# The first-step search: a bracket of 52 octaves of the step size, halved to less than 1e-6 of one.
_LARGEST, _HALVINGS = 2.0**52, 26


def first_step_size(
    measure: Callable[[Tensor], Tensor], move: Callable[[Tensor], Tensor], base: Tensor, increase: Tensor | float
) -> Tensor:
    """``(batch,)``: s with ``measure(move(s)) - measure(move(0)) = increase``, bisected over octaves above ``base``.

    ``move(s)`` is the point that a step of size s reaches (projection included). Where the increase cannot be reached
    inside the domain, half of what can be is taken instead, so the search always ends.
    """
    start = measure(move(torch.zeros_like(base)))
    low, high = base, base * _LARGEST
    target = torch.minimum(torch.as_tensor(increase).to(base), (measure(move(high)) - start) / 2)
    for _ in range(_HALVINGS):
        middle = low.sqrt() * high.sqrt()
        above = measure(move(middle)) - start >= target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high
