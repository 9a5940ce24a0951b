"""The loop that all splitting methods share: it freezes rows, measures the residual and decides when to stop.

A method is the repeated application of an operator T to a state v, one row one problem:

    v <- T(v)   until, row by row,   ||T(v) - v|| <= tolerance ||T(v)||

for each of the variables that the method names, the largest ratio being the row's residual. Rows that go to 0 are there
once their steps are ``tolerance^2`` of the largest ``||T(v)||`` so far, or rounding errors of what T(v) is computed
from. Everything is relative, so a problem in other units takes the same iterations. A small residual bounds
the distance to the solution only through the problem's conditioning and the step: steps far below what the method
allows make small residuals anywhere.
"""

from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from constropt.checks import require_number, require_whole

S = TypeVar("S", bound=Any)  # a NamedTuple of tensors, rows first; fields may be None

# Moves below so many units in the last place of what T(v) is computed from are rounding errors.
_ROUNDING = 8


class Variable(NamedTuple):
    """v, T(v), and what T(v) is computed from by differences, whose rounding may exceed T(v) itself, if anything."""

    before: Tensor
    after: Tensor
    source: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SplittingResult:
    """What a splitting solver returns, one entry per row.

    ``x``: ``(batch, *event)``, the primal solution. ``dual``: u, a subgradient of g at Lx, of the shape of Lx; None
    for methods without g. ``residual``: ``(batch,)``, the relative fixed-point residual of the row's last iteration,
    NaN for a row that was lost to a NaN or an infinity and infinite for one that never moved. ``iterations``:
    ``(batch,)``, those spent on the row. ``converged``: ``(batch,)``, whether the residual reached the tolerance; a
    row that did not holds its last iterate, a lost row its last finite one.
    """

    x: Tensor = field(repr=False)
    dual: Tensor | None = field(repr=False)
    residual: Tensor
    iterations: Tensor
    converged: Tensor


@dataclass(frozen=True)
class Move(Generic[S]):
    """One application of T: the new state, the variables that the residual is measured on, and ``moved``, ``(batch,)``,
    False for rows that only looked (a step of a line search that was refused); None if all moved."""

    state: S
    variables: tuple[Variable, ...]
    moved: Tensor | None = None


class Method(Generic[S]):
    """Data and a pure update: subclass with the three methods below."""

    def init(self, x: Tensor) -> S:
        """The state at the start ``x``, ``(batch, *event)``, which nobody else holds."""
        raise NotImplementedError  # abstract

    def update(self, state: S, count: int) -> Move[S]:
        """T, applied for the ``count``-th time (from 1)."""
        raise NotImplementedError  # abstract

    def result(self, state: S) -> tuple[Tensor, Tensor | None]:
        """x and the dual variable, if the method has one."""
        raise NotImplementedError  # abstract


class StopOptions(TypedDict, total=False):
    """The fields of :class:`Stop`, as keywords of every splitting solver."""

    tolerance: float
    max_iterations: int
    check_every: int


@dataclass(frozen=True)
class Stop:
    """When to stop: all rows at ``tolerance``, looked at every ``check_every`` iterations, or ``max_iterations`` spent.

    Raises ``ValueError`` for a negative tolerance and for counts below 1.
    """

    tolerance: float = 1e-6
    max_iterations: int = 10_000
    check_every: int = 10

    def __post_init__(self) -> None:
        require_number(tolerance=self.tolerance)
        require_whole(max_iterations=self.max_iterations, check_every=self.check_every)


@torch.no_grad()
def run(method: Method[S], x0: Tensor, **options: Unpack[StopOptions]) -> SplittingResult:
    """Apply the method from ``x0`` until all rows have converged or are lost, or the iterations are spent.

    A finished row is frozen, not removed, so rows never depend on each other; the device is asked whether all are
    finished every ``check_every`` iterations only.
    """
    stop, state = Stop(**options), method.init(x0.detach().clone())
    batch, device = x0.shape[0], x0.device
    active = torch.ones(batch, dtype=torch.bool, device=device)
    converged = ~active
    iterations = torch.zeros(batch, dtype=torch.int64, device=device)
    residual = torch.full((batch,), torch.inf, dtype=_wide(x0), device=device)
    largest: Tensor | None = None
    for count in range(1, stop.max_iterations + 1):
        move = method.update(state, count)
        moves = torch.stack([row_norm(v.after - v.before) for v in move.variables])
        size = torch.stack([row_norm(v.after) for v in move.variables])
        largest = size if largest is None else torch.maximum(largest, size)
        # a norm is finite if and only if all entries are, but for overflow, which is the end of a row as well
        finite = moves.isfinite().all(0) & size.isfinite().all(0)
        scale = torch.maximum(size, stop.tolerance * largest).clamp_min(torch.finfo(size.dtype).tiny)
        ratio = torch.where(moves <= _noise(move.variables), 0, moves / scale).amax(0)
        if move.moved is not None:  # active rows have a residual above the tolerance: one that only looked keeps it
            ratio = torch.where(move.moved, ratio, residual)
        residual = torch.where(active, torch.where(finite, ratio, torch.nan), residual)
        iterations = iterations + active
        alive = finite & active
        state = select(alive, move.state, state)
        converged = converged | (alive & (ratio <= stop.tolerance))
        active = alive & ~converged
        if count % stop.check_every == 0 and not bool(active.any()):
            break
    x, dual = method.result(state)
    return SplittingResult(x, dual, residual, iterations, converged)


def row_norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each row, ``(batch,)``, in float32 at least."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=_wide(x))


def spread(value: Tensor, like: Tensor) -> Tensor:
    """``(batch,)`` or ``(batch, 1, ...)`` as ``(batch, 1, ...)`` with the dimensions of ``like``."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def _noise(variables: tuple[Variable, ...]) -> Tensor:
    """Per variable and row, the rounding errors of T(v)."""
    sources = [row_norm(torch.zeros_like(v.after) if v.source is None else v.source) for v in variables]
    return _ROUNDING * torch.finfo(variables[0].after.dtype).eps * torch.stack(sources)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def select(rows: Tensor, new: S, old: S) -> S:
    """The state with the ``rows`` of ``new`` and the others of ``old``."""
    return type(new)(*(n if n is None or n is o else torch.where(spread(rows, n), n, o) for n, o in zip(new, old)))
