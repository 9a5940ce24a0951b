"""Euclidean projections of rows on norm balls (optionally within a box that contains 0) and on the simplex.

All take ``d`` of shape ``(batch, *event)`` and a radius that is a number or ``(batch,)``; rows are independent, inputs
are not modified. They raise ``ValueError`` for a negative radius given as a number.
"""

import torch
from torch import Tensor

from .rows import flat, row_sum, rows_of

Radius = float | Tensor

# Halvings of the bracket before the exact solve on the active set that they single out: beyond the bits of a float64.
_HALVINGS = 64
# Entries of the sample that Newton's method starts from, and its passes: it takes four or five.
_SAMPLE, _NEWTON = 4096, 30


def _column(radius: Radius, rows: Tensor) -> Tensor:
    """The radius as ``(batch, 1)`` in the dtype of the flattened rows."""
    if not isinstance(radius, Tensor) and radius < 0:
        raise ValueError(f"radius must be >= 0, got {radius}")
    return torch.as_tensor(radius, dtype=rows.dtype, device=rows.device).reshape(-1, 1).expand(rows.shape[0], 1)


def _room(rows: Tensor, lower: Tensor | None, upper: Tensor | None, like: Tensor) -> Tensor | None:
    """How far each entry may go in the direction of its sign before it leaves the box; None without a box."""
    if lower is None and upper is None:
        return None
    lower_rows = rows.new_full((), -torch.inf) if lower is None else flat(lower.to(rows).expand_as(like))
    upper_rows = rows.new_full((), torch.inf) if upper is None else flat(upper.to(rows).expand_as(like))
    return torch.where(rows > 0, upper_rows, -lower_rows).clamp_min(0).expand_as(rows)


