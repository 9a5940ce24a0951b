"""The proximity operator of ``sum_i |p_i|^(2/3)`` on a box, in a diagonal metric: between the l0 and the l1 norm."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from constropt.prox.rows import HUGE, Bound, Options, Problem, Step, clip

# Newton's steps from u = 1: where the operator is not 0, u^3 lies in [1/2, 1], and five reach rounding in float64.
_PASSES = 6


@torch.no_grad()
def two_thirds(x: Tensor, step: Step, **options: Unpack[Options]) -> Tensor:
    """A global minimiser of ``1/2 sum_i s_i (p_i - x_i)^2 + step sum_i |p_i|^(2/3)`` on the box (nonconvex).

    As the thresholding of Cao, Sun & Xu (2013), without its closed form, which loses small numbers in float32: with
    ``p = x u^3`` a stationary point has ``u^4 - u + k = 0``, ``k = 2 step / (3 s |x|^(4/3))``, and the largest root is
    reached from above by Newton's method. Clipped to the box, it is taken where that is less than 0 is. Sparser than
    the l1 norm's, and unlike the l0 norm's it changes with what is left. Arguments as for
    :func:`~constropt.prox.l0`.

    >>> two_thirds(torch.tensor([[3.0, -0.5, 2.0]]), 1.0, upper=1.5)
    tensor([[1.5000, 0.0000, 1.4047]])
    """
    return Problem(x, step, **options).solve(_shrunk)


def _shrunk(x: Tensor, low: Bound, high: Bound, s: Bound, step: Tensor, p: Tensor) -> None:
    x = x.clamp(-HUGE, HUGE)
    weight = step if s is None else step / s
    # |x|^(4/3) in two factors, each within range where their product is not
    root = x.abs().pow(1 / 3)
    k = 2 / 3 * weight / x.abs() / root
    # beyond the threshold, 2^(-4/3), the result is 0 whatever u is
    k = k.nan_to_num(nan=0.0, posinf=1.0).clamp_max(0.45)
    u = torch.ones_like(x)
    for _ in range(_PASSES):
        u -= (u.pow(4) - u + k) / (4 * u.pow(3) - 1)
    inside = clip(x * u.pow(3), low, high)
    gain = inside * (2 * x - inside)
    cost = 2 * weight * inside.abs().pow(2 / 3)
    # a NaN stays one, and no zero is negative
    torch.mul(inside, gain > cost, out=p).add_(0.0)
