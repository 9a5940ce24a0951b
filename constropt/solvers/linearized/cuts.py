"""Meeting one linear cut inside a box, row by row: a point with ``normal . p = target``, from a start in the box.

All take tables ``(batch, n)`` and ``target`` ``(batch,)``, with ``lower <= start <= upper``, and return a point of the
box. A cut that no point of the box meets is approached as far as the box allows. Nothing here waits for a device.
"""

import torch
from torch import Tensor

# Newton's method on a monotone piecewise linear function; each pass leaves fewer coordinates free.
_PASSES = 12
_TINY, _HUGE = 1e-30, 1e30


def meet_l2(start: Tensor, normal: Tensor, target: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """``clip(start - nu normal, lower, upper)`` on the cut: the Euclidean projection on the cut within the box.

    >>> box = torch.full((1, 2), 0.5)
    >>> meet_l2(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), torch.tensor([-1.7]), -box, box)
    tensor([[-0.5000, -0.2000]])
    """
    return _meet_along(normal, start, normal, target, lower, upper)


def meet_linf(start: Tensor, normal: Tensor, target: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """``clip(start - nu sign(normal), lower, upper)`` on the cut; from 0 it is the point of least largest entry.

    >>> box = torch.full((1, 2), 0.5)
    >>> meet_linf(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), torch.tensor([-0.8]), -box, box)
    tensor([[-0.2000, -0.2000]])
    """
    return _meet_along(normal.sign(), start, normal, target, lower, upper)


def meet_l1(start: Tensor, normal: Tensor, target: Tensor, lower: Tensor, upper: Tensor, spread: float = 0.0) -> Tensor:
    """Coordinates pushed to the box against the sign of ``normal``, largest ``|normal|`` first, until the cut is met.

    From 0 it is the smallest such point in the sum of the entries' sizes. A start that is below the cut already is
    scaled down towards 0, which the box must contain, to meet it. With ``spread > 0`` the coordinates that can move and
    whose ``|normal|`` is within that part of the largest move together, each by what it has beyond the others, before
    the rest is pushed: the cut holds near the start only, and so does a move in many coordinates.

    >>> box = torch.full((1, 2), 0.5)
    >>> meet_l1(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), torch.tensor([-1.7]), -box, box)
    tensor([[-0.5000, -0.2000]])
    """
    level = (normal * start).sum(1)
    if spread > 0:
        free = torch.where(torch.where(normal > 0, start > lower, start < upper), normal, 0)
        size = free.abs()
        together = free.sign() * (size - (1 - spread) * size.amax(1, keepdim=True)).clamp_min(0)
        moved = _meet_along(together, start, normal, target, lower, upper)
        start = torch.where((level > target).unsqueeze(1), moved, start)
        level = (normal * start).sum(1)
    size, order = normal.abs().sort(dim=1, descending=True)
    room = torch.where(normal > 0, start - lower, upper - start).gather(1, order)
    gained = (size * room).cumsum(1)
    before = torch.nn.functional.pad(gained[:, :-1], (1, 0))
    missing = ((level - target).unsqueeze(1) - before).clamp_min(0)
    move = torch.minimum(missing / size.clamp_min(_TINY), room)
    move = torch.where(size > 0, move, 0)
    pushed = start - normal.sign() * torch.zeros_like(start).scatter(1, order, move)
    below = level < target
    scale = (target / torch.where(below & (level < 0), level, -torch.inf)).clamp(0, 1)
    return torch.where(below.unsqueeze(1), start * scale.unsqueeze(1), pushed).clamp(lower, upper)


def meet_l0(start: Tensor, normal: Tensor, target: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Entries pushed to the box against the sign of ``normal``, those that gain most first, until the cut is met.

    From 0 no point of the box with ``normal . p <= target`` has fewer entries other than 0.

    >>> box = torch.tensor([[0.1, 0.5]])
    >>> meet_l0(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), torch.tensor([-0.4]), -box, box)
    tensor([[ 0.0000, -0.4000]])
    """
    room = torch.where(normal > 0, start - lower, upper - start)
    gain, order = (normal.abs() * room).sort(dim=1, descending=True, stable=True)
    before = torch.nn.functional.pad(gain.cumsum(1)[:, :-1], (1, 0))
    missing = (((normal * start).sum(1) - target).unsqueeze(1) - before).clamp_min(0)
    part = torch.where(gain > 0, missing / gain, 0).clamp_max(1)
    move = room * torch.zeros_like(start).scatter(1, order, part)
    return torch.where(move > 0, start - normal.sign() * move, start).clamp(lower, upper)


def _meet_along(
    direction: Tensor, start: Tensor, normal: Tensor, target: Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    """``clip(start - nu direction)`` on the cut, where ``direction`` has the signs of ``normal``.

    Coordinate i moves at a constant rate until ``|nu|`` is ``stop_i``, where it meets its side of the box. What the
    move has gained, ``sum_i slope_i min(|nu|, stop_i)``, is increasing, concave and piecewise linear, so that Newton's
    method from 0 approaches the root from one side and ends on its linear piece.
    """
    excess = (normal * start).sum(1) - target
    direction = torch.where((excess > 0).unsqueeze(1), -direction, direction)
    slope = (normal * direction).abs()
    room = torch.where(direction > 0, upper - start, start - lower)
    stop = (room / direction.abs().clamp_min(_TINY)).clamp_max(_HUGE)
    needed = excess.abs()
    nu = torch.zeros_like(target)
    for _ in range(_PASSES):
        limit = nu.unsqueeze(1)
        gained = (slope * torch.minimum(stop, limit)).sum(1)
        rate = (slope * (stop > limit)).sum(1)
        step = torch.where(rate > 0, (needed - gained) / rate.clamp_min(_TINY), 0)
        nu = (nu + step).clamp(0, _HUGE)
        # looking costs nothing where there is no device to wait for
        if nu.device.type == "cpu" and not bool((step.abs() > 1e-6 * nu).any()):
            break
    return torch.addcmul(start, nu.unsqueeze(1), direction).clamp(lower, upper)
