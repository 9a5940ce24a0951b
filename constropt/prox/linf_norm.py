"""The exact proximity operator of the l-infinity norm on a box, in a diagonal metric, batched over rows.

    minimise over p   1/2 sum_i s_i (p_i - x_i)^2 + step max_i |p_i|   subject to   lower <= p <= upper

For a given largest entry beta the solution is ``clip(clip(x, lower, upper), -beta, beta)``. With ``m = |clip(x, lower,
upper)|`` and ``a = sign(clip(x)) x``, the derivative in beta is ``step - h(beta)``, ``h(beta) = sum over m_i > beta of
s_i (a_i - beta)``. h decreases and, where the box clips (a_i > m_i), jumps down at m_i: the root may sit at a jump,
where Newton's method alone stalls. Short rows are bracketed and what the bracket leaves undecided is sorted
(`linf_exact`); long ones are searched from a sample (`linf_search`); on a device, which nothing here waits for, all
is sorted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from constropt.prox.linf_exact import Listed, root
from constropt.prox.linf_search import largest
from constropt.prox.linf_sweep import Rows, widened
from constropt.prox.rows import TILE, Options, Problem, Step, clip, part

# Rows up to this length are sorted at once.
_SHORT = 256


@torch.no_grad()
def linf(x: Tensor, step: Step, **options: Unpack[Options]) -> Tensor:
    """prox of ``step ||.||_inf`` plus the indicator of ``[lower, upper]`` in the metric ``diag(metric)``, row by row.

    ``x``: ``(batch, *event)``; ``step``: a number or ``(batch,)``, >= 0; ``options``:
    :class:`~constropt.prox.rows.Options`, of which ``warm`` guesses the largest entry of the result (the previous
    one's, when the operator is applied repeatedly), and ``out`` spares most of the time in large tensors, which goes
    into new memory. The largest entry is exact to the rounding of that dtype (half precision: that of float32, then
    rounded). A row that holds a NaN gives a row of them, and leaves the others alone.

    Raises ``ValueError`` for a negative ``step`` given as a number, and for shapes that do not fit x.

    >>> linf(torch.tensor([[3.0, -1.0, 2.0]]), 1.5)
    tensor([[ 1.7500, -1.0000,  1.7500]])
    >>> linf(torch.tensor([[3.0, -1.0, 2.0]]), 1.5, upper=1.0)
    tensor([[ 1., -1.,  1.]])
    """
    problem = Problem(x, step, **options)
    amount, rows, low, high, weights = problem.step.squeeze(1), problem.x, problem.lower, problem.upper, problem.metric
    result, start = problem.result, problem.warm
    batch, n = rows.shape
    cpu = x.device.type == "cpu"
    group = max(4, TILE // max(n, 1)) if cpu else max(batch, 1)
    for first in range(0, batch if n else 0, group):
        chosen, every = slice(first, first + group), slice(None)
        inside = rows[chosen] if low is None and high is None else result[chosen]
        sides = part(low, chosen, every), part(high, chosen, every), part(weights, chosen, every)
        piece = Rows(rows[chosen], *sides, inside)
        guess = None if start is None else start[chosen]
        beta = largest(piece, amount[chosen], guess) if cpu and n > _SHORT else _short(piece, amount[chosen])
        _cut(inside, beta.to(rows.dtype).unsqueeze(1), result[chosen])
    return problem.placed()


def _short(rows: Rows, step: Tensor) -> Tensor:
    """beta, ``(batch,)``, from all entries in float64; NaN for rows with a NaN. Writes ``rows.inside``."""
    if rows.lower is not None or rows.upper is not None:
        clip(rows.x, rows.lower, rows.upper, out=rows.inside)
    m, a, s = widened(rows.x, rows.lower, rows.upper, rows.metric)
    nearest = _least(rows)
    zero = torch.zeros_like(step)
    beta = root(Listed(m, torch.stack([s, s * a]), zero.expand(2, -1), zero), step, nearest, m.amax(1).maximum(nearest))
    return torch.where((rows.x.isnan() | s.isnan()).any(1) | nearest.isnan(), torch.nan, beta)


def _least(rows: Rows) -> Tensor:
    """``(batch,)`` in float64: how far the box keeps some entry of a row from 0, and so beta; NaN for a NaN side."""
    far = torch.zeros_like(rows.x[:, 0], dtype=torch.float64)
    if rows.lower is not None:
        far = far.maximum(rows.lower.amax(1)) if isinstance(rows.lower, Tensor) else far.clamp_min(rows.lower)
    if rows.upper is not None:
        far = far.maximum(-rows.upper.amin(1)) if isinstance(rows.upper, Tensor) else far.clamp_min(-rows.upper)
    return far


def _cut(inside: Tensor, beta: Tensor, result: Tensor) -> None:
    """``clip(inside, -beta, beta)``, a row of NaN for a NaN beta, in tiles that stay in the cache."""
    width = max(1, TILE // inside.shape[0]) if inside.device.type == "cpu" else inside.shape[1]
    below = -beta
    for tile, p in zip(inside.split(width, 1), result.split(width, 1)):
        torch.minimum(torch.maximum(tile, below, out=p), beta, out=p)
