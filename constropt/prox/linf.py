"""The exact proximity operator of the l-infinity norm on a box, in a diagonal metric, batched over rows.

    minimise over p   1/2 sum_i s_i (p_i - x_i)^2 + step max_i |p_i|   subject to   lower <= p <= upper

For a given largest entry beta the solution is ``clip(clip(x, lower, upper), -beta, beta)``. With ``m = |clip(x, lower,
upper)|`` and ``a = sign(clip(x)) x``, the derivative in beta is ``step - h(beta)``, ``h(beta) = sum over m_i > beta of
s_i (a_i - beta)``. h decreases and, where the box clips (a_i > m_i), jumps down at m_i: the root may sit at a jump,
where Newton's method alone stalls. It is bracketed here, and what the bracket leaves undecided is sorted.
"""

from __future__ import annotations

import torch
from torch import Tensor

Step = float | Tensor

# Bracketing passes before the rest is sorted; each looks this far, relatively, beyond Newton's point, so that the
# bracket closes from both sides and little is left to sort.
_PASSES = 8
_NUDGE = 1e-9
# Infinite entries are clamped to this: far beyond any other, and its products with metrics stay finite in float64.
_HUGE = 1e30


def linf(
    x: Tensor,
    step: Step,
    *,
    lower: Tensor | float | None = None,
    upper: Tensor | float | None = None,
    metric: Tensor | None = None,
    warm: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """prox of ``step ||.||_inf`` plus the indicator of ``[lower, upper]`` in the metric ``diag(metric)``, row by row.

    ``x``: ``(batch, *event)``; ``step``: a number or ``(batch,)``, >= 0; ``lower``, ``upper``, ``metric`` (> 0): of a
    shape that broadcasts to ``x``. ``warm``: ``(batch,)``, a guess of the largest entry of the result (the previous
    one's, when the operator is applied repeatedly); it changes the speed, not the result. ``out`` receives the result,
    in the dtype of x; sums are taken in float64, since beta is found by differences of large ones. A row that is not
    finite gives a row that is not, and leaves the others alone.

    Raises ``ValueError`` for a negative ``step`` given as a number, and for shapes that do not broadcast.

    >>> linf(torch.tensor([[3.0, -1.0, 2.0]]), 1.5)
    tensor([[ 1.7500, -1.0000,  1.7500]])
    >>> linf(torch.tensor([[3.0, -1.0, 2.0]]), 1.5, upper=1.0)
    tensor([[ 1., -1.,  1.]])
    """
    rows = x.detach().flatten(1).double()
    lost = rows.isnan().any(1, keepdim=True)
    rows = rows.nan_to_num(nan=0.0, posinf=_HUGE, neginf=-_HUGE)
    inside, nearest = rows, rows.new_zeros(rows.shape[0])
    if lower is not None or upper is not None:
        low, high = side(lower, x, -torch.inf), side(upper, x, torch.inf)
        inside = torch.minimum(torch.maximum(rows, low), high)
        # the least |p_i| that the box allows: beta cannot be smaller
        nearest = torch.maximum(low, -high).clamp_min(0).amax(1)
    weights = torch.ones_like(rows) if metric is None else side(metric, x, 1.0)
    amount = column(step, x).squeeze(1)
    beta = _largest(rows, inside, weights, amount, nearest, warm).unsqueeze(1)
    result = torch.minimum(torch.maximum(inside, -beta), beta)
    return finish(result, lost, x, out)


def _largest(
    rows: Tensor, inside: Tensor, weights: Tensor, step: Tensor, nearest: Tensor, warm: Tensor | None
) -> Tensor:
    """beta, ``(batch,)``: the root of ``h(beta) = step`` or the jump across it, at least ``nearest``."""
    m = inside.abs()
    pull = torch.where(inside < 0, -rows, rows) * weights  # s a
    low, high = nearest, m.amax(1)
    beta = high / 2 if warm is None else warm.to(high).nan_to_num(nan=0.0)
    beta = beta.maximum(low).minimum(high)
    beyond, picked = torch.empty_like(m), torch.empty_like(m)  # allocation costs more than arithmetic here
    for _ in range(_PASSES):
        torch.gt(m, beta.unsqueeze(1), out=beyond)
        weight = torch.mul(beyond, weights, out=picked).sum(1)
        level = torch.mul(beyond, pull, out=picked).sum(1)
        above = level - beta * weight >= step
        low, high = torch.where(above, beta, low), torch.where(above, high, beta)
        newton = (level - step) / weight.clamp_min(torch.finfo(weight.dtype).tiny)
        nudged = newton * torch.where(above, 1 + _NUDGE, 1 - _NUDGE)
        beta = torch.where((nudged > low) & (nudged < high), nudged, (low + high) / 2)
        # looking costs nothing where there is no device to wait for; in so narrow a bracket Newton's point is the root
        if beta.device.type == "cpu" and bool(((high - low) <= 3 * _NUDGE * high).all()):
            return newton.maximum(low).minimum(high)
    return _sorted_finish(m, pull, weights, step, low, high)


def _sorted_finish(m: Tensor, pull: Tensor, weights: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The exact root in ``[low, high]``: entries with ``low < m <= high`` are sorted, those above are offsets."""
    above = m > high.unsqueeze(1)
    undecided = (m > low.unsqueeze(1)) & ~above
    width = _width(undecided)
    size, order = torch.where(undecided, m, -1).topk(width, dim=1)
    taken = size >= 0
    # sums over the entries that are > beta when beta lies just below the k-th sorted one, k = 0: only those above high
    start_weight = torch.where(above, weights, 0).sum(1, keepdim=True)
    start_pull = torch.where(above, pull, 0).sum(1, keepdim=True)
    weight = torch.cat([start_weight, start_weight + torch.where(taken, weights.gather(1, order), 0).cumsum(1)], 1)
    level = torch.cat([start_pull, start_pull + torch.where(taken, pull.gather(1, order), 0).cumsum(1)], 1)
    # the k-th linear piece of h holds on [floor_k, ceiling_k)
    ceiling = torch.cat([high.unsqueeze(1), size.clamp_min(0)], 1)
    floor = torch.cat([size.clamp_min(0), low.unsqueeze(1)], 1)
    floor = torch.maximum(floor, low.unsqueeze(1))
    target = step.unsqueeze(1)
    # h is at least step at the floor of the first piece where it is: there, or at the jump above it, lies the root
    reached = (level - floor * weight >= target) & (floor <= ceiling)
    first = reached.to(torch.int8).argmax(1, keepdim=True)
    root = (level - target) / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    root = torch.minimum(torch.maximum(root, floor), ceiling).gather(1, first).squeeze(1)
    return torch.where(reached.any(1), root, low)


def _width(undecided: Tensor) -> int:
    """How many entries to sort: the most that a row has undecided; on a device, without asking it, all of them."""
    if undecided.device.type != "cpu":
        return undecided.shape[1]
    return max(1, int(undecided.sum(1).max()))


def side(values: Tensor | float | None, x: Tensor, absent: float) -> Tensor:
    """A bound or a metric as float64 rows ``(batch, n)`` like those of x; ``absent`` where it is None."""
    filled = torch.as_tensor(absent if values is None else values, dtype=torch.float64, device=x.device)
    try:
        return filled.expand(x.shape).flatten(1)
    except RuntimeError:
        raise ValueError(
            f"a bound or metric of shape {tuple(filled.shape)} does not broadcast to x, {tuple(x.shape)}"
        ) from None


def column(step: Step, x: Tensor) -> Tensor:
    """The step as float64 ``(batch, 1)``; ``ValueError`` for a negative number or a tensor that is not ``(batch,)``."""
    if not isinstance(step, Tensor):
        if not step >= 0:
            raise ValueError(f"step: must be >= 0, got {step}")
        return torch.full((x.shape[0], 1), step, dtype=torch.float64, device=x.device)
    if step.numel() not in (1, x.shape[0]):
        raise ValueError(
            f"step: takes a number or one value per row, (batch,) = ({x.shape[0]},), got {tuple(step.shape)}"
        )
    return step.detach().double().reshape(-1, 1).expand(x.shape[0], 1)


def finish(rows: Tensor, lost: Tensor, x: Tensor, out: Tensor | None) -> Tensor:
    """The float64 rows in the shape and dtype of x, lost rows as NaN, written to ``out`` if given."""
    result = torch.where(lost, torch.nan, rows).to(x.dtype).view_as(x)
    return result if out is None else out.copy_(result)
