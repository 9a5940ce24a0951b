"""One step along a linearised boundary (Brendel et al., 2019), row by row and without a loop over rows:

    min ||z||_p   s.t.   normal . z <= target,   lower <= z <= upper,   ||z - start||_2 <= radius

All take tables ``(batch, n)`` and ``target``, ``radius`` of shape ``(batch,)``; 0 and ``start`` lie in the box.
"""

import torch
from torch import Tensor

from constropt.solvers.linearized.cuts import meet_l0, meet_l1, meet_l2, meet_linf

# Halvings of the multiplier of the trust region, and for each Newton passes on the multiplier of the cut.
_HALVINGS, _PASSES = 12, 6
# The cut counts as met, before it is met exactly, up to this part of the radius.
_SLACK = 0.02


_MEET = {0.0: meet_l0, 1.0: meet_l1, 2.0: meet_l2, torch.inf: meet_linf}


def step_on_cut(
    p: float, start: Tensor, normal: Tensor, target: Tensor, lower: Tensor, upper: Tensor, radius: Tensor
) -> Tensor:
    """The point z of the problem above, for p = 0, 1, 2 or inf.

    The optimum without the trust region, where it lies within. Elsewhere the Lagrangian is minimised in closed form, by
    ``clip(shrink(start - nu normal))``, where the trust region's multiplier is that of the shrinking, which a bisection
    makes as strong as the radius allows, and nu meets the cut. For p = 0 the entries that are 0 stay 0, but for the one
    that helps most, and the result is no global optimum. Where the cut is out of reach, the step is as long as the
    radius and leads to its nearest point. A row whose ``normal`` is 0 stays.

    >>> start, box = torch.tensor([[-0.3, -0.4]]), torch.full((1, 2), 0.5)
    >>> normal, target = torch.tensor([[0.0, 1.0]]), torch.tensor([-0.4])
    >>> for radius in (0.1, 1.0):
    ...     step_on_cut(2.0, start, normal, target, -box, box, torch.tensor([radius])).round(decimals=3)
    tensor([[-0.2000, -0.4000]])
    tensor([[ 0.0000, -0.4000]])
    """
    length = torch.linalg.vector_norm(normal, dim=1)
    flat = length == 0
    length = torch.where(flat, 1, length)
    normal, target = normal / length.unsqueeze(1), target / length

    optimum = _MEET[p](torch.zeros_like(start), normal, target.clamp_max(0), lower, upper)
    within = _distance(optimum, start) <= radius
    if p == 0:
        normal = _sparse(start, normal, lower, upper, radius)
    reached = meet_l2(start, normal, _at_most(target, normal, start), lower, upper)
    away = _distance(reached, start)
    part = (radius / torch.where(away > 0, away, 1)).clamp_max(1)
    nearest = start + part.unsqueeze(1) * (reached - start)
    bound = ~within & (away <= radius)
    # looking costs nothing where there is no device to wait for
    if start.device.type != "cpu" or bool(bound.any()):
        limited = _limited(p, start, normal, target, lower, upper, radius, nearest)
        nearest = torch.where(bound.unsqueeze(1), limited, nearest)
    moved = torch.where(within.unsqueeze(1), optimum, nearest)
    return torch.where(flat.unsqueeze(1), start, moved)


