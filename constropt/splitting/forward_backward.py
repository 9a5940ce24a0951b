"""Proximal gradient (ISTA) and FISTA: ``minimise h(x) + f(x)``, h smooth by its gradient, f convex by its prox."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from constropt.splitting.loop import SplittingResult, Stop, run
from constropt.splitting.operators import Proximable, Step, as_operator, rows
from constropt.splitting.proximal_gradient import ProximalGradient, beck_teboulle
from constropt.splitting.smooth import Backtracking, Smooth, as_smooth, proximal_step, step_rule


def forward_backward(
    smooth: Smooth | Callable[[Tensor], Tensor],
    f: Proximable,
    x0: Tensor,
    *,
    step: Step | Backtracking = Backtracking(),  # noqa: B008  (frozen)
    tolerance: float = 1e-6,
    max_iterations: int = 10_000,
    check_every: int = 10,
) -> SplittingResult:
    """``x+ = prox_{t f}(x - t grad h(x))`` (Lions & Mercier 1979; as ISTA, Daubechies, Defrise & De Mol 2004).

    Args:
        smooth: h as ``h(x) -> (batch,)``, differentiated automatically, or :class:`Smooth` with its gradient.
        f: a convex term as ``prox(x, step)``, an object with ``.prox`` or a ``Domain``; ``Reals()`` for none.
        x0: ``(batch, *event)``, finite; rows are independent problems.
        step: t, a number or ``(batch,)``, below 2/L with L a Lipschitz constant of the gradient, or
            :class:`Backtracking`, which needs no constant.
        tolerance, max_iterations, check_every: see :mod:`constropt.splitting.loop`.

    Raises:
        TypeError, ValueError: an f without a prox, shapes, steps that are not > 0, an ``x0`` that is not finite, a
            search for steps without a value of h.

    >>> import torch
    >>> a = torch.tensor([[3.0, -1.5]])
    >>> l1 = lambda x, step: x.sign() * (x.abs() - step).clamp_min(0)
    >>> forward_backward(lambda x: (x - a).square().sum(1) / 2, l1, torch.zeros(1, 2)).x
    tensor([[ 2.0000, -0.5000]])
    """
    x0 = rows("x0", x0)
    size, shrink = step_rule(step, x0)
    operator = proximal_step(as_smooth(smooth), as_operator("f", f), search=shrink is not None)
    method = ProximalGradient(operator, size, shrink=shrink or 1.0)
    return run(method, x0, Stop(tolerance, max_iterations, check_every))


def fista(
    smooth: Smooth | Callable[[Tensor], Tensor],
    f: Proximable,
    x0: Tensor,
    *,
    step: Step | Backtracking = Backtracking(),  # noqa: B008  (frozen)
    restart: bool = False,
    tolerance: float = 1e-6,
    max_iterations: int = 10_000,
    check_every: int = 10,
) -> SplittingResult:
    """:func:`forward_backward` from extrapolated points: ``O(1/k^2)`` in the objective (Beck & Teboulle 2009).

    Arguments as there, with fixed steps of at most 1/L, and ``restart``: whether momentum starts anew, per row, where
    it points uphill (O'Donoghue & Candes 2015); it turns oscillation into linear convergence on well-behaved problems.

    >>> import torch
    >>> a = torch.tensor([[3.0, -1.5]])
    >>> l1 = lambda x, step: x.sign() * (x.abs() - step).clamp_min(0)
    >>> fista(lambda x: (x - a).square().sum(1) / 2, l1, torch.zeros(1, 2), restart=True).x
    tensor([[ 2.0000, -0.5000]])
    """
    x0 = rows("x0", x0)
    size, shrink = step_rule(step, x0)
    operator = proximal_step(as_smooth(smooth), as_operator("f", f), search=shrink is not None)
    method = ProximalGradient(operator, size, beck_teboulle, restart, shrink=shrink or 1.0)
    return run(method, x0, Stop(tolerance, max_iterations, check_every))
