"""The prox of a sum through its dual: forward-backward, plain and accelerated, on the dual variable.

    minimise over x   1/2 ||x - z||_S^2 + f(x) + g(Lx)        S = diag(metric), the identity if none is given

    x(u) = prox_f^S(z - S^-1 L*u),     u+ = prox_{t g*}(u + t L x(u))

The dual function is smooth with the constant ``||L S^-1/2||^2``, whatever f is. With L the identity the dual step is
taken in the metric 1/S, where the constant is 1 however far apart the entries of S are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import Unpack

from constropt.splitting.linear import LinearMap, NormBounds, as_linear, norm_of
from constropt.splitting.loop import SplittingResult, Stop, StopOptions, run, spread
from constropt.splitting.operators import Proximable, Step, as_operator, conjugate_operator, diagonal, positive, rows
from constropt.splitting.proximal_gradient import Applied, Momentum, ProximalGradient, chambolle_dossal


class DualOptions(StopOptions, total=False):
    """What both solvers take, as :func:`dual_forward_backward` says."""

    linear: LinearMap | Callable[[Tensor], Tensor] | None
    metric: Tensor | None
    step: Step | None
    norm: Step | None


def dual_forward_backward(f: Proximable, g: Proximable, z: Tensor, **options: Unpack[DualOptions]) -> SplittingResult:
    """Minimise ``1/2 ||x - z||_S^2 + f(x) + g(Lx)`` by forward-backward on the dual (Combettes, Dung & Vu 2010).

    Args:
        f, g: convex terms, each as ``prox(x, step)``, an object with ``.prox`` or a ``Domain``; ``Reals()`` for none.
            With a ``metric`` f's prox is called as ``prox(x, step, metric)``, and without ``linear`` also g's.
        z: ``(batch, *event)``, finite; rows are independent problems.
        linear: L, a callable or a :class:`LinearMap`; the identity if None.
        metric: the diagonal of S, > 0, of a shape that broadcasts to z.
        step: t, a number or ``(batch,)``, below ``2 / norm^2``; ``1 / norm^2`` if None.
        norm: ``||L S^-1/2||`` or a bound from above, a number or ``(batch,)``; 1 without ``linear``, else estimated by
            power iteration if None.
        stop: ``tolerance``, ``max_iterations``, ``check_every``, see :class:`~constropt.splitting.loop.Stop`.

    Returns:
        x with f's constraints met exactly, and the dual u, a subgradient of g at Lx.

    Raises:
        TypeError, ValueError: a term without a prox, shapes, a step outside ``(0, 2 / norm^2)``, a z that is not
            finite, a metric that is not positive, an adjoint that is none.

    >>> from constropt import Box, prox
    >>> z = torch.tensor([[3.0, -1.0, 2.0]])
    >>> dual_forward_backward(Box(-1.5, 1.5), lambda x, step: prox.linf(x, 1.5 * step), z).x
    tensor([[ 1.5000, -1.0000,  1.5000]])
    """
    return _run(f, g, z, None, **options)


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
    return _run(f, g, z, chambolle_dossal, restart, **options)


@torch.no_grad()
def _run(
    f: Proximable,
    g: Proximable,
    z: Tensor,
    momentum: Momentum | None,
    restart: bool = False,
    *,
    linear: LinearMap | Callable[[Tensor], Tensor] | None = None,
    metric: Tensor | None = None,
    step: Step | None = None,
    norm: Step | None = None,
    **stop: Unpack[StopOptions],
) -> SplittingResult:
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

    method = ProximalGradient(operator, size, momentum, restart, primal=z)
    return run(method, torch.zeros_like(image), Stop(**stop))


def _dual_step(step: Step | None, norm: NormBounds, image: Tensor, limit: float) -> Tensor:
    """t as ``(batch, 1, ...)`` of the dimensions of the image, ``1 / norm^2`` if None, at most ``limit / norm^2``."""
    if step is None:
        return spread(norm.above, image).square().reciprocal()
    size, most = positive("step", step, image), limit / spread(norm.below, image).square()
    if bool((size > most * (1 + 1e-6)).any()):
        raise ValueError(
            f"step: must be at most {limit:g} / norm^2 = {most.min().item():.3g}, got {size.max().item():.3g}; leave it"
            " out, or pass a better norm"
        )
    return size


def _scaled(linear: LinearMap | None, weights: Tensor | None) -> LinearMap | None:
    """``L S^-1/2``, whose norm bounds the step; the identity in its own metric has norm 1."""
    if linear is None or weights is None:
        return linear
    root = weights.sqrt()
    return LinearMap(lambda x: linear(x / root), lambda u: linear.transpose(u, root) / root)
