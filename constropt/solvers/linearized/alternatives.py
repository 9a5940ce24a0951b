"""A constraint that is met iff one of several functions is <= 0: linearise them all, find the nearest, move onto it."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from constropt.evaluation import Evaluation
from constropt.precision import at_least_float32
from constropt.problem import ConstrainedProblem
from constropt.rows import by_row
from constropt.solvers.directions import DUAL
from constropt.solvers.linearized.cuts import meet_l1, meet_l2, meet_linf

# Published codes add 1e-4 to every step; a fraction of the norm does not depend on the input's units.
LEAST = 1e-3


@dataclass(frozen=True, eq=False)
class Linearisation:
    """One function of every row, ``value + normal . d``, divided by the dual norm of its gradient.

    ``normal``: ``(batch, n)``, of dual norm 1, or 0 where there is no gradient; ``value``: ``(batch,)``, then the
    distance to its zero in the norm, 0 where there is no gradient; ``index``: which function, ``scale``: the dual norm.
    """

    normal: Tensor
    value: Tensor
    index: Tensor
    scale: Tensor


def alternatives(point: Evaluation) -> Tensor:
    """``(batch, m)``, at least in float32: what the one constraint declares, or its (worst counted) value alone."""
    declared, value, mask = point.alternatives(0), by_row(point.values[0]), point.masks[0]
    if declared is not None:
        return at_least_float32(declared)
    with torch.enable_grad():
        value = value if mask is None else torch.where(by_row(mask), value, -torch.inf)
        return at_least_float32(value.amax(1, keepdim=True))


def smallest(values: Tensor, count: int | None) -> Tensor:
    """The columns of the ``count`` smallest values of each row (None: all), ascending; NaN comes last."""
    return values.detach().nan_to_num(nan=torch.inf).argsort(dim=1, stable=True)[:, :count]


def nearest(point: Evaluation, values: Tensor, p: float, by_value: Tensor | None = None) -> Linearisation:
    """The column of ``values`` at the point, ``(batch, m)``, whose linearised zero is nearest in the p-norm, by row.

    m vector-Jacobian products. ``by_value``, ``(batch,)``, marks rows where the smallest value decides instead.
    Columns without a gradient are passed over, and those where it is NaN, unless there is no other: then the normal is
    NaN.

    >>> point = ConstrainedProblem(None).evaluate(torch.tensor([[2.0, 1.0]]))
    >>> nearest(point, torch.stack([point.x[:, 0], 2 * point.x[:, 1]], 1), 2.0).index.tolist()
    [1]
    """
    x, detached = point.x, values.detach()
    normal = detached.new_zeros(x.shape[0], x[0].numel())
    value, scale = detached.new_zeros(x.shape[0]), detached.new_ones(x.shape[0])
    rank, index = torch.full_like(value, torch.inf), torch.zeros_like(value, dtype=torch.long)
    lost = torch.zeros_like(value, dtype=torch.bool)
    for first, block in point.jacobian_blocks(values):
        block = block.flatten(2).to(normal)
        length = torch.linalg.vector_norm(block, ord=DUAL[p], dim=2)
        y = detached[:, first : first + len(block)].T
        ranks = y.abs() / length
        if by_value is not None:
            ranks = torch.where(by_value, y + 0 * length, ranks)
        # NaN, also 0 / 0, ranks last
        lost = lost | length.isnan().any(0) | y.isnan().any(0)
        ranks = torch.where((length == 0) | ranks.isnan(), torch.inf, ranks)
        least, column = ranks.min(0)
        closer = least < rank
        picked = column.unsqueeze(0)
        size = length.gather(0, picked).squeeze(0)
        gradient = block.gather(0, picked.unsqueeze(2).expand(-1, -1, block.shape[2])).squeeze(0)
        normal = torch.where(closer.unsqueeze(1), gradient / size.unsqueeze(1), normal)
        value = torch.where(closer, y.gather(0, picked).squeeze(0) / size, value)
        scale = torch.where(closer, size, scale)
        index, rank = torch.where(closer, first + column, index), torch.where(closer, least, rank)
    lost = lost & rank.isinf()
    return Linearisation(normal.masked_fill(lost.unsqueeze(1), torch.nan), value, index, scale)


def onto(cut: Linearisation, start: Tensor, p: float, lower: Tensor, upper: Tensor) -> Tensor:
    """The point nearest to ``start`` in the p-norm with ``value + normal . d = 0`` and lower <= d <= upper, from either
    side of the cut; as near to the cut as the box allows where it does not reach it. Tables ``(batch, n)``."""
    normal, target = cut.normal, -cut.value
    if p == 1:
        # for meet_l1 a start below the cut is to be scaled towards 0, which is another point
        side = torch.where((normal * start).sum(1) < target, -1.0, 1.0).to(target)
        return meet_l1(start, side.unsqueeze(1) * normal, side * target, lower, upper)
    return (meet_l2 if p == 2 else meet_linf)(start, normal, target, lower, upper)


def beyond(cut: Linearisation, delta: Tensor, p: float) -> Linearisation:
    """The cut moved on by a thousandth of the norm of ``delta``: steps that clipping shortens come to an end there."""
    extra = LEAST * torch.linalg.vector_norm(delta.flatten(1).to(cut.value), ord=p, dim=1)
    return replace(cut, value=cut.value + extra)


def room(problem: ConstrainedProblem[Any], x: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """How far every entry of x may fall and rise within the box: signed ``(batch, n)`` in the dtype of ``like``."""
    bounds = problem.domain.bounds(x)
    assert bounds is not None
    lower, upper = ((side - x).flatten(1).to(like) for side in bounds)
    return lower, upper


def require_norm(p: float, allowed: tuple[float, ...] = (1.0, 2.0, torch.inf)) -> None:
    """``ValueError`` for a norm that is not among the ``allowed``."""
    if p not in allowed:
        raise ValueError(f"p: takes one of {list(allowed)}, got {p!r}")
