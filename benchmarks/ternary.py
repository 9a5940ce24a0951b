"""The ternary search of the thesis (Algorithm 5.1) for the l-infinity operator, as the yardstick of `prox.py`.

Written as in the text, batched over rows: per step two candidates are projected and compared by their objective, in the
dtype of the data. The number of steps follows from the width of the bracket and the absolute precision asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Narrow = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def narrow(
    low: Tensor, high: Tensor, inside: Tensor, delta: Tensor, metric: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """One step on ``[low, high]``, ``(batch, 1)`` each; ``inside`` is delta clipped to the box."""
    third = (high - low) / 3
    left, right = low + third, high - third
    value_left, value_right = (
        ((inside.maximum(-beta).minimum(beta) - delta).square() * metric).sum(1, keepdim=True) / 2 + step * beta
        for beta in (left, right)
    )
    go_right = value_left >= value_right
    return torch.where(go_right, left, low), torch.where(go_right, high, right)


def ternary_search(
    delta: Tensor,
    step: Tensor,
    lower: Tensor,
    upper: Tensor,
    metric: Tensor,
    precision: float = 1e-5,
    narrow: Narrow = narrow,
) -> Tensor:
    """prox of ``step ||.||_inf`` on the box in the metric, ``(batch, n)``, to ``precision``; ``step``: ``(batch, 1)``.

    >>> one = torch.ones(1, 3)
    >>> p = ternary_search(torch.tensor([[3.0, -1.0, 2.0]]), 1.5 * one[:, :1], -9 * one, 9 * one, one)
    >>> (p - torch.tensor([[1.75, -1.0, 1.75]])).abs().max() < 1e-3
    tensor(True)
    """
    inside = delta.maximum(lower).minimum(upper)
    high = inside.abs().amax(1, keepdim=True)
    low = torch.zeros_like(high)
    steps = math.ceil(math.log(precision / max(high.max().item(), precision)) / math.log(2 / 3))
    for _ in range(steps):
        low, high = narrow(low, high, inside, delta, metric, step)
    beta = (low + high) / 2
    return inside.maximum(-beta).minimum(beta)
