"""Proximal gradient (ISTA), FISTA, and in a metric that follows the iterates: ``minimise h(x) + f(x)``, h smooth by its
gradient, f convex by its prox. The method is data and a pure update, for whatever operator T is handed over:

    x+ = T(y),   T = prox_{t f} (I - t grad h),   y = x, or  y = x + a_k (x - x_previous)  where accelerated

In a dual problem T acts on the dual variable, and the primal point that it passes is kept as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from constropt.checks import got, require_positive, require_within
from constropt.precision import least

from .loop import Method, Move, SplittingResult, StopOptions, Variable, row_norm, run, select, spread
from .terms import Operator, Proximable, Smooth, SmoothLike, Step, as_operator, checked, positive, rows

Momentum = Callable[[Tensor], Tensor]

# Rounding errors of h that the search for a step tolerates, in units in the last place: without them, once iterates
# agree to half the digits, differences of h are noise and every step is refused.
_ROUNDING = 8


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
    momentum: Momentum | None = None
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
        require_within("(0, 1)", shrink=self.shrink)


StepLike = Step | Backtracking
SEARCHED = Backtracking()


def proximal_step(smooth: Smooth, prox: Operator, *, search: bool) -> Callable[[Tensor, Tensor], Applied]:
    """``y, t -> prox_{t f}(y - t grad h(y))``, with the verdict on t if it is searched."""

    def fixed(y: Tensor, t: Tensor) -> Applied:
        return Applied(prox(y - t * smooth.slope(y), t, None))

    def searched(y: Tensor, t: Tensor) -> Applied:
        level, gradient = smooth.at(y)
        forward = y - t * gradient
        after = prox(forward, t, None)
        move, reached = after - y, smooth.level(after)
        bend = (gradient * move + move.square() / (2 * t)).flatten(1).sum(1)
        noise = _ROUNDING * torch.finfo(level.dtype).eps * level.abs()
        accepted = reached <= level + bend + noise
        # an overflow is a step too long, but where h, its gradient or the prox of a finite point is NaN none is short
        # enough: the row is lost
        lost = ~(level.isfinite() & row_norm(gradient).isfinite())
        lost = lost | (row_norm(forward).isfinite() & row_norm(after).isnan())
        return Applied(torch.where(spread(lost, after), torch.nan, after), accepted=accepted | lost)

    return searched if search else fixed


def forward_backward(
    smooth: SmoothLike, f: Proximable, x0: Tensor, *, step: StepLike = SEARCHED, **stop: Unpack[StopOptions]
) -> SplittingResult:
    """``x+ = prox_{t f}(x - t grad h(x))`` (Lions & Mercier 1979; as ISTA, Daubechies, Defrise & De Mol 2004).

    Args:
        smooth: h as ``h(x) -> (batch,)``, differentiated automatically, or :class:`Smooth` with its gradient.
        f: a convex term as ``prox(x, step)``, an object with ``.prox`` or a ``Domain``; ``Reals()`` for none.
        x0: ``(batch, *event)``, finite; rows are independent problems.
        step: t, a number or ``(batch,)``, below 2/L with L a Lipschitz constant of the gradient, or
            :class:`Backtracking`, which needs no constant.
        stop: ``tolerance``, ``max_iterations``, ``check_every``, see :class:`~constropt.splitting.loop.Stop`.

    Raises ``TypeError`` or ``ValueError`` for an f without a prox, shapes, steps that are not > 0, an ``x0`` that is
    not finite, and a search for steps without a value of h.

    >>> a = torch.tensor([[3.0, -1.5]])
    >>> l1 = lambda x, step: x.sign() * (x.abs() - step).clamp_min(0)
    >>> forward_backward(lambda x: (x - a).square().sum(1) / 2, l1, torch.zeros(1, 2)).x
    tensor([[ 2.0000, -0.5000]])
    """
    return _run(smooth, f, x0, step, None, False, stop)


def fista(
    smooth: SmoothLike, f: Proximable, x0: Tensor, *, step: StepLike = SEARCHED, restart: bool = False,
    **stop: Unpack[StopOptions],
) -> SplittingResult:  # fmt: skip
    """:func:`forward_backward` from extrapolated points: ``O(1/k^2)`` in the objective (Beck & Teboulle 2009).

    Arguments as there, with fixed steps of at most 1/L, and ``restart``: whether momentum starts anew, per row, where
    it points uphill (O'Donoghue & Candes 2015); it turns oscillation into linear convergence on well-behaved problems.

    >>> a = torch.tensor([[3.0, -1.5]])
    >>> l1 = lambda x, step: x.sign() * (x.abs() - step).clamp_min(0)
    >>> fista(lambda x: (x - a).square().sum(1) / 2, l1, torch.zeros(1, 2), restart=True).x
    tensor([[ 2.0000, -0.5000]])
    """
    return _run(smooth, f, x0, step, beck_teboulle, restart, stop)


def _run(
    smooth: SmoothLike, f: Proximable, x0: Tensor, step: StepLike, momentum: Momentum | None, restart: bool,
    stop: StopOptions,
) -> SplittingResult:  # fmt: skip
    x0 = rows("x0", x0)
    searched = isinstance(step, Backtracking)
    size = positive("step.initial", step.initial, x0) if searched else positive("step", step, x0)
    operator = proximal_step(Smooth.of(smooth), as_operator("f", f), search=searched)
    shrink = step.shrink if searched else 1.0
    return run(ProximalGradient(operator, size, momentum, restart, shrink=shrink), x0, **stop)


@dataclass(frozen=True)
class RMS:
    """The metric of Eq. 5.18: ``v <- a v + (1 - a) grad^2``, ``s = sqrt(v / (1 - a^k)) + floor``.

    It is Adam's, without its first moment. s shrinks with the gradient, so where entries of grad h are 0 at the
    solution a fixed step need not settle: iterates circle it at about the step's size, and say that they have not
    converged. Meant for a bounded number of steps.
    """

    smoothing: float = 0.9
    floor: float = 1e-8

    def __post_init__(self) -> None:
        require_within("[0, 1)", smoothing=self.smoothing)
        require_positive(floor=self.floor)


Metric = Callable[[Tensor, Tensor], Tensor]


class MetricState(NamedTuple):
    """x, and RMS's average of squared gradients (None: the metric is the caller's)."""

    x: Tensor
    v: Tensor | None


@dataclass(frozen=True, eq=False)
class VariableMetricForwardBackward(Method[MetricState]):
    """The update of :func:`variable_metric_forward_backward`."""

    smooth: Smooth
    f: Operator
    step: Tensor
    metric: RMS | Metric

    def init(self, x: Tensor) -> MetricState:
        return MetricState(x, torch.zeros_like(x) if isinstance(self.metric, RMS) else None)

    def update(self, state: MetricState, count: int) -> Move[MetricState]:
        gradient, v = self.smooth.slope(state.x), state.v
        if isinstance(self.metric, RMS):
            v = torch.lerp(gradient.square(), torch.zeros_like(gradient) if v is None else v, self.metric.smoothing)
            s = (v / (1 - self.metric.smoothing**count)).sqrt() + least(self.metric.floor, v)
        else:
            s = checked("metric", self.metric(state.x, gradient), state.x)
        x = self.f(state.x - self.step * gradient / s, self.step, s)
        return Move(MetricState(x, v), (Variable(state.x, x),))

    def result(self, state: MetricState) -> tuple[Tensor, Tensor | None]:
        return state.x, None


def variable_metric_forward_backward(
    smooth: SmoothLike, f: Proximable, x0: Tensor, *, step: Step, metric: RMS | Metric = RMS(),  # noqa: B008  (frozen)
    **stop: Unpack[StopOptions],
) -> SplittingResult:  # fmt: skip
    """``x+ = prox_{t f}^S(x - t grad h(x) / s)``, S = diag(s) anew at every x (Eq. 5.17).

    Chouzenoux, Pesquet & Repetti (2014); Combettes & Vu (2014).

    Arguments, and what is raised, as for :func:`forward_backward`, but for

    - f: a convex term as ``prox(x, step, metric)``, such as the operators of :mod:`constropt.prox` or an object with
      ``.prox``, or a ``Box``; ``TypeError`` for a prox that takes no metric;
    - step: t, a number or ``(batch,)``. With a metric that majorises h's curvature (``S - hess h / t`` positive
      definite, up to a factor 2) and settles, iterates converge;
    - metric: ``metric(x, gradient) -> s``, > 0, like x; or the rule :class:`RMS`.

    >>> from constropt import prox
    >>> a, s = torch.tensor([[3.0, -0.5]]), torch.tensor([[4.0, 1.0]])
    >>> h = lambda x: (s * (x - a).square()).sum(1) / 2
    >>> l1 = lambda x, step, metric: prox.l1(x, step, metric=metric)
    >>> variable_metric_forward_backward(h, l1, torch.zeros(1, 2), step=1.0, metric=lambda x, gradient: s).x
    tensor([[2.7500, 0.0000]])
    """
    x0 = rows("x0", x0)
    if not isinstance(metric, RMS) and not callable(metric):
        raise TypeError(f"metric: takes RMS() or metric(x, gradient) -> s, got {got(metric)}")
    operator, size = as_operator("f", f, metric=True), positive("step", step, x0)
    return run(VariableMetricForwardBackward(Smooth.of(smooth), operator, size, metric), x0, **stop)
