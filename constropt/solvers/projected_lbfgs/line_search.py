"""The inner iterations of the default solver: accept or shrink a trial point, then the next direction; row by row.

Spectral fallback: Birgin, Martinez & Raydan, Nonmonotone spectral projected gradient methods on convex sets, SIAM J.
Optim. 10 (2000).
"""

from dataclasses import replace

import torch
from torch import Tensor

from constropt.rows import mixed
from constropt.solvers.projected_lbfgs.scaling import row_max
from constropt.solvers.projected_lbfgs.search_state import SearchState, Visited

SMALLEST_STEP = 1e-12
SPECTRAL_RANGE = (1e-12, 1e12)
SUFFICIENT_DECREASE = 1e-4
# L-BFGS directions that descend less than this (cosine) are replaced by the spectral one
DESCENT_COSINE = 1e-6


def rounding(state: SearchState) -> Tensor:
    """What of a merit is rounding: constraints, of unit gradient when scaled, are not known better than x is."""
    current = state.current
    return 10 * torch.finfo(current.x.dtype).eps * (current.merit.abs() + current.candidate.abs().sum(1))


def acceptable(state: SearchState, seen: Visited) -> Tensor:
    """The nonmonotone Armijo test of Grippo, Lampariello & Lucidi (1986), with room for rounding: ``(batch,)``."""
    return seen.merit <= state.merits.amax(0) + SUFFICIENT_DECREASE * state.alpha * state.slope + rounding(state)


def flat(state: SearchState) -> Tensor:
    """Rows whose last accepted merits differ by no more than rounding: nothing is left to gain under these duals."""
    return state.merits.amax(0) - state.merits.amin(0) <= rounding(state)


def shrink(state: SearchState, seen: Visited, finite: Tensor, rejected: Tensor) -> tuple[SearchState, Tensor]:
    """Shorter steps for the ``rejected`` rows, and which of them have no step left.

    The minimiser of the parabola through the two values and the slope, kept in ``[0.1, 0.5] alpha``; a tenth where the
    trial was not finite.
    """
    excess = seen.merit - state.current.merit - state.alpha * state.slope
    factor = (-0.5 * state.alpha * state.slope / excess).nan_to_num(0.1, 0.5, 0.1).clamp(0.1, 0.5)
    factor = torch.where(finite, factor, 0.1)
    alpha = torch.where(rejected, state.alpha * factor, state.alpha)
    eps = torch.finfo(seen.x.dtype).eps
    length = row_max(state.direction / state.scaling.variables) * alpha
    room = row_max(state.current.x / state.scaling.variables).clamp_min(1)
    exhausted = rejected & ((alpha < SMALLEST_STEP) | (length < 0.1 * eps * room))
    return replace(state, alpha=alpha), exhausted


def advance(state: SearchState, seen: Visited, accepted: Tensor, fresh: Tensor) -> SearchState:
    """Make the seen point of the ``accepted`` rows the current one; a pair is never formed across ``fresh`` points."""
    moved = accepted & ~fresh
    begun = accepted & fresh
    variables = state.scaling.variables
    s = torch.where(moved.unsqueeze(1), (seen.x - state.current.x) / variables, 0)
    y = torch.where(moved.unsqueeze(1), (seen.gradient - state.current.gradient) * variables, 0)
    first = (1 / row_max(seen.gradient * variables)).clamp(*SPECTRAL_RANGE)
    length = torch.where(begun & (state.spectral_step == 0), first, state.spectral_step)
    shifted = torch.cat([seen.merit.unsqueeze(0), state.merits[:-1]])
    merits = torch.where(begun, seen.merit, torch.where(moved, shifted, state.merits))
    length = torch.where(moved, spectral_length(s, y, length), length)
    inner = torch.where(begun, 0, torch.where(moved, state.inner + 1, state.inner))
    current, pairs = mixed(accepted, seen, state.current), state.pairs.push(s, y, moved)
    return replace(state, current=current, spectral_step=length, merits=merits, pairs=pairs, inner=inner)


def spectral_length(s: Tensor, y: Tensor, previous: Tensor) -> Tensor:
    """Barzilai-Borwein ``s's / s'y`` per row, its upper limit where there is no curvature, ``previous`` where s = 0."""
    ss, sy = (s * s).sum(1), (s * y).sum(1)
    length = torch.where(sy > 0, ss / torch.where(sy > 0, sy, 1), SPECTRAL_RANGE[1])
    return torch.where((ss > 0) & length.isfinite(), length.clamp(*SPECTRAL_RANGE), previous)


def aim(state: SearchState, rows: Tensor, most_pairs: int) -> SearchState:
    """A new direction from the current point for the given ``rows``, with the full step along it as the next trial."""
    x, gradient, variables = state.current.x, state.current.gradient, state.scaling.variables
    scaled = gradient * variables
    direction = state.domain.project(x - state.spectral_step.unsqueeze(1) * variables * scaled) - x
    use = torch.zeros_like(rows)
    if state.pairs.s.shape[0]:
        free = state.domain.free(x, gradient)
        reduced = torch.where(free, scaled, 0)
        step, usable = state.pairs.inverse_times(reduced, free, most_pairs)
        newton = state.domain.project(x - variables * step) - x
        slope = (gradient * newton).sum(1)
        steep = reduced.square().sum(1).sqrt() * (newton / variables).square().sum(1).sqrt()
        use = usable & (slope <= -DESCENT_COSINE * steep) & (slope < 0) & newton.isfinite().all(1)
        direction = torch.where(use.unsqueeze(1), newton, direction)
    limit = 10 * row_max(x / variables).clamp_min(1)
    longest = row_max(direction / variables).clamp_min(torch.finfo(x.dtype).tiny)
    direction = direction * (limit / longest).clamp_max(1).unsqueeze(1)
    slope = torch.where(rows, (gradient * direction).sum(1), state.slope)
    direction = torch.where(rows.unsqueeze(1), direction, state.direction)
    alpha, spectral = torch.where(rows, 1, state.alpha), torch.where(rows, ~use, state.spectral)
    return replace(state, direction=direction, slope=slope, alpha=alpha, spectral=spectral)
