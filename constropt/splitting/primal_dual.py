"""Splittings that carry a dual variable u, a subgradient of g at Lx: primal-dual, and the prox of a sum by its dual.

Condat (2013) and Vu (2013), without h Chambolle & Pock (2011), minimise ``h(x) + f(x) + g(Lx)``, h by its gradient, f
and g by their prox, L by itself:

    x+ = prox_{t f}(x - t (grad h(x) + L*u)),   u+ = prox_{q g*}(u + q L(2 x+ - x)),   1/t - q ||L||^2 >= lipschitz / 2

Forward-backward on the dual, plain and accelerated, minimises ``1/2 ||x - z||_S^2 + f(x) + g(Lx)``, S = diag(metric),
the identity if none is given:

    x(u) = prox_f^S(z - S^-1 L*u),     u+ = prox_{t g*}(u + t L x(u))

The dual function is smooth with the constant ``||L S^-1/2||^2``, whatever f is. With L the identity the dual step is
taken in the metric 1/S, where the constant is 1 however far apart the entries of S are.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from .linear import Linear, LinearMap, NormBounds, as_linear, norm_of
from .loop import Method, Move, SplittingResult, StopOptions, Variable, run, spread
from .proximal_gradient import Applied, Momentum, ProximalGradient, chambolle_dossal
from .terms import (
    Operator,
    Proximable,
    Smooth,
    SmoothLike,
    Step,
    as_operator,
    conjugate_operator,
    diagonal,
    positive,
    rows,
)  # fmt: skip

_ROUNDING = 1e-6  # by which steps that meet the condition with equality may miss it, relatively


class PrimalDualState(NamedTuple):
    """The primal variable and the dual one."""

    x: Tensor
    u: Tensor


@dataclass(frozen=True, eq=False)
class CondatVu(Method[PrimalDualState]):
    """The update of the first equation above; ``smooth`` and ``linear`` may be None: no h, L the identity."""

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
    smooth: SmoothLike | None,
    f: Proximable,
    g: Proximable,
    x0: Tensor,
    *,
    linear: Linear = None,
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

    Returns x with f's constraints met exactly, and the dual u, a subgradient of g at Lx. Raises ``TypeError`` or
    ``ValueError`` for a term without a prox, shapes, steps that break the condition, ``smooth`` without ``lipschitz``,
    an ``x0`` that is not finite, and an adjoint that is none.

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
    term = None if smooth is None else Smooth.of(smooth)
    prox, prox_dual = as_operator("f", f), conjugate_operator(as_operator("g", g))
    return run(CondatVu(term, prox, prox_dual, map_, t, spread(q, image)), x0, **stop)


def chambolle_pock(
    f: Proximable,
    g: Proximable,
    x0: Tensor,
    *,
    linear: Linear = None,
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
        given = None if dual_step is None else q.flatten().tolist()
        found = f"step {t.flatten().tolist()}, dual_step {given}, norm {norm.below.flatten().tolist()}"
        must = "must meet 1/step - dual_step norm^2 >= lipschitz / 2"
        raise ValueError(f"step, dual_step: {must}, got {found}; leave one of them out, or both")
    return t, q


# ---------------------------------------------------------------------------------------- forward-backward on the dual


class DualOptions(StopOptions, total=False):
    """What both solvers take, as :func:`dual_forward_backward` says."""

    linear: Linear
    metric: Tensor | None
    step: Step | None
    norm: Step | None


def dual_forward_backward(f: Proximable, g: Proximable, z: Tensor, **options: Unpack[DualOptions]) -> SplittingResult:
    """Minimise ``1/2 ||x - z||_S^2 + f(x) + g(Lx)`` by forward-backward on the dual (Combettes, Dung & Vu 2010).

    Args:
        f, g: convex terms, each as ``prox(x, step)``, an object with ``.prox`` or a ``Domain``; ``Reals()`` for none.
            With a ``metric`` f's prox is called as ``prox(x, step, metric)``, and without ``linear`` also g's.
        z: ``(batch, *event)``, finite; rows are independent problems.
        metric: the diagonal of S, > 0, of a shape that broadcasts to z.
        step: t, a number or ``(batch,)``, below ``2 / norm^2``; ``1 / norm^2`` if None.
        norm: ``||L S^-1/2||`` or a bound from above, a number or ``(batch,)``; 1 without ``linear``, else estimated by
            power iteration if None.
        linear, stop: as for :func:`condat_vu`, and so is what is returned.

    Raises ``TypeError`` or ``ValueError`` for a term without a prox, shapes, a step outside ``(0, 2 / norm^2)``, a z
    that is not finite, a metric that is not positive, and an adjoint that is none.

    >>> from constropt import Box, prox
    >>> z = torch.tensor([[3.0, -1.0, 2.0]])
    >>> dual_forward_backward(Box(-1.5, 1.5), lambda x, step: prox.linf(x, 1.5 * step), z).x
    tensor([[ 1.5000, -1.0000,  1.5000]])
    """
    return _dual(f, g, z, None, **options)


def accelerated_dual_forward_backward(
    f: Proximable, g: Proximable, z: Tensor, *, restart: bool = False, **options: Unpack[DualOptions]
) -> SplittingResult:
    """:func:`dual_forward_backward` with Nesterov's extrapolation of the dual variable (Chambolle & Dossal 2015).

    Arguments as there, but for ``step``, which may not exceed ``1 / norm^2``, and ``restart``: whether momentum starts
    anew, per row, where it points uphill.

    >>> from constropt import Box, prox
    >>> z = torch.tensor([[3.0, -1.0, 2.0]])
    >>> accelerated_dual_forward_backward(Box(-1.5, 1.5), lambda x, step: prox.linf(x, 1.5 * step), z).x
    tensor([[ 1.5000, -1.0000,  1.5000]])
    """
    return _dual(f, g, z, chambolle_dossal, restart, **options)


@torch.no_grad()
def _dual(
    f: Proximable, g: Proximable, z: Tensor, momentum: Momentum | None, restart: bool = False, *,
    linear: Linear = None, metric: Tensor | None = None, step: Step | None = None, norm: Step | None = None,
    **stop: Unpack[StopOptions],
) -> SplittingResult:  # fmt: skip
    z = rows("z", z).detach()
    weights = None if metric is None else diagonal("metric", metric, z)
    prox_f = as_operator("f", f, metric=weights is not None)
    # in the dual metric 1/S, g's prox is taken in S
    prox_dual = conjugate_operator(as_operator("g", g, metric=weights is not None and linear is None))
    map_ = as_linear(linear, z)
    image = z if map_ is None else map_(z)
    bound = norm_of(_scaled(map_, weights), norm, z)
    size = _dual_step(step, bound, image, 2.0 if momentum is None else 1.0)
    one = torch.ones_like(bound.above)
    dual_metric = 1 / weights if weights is not None and map_ is None else None

    def operator(u: Tensor, t: Tensor) -> Applied:
        back = u if map_ is None else map_.transpose(u, z)
        x = prox_f(z - back if weights is None else z - back / weights, one, weights)
        forth = x if map_ is None else map_(x)
        climb = t * forth if dual_metric is None else t / dual_metric * forth
        return Applied(prox_dual(u + climb, t, dual_metric), x)

    return run(ProximalGradient(operator, size, momentum, restart, primal=z), torch.zeros_like(image), **stop)


def _dual_step(step: Step | None, norm: NormBounds, image: Tensor, limit: float) -> Tensor:
    """t as ``(batch, 1, ...)`` of the dimensions of the image, ``1 / norm^2`` if None, at most ``limit / norm^2``."""
    if step is None:
        return spread(norm.above, image).square().reciprocal()
    size, most = positive("step", step, image), limit / spread(norm.below, image).square()
    if bool((size > most * (1 + 1e-6)).any()):
        wanted = f"step: must be at most {limit:g} / norm^2 = {most.min().item():.3g}"
        raise ValueError(f"{wanted}, got {size.max().item():.3g}; leave it out, or pass a better norm")
    return size


def _scaled(linear: LinearMap | None, weights: Tensor | None) -> LinearMap | None:
    """``L S^-1/2``, whose norm bounds the step; the identity in its own metric has norm 1."""
    if linear is None or weights is None:
        return linear
    root = weights.sqrt()
    return LinearMap(lambda x: linear(x / root), lambda u: linear.transpose(u, root) / root)
