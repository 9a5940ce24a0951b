"""Random search by local windows on a norm ball, without gradients: Square Attack."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constropt.checks import require_whole, require_within
from constropt.domain import L1Ball, L2Ball, LinfBall
from constropt.evaluation import Evaluation
from constropt.features import NORM_BALL, Takes
from constropt.rows import beside
from constropt.solvers.balls.projected_gradient import radii
from constropt.solvers.base import Proposal, Run, Solver

# When the area of the window is halved, of 10,000 evaluations (Andriushchenko et al., 2020).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# The tiles along each side of the start in l2 and l1.
_TILES = 5


@dataclass(frozen=True, eq=False)
class SearchPoint:
    """The best point that the search has accepted, of the shape of x, and its objective, ``(batch,)``."""

    x: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False)
class SquareSearch(Solver[SearchPoint]):
    """min g(x) over a ball by random search: Square Attack (Andriushchenko et al., 2020; l1: Croce & Hein, 2021).

    Every step changes the best point in one window of the last two dimensions of a row -- of ``(batch, *event)`` seen
    as ``(batch, channels, height, width)`` -- and keeps the change where g falls. linf: the window is moved to a corner
    of the ball, one sign per channel, from a start of vertical stripes. l2 and l1: two opposite bumps are added in the
    window, at what norm is unused and what the window and a second one had, which is emptied; the start is a tiling by
    such bumps. The window has the part ``area`` of the image, halved at fixed steps (10, 50, 200, ... of 10,000): 0.8
    as in AutoAttack; 0.05 in linf and 0.1 in l2 in the paper, which fool fewer rows in a thousand steps.

    Draws are functions of ``seed`` and the step, and the same in all rows. Rows stop at their first feasible point
    with ``stop`` (for problems whose constraints say when to). Only forward passes are made: the loop's evaluations
    build a graph unless ``problem.forward`` prevents that, but nothing goes back through it, and no backward pass is
    counted.

    Raises ``ValueError`` for a domain that is no ball, and for values out of range.

    >>> from constropt import ConstrainedProblem, solve
    >>> center = torch.zeros(1, 1, 4, 4)
    >>> problem = ConstrainedProblem(objective=lambda x, _: x.flatten(1).sum(1), domain=LinfBall(1.0, center))
    >>> solution = solve(problem, SquareSearch(), center, steps=200)
    >>> solution.objective.item(), solution.backwards.item()
    (-16.0, 0)
    """

    takes = Takes(fraction=True, domains=NORM_BALL, objective_gradient=False, constraint_gradients=False)

    area: float = 0.8
    seed: int = 0
    stop: bool = False
    check_every: int = 10
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        require_within("(0, 1]", "takes the part of the image", " that a window has", area=self.area)
        require_whole(0, seed=self.seed)

    def init(self, run: Run, point: Evaluation) -> SearchPoint:
        # infinite: the start of the search replaces the given one, whatever its value
        return SearchPoint(point.x.detach(), torch.full_like(point.total(), torch.inf))

    def step(self, run: Run, state: SearchPoint, point: Evaluation, index: int) -> Proposal[SearchPoint]:
        domain = run.problem.domain
        assert isinstance(domain, LinfBall | L2Ball | L1Ball)
        # torch's generator on the host takes 32 bits of a seed; the factors spread neighbours over them
        draws = torch.Generator().manual_seed((self.seed * 1_000_003 + index) * 2_654_435_761 % 2**32)
        x = point.x.detach()
        center = torch.as_tensor(domain.center, dtype=x.dtype, device=x.device).expand_as(x)
        radius = radii(domain, x).view(-1, 1, 1, 1)
        p = {LinfBall: torch.inf, L2Ball: 2.0, L1Ball: 1.0}[type(domain)]
        if index:
            better = point.total() < state.value
            value = torch.where(better, point.total(), state.value)
            state = SearchPoint(torch.where(beside(better, x), x, state.x), value)
        delta = _images(state.x - center)
        if p == torch.inf and index:
            delta = _corner(delta, radius, self._size(delta, index, run, least=1), draws)
        elif p == torch.inf:
            delta = (radius * _signs((delta.shape[1], 1, delta.shape[3]), draws, x)).expand_as(delta)
        elif index:
            delta = _exchange(delta, radius, p, self._size(delta, index, run, least=3), draws)
        else:
            delta = radius * _normed(_tiling(delta, p, draws), p)
        finished = point.violation() <= run.tolerance if self.stop else None
        return Proposal(domain.project(center + delta.reshape(x.shape)), state, finished=finished)

    def _size(self, delta: Tensor, index: int, run: Run, least: int) -> tuple[int, int]:
        """Height and width of the window, at least ``least`` where the image is."""
        height, width = delta.shape[2:]
        scaled = (index - 1) * 10_000 // run.steps
        area = self.area * height * width / 2 ** sum(scaled > at for at in _HALVINGS)
        rows = min(max(round(area**0.5), least), height)
        return rows, min(max(round(area / rows), least), width)


def _corner(delta: Tensor, radius: Tensor, size: tuple[int, int], draws: torch.Generator) -> Tensor:
    """linf: a window moved to a corner of the ball."""
    window = _window(delta, size, draws)
    delta = delta.clone()
    delta[window] = radius * _signs((delta.shape[1], 1, 1), draws, delta)
    return delta


def _exchange(delta: Tensor, radius: Tensor, p: float, size: tuple[int, int], draws: torch.Generator) -> Tensor:
    """l2 and l1: a window gets bumps of the norm that is free, that of a second window included."""
    window, other = _window(delta, size, draws), _window(delta, size, draws)
    both = delta.clone()
    both[window] = both[other] = 0
    kept = _norm(both, p, (2, 3))
    has = (_norm(delta, p, (2, 3)) ** p - kept**p).clamp_min(0)
    unused = (radius**p - _norm(delta, p, (1, 2, 3)) ** p).clamp_min(0) / delta.shape[1]
    pair = _bumps(size, p, bool(torch.randint(2, (), generator=draws)), delta)
    bumps = pair * _signs((delta.shape[1], 1, 1), draws, delta)
    both[window] = _normed(bumps + _normed(delta[window], p, (2, 3)), p, (2, 3)) * (has + unused) ** (1 / p)
    return _normed(both, p) * radius


def _images(x: Tensor) -> Tensor:
    """``(batch, *event)`` as ``(batch, channels, height, width)``."""
    height = x.shape[-2] if x.dim() > 2 else 1
    return x.reshape(x.shape[0], -1, height, x.shape[-1])


def _signs(shape: tuple[int, ...], draws: torch.Generator, like: Tensor) -> Tensor:
    return (2 * torch.randint(2, shape, generator=draws) - 1).to(like)


def _window(delta: Tensor, size: tuple[int, int], draws: torch.Generator) -> tuple[Any, ...]:
    """The index of a window of that size, uniform among its places; the generator is on the host, nothing waits."""
    rows, columns = (
        slice(first := int(torch.randint(full - part + 1, (), generator=draws)), first + part)
        for full, part in zip(delta.shape[2:], size)
    )
    return (slice(None), slice(None), rows, columns)


def _norm(x: Tensor, p: float, dims: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    return torch.linalg.vector_norm(x, ord=p, dim=dims, keepdim=True)


def _normed(x: Tensor, p: float, dims: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    """At unit norm over ``dims``; what is 0 stays 0."""
    return x / _norm(x, p, dims).clamp_min(torch.finfo(x.dtype).tiny)


def _bumps(size: tuple[int, int], p: float, across: bool, like: Tensor) -> Tensor:
    """Two bumps of opposite signs, ``across`` side by side, together of unit norm: ``(1, 1, *size)``."""
    across = across and size[1] > 1 or size[0] == 1
    height, width = (size[1], size[0]) if across else size
    half = height // 2
    pair = torch.cat([_bump(half, width, like), -_bump(height - half, width, like)])
    pair = (pair.T if across else pair)[None, None]
    return _normed(pair, p)


def _bump(height: int, width: int, like: Tensor) -> Tensor:
    """``sum_{k >= r} 1 / (k + 1)^2``, r the distance to the middle in the larger coordinate; unit l2 norm."""
    if not height:
        return like.new_zeros(0, width)
    rings = 1 / torch.arange(1, max(height // 2, width // 2) + 2, dtype=like.dtype, device=like.device).square()
    tails = rings.flip(0).cumsum(0).flip(0)
    rows, columns = (torch.arange(n, device=like.device) - n // 2 for n in (height, width))
    bump = tails[torch.maximum(rows.abs().unsqueeze(1), columns.abs())]
    return bump / torch.linalg.vector_norm(bump)


def _tiling(delta: Tensor, p: float, draws: torch.Generator) -> Tensor:
    """Bumps on a grid of five by five tiles (fewer on smaller images), of random signs and ways, in the middle."""
    channels, height, width = delta.shape[1:]
    tile = max(height // _TILES, 1), max(width // _TILES, 1)
    grid = height // tile[0], width // tile[1]
    signs, lying = _signs((channels, *grid), draws, delta), torch.randint(2, grid, generator=draws).to(delta)
    upright, across = (_bumps(tile, p, way, delta)[0, 0].contiguous() for way in (False, True))
    tiles = torch.kron(signs * (1 - lying), upright) + torch.kron(signs * lying, across)
    top, left = (height - tiles.shape[1]) // 2, (width - tiles.shape[2]) // 2
    full = delta.new_zeros(1, channels, height, width)
    full[:, :, top : top + tiles.shape[1], left : left + tiles.shape[2]] = tiles
    return full
