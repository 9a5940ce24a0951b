"""What the operators share: steps and bounds in the form of rows, exact sums, and where results are written."""

from collections.abc import Callable
from itertools import repeat
from typing import TypedDict

import torch
from torch import Tensor

from constropt.precision import at_least_float32

Step = float | Tensor
Bound = Tensor | float | None

# Infinite entries are clamped to this: far beyond any other, and its products with metrics stay finite in float64.
HUGE = 1e30
# Sums are taken over runs of this many entries first: few enough for one thread and for float32 to be exact to a few
# units, and the same runs whatever the batch and the number of threads, so that a row's sum is the same too.
RUN = 1024
# Entries of a tile, which stays in the cache with the buffers that it needs.
TILE = 1 << 18


def rows_of(x: Tensor) -> Tensor:
    """``(batch, n)`` in the dtype of work: float64 for float64, else float32."""
    return at_least_float32(flat(x))


def flat(x: Tensor) -> Tensor:
    """``(batch, *event)`` as ``(batch, n)``, not copied where that can be."""
    return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)


def column(step: Step, x: Tensor) -> Tensor:
    """The step as float64 ``(batch, 1)``; ``ValueError`` for a negative number or a tensor that is not ``(batch,)``."""
    if not isinstance(step, Tensor):
        if not step >= 0:
            raise ValueError(f"step: must be >= 0, got {step}")
        return torch.full((x.shape[0], 1), step, dtype=torch.float64, device=x.device)
    if step.numel() not in (1, x.shape[0]):
        raise ValueError(f"step: takes a number or one value per row, ({x.shape[0]},), got {tuple(step.shape)}")
    return step.detach().to(x.device, torch.float64).reshape(-1, 1).expand(x.shape[0], 1)


def bound(values: Bound, x: Tensor, dtype: torch.dtype) -> Bound:
    """A side of a box or a metric: a tensor as rows ``(batch, n)`` of that dtype, not copied; else as it is."""
    if not isinstance(values, Tensor):
        return values
    if values.dim() == 0 and values.device.type == "cpu":
        return float(values)
    try:
        return flat(values.detach().to(x.device, dtype).expand(x.shape))
    except RuntimeError:
        what = f"a bound or metric of shape {tuple(values.shape)}"
        raise ValueError(f"{what} does not broadcast to x, {tuple(x.shape)}") from None


def part(values: Bound, rows: slice, columns: slice) -> Bound:
    """A block of a bound; numbers and None hold everywhere."""
    return values[rows, columns] if isinstance(values, Tensor) else values


def clip(x: Tensor, lower: Bound, upper: Bound, out: Tensor | None = None) -> Tensor:
    """x between the sides, in one pass where both are of a kind; x itself without a box."""
    if lower is None and upper is None:
        return x
    if lower is None or upper is None or isinstance(lower, Tensor) == isinstance(upper, Tensor):
        return torch.clamp(x, lower, upper, out=out)  # pyright: ignore[reportCallIssue, reportArgumentType]
    first = torch.clamp(x, min=lower, out=out)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return torch.clamp(first, max=upper, out=first)  # pyright: ignore[reportCallIssue, reportArgumentType]


def run_sums(values: Tensor) -> Tensor:
    """``(batch, runs)``: the sums of the runs, the last of which may be shorter."""
    whole = values.shape[1] // RUN * RUN
    sums = values[:, :whole].unflatten(1, (-1, RUN)).sum(2)
    return sums if whole == values.shape[1] else torch.cat([sums, values[:, whole:].sum(1, keepdim=True)], 1)


def row_sum(values: Tensor) -> Tensor:
    """``(batch,)`` in float64: sums by runs, in order, so that neither other rows nor threads change a bit."""
    return run_sums(values).double().cumsum(1)[:, -1]


Formula = Callable[[Tensor, Bound, Bound, Bound, Tensor, Tensor], None]


class Options(TypedDict, total=False):
    """What all operators take beside ``x``, ``(batch, *event)``, and ``step``; None leaves it out.

    ``lower``, ``upper``: the sides of a box, numbers or tensors that broadcast to ``x``. ``metric``: the diagonal s >
    0, that broadcasts to ``x``. ``warm``, ``(batch,)``: a guess of the result's size; it changes the speed of some, the
    result of none. ``out`` receives the result, in the dtype of x, and may be x.
    """

    lower: Bound
    upper: Bound
    metric: Tensor | None
    warm: Tensor | None
    out: Tensor | None


class Problem:
    """The arguments of an operator as rows in the dtype of work, and its result, computed tile by tile."""

    def __init__(
        self,
        x: Tensor,
        step: Step,
        lower: Bound = None,
        upper: Bound = None,
        metric: Tensor | None = None,
        warm: Tensor | None = None,
        out: Tensor | None = None,
    ) -> None:
        self.step, self.x = column(step, x), rows_of(x)
        self.lower, self.upper, self.metric = (bound(v, x, self.x.dtype) for v in (lower, upper, metric))
        if warm is not None and warm.numel() != x.shape[0]:
            raise ValueError(f"warm: takes one value per row, (batch,) = ({x.shape[0]},), got {tuple(warm.shape)}")
        self.warm = None if warm is None else warm.detach().reshape(-1).to(self.step)
        self._given, self._out = x, out
        self.result = self._place(x, lower, upper, metric)

    def _place(self, *inputs: Bound) -> Tensor:
        """Rows for the result: ``out`` itself where it has their dtype and shares no memory with inputs, else new."""
        out, x = self._out, self._given
        if out is not None:
            if out.shape != x.shape:
                raise ValueError(f"out: takes the shape of x, {tuple(x.shape)}, got {tuple(out.shape)}")
            mine = out.untyped_storage().data_ptr()
            shared = any(isinstance(t, Tensor) and t.untyped_storage().data_ptr() == mine for t in inputs)
            if out.dtype == self.x.dtype and out.is_contiguous() and not shared:
                return out.detach().view(self.x.shape)
        return torch.empty_like(self.x, memory_format=torch.contiguous_format)

    def solve(self, formula: Formula) -> Tensor:
        """``formula(x, lower, upper, metric, step, p)`` writes p, tile by tile; a row with a NaN is lost to it."""
        result, step = self.result, self.step.to(self.x.dtype)
        width = max(1, TILE // max(1, result.shape[0])) if result.device.type == "cpu" else max(1, result.shape[1])
        parts = (self.x, self.lower, self.upper, self.metric)
        tiles = zip(*(v.split(width, 1) if isinstance(v, Tensor) else repeat(v) for v in parts))
        lost = torch.zeros_like(step, dtype=torch.bool)
        for (x, low, high, s), p in zip(tiles, result.split(width, 1)):
            formula(x, low, high, s, step, p)  # pyright: ignore[reportArgumentType]
            lost |= p.amax(1, keepdim=True).isnan()
        if result.device.type != "cpu" or bool(lost.any()):
            result.masked_fill_(lost, torch.nan)
        return self.placed()

    def placed(self) -> Tensor:
        """The result in the shape and dtype of x, in ``out`` if given."""
        result = self.result.view_as(self._given)
        if self._out is None:
            return result.to(self._given.dtype)
        return self._out if result.data_ptr() == self._out.data_ptr() else self._out.copy_(result)
