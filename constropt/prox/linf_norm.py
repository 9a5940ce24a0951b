"""The exact proximity operator of the l-infinity norm on a box, in a diagonal metric, batched over rows.

    minimise over p   1/2 sum_i s_i (p_i - x_i)^2 + step max_i |p_i|   subject to   lower <= p <= upper

For a given largest entry beta the solution is ``clip(clip(x, lower, upper), -beta, beta)``. With ``m = |clip(x, lower,
upper)|`` and ``a = sign(clip(x)) x``, the derivative in beta is ``step - h(beta)``, ``h(beta) = sum over m_i > beta of
s_i (a_i - beta)``. h decreases and, where the box clips (a_i > m_i), jumps down at m_i: the root may sit at a jump,
where Newton's method alone stalls. Short rows are bracketed and what the bracket leaves undecided is sorted
(`linf_exact`); long ones are searched from a sample (:func:`largest`); on a device, which nothing here waits for, all
is sorted.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from .linf_exact import Listed, root
from .linf_sweep import Rows, Sums, evaluate, gather, widened
from .rows import RUN, TILE, Options, Problem, Step, clip, part

# Rows up to this length are sorted at once.
_AT_ONCE = 256
# Entries of a sample, one in so many, within limits; how large a share of them its slope and density are measured on.
_SAMPLED, _SAMPLE, _NEAR = 16, (128, 4096), 1 / 64
# Entries of a larger sample, and how many of them lie together.
_FINE, _TOGETHER = 1 << 15, 8
# Where this few of the sample's largest entries amount to twice the step, all that are as large are listed at once.
_FEWEST, _TOP = 12, 32
# A bracket goes so many entries beyond Newton's point, or one in so many, and no further than this share of it.
_LEAST, _ONE_IN, _MOST, _WIDEST = 512, 3000, 2000, 0.05
# Where more than one entry in so many lies between a guess and Newton's point, h is evaluated there, too.
_CROWD = 128
# Rows up to this length are bracketed by so many evaluations of h at most, each so far, relatively, beyond the last.
_SHORT, _NARROWINGS, _BEYOND = 4096, 8, 1e-3
# Brackets until all that is still possible is listed.
_BRACKETS = 3
# What rounding in float32 does not reach, relatively.
_SLACK = 1e-5
_TINY = torch.finfo(torch.float64).tiny


@torch.no_grad()
def linf(x: Tensor, step: Step, **options: Unpack[Options]) -> Tensor:
    """prox of ``step ||.||_inf`` plus the indicator of ``[lower, upper]`` in the metric ``diag(metric)``, row by row.

    ``x``: ``(batch, *event)``; ``step``: a number or ``(batch,)``, >= 0; ``options``:
    :class:`~constropt.prox.rows.Options`, of which ``warm`` guesses the largest entry of the result (the previous
    one's, when the operator is applied repeatedly), and ``out`` spares most of the time in large tensors, which goes
    into new memory. The largest entry is exact to the rounding of that dtype (half precision: that of float32, then
    rounded). A row that holds a NaN gives a row of them, and leaves the others alone.

    Raises ``ValueError`` for a negative ``step`` given as a number, and for shapes that do not fit x.

    >>> linf(torch.tensor([[3.0, -1.0, 2.0]]), 1.5)
    tensor([[ 1.7500, -1.0000,  1.7500]])
    >>> linf(torch.tensor([[3.0, -1.0, 2.0]]), 1.5, upper=1.0)
    tensor([[ 1., -1.,  1.]])
    """
    problem = Problem(x, step, **options)
    amount, rows, low, high, weights = problem.step.squeeze(1), problem.x, problem.lower, problem.upper, problem.metric
    result, start = problem.result, problem.warm
    batch, n = rows.shape
    cpu = x.device.type == "cpu"
    group = max(4, TILE // max(n, 1)) if cpu else max(batch, 1)
    for first in range(0, batch if n else 0, group):
        chosen, every = slice(first, first + group), slice(None)
        inside = rows[chosen] if low is None and high is None else result[chosen]
        sides = part(low, chosen, every), part(high, chosen, every), part(weights, chosen, every)
        piece = Rows(rows[chosen], *sides, inside)
        guess = None if start is None else start[chosen]
        beta = largest(piece, amount[chosen], guess) if cpu and n > _AT_ONCE else _short(piece, amount[chosen])
        _cut(inside, beta.to(rows.dtype).unsqueeze(1), result[chosen])
    return problem.placed()


def _short(rows: Rows, step: Tensor) -> Tensor:
    """beta, ``(batch,)``, from all entries in float64; NaN for rows with a NaN. Writes ``rows.inside``."""
    if rows.lower is not None or rows.upper is not None:
        clip(rows.x, rows.lower, rows.upper, out=rows.inside)
    m, a, s = widened(rows.x, rows.lower, rows.upper, rows.metric)
    nearest = _least(rows)
    zero = torch.zeros_like(step)
    beta = root(Listed(m, torch.stack([s, s * a]), zero.expand(2, -1), zero), step, nearest, m.amax(1).maximum(nearest))
    return torch.where((rows.x.isnan() | s.isnan()).any(1) | nearest.isnan(), torch.nan, beta)


def _least(rows: Rows) -> Tensor:
    """``(batch,)`` in float64: how far the box keeps some entry of a row from 0, and so beta; NaN for a NaN side."""
    far = torch.zeros_like(rows.x[:, 0], dtype=torch.float64)
    if rows.lower is not None:
        far = far.maximum(rows.lower.amax(1)) if isinstance(rows.lower, Tensor) else far.clamp_min(rows.lower)
    if rows.upper is not None:
        far = far.maximum(-rows.upper.amin(1)) if isinstance(rows.upper, Tensor) else far.clamp_min(-rows.upper)
    return far


def _cut(inside: Tensor, beta: Tensor, result: Tensor) -> None:
    """``clip(inside, -beta, beta)``, a row of NaN for a NaN beta, in tiles that stay in the cache."""
    width = max(1, TILE // inside.shape[0]) if inside.device.type == "cpu" else inside.shape[1]
    below = -beta
    for tile, p in zip(inside.split(width, 1), result.split(width, 1)):
        torch.minimum(torch.maximum(tile, below, out=p), beta, out=p)


# --------------------------------------------------------------------------------------------------- long rows
# Roughly where, by which entries, and exactly: a sample, or the caller's guess, gives a point at which one pass over
# all entries (`linf_sweep`) evaluates h. The entries between that point and where the root must lie by Newton's method
# are gathered; h is then known at both ends, and once the root is known to lie between, `linf_exact` finds it among
# them. A row's course depends on that row only, bit by bit.


class Guess(NamedTuple):
    """Per row, ``(batch,)``.

    ``at``: where to evaluate h, inf for nowhere; ``far``: how far from there to list entries, NaN for as far as
    Newton's point and a ``margin`` beyond; ``jumps``: the slope of -h due to them; ``density``: entries in a unit.
    """

    at: Tensor
    far: Tensor
    margin: Tensor
    jumps: Tensor
    density: Tensor


def largest(rows: Rows, step: Tensor, warm: Tensor | None) -> Tensor:
    """beta, ``(batch,)`` in float64, NaN for rows with a NaN; ``step`` and ``warm``: ``(batch,)`` in float64."""
    dtype = rows.x.dtype
    if rows.x.shape[1] <= _SHORT:
        guess, sums = _bracketed(rows, step, warm)
    elif warm is None:
        guess = _sampled(rows, step)
        sums = evaluate(rows, guess.at, wide=False, first=True)
        guess, sums = _closer(rows, step, guess, sums)
    else:
        guess, sums = _from_warm(rows, step, warm)
    beta, doubt, lost = _locate(rows, step, guess, sums, ~sums.unsafe)
    unsafe = sums.unsafe | lost
    # float32 sums, had all been rounded in one direction: too far off for 1e-6 of the root?
    rough = (doubt * torch.finfo(dtype).eps > 5e-7 * beta) & (dtype != torch.float64)
    again = unsafe | rough
    if not bool(again.any()):
        return beta
    other = _sampled(rows, step)
    close = 8 * torch.finfo(dtype).eps * doubt
    at = torch.where(rough & ~unsafe, beta, other.at.where(other.at < torch.inf, other.far)).where(again, torch.inf)
    guess = other._replace(at=at, far=torch.full_like(at, torch.nan), margin=close.where(rough & ~unsafe, other.margin))
    sums = evaluate(rows, at, wide=True, first=False)
    below = again & (at < sums.nearest)  # where h says nothing
    if bool(below.any()):
        moved = evaluate(rows, sums.nearest.where(below, torch.inf), wide=True, first=False)
        sums = Sums(*(new.where(below, old) for new, old in zip(moved, sums)))
        guess = guess._replace(at=sums.nearest.where(below, at))
    exact = _locate(rows, step, guess, sums, again & ~sums.unsafe)[0].where(~sums.unsafe, torch.nan)
    return exact.where(again, beta)


def _bracketed(rows: Rows, step: Tensor, warm: Tensor | None) -> tuple[Guess, Sums]:
    """For shorter rows: h at Newton's points and a little beyond, until the root lies in a narrow bracket."""
    dtype = rows.x.dtype
    low, high = torch.zeros_like(step), torch.full_like(step, torch.inf)
    at = low if warm is None else warm.nan_to_num(nan=0.0, posinf=0.0).clamp_min(0).to(dtype).double()
    sums = evaluate(rows, at, wide=False, first=True)
    done = sums.unsafe
    for count in range(1, _NARROWINGS + 1):
        above = sums.level >= step
        low, high = at.where(above, low), high.where(above, at)
        newton = at + (sums.level - step) / sums.weight.clamp_min(_TINY)
        done = done | (high - low <= 4 * _BEYOND * high) & (high < torch.inf)
        if count == _NARROWINGS or bool(done.all()):
            break
        point = newton * torch.where(above, 1 + _BEYOND, 1 - _BEYOND)
        point = point.where((point > low) & (point < high), (low + high) / 2).to(dtype).double()
        sums = _moved(rows, sums, point, ~done)
        at = at.where(done, point)
    zero = torch.zeros_like(step)
    return Guess(at, high.where(above, low), _BEYOND * at, zero, zero), sums


def _from_warm(rows: Rows, step: Tensor, warm: Tensor) -> tuple[Guess, Sums]:
    """The guess and h there: the caller's where Newton's method stays close to it, else a sample's."""
    at = warm.to(rows.x.dtype).double()
    at = at.where((at > 0) & (at < torch.inf), torch.inf)
    sums = evaluate(rows, at, wide=False, first=True)
    move = ((sums.level - step) / sums.weight.clamp_min(_TINY)).abs()
    margin = _WIDEST * move + 1e-6 * at
    zero, nan = torch.zeros_like(at), torch.full_like(at, torch.nan)
    guess = Guess(at, nan, margin, zero, zero)
    astray = ~(move <= _WIDEST * at) | (at == torch.inf)
    if not bool(astray.any()):
        return guess, sums
    other = _sampled(rows, step)
    guess = Guess(*(new.where(astray, old) for new, old in zip(other, guess)))
    return guess, _moved(rows, sums, other.at, astray)


def _closer(rows: Rows, step: Tensor, guess: Guess, sums: Sums) -> tuple[Guess, Sums]:
    """The guess moved to Newton's point, and h there, where so many entries lie between that gathering takes longer."""
    move = (sums.level - step) / (sums.weight + guess.jumps).clamp_min(_TINY)
    to = (guess.at + move).clamp_min(0).to(rows.x.dtype).double()
    crowd = max(rows.x.shape[1] / _CROWD, _MOST)
    far = (move.abs() * guess.density > crowd) & (to < torch.inf)
    if not bool(far.any()):
        return guess, sums
    return guess._replace(at=to.where(far, guess.at)), _moved(rows, sums, to, far)


def _moved(rows: Rows, sums: Sums, to: Tensor, moved: Tensor) -> Sums:
    """The sums, of the moved rows at another point."""
    others = evaluate(rows, to.where(moved, torch.inf), wide=False, first=False)
    others = others._replace(nearest=sums.nearest, unsafe=others.unsafe | sums.unsafe)
    return Sums(*(new.where(moved, old) for new, old in zip(others, sums)))


def _locate(rows: Rows, step: Tensor, guess: Guess, sums: Sums, pending: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the pending rows: beta, NaN for others; by how many units of rounding in h's terms it is in doubt; NaN or not.

    From the point where h is known, its sums are carried from end to end of the brackets.
    """
    at, far, margin, jumps, _ = guess
    weight, level, nearest, _ = sums
    start, start_weight, start_level = at, weight, level
    beta, doubt = torch.full_like(step, torch.nan), torch.zeros_like(step)
    lost = torch.zeros_like(pending)
    up = level > step
    for count in range(1, _BRACKETS + 1):
        newton = at + (level - step) / (jumps + weight).clamp_min(_TINY)
        far = torch.where(far.isnan(), newton + torch.where(up, margin, -margin), far)
        if count == _BRACKETS:
            far = torch.where(up, torch.inf, 0)
        far = torch.where(up, far.maximum(at), far.minimum(at)).maximum(nearest)
        low, high = far.minimum(at).where(pending, torch.inf), far.maximum(at).where(pending, torch.inf)
        found = gather(rows, low, high)
        lost |= pending & found.lost
        pending = pending & ~found.lost
        center = low.where(pending, 0)
        terms = torch.stack([found.s, found.s * (found.a - center.unsqueeze(1))])
        # the sums above the bracket, centred at its lower end: what is known at one end, less what lies between
        known = torch.stack([weight, level.where(up | (weight == 0), level + (at - low) * weight)])
        listed = Listed(found.m, terms, known, center)
        total = listed.total()
        above = torch.where(up, 2 * known - total, known).where(high < torch.inf, 0)
        listed, total = listed._replace(above=above), torch.where(up, known, total)
        at_far = torch.where(up, above[1] - (high - low).where(high < torch.inf, 0) * above[0], total[1])
        within = torch.where(up, at_far <= step, (at_far >= step) | (low <= nearest))
        done = pending & within if count < _BRACKETS else pending
        if bool(done.any()):
            end = high.where(high < torch.inf, found.m.amax(1)).maximum(low)
            point = root(listed, step, low, end)
            beta = point.where(done, beta)
            used = start_level + start_weight * (point - start).where(start < torch.inf, 0).abs()
            clear = (point <= nearest) & (total[1] < (1 - _SLACK) * step)  # at the least beta, rounding or not
            doubt = torch.where(done & ~clear, used / listed.beyond(point)[0].clamp_min(_TINY), doubt)
        pending = pending & ~done
        if not bool(pending.any()):
            break
        at, weight, level = far, torch.where(up, above[0], total[0]), at_far
        far, margin = torch.full_like(far, torch.nan), 8 * margin
    return beta, doubt, lost


def _sampled(rows: Rows, step: Tensor) -> Guess:
    """A guess from entries at equal distances (an odd number, so as not to fall in with the shape of an image)."""
    n = rows.x.shape[1]
    stride = max(1, n // min(max(n // _SAMPLED, _SAMPLE[0]), _SAMPLE[1])) | 1
    m, a, s = rows.widened(lambda v: v[:, stride // 2 :: stride])
    size = m.shape[1]
    target = step.unsqueeze(1) * (size / n)
    _, order = m.to(rows.x.dtype).sort(dim=1, descending=True)
    m = m.gather(1, order)
    weight, level = (torch.stack([s, s * a]).gather(2, order.expand(2, -1, -1))).cumsum(2)
    h = level - m * weight  # at each entry of the sample
    index = (h < target).sum(1, keepdim=True)
    # the root of the sample: on the piece below the entry before this one
    before, at = (index - 1).clamp_min(0), index.clamp_max(size - 1)
    weight_before = weight.gather(1, before)
    bottom = torch.where(index < size, m.gather(1, at), 0)
    beta = ((level.gather(1, before) - target) / weight_before).maximum(bottom).minimum(m.gather(1, before)).squeeze(1)
    around = torch.cat([at - round(_NEAR * size), at + round(_NEAR * size)], 1).clamp(0, size - 1)
    (right, left), (h_right, h_left) = m.gather(1, around).unbind(1), h.gather(1, around).unbind(1)
    gap = right - left
    jumps = torch.where(gap > 0, (h_left - h_right) / gap - weight_before.squeeze(1), 0).clamp_min(0) * (n / size)
    density = (around[:, 1] - around[:, 0]) / gap.clamp_min(_TINY) * (n / size)
    beyond = min(max(min(_LEAST, n / _SAMPLED), n / _ONE_IN), _MOST)
    margin = (beyond / density.clamp_min(_TINY)).minimum(_WIDEST * beta)
    # enough entries of the sample that amount to twice the step
    safe = (h < 2 * target).sum(1, keepdim=True).clamp(_FEWEST, size - 1)
    rare = (safe < _TOP).squeeze(1)
    if n >= 4 * _FINE:
        beta = _refined(rows, step, beta, jumps)
    at = beta.to(rows.x.dtype).double()  # of the dtype, so that sums refer to it exactly
    far = m.gather(1, safe).squeeze(1).where(rare, torch.nan)
    return Guess(at.where(~rare, torch.inf), far, margin, jumps, density)


def _refined(rows: Rows, step: Tensor, beta: Tensor, jumps: Tensor) -> Tensor:
    """A step of Newton's method on a larger sample, of short runs: as many entries cost fewer cache lines."""
    n = rows.x.shape[1]
    stride = n // _FINE * _TOGETHER
    count = n // stride * _TOGETHER // RUN * RUN

    def some(values: Tensor) -> Tensor:
        return values[:, : n // stride * stride].unflatten(1, (-1, stride))[:, :, :_TOGETHER].flatten(1)[:, :count]

    m, a, s = rows.widened(some)
    entries = Listed(m, torch.stack([s, s * (a - beta.unsqueeze(1))]), torch.zeros_like(beta), beta)
    weight, level = entries.beyond(beta) * (n / count)
    move = (level - step) / (weight + jumps).clamp_min(_TINY)
    return (beta + move).maximum(beta / 2).minimum(2 * beta)
