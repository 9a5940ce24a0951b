"""Primal-dual splitting: ``minimise h(x) + f(x) + g(Lx)``, h by its gradient, f and g by their prox, L by itself.

    x+ = prox_{t f}(x - t (grad h(x) + L*u)),   u+ = prox_{q g*}(u + q L(2 x+ - x)),   1/t - q ||L||^2 >= lipschitz / 2

Condat (2013) and Vu (2013); without h it is Chambolle & Pock's (2011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from constropt.splitting.linear import LinearMap, NormBounds, as_linear, norm_of
from constropt.splitting.loop import Method, Move, SplittingResult, Stop, StopOptions, Variable, run, spread
from constropt.splitting.operators import Operator, Proximable, Step, as_operator, conjugate_operator, positive, rows
from constropt.splitting.smooth import Smooth, as_smooth

_ROUNDING = 1e-6  # by which steps that meet the condition with equality may miss it, relatively


class PrimalDualState(NamedTuple):
    """The primal variable and the dual one."""

    x: Tensor
    u: Tensor


@dataclass(frozen=True, eq=False)
class CondatVu(Method[PrimalDualState]):
    """The update of the module's equation; ``smooth`` and ``linear`` may be None: no h, L the identity."""

    smooth: Smooth | None
    f: Operator
    g_conjugate: Operator
    linear: LinearMap | None
    step: Tensor
    dual_step: Tensor

    def init(self, x: Tensor) -> PrimalDualState:
        return PrimalDualState(x, torch.zeros_like(x if self.linear is None else self.linear(x)))

    def update(self, state: PrimalDualState, count: int) -> Move[PrimalDualState]:
        back = state.u if self.linear is None else self.linear.transpose(state.u, state.x)
        slope = back if self.smooth is None else back + self.smooth.slope(state.x)
        x = self.f(state.x - self.step * slope, self.step, None)
        ahead = 2 * x - state.x
        image = ahead if self.linear is None else self.linear(ahead)
        climb = state.u + self.dual_step * image
        u = self.g_conjugate(climb, self.dual_step, None)
        return Move(PrimalDualState(x, u), (Variable(state.x, x, self.step * back), Variable(state.u, u, climb)))

    def result(self, state: PrimalDualState) -> tuple[Tensor, Tensor | None]:
        return state.x, state.u


def condat_vu(
    smooth: Smooth | Callable[[Tensor], Tensor] | None,
    f: Proximable,
    g: Proximable,
    x0: Tensor,
    *,
    linear: LinearMap | Callable[[Tensor], Tensor] | None = None,
    lipschitz: Step | None = None,
    step: Step | None = None,
    dual_step: Step | None = None,
    norm: Step | None = None,
    **stop: Unpack[StopOptions],
) -> SplittingResult:
    """Minimise ``h(x) + f(x) + g(Lx)`` (Condat 2013; Vu 2013).

    Args:
        smooth: h as ``h(x) -> (batch,)``, differentiated automatically, or :class:`Smooth` with its gradient; None for
            no smooth term.
        f, g: convex terms as ``prox(x, step)``, objects with ``.prox`` or ``Domain``; ``Reals()`` for none.
        x0: ``(batch, *event)``, finite; rows are independent problems.
        linear: L, a callable or a :class:`LinearMap`; the identity if None.
        lipschitz: a Lipschitz constant of h's gradient, a number or ``(batch,)``; needed with ``smooth``.
        step, dual_step: t and q, numbers or ``(batch,)``; they have to meet ``1/t - q norm^2 >= lipschitz / 2``. If
            None, t follows from q, and q is ``1 / norm`` or follows from t.
        norm: ``||L||`` or a bound from above; 1 without ``linear``, else estimated by power iteration if None.
        stop: ``tolerance``, ``max_iterations``, ``check_every``, see :class:`~constropt.splitting.loop.Stop`.

    Returns:
        x with f's constraints met exactly, and the dual u, a subgradient of g at Lx.

    Raises:
        TypeError, ValueError: a term without a prox, shapes, steps that break the condition, ``smooth`` without
            ``lipschitz``, an ``x0`` that is not finite, an adjoint that is none.

    >>> from constropt import Box
    >>> a = torch.tensor([[3.0, -1.5, 2.0]])
    >>> l1 = lambda x, step: x.sign() * (x.abs() - step).clamp_min(0)
    >>> h = lambda x: (x - a).square().sum(1) / 2
    >>> condat_vu(h, l1, Box(-1.5, 1.5), torch.zeros(1, 3), lipschitz=1.0).x
    tensor([[ 1.5000, -0.5000,  1.0000]])
    """
    x0 = rows("x0", x0)
    with torch.no_grad():
        map_ = as_linear(linear, x0)
        image = x0 if map_ is None else map_(x0)
        bounds = norm_of(map_, norm, x0)
    bend = torch.zeros_like(bounds.above)
    if smooth is not None:
        if lipschitz is None:
            raise ValueError("lipschitz: needed with a smooth term, a bound of its curvature; got None")
        bend = positive("lipschitz", lipschitz, x0) / 2
    t, q = _steps(step, dual_step, bounds, bend, x0)
    term = None if smooth is None else as_smooth(smooth)
    prox_dual = conjugate_operator(as_operator("g", g))
    method = CondatVu(term, as_operator("f", f), prox_dual, map_, t, spread(q, image))
    return run(method, x0, Stop(**stop))


def chambolle_pock(
    f: Proximable,
    g: Proximable,
    x0: Tensor,
    *,
    linear: LinearMap | Callable[[Tensor], Tensor] | None = None,
    step: Step | None = None,
    dual_step: Step | None = None,
    norm: Step | None = None,
    **stop: Unpack[StopOptions],
) -> SplittingResult:
    """Minimise ``f(x) + g(Lx)`` (Chambolle & Pock 2011): :func:`condat_vu` without h, ``step dual_step norm^2 <= 1``.

    Both steps are ``1 / norm`` if None; the best ratio ``step / dual_step`` is of the size of ``(|x| / |u|)^2``.

    >>> from constropt import Box
    >>> from constropt.splitting import with_distance
    >>> a = torch.tensor([[3.0, -1.5, 2.0]])
    >>> l1 = lambda x, step: x.sign() * (x.abs() - step).clamp_min(0)
    >>> chambolle_pock(with_distance(l1, a), Box(-1.5, 1.5), torch.zeros(1, 3)).x
    tensor([[ 1.5000, -0.5000,  1.0000]])
    """
    return condat_vu(None, f, g, x0, linear=linear, step=step, dual_step=dual_step, norm=norm, **stop)


def _steps(
    step: Step | None, dual_step: Step | None, norm: NormBounds, bend: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Both steps, ``(batch, 1, ...)``; what is None follows from the other, or from the norm."""
    squared = norm.above.square()
    t = None if step is None else positive("step", step, x)
    q = None if dual_step is None else positive("dual_step", dual_step, x)
    if t is None:
        q = norm.above.reciprocal() if q is None else q
        return (bend + q * squared).reciprocal(), q
    room = t.reciprocal() - bend
    if q is None:
        q = room / squared
    if bool(((q <= 0) | (q * norm.below.square() > room + _ROUNDING * t.reciprocal())).any()):
        raise ValueError(
            f"step, dual_step: must meet 1/step - dual_step norm^2 >= lipschitz / 2, got step {t.flatten().tolist()},"
            f" dual_step {None if dual_step is None else q.flatten().tolist()}, norm {norm.below.flatten().tolist()};"
            " leave one of them out, or both"
        )
    return t, q
