"""The smallest radius at which a budgeted solver succeeds, by bisection in every row: minimal from budgeted."""

from collections.abc import Callable

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.solution import Solution, best_of


def smallest_radius(
    solve_at: Callable[[Tensor], Solution], start: Solution, *, largest: float | Tensor, searches: int = 13
) -> Solution:
    """Bisect the radius of every row between 0 and ``largest``, ``searches`` times; the best feasible point is kept.

    ``solve_at(radius)``, with radius ``(batch,)``, returns a solution whose ``objective`` is the distance reached; a
    row that reached less than its radius goes on from there. ``start`` is the solution at radius 0, which is best for
    the rows that are feasible there. The radius is known to ``2^-searches largest`` where success is monotone in it.
    Passes are added up. The decisions are per row and wait for nothing on the host.

    Raises ``ValueError`` for ``searches < 1`` and for a ``largest`` that is not positive.
    """
    require_whole(searches=searches)
    high = torch.as_tensor(largest, dtype=start.x.dtype, device=start.x.device).expand(start.x.shape[0])
    if not bool((high > 0).all()):
        raise ValueError(f"largest: takes a radius > 0, got {largest}")
    best, low = start, torch.zeros_like(high)
    for _ in range(searches):
        radius = (low + high) / 2
        found = solve_at(radius)
        best = best_of(best, found)
        low = torch.where(found.feasible, low, radius)
        high = torch.where(found.feasible, torch.minimum(radius, found.objective.to(radius)), high)
        low = torch.minimum(low, high)
    return best
