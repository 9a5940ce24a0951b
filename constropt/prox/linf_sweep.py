"""Passes over long rows for the l-infinity operator: the sums above a level, and the entries in a bracket.

They go over tiles that stay in the cache, since on a CPU memory, not arithmetic, is what a pass costs; for the same
reason comparisons are written to numbers, not to booleans, and the bracket's entries are looked for block by block.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from .rows import HUGE, RUN, TILE, Bound, clip, run_sums

# Entries of a bracket are looked for in blocks of this many: looking at each costs as much as ten other operations.
_BLOCK = 64
# Blocks are looked into where rounding in float32 may have hidden an entry of the bracket.
_SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class Rows:
    """A few rows of the arguments, ``(batch, n)`` in the dtype of work; ``inside`` receives x clipped to the box.

    Without a box, ``inside`` is x.
    """

    x: Tensor
    lower: Bound
    upper: Bound
    metric: Bound
    inside: Tensor

    @property
    def boxed(self) -> bool:
        return self.lower is not None or self.upper is not None

    @property
    def width(self) -> int:
        """Columns of a tile: whole runs, so that the sums of the runs do not depend on the batch."""
        return min(self.x.shape[1], max(RUN, TILE // self.x.shape[0] // RUN * RUN))

    def tiles(self) -> Iterable[tuple[Tensor, Bound, Bound, Bound, Tensor]]:
        """x, lower, upper, metric and inside, tile by tile."""
        parts = (self.x, self.lower, self.upper, self.metric, self.inside)
        return zip(*(v.split(self.width, 1) if isinstance(v, Tensor) else repeat(v) for v in parts))  # pyright: ignore[reportReturnType]

    def widened(self, some: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """`widened` of some entries."""
        low, high, s = (some(v) if isinstance(v, Tensor) else v for v in (self.lower, self.upper, self.metric))
        return widened(some(self.x), low, high, s)


def widened(x: Tensor, lower: Bound, upper: Bound, metric: Bound) -> tuple[Tensor, Tensor, Tensor]:
    """m, a and s in float64, what is infinite clamped and what is not a number taken for 0."""
    x = x.double().nan_to_num(nan=0.0, posinf=HUGE, neginf=-HUGE)
    low, high, s = (v.double() if isinstance(v, Tensor) else v for v in (lower, upper, metric))
    inside = clip(x, low, high)
    if not isinstance(s, Tensor):
        s = torch.full_like(x, 1.0 if s is None else s)
    return inside.abs(), torch.where(inside < 0, -x, x), s


class Sums(NamedTuple):
    """Per row, in float64: the sums of s and of ``s (a - at)`` over m > at; the least beta; whether to rely on them."""

    weight: Tensor
    level: Tensor
    nearest: Tensor
    unsafe: Tensor


def evaluate(rows: Rows, at: Tensor, *, wide: bool, first: bool) -> Sums:
    """The sums above ``at``, ``(batch,)`` in float64, which is a number of the dtype; inf for rows to be left out.

    ``wide``: in float64; a NaN makes a row unsafe. Else in the dtype of x; what is not finite or overflows, and a box
    that leaves out 0, make a row unsafe. ``first``: ``rows.inside`` is still to be written.
    """
    wanted = bool((at < torch.inf).any())
    zero, nearest, lost = torch.zeros_like(at), torch.zeros_like(at), torch.zeros_like(at, dtype=torch.bool)
    if not wanted and not (first and rows.boxed):
        return Sums(zero, zero, zero, lost)
    dtype = torch.float64 if wide else rows.x.dtype
    level_at, center = (v.to(dtype).unsqueeze(1) for v in (at, torch.where(at < torch.inf, at, 0)))
    buffers = rows.x.new_empty((2, rows.x.shape[0] * rows.width), dtype=dtype)
    m, over = buffers.view(2, -1, rows.width)
    weights, levels, least = [], [], []
    for x, lower, upper, s, inside in rows.tiles():
        if x.shape[1] < m.shape[1]:
            m, over = buffers[:, : x.numel()].view(2, *x.shape)
        if first or wide:
            least += [v.amax(1) for v in (lower,) if isinstance(v, Tensor)]
            least += [v.amin(1).neg_() for v in (upper,) if isinstance(v, Tensor)]
        if wide:
            sizes, a, s = widened(x, lower, upper, s)
            torch.gt(sizes, level_at, out=over)
            torch.sub(a, center, out=m)
            lost |= (x.isnan() | s.isnan()).any(1)
        else:
            if first and rows.boxed:
                clip(x, lower, upper, out=inside)
            if not wanted:
                continue
            torch.gt(torch.abs(inside, out=m), level_at, out=over)
            if rows.boxed:  # which contains 0, or the row is unsafe: a = |x|
                torch.abs(x, out=m)
            m.sub_(center)
        if s is not None:
            over.mul_(s)
        weights.append(run_sums(over))
        levels.append(run_sums(m.mul_(over)))
    if isinstance(rows.lower, float | int):
        nearest = nearest.clamp_min(rows.lower)
    if isinstance(rows.upper, float | int):
        nearest = nearest.clamp_min(-rows.upper)
    if least:
        nearest = nearest.maximum(torch.stack(least).amax(0).double())
    weight, level = (torch.cat(v, 1).double().cumsum(1)[:, -1] if wanted else zero for v in (weights, levels))
    if wide:
        return Sums(weight, level, nearest.nan_to_num(nan=0.0), lost | nearest.isnan())
    return Sums(weight, level, nearest, ~(level.isfinite() & (nearest == 0)))


class Found(NamedTuple):
    """Entries of rows, ``(batch, K)`` in float64: m (-1 where there is none), a and s (0 there), and rows with a NaN.

    Where K is larger than RUN it is a multiple of it.
    """

    m: Tensor
    a: Tensor
    s: Tensor
    lost: Tensor


def gather(rows: Rows, low: Tensor, high: Tensor) -> Found:
    """The entries with m in ``(low, high]``, ``(batch,)`` in float64, in the order of their row.

    ``low = inf`` for rows to be left out.
    """
    batch, n = rows.x.shape
    open_, dtype = high == torch.inf, rows.inside.dtype
    half = torch.where(open_, 0, (high - low) / 2)
    middle = torch.where(open_, 0, low + half)
    low_slack, high_slack = low * (1 - _SLACK), high * (1 + _SLACK)
    limit, bottom = (v.to(dtype).view(-1, 1, 1) for v in (half + _SLACK * high, low_slack))
    any_open, any_closed = bool(open_.any()), not bool(open_.all())
    middle = middle.to(dtype).unsqueeze(1)
    buffer = rows.x.new_empty(batch * rows.width)
    marks = []
    for inside in rows.inside.split(rows.width, 1):
        m = torch.abs(inside, out=buffer[: inside.numel()].view(inside.shape))
        m = m[:, : inside.shape[1] // _BLOCK * _BLOCK]
        marked = None
        # written so that a NaN marks its block
        if any_open:
            marked = ~(m.unflatten(1, (-1, _BLOCK)).amax(2, keepdim=True) <= bottom)
        if any_closed:
            near = ~(m.sub_(middle).abs_().unflatten(1, (-1, _BLOCK)).amin(2, keepdim=True) > limit)
            marked = near if marked is None else torch.where(open_.view(-1, 1, 1), marked, near)
        marks.append(marked)
    row, column, lost = _between(rows.inside, torch.cat(marks, 1).squeeze(2), low_slack, high_slack)
    m, a, s = rows.widened(lambda v: v[row, column])
    kept = ((m > low[row]) & (m <= high[row])).nonzero().squeeze(1)
    row, m, a, s = row[kept], m[kept], a[kept], s[kept]
    count = row.bincount(minlength=batch)
    place = row, torch.arange(row.shape[0]) - (count.cumsum(0) - count)[row]
    most = max(1, int(count.max()))
    shape = batch, most if most < RUN else -(-most // RUN) * RUN
    return Found(*(low.new_full(shape, v).index_put_(place, t) for t, v in ((m, -1), (a, 0), (s, 0))), lost)


def _between(inside: Tensor, marks: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the entries in ``(low, high]`` of the marked blocks, row by row; which rows hold a NaN."""
    n, lost = inside.shape[1], torch.zeros_like(low, dtype=torch.bool)
    whole = n // _BLOCK * _BLOCK

    def inner(m: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        lost[row[m.amax(1).isnan()]] = True
        above = torch.gt(m, low.to(m.dtype)[row].unsqueeze(1), out=torch.empty_like(m))
        return above.mul_(torch.le(m, high.to(m.dtype)[row].unsqueeze(1), out=m)).nonzero(as_tuple=True)  # pyright: ignore[reportReturnType]

    row, block = marks.nonzero(as_tuple=True)
    place, offset = inner(inside[:, :whole].unflatten(1, (-1, _BLOCK))[row, block].abs_(), row)
    row, column = row[place], block[place] * _BLOCK + offset
    if whole == n:
        return row, column, lost
    last, offset = inner(inside[:, whole:].abs(), torch.arange(low.shape[0]))
    row, order = torch.cat([row, last]).sort(stable=True)
    return row, torch.cat([column, whole + offset])[order], lost
