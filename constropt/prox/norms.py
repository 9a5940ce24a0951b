"""Exact proximity operators of the l0, l1 and l2 norms and of sum |.|^(2/3), on a box, in a diagonal metric, by rows.

    argmin over p   1/2 sum_i s_i (p_i - x_i)^2 + step N(p)   subject to   lower <= p <= upper

For all: ``x`` is ``(batch, *event)``; ``step``, >= 0, a number or ``(batch,)``; ``options`` are those of
:class:`~constropt.prox.rows.Options`, that all operators share; the box must contain 0. Inputs are not modified, a row
that holds a NaN gives a row of them and leaves the others alone, and ``ValueError`` is raised for a negative ``step``
given as a number and for shapes that do not fit x.
"""

from functools import partial

import torch
from torch import Tensor
from typing_extensions import Unpack

from .rows import HUGE, Bound, Options, Problem, Step, clip, row_sum

# Newton's method for the l2 operator ends where a step is so short that the next would be below rounding; halvings take
# over where it leaves the bracket.
_PASSES = 100
# Newton's steps from u = 1: where the operator is not 0, u^3 lies in [1/2, 1], and five reach rounding in float64.
_CUBE_PASSES = 6


@torch.no_grad()
def l1(x: Tensor, step: Step, **options: Unpack[Options]) -> Tensor:
    """prox of ``step ||.||_1`` with box and metric: ``clip(soft(x, step / s), lower, upper)``.

    >>> l1(torch.tensor([[3.0, -0.5, 2.0]]), 1.0, upper=1.5)
    tensor([[1.5000, 0.0000, 1.0000]])
    """
    return Problem(x, step, **options).solve(_soft)


def _soft(x: Tensor, low: Bound, high: Bound, s: Bound, step: Tensor, p: Tensor) -> None:
    threshold = step if s is None else step / s
    torch.minimum(x, threshold, out=p)
    torch.sub(x, torch.maximum(p, -threshold, out=p), out=p)
    clip(p, low, high, out=p)


@torch.no_grad()
def l0(x: Tensor, step: Step, **options: Unpack[Options]) -> Tensor:
    """A global minimiser for ``step ||.||_0`` (nonconvex): clipped entries q with ``s (x^2 - (q - x)^2) > 2 step``.

    >>> l0(torch.tensor([[3.0, -0.5, 2.0]]), 1.0, upper=2.5)
    tensor([[2.5000, 0.0000, 2.0000]])
    """
    return Problem(x, step, **options).solve(_hard)


def _hard(x: Tensor, low: Bound, high: Bound, s: Bound, step: Tensor, p: Tensor) -> None:
    x = x.clamp(-HUGE, HUGE)
    inside = clip(x, low, high)
    gain = inside * (2 * x - inside)  # x^2 - (q - x)^2 without its cancellation
    if s is not None:
        gain *= s
    # a NaN stays one, and no zero is negative
    torch.mul(inside, torch.gt(gain, 2 * step, out=gain), out=p).add_(0.0)


@torch.no_grad()
def l2(x: Tensor, step: Step, **options: Unpack[Options]) -> Tensor:
    """prox of ``step ||.||_2`` (not squared), box and metric: ``p = clip(s r x / (s r + step))``, ``r = ||p||_2``.

    0 where ``||s x||_2 <= step`` over the entries that the box lets move. Without box and metric this is ``(1 - step /
    ||x||) x``; else r is found by Newton's method on ``r / ||p(r)|| = 1``, with ``warm``, ``(batch,)``, as a start.

    >>> l2(torch.tensor([[3.0, 4.0]]), 1.0)
    tensor([[2.4000, 3.2000]])
    """
    problem = Problem(x, step, **options)
    r = _norm(problem, None if problem.warm is None else problem.warm.unsqueeze(1))
    return problem.solve(partial(_shrunk, r=r))


def _shrunk(x: Tensor, low: Bound, high: Bound, s: Bound, step: Tensor, p: Tensor, r: Tensor) -> None:
    pull = r if s is None else s * r
    # a step of 0 gives x, r = 0 gives 0
    torch.mul(x, (pull / (pull + step)).nan_to_num_(nan=0.0).where(step > 0, 1), out=p)
    clip(p, low, high, out=p)


