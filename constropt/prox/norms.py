"""Exact proximity operators of the l1, l2 and l0 norms on a box, in a diagonal metric, batched over rows.

    argmin over p   1/2 sum_i s_i (p_i - x_i)^2 + step N(p)   subject to   lower <= p <= upper

For all: ``x`` is ``(batch, *event)``; ``step``, >= 0, a number or ``(batch,)``; ``lower``, ``upper`` and ``metric`` (s
> 0) broadcast to ``x``; the box must contain 0; ``out`` receives the result. ``warm`` is accepted for the signature
that all operators share. Inputs are not modified, a row that is not finite leaves the others alone, and ``ValueError``
is raised for a negative ``step`` given as a number and for shapes that do not broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.prox.linf import Step, column, finish, linf, side

# Halvings of the bracket of the l2 operator's scalar root: to the last bit of a float64 from any scale in the bracket.
_HALVINGS = 100


def l1(
    x: Tensor,
    step: Step,
    *,
    lower: Tensor | float | None = None,
    upper: Tensor | float | None = None,
    metric: Tensor | None = None,
    warm: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """prox of ``step ||.||_1`` with box and metric: ``clip(soft(x, step / s), lower, upper)``.

    >>> l1(torch.tensor([[3.0, -0.5, 2.0]]), 1.0, upper=1.5)
    tensor([[1.5000, 0.0000, 1.0000]])
    """
    rows, low, high, weights, amount, lost = _prepare(x, step, lower, upper, metric)
    threshold = amount / weights
    # the two halves keep what is beyond the threshold on either side; one of them is 0
    soft = (rows - threshold).clamp_min(0) + (rows + threshold).clamp_max(0)
    return finish(torch.minimum(torch.maximum(soft, low), high), lost, x, out)


def l2(
    x: Tensor,
    step: Step,
    *,
    lower: Tensor | float | None = None,
    upper: Tensor | float | None = None,
    metric: Tensor | None = None,
    warm: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """prox of ``step ||.||_2`` (not squared), box and metric: ``p = clip(s r x / (s r + step))``, ``r = ||p||_2``.

    0 where ``||s x||_2 <= step`` over the entries that the box lets move; r is found by bisection.

    >>> l2(torch.tensor([[3.0, 4.0]]), 1.0)
    tensor([[2.4000, 3.2000]])
    """
    rows, low, high, weights, amount, lost = _prepare(x, step, lower, upper, metric)

    def at(r: Tensor) -> Tensor:
        # written so that a step of 0 gives x and r = 0 gives 0
        shrunk = rows * (weights * r / (weights * r + amount).clamp_min(torch.finfo(rows.dtype).tiny))
        return torch.minimum(torch.maximum(shrunk, low), high)

    movable = torch.where(rows > 0, high > 0, low < 0)
    nonzero = torch.linalg.vector_norm(torch.where(movable, weights * rows, 0), dim=1, keepdim=True) > amount
    inside = torch.minimum(torch.maximum(rows, low), high)
    # ||at(r)|| / r falls in r: it is above 1 below the root, below 1 above it
    least, most = torch.zeros_like(amount), torch.linalg.vector_norm(inside, dim=1, keepdim=True)
    for _ in range(_HALVINGS):
        r = (least + most) / 2
        small = torch.linalg.vector_norm(at(r), dim=1, keepdim=True) > r
        least, most = torch.where(small, r, least), torch.where(small, most, r)
    return finish(torch.where(amount > 0, torch.where(nonzero, at(most), 0), inside), lost, x, out)


def l0(
    x: Tensor,
    step: Step,
    *,
    lower: Tensor | float | None = None,
    upper: Tensor | float | None = None,
    metric: Tensor | None = None,
    warm: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """A global minimiser for ``step ||.||_0`` (nonconvex): clipped entries q with ``s (x^2 - (q - x)^2) > 2 step``.

    >>> l0(torch.tensor([[3.0, -0.5, 2.0]]), 1.0, upper=2.5)
    tensor([[2.5000, 0.0000, 2.0000]])
    """
    rows, low, high, weights, amount, lost = _prepare(x, step, lower, upper, metric)
    inside = torch.minimum(torch.maximum(rows, low), high)
    # x^2 - (q - x)^2 without its cancellation
    gain = weights * inside * (2 * rows - inside)
    return finish(torch.where(gain > 2 * amount, inside, 0), lost, x, out)


_OPERATORS: dict[str, tuple[float, Callable[..., Tensor]]] = {
    "l0": (0.0, l0),
    "l1": (1.0, l1),
    "l2": (2.0, l2),
    "linf": (torch.inf, linf),
}


@dataclass(frozen=True, eq=False)
class NormAround:
    """``||x - center||`` plus the indicator of ``[lower, upper]``, as the nonsmooth term of a problem.

    ``norm``: "l0", "l1", "l2" or "linf"; ``center`` lies between ``lower`` and ``upper``, numbers or tensors.
    Raises ``ValueError`` for another norm.

    >>> term = NormAround("linf", torch.tensor([[0.5, 0.5]]), 0.0, 1.0)
    >>> x = torch.tensor([[0.9, 2.0]])
    >>> term(x), term.prox(x, 1.2)
    (tensor([1.5000]), tensor([[0.8500, 0.8500]]))
    """

    norm: str
    center: Tensor
    lower: Tensor | float
    upper: Tensor | float

    def __post_init__(self) -> None:
        if self.norm not in _OPERATORS:
            raise ValueError(f"norm: takes one of {list(_OPERATORS)}, got {self.norm!r}")

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of the difference, ``(batch,)``; the indicator is left to the domain."""
        return torch.linalg.vector_norm((x - self.center).flatten(1), ord=_OPERATORS[self.norm][0], dim=1)

    def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor:
        """The exact prox, ``(batch, *event)``; ``step`` a number or of one entry per row."""
        operator = _OPERATORS[self.norm][1]
        delta = operator(
            x - self.center, step, lower=self.lower - self.center, upper=self.upper - self.center, metric=metric
        )
        # the sum with the centre rounds: the box is met exactly in the dtype of x
        lower, upper = (torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in (self.lower, self.upper))
        return torch.minimum(torch.maximum(self.center + delta, lower), upper)


def _prepare(
    x: Tensor, step: Step, lower: Tensor | float | None, upper: Tensor | float | None, metric: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As float64 rows: x, the sides of the box, the metric and the step; and which rows hold a NaN."""
    rows = x.detach().flatten(1).double()
    lost = rows.isnan().any(1, keepdim=True)
    rows = rows.nan_to_num(nan=0.0, posinf=1e30, neginf=-1e30)
    low, high = side(lower, x, -torch.inf), side(upper, x, torch.inf)
    return rows, low, high, side(metric, x, 1.0), column(step, x), lost