def _limited(
    p: float, start: Tensor, normal: Tensor, target: Tensor, lower: Tensor, upper: Tensor, radius: Tensor, best: Tensor
) -> Tensor:
    """The optimum on the sphere of the trust region; ``best``, which meets cut and radius, is where it starts."""
    low, high = torch.zeros_like(target), torch.ones_like(target)
    nu = accepted = torch.zeros_like(target)
    size = torch.linalg.vector_norm(start, ord=torch.inf if p == torch.inf else 2, dim=1)
    for _ in range(_HALVINGS):
        strength = (low + high) / 2
        level = _level(p, strength, radius, size).unsqueeze(1)
        below, above = torch.zeros_like(nu), torch.full_like(nu, torch.inf)
        for _ in range(_PASSES):
            z, excess, slope = _shrunk(p, start - nu.unsqueeze(1) * normal, normal, target, level, lower, upper)
            off = torch.where(nu > 0, excess.abs(), excess) > _SLACK / 10 * radius
            if start.device.type == "cpu" and not bool(off.any()):
                break
            below, above = torch.where(excess > 0, nu, below), torch.where(excess > 0, above, nu)
            # not below 0: where the cut is met without it, it does not bind
            newton = (nu + excess / torch.where(slope > 0, slope, 1)).clamp_min(0)
            halfway = torch.where(above.isfinite(), (below + above) / 2, 2 * nu + radius)
            better = torch.where((slope > 0) & (newton >= below) & (newton <= above), newton, halfway)
            nu = torch.where(off, better, nu)  # a row ends where it would without the others
        else:
            z, excess, _ = _shrunk(p, start - nu.unsqueeze(1) * normal, normal, target, level, lower, upper)
        fits = (excess <= _SLACK * radius) & (_distance(z, start) <= radius)
        best = torch.where(fits.unsqueeze(1), z, best)
        low, high = torch.where(fits, strength, low), torch.where(fits, high, strength)
        nu = accepted = torch.where(fits, nu, accepted)
    # on the cut exactly: by the entries that are not 0, if they can, so that sparse points stay sparse
    usable = normal if p > 1 else torch.where(best != 0, normal, 0)
    best = meet_l2(best, usable, _at_most(target, usable, best), lower, upper)
    return best if p > 1 else meet_l1(best, normal, _at_most(target, normal, best), lower, upper)


def _level(p: float, strength: Tensor, radius: Tensor, size: Tensor) -> Tensor:
    """What :func:`_shrunk` takes, of a strength in [0, 1], on a scale where the radius is at a strength of order 1.

    p = 0, 1: the threshold; 2: the factor; inf: the cap.
    """
    if p == 0:
        return radius * strength
    if p == torch.inf:
        return (size + radius * (1 - 2 * strength)).clamp_min(0)
    growth = radius * strength / (1 - strength)
    return growth if p == 1 else 1 / (1 + growth / size.clamp_min(torch.finfo(size.dtype).tiny))


def _shrunk(
    p: float, v: Tensor, normal: Tensor, target: Tensor, level: Tensor, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``clip(shrink(v))``, its excess over the cut, and how fast that falls with nu."""
    if p == 0:
        free = v.abs() > level
        shrunk = torch.where(free, v, 0)
    elif p == 1:
        shrunk = v - v.clamp(-level, level)
        free = shrunk != 0
    elif p == 2:
        shrunk = v * level
        free = level > 0
    else:
        shrunk = v.clamp(-level, level)
        free = v == shrunk
    z = shrunk.clamp(lower, upper)
    slope = (normal.square() * (free & (z == shrunk))).sum(1)
    return z, (normal * z).sum(1) - target, slope * level.squeeze(1) if p == 2 else slope


def _sparse(start: Tensor, normal: Tensor, lower: Tensor, upper: Tensor, radius: Tensor) -> Tensor:
    """The normal on the entries of ``start`` other than 0, and on the one other entry that gains most by its move."""
    zero = start == 0
    room = torch.minimum(torch.where(normal > 0, -lower, upper), radius.unsqueeze(1))
    gain = torch.where(zero, normal.abs() * room, -1)
    chosen = ~zero.scatter(1, gain.argmax(1, keepdim=True), False)
    return torch.where(chosen, normal, 0)


def _at_most(target: Tensor, normal: Tensor, point: Tensor) -> Tensor:
    """The target, or where the point is beyond it already: what makes it stay."""
    return torch.minimum(target, (normal * point).sum(1))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a - b, dim=1)