def _norm(problem: Problem, start: Tensor | None) -> Tensor:
    """``||p||_2`` of the result, ``(batch, 1)`` in float64."""
    x, low, high, s = problem.x.clamp(-HUGE, HUGE), problem.lower, problem.upper, problem.metric
    step = problem.step
    pulled = x if s is None else x * s
    if low is not None or high is not None:
        # what the box does not let move in its direction does not pull
        pulled = pulled * (clip(x.sign(), low, high) != 0)
    moves = _length(pulled) > step
    most = _length(clip(x, low, high))
    if low is None and high is None and s is None:
        return (most - step).clamp_min(0)
    least, r = torch.zeros_like(most), most if start is None else start.nan_to_num(nan=0.0).minimum(most)
    r = r.where(r > 0, most)
    close = torch.finfo(x.dtype).eps ** 0.5
    done = ~moves | (step <= 0) | ~most.isfinite()
    for _ in range(_PASSES):
        at = r.to(x.dtype)
        rate = 1 / (at + step.to(x.dtype)) if s is None else s / (s * at + step.to(x.dtype))
        share = x * rate
        if low is not None or high is not None:
            free = share * at
            inside = clip(free, low, high)
            # entries at the box do not grow with r
            share, rate = share.where(inside == free, inside / at), rate.where(inside == free, 1 / at)
        square = share.square()
        size, slope = row_sum(square).unsqueeze(1), row_sum(square.mul_(rate)).unsqueeze(1)
        newton = r + (size**1.5 - size) / slope
        least, most = r.where((size > 1) & ~done, least), r.where((size <= 1) & ~done, most)
        inward = (newton >= least) & (newton <= most)
        settled = inward & ((newton - r).abs() <= close * r) | (most - least <= close**2 * most)
        r, done = r.where(done, newton.where(inward, (least + most) / 2)), done | settled
        if r.device.type == "cpu" and bool(done.all()):  # a device is not waited for
            break
    return r.where(moves, 0)


def _length(rows: Tensor) -> Tensor:
    """``(batch, 1)`` in float64: the norms, without overflow."""
    size = rows.abs().amax(1, keepdim=True).double().clamp_min(torch.finfo(torch.float32).tiny)
    return size * row_sum((rows / size.to(rows.dtype)).square()).sqrt().unsqueeze(1)


@torch.no_grad()
def two_thirds(x: Tensor, step: Step, **options: Unpack[Options]) -> Tensor:
    """A global minimiser of ``1/2 sum_i s_i (p_i - x_i)^2 + step sum_i |p_i|^(2/3)`` on the box (nonconvex).

    As the thresholding of Cao, Sun & Xu (2013), without its closed form, which loses small numbers in float32: with
    ``p = x u^3`` a stationary point has ``u^4 - u + k = 0``, ``k = 2 step / (3 s |x|^(4/3))``, and the largest root is
    reached from above by Newton's method. Clipped to the box, it is taken where that is less than 0 is. Sparser than
    the l1 norm's, and unlike the l0 norm's it changes with what is left.

    >>> two_thirds(torch.tensor([[3.0, -0.5, 2.0]]), 1.0, upper=1.5)
    tensor([[1.5000, 0.0000, 1.4047]])
    """
    return Problem(x, step, **options).solve(_two_thirds)


def _two_thirds(x: Tensor, low: Bound, high: Bound, s: Bound, step: Tensor, p: Tensor) -> None:
    x = x.clamp(-HUGE, HUGE)
    weight = step if s is None else step / s
    # |x|^(4/3) in two factors, each within range where their product is not
    root = x.abs().pow(1 / 3)
    k = 2 / 3 * weight / x.abs() / root
    # beyond the threshold, 2^(-4/3), the result is 0 whatever u is
    k = k.nan_to_num(nan=0.0, posinf=1.0).clamp_max(0.45)
    u = torch.ones_like(x)
    for _ in range(_CUBE_PASSES):
        u -= (u.pow(4) - u + k) / (4 * u.pow(3) - 1)
    inside = clip(x * u.pow(3), low, high)
    gain = inside * (2 * x - inside)
    cost = 2 * weight * inside.abs().pow(2 / 3)
    # a NaN stays one, and no zero is negative
    torch.mul(inside, gain > cost, out=p).add_(0.0)