def _given(
    d: Tensor, radius: Radius, lower: Tensor | None, upper: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """d as rows, the radius as their column, the sizes of the entries, their room, and the sizes that this leaves."""
    rows = rows_of(d)
    size, room = rows.abs(), _room(rows, lower, upper, d)
    return rows, _column(radius, rows), size, room, size if room is None else torch.minimum(size, room)


def project_simplex(d: Tensor, total: Radius = 1.0) -> Tensor:
    """Projection on ``{p >= 0, sum p = total}``, row by row: ``p = max(d - tau, 0)``.

    tau is found by Newton's method, which ends after finitely many passes with the right set of positive entries
    (Michelot 1986), from the root of a sample of the row (Condat 2016 compares with sorting).

    >>> project_simplex(torch.tensor([[2.0, 0.0]]))
    tensor([[1., 0.]])
    """
    rows = rows_of(d)
    amount = _column(total, rows).double()
    if rows.numel() == 0:
        return d.clone()
    # relative to the largest entry, so that sums of large entries keep their digits
    shifted = rows - rows.amax(1, keepdim=True)
    tau = _tau(shifted.detach(), amount.detach())
    if torch.is_grad_enabled() and (rows.requires_grad or amount.requires_grad):
        positive = shifted > tau  # tau again, by sums that a gradient can be taken of
        sums = torch.where(positive, shifted, 0).double().sum(1, keepdim=True)
        tau = (sums - amount) / positive.sum(1, keepdim=True).clamp_min(1)
    return (shifted - tau.to(rows.dtype)).clamp_min(0).view_as(d).to(d.dtype)


def _tau(rows: Tensor, total: Tensor) -> Tensor:
    """The root tau of ``sum max(rows - tau, 0) = total``, ``(batch, 1)`` in float64; the largest entries are 0."""
    n = rows.shape[1]
    sample = rows[:, :: max(1, n // _SAMPLE) | 1].sort(dim=1, descending=True).values.double()
    counts = torch.arange(1, sample.shape[1] + 1, device=rows.device, dtype=torch.float64)
    excess = sample.cumsum(1) - total * (sample.shape[1] / n)
    support = (sample * counts > excess).sum(1, keepdim=True).clamp_min(1)
    tau, above = (excess.gather(1, support - 1) / support).clamp_max(0).maximum(-total), torch.empty_like(rows)
    done = torch.zeros_like(tau, dtype=torch.bool)
    for _ in range(_NEWTON):
        level = tau.to(rows.dtype)
        torch.sub(rows, level, out=above).clamp_min_(0)
        sums = row_sum(above).unsqueeze(1)
        count = row_sum(above.gt_(0)).unsqueeze(1)
        # from above, where count may be 0, a step leads below the root; from there on, up to it
        newton = (level.double() + (sums - total) / count.clamp_min(1)).maximum(-total).where(count > 0, -total)
        last = ~((newton - tau).abs() > 2 * torch.finfo(rows.dtype).eps * tau.abs())
        tau, done = tau.where(done, newton), done | last
        if rows.device.type == "cpu" and bool(done.all()):  # a device is not waited for
            break
    return tau


def project_l1(d: Tensor, radius: Radius, *, lower: Tensor | None = None, upper: Tensor | None = None) -> Tensor:
    """Projection on ``{||p||_1 <= radius, lower <= p <= upper}``: ``p = sign(d) clip(|d| - tau, 0, room)``.

    With a box this is not the composition of the two projections. tau is bracketed by halving, then solved for
    exactly on the entries that are strictly between their limits.

    >>> project_l1(torch.tensor([[3.0, -1.0]]), 2.0)
    tensor([[2., -0.]])
    """
    rows, radius, size, room, capped = _given(d, radius, lower, upper)
    inside = capped.sum(1, keepdim=True) <= radius
    if room is None:
        p = project_simplex(size, radius.clamp_min(torch.finfo(rows.dtype).tiny).squeeze(1))
    else:
        low, high = torch.zeros_like(radius), size.amax(1, keepdim=True)
        for _ in range(_HALVINGS):
            tau = (low + high) / 2
            above = torch.minimum((size - tau).clamp_min(0), room).sum(1, keepdim=True) > radius
            low, high = torch.where(above, tau, low), torch.where(above, high, tau)
        # what is left of tau is solved for relative to `high`: the radius keeps its digits where |d| is much larger
        above = size - high
        free = (above >= 0) & (above < room)
        fixed = torch.where(above >= room, room, 0).sum(1, keepdim=True)
        count = free.sum(1, keepdim=True)
        rest = (torch.where(free, above, 0).sum(1, keepdim=True) + fixed - radius) / count.clamp_min(1)
        rest = torch.where(count > 0, torch.maximum(rest, low - high), 0)
        p = torch.minimum((above - rest).clamp_min(0), room)
    p = torch.where(inside, capped, p * (radius > 0))
    return (p * rows.sign()).view_as(d).to(d.dtype)


def project_l2(d: Tensor, radius: Radius, *, lower: Tensor | None = None, upper: Tensor | None = None) -> Tensor:
    """Projection on ``{||p||_2 <= radius, lower <= p <= upper}``: ``p = sign(d) min(c |d|, room)`` with c in [0, 1].

    >>> project_l2(torch.tensor([[3.0, 4.0]]), 1.0)
    tensor([[0.6000, 0.8000]])
    """
    rows, radius, size, room, capped = _given(d, radius, lower, upper)
    norm = torch.linalg.vector_norm(capped, dim=1, keepdim=True)
    if room is None:
        c = (radius / norm.clamp_min(torch.finfo(rows.dtype).tiny)).clamp_max(1)
        return (rows * c).view_as(d).to(d.dtype)
    low, high = torch.zeros_like(radius), torch.ones_like(radius)
    for _ in range(_HALVINGS):
        c = (low + high) / 2
        above = torch.linalg.vector_norm(torch.minimum(c * size, room), dim=1, keepdim=True) > radius
        low, high = torch.where(above, low, c), torch.where(above, c, high)
    free = low * size < room
    rest = radius.square() - torch.where(free, 0, room).square().sum(1, keepdim=True)
    weight = torch.where(free, size, 0).square().sum(1, keepdim=True)
    exact = (rest.clamp_min(0) / weight.clamp_min(torch.finfo(rows.dtype).tiny)).sqrt()
    c = torch.where(weight > 0, torch.minimum(exact, high), low)
    p = torch.where(norm <= radius, capped, torch.minimum(c * size, room))
    return (p * rows.sign()).view_as(d).to(d.dtype)


def project_linf(d: Tensor, radius: Radius, *, lower: Tensor | None = None, upper: Tensor | None = None) -> Tensor:
    """Projection on ``{||p||_inf <= radius, lower <= p <= upper}``: a clip.

    >>> project_linf(torch.tensor([[3.0, -0.5]]), 1.0)
    tensor([[ 1.0000, -0.5000]])
    """
    rows = rows_of(d)
    radius = _column(radius, rows)
    p, room = rows.clamp(-radius, radius), _room(rows, lower, upper, d)
    return (p if room is None else p.sign() * torch.minimum(p.abs(), room)).view_as(d).to(d.dtype)


def project_l0(d: Tensor, radius: Tensor) -> Tensor:
    """Projection on ``||p||_0 <= radius``, ``(batch,)``: the ``floor(radius)`` largest entries in size, the others 0.

    >>> project_l0(torch.tensor([[3.0, -5.0, 1.0]]), torch.tensor([2.0]))
    tensor([[ 3., -5.,  0.]])
    """
    rows = d.flatten(1)
    order = rows.abs().argsort(dim=1, descending=True, stable=True)
    kept = torch.arange(rows.shape[1], device=d.device) < radius.floor().unsqueeze(1)
    kept = torch.zeros_like(rows, dtype=torch.bool).scatter(1, order, kept)
    # NaN passes, for the loop to notice
    return torch.where(kept | rows.isnan(), rows, 0).view_as(d)
