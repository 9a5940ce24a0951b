"""Variable-metric forward-backward: ``minimise h(x) + f(x)`` with a diagonal metric that follows the iterates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from constropt.splitting.loop import Method, Move, SplittingResult, Stop, StopOptions, Variable, run
from constropt.splitting.operators import Operator, Proximable, Step, as_operator, checked, positive, rows
from constropt.splitting.smooth import Smooth, as_smooth


@dataclass(frozen=True)
class RMS:
    """The metric of Eq. 5.18: ``v <- a v + (1 - a) grad^2``, ``s = sqrt(v / (1 - a^k)) + floor`` (Adam's, without its
    first moment).

    s shrinks with the gradient, so where entries of grad h are 0 at the solution a fixed step need not settle: iterates
    circle it at about the step's size, and say that they have not converged. Meant for a bounded number of steps.
    """

    smoothing: float = 0.9
    floor: float = 1e-8

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"RMS: smoothing must lie in [0, 1), got {self.smoothing}")
        if not self.floor > 0:
            raise ValueError(f"RMS: floor must be > 0, got {self.floor}")


Metric = Callable[[Tensor, Tensor], Tensor]


class MetricState(NamedTuple):
    """x, and RMS's average of squared gradients (None: the metric is the caller's)."""

    x: Tensor
    v: Tensor | None


@dataclass(frozen=True, eq=False)
class VariableMetricForwardBackward(Method[MetricState]):
    """x+ = prox_{t f}^S(x - t grad h(x) / s),  S = diag(s)."""

    smooth: Smooth
    f: Operator
    step: Tensor
    metric: RMS | Metric

    def init(self, x: Tensor) -> MetricState:
        return MetricState(x, torch.zeros_like(x) if isinstance(self.metric, RMS) else None)

    def update(self, state: MetricState, count: int) -> Move[MetricState]:
        gradient = self.smooth.slope(state.x)
        v = None
        if isinstance(self.metric, RMS):
            v = torch.lerp(
                gradient.square(), torch.zeros_like(gradient) if state.v is None else state.v, self.metric.smoothing
            )
            floor = max(self.metric.floor, torch.finfo(v.dtype).tiny)  # 1e-8 is 0 in float16
            s = (v / (1 - self.metric.smoothing**count)).sqrt() + floor
        else:
            s = checked("metric", self.metric(state.x, gradient), state.x)
        x = self.f(state.x - self.step * gradient / s, self.step, s)
        return Move(MetricState(x, v), (Variable(state.x, x),))

    def result(self, state: MetricState) -> tuple[Tensor, Tensor | None]:
        return state.x, None


def variable_metric_forward_backward(
    smooth: Smooth | Callable[[Tensor], Tensor],
    f: Proximable,
    x0: Tensor,
    *,
    step: Step,
    metric: RMS | Metric = RMS(),  # noqa: B008  (frozen)
    **stop: Unpack[StopOptions],
) -> SplittingResult:
    """``x+ = prox_{t f}^S(x - t grad h(x) / s)``, S = diag(s) anew at every x (Eq. 5.17; Chouzenoux, Pesquet & Repetti
    2014; Combettes & Vu 2014).

    Args:
        smooth: h as ``h(x) -> (batch,)``, differentiated automatically, or :class:`Smooth` with its gradient.
        f: a convex term as ``prox(x, step, metric)``, such as the operators of :mod:`constropt.prox` or an object with
            ``.prox``, or a ``Box``.
        x0: ``(batch, *event)``, finite; rows are independent problems.
        step: t, a number or ``(batch,)``. With a metric that majorises h's curvature (``S - hess h / t`` positive
            definite, up to a factor 2) and settles, iterates converge.
        metric: ``metric(x, gradient) -> s``, > 0, like x; or the rule :class:`RMS`.
        stop: ``tolerance``, ``max_iterations``, ``check_every``, see :class:`~constropt.splitting.loop.Stop`.

    Raises:
        TypeError, ValueError: an f whose prox takes no metric, shapes, steps that are not > 0, an ``x0`` that is not
            finite.

    >>> from constropt import prox
    >>> a, s = torch.tensor([[3.0, -0.5]]), torch.tensor([[4.0, 1.0]])
    >>> h = lambda x: (s * (x - a).square()).sum(1) / 2
    >>> l1 = lambda x, step, metric: prox.l1(x, step, metric=metric)
    >>> variable_metric_forward_backward(h, l1, torch.zeros(1, 2), step=1.0, metric=lambda x, gradient: s).x
    tensor([[2.7500, 0.0000]])
    """
    x0 = rows("x0", x0)
    if not isinstance(metric, RMS) and not callable(metric):
        raise TypeError(f"metric: takes RMS() or metric(x, gradient) -> s, got {type(metric).__name__}")
    operator = as_operator("f", f, metric=True)
    method = VariableMetricForwardBackward(as_smooth(smooth), operator, positive("step", step, x0), metric)
    return run(method, x0, Stop(**stop))
