"""The root behind the l-infinity operator for entries given as float64 rows: bracketed first, then sorted.

With ``m`` the sizes of the clipped entries, ``pull = s (a - center)`` and the sums ``(weight, level)`` of s and of pull
over entries that are not listed but known to be larger than beta, the root of

    h(beta) = level + sum over m_i > beta of pull_i - (beta - center) (weight + sum over m_i > beta of s_i) = step

is sought in ``[low, high]``, or the jump of h across ``step``. What a row gets does not depend on others, bit by bit.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .rows import RUN

# Bracketing passes before the rest is sorted; each looks this far, relatively, beyond Newton's point, so that the
# bracket closes from both sides and little is left to sort.
_PASSES = 8
_NUDGE = 1e-9
# So many entries take less time to sort than to bracket; so many are sorted without a look at how many matter.
_FEW, _SHORT = 8192, 1024
_TINY = torch.finfo(torch.float64).tiny


class Listed(NamedTuple):
    """Entries of rows: ``m`` ``(batch, n)``, -1 where there is none, and ``terms`` ``(2, batch, n)``, s and pull.

    ``above``, ``(2, batch)``: their sums over the entries above those that are listed; ``center``: ``(batch,)``.
    """

    m: Tensor
    terms: Tensor
    above: Tensor
    center: Tensor

    def total(self, chosen: Tensor | None = None) -> Tensor:
        """``(2, batch)``: the sums of s and pull over the chosen entries, ``(batch, n)`` ones and zeros, and above.

        Zeros at the end do not change a bit.
        """
        terms = self.terms if chosen is None else self.terms * chosen
        if terms.shape[2] % RUN:
            return self.above + terms.cumsum(2)[..., -1]
        return self.above + terms.unflatten(2, (-1, RUN)).sum(3).cumsum(2)[..., -1]

    def beyond(self, beta: Tensor) -> Tensor:
        """The same over all that is larger than beta, ``(batch,)``."""
        return self.total(torch.gt(self.m, beta.unsqueeze(1), out=torch.empty_like(self.m)))


def root(entries: Listed, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """beta, ``(batch,)`` in float64. On a device nothing waits for it."""
    m, width = entries.m, entries.m.shape[1]
    if m.device.type != "cpu" or width <= _SHORT:
        return _sorted(entries, step, low, high, width)
    count = torch.sum((m > low.unsqueeze(1)) & (m <= high.unsqueeze(1)), 1)
    many = count > _FEW
    beta = low
    if bool(many.any()):
        low, high, beta, many = _bracket(entries, step, low, high, many)
        # rows that are done have nothing undecided, and keep what they have whatever the others do
        left = torch.where(many, low, high)
        count = torch.sum((m > low.unsqueeze(1)) & (m <= left.unsqueeze(1)), 1)
        if bool(many.all()):
            return beta
    sorted_ = _sorted(entries, step, low, torch.where(many, low, high), max(1, int(count.max())))
    return torch.where(many, beta, sorted_)


def _bracket(
    entries: Listed, step: Tensor, low: Tensor, high: Tensor, many: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(low, high, beta, done)``: smaller brackets, the last Newton points, and whether these are the roots.

    Only of the rows with many entries; the others keep their brackets and are not done.
    """
    beta = (low + high) / 2
    best, settled = beta, ~many
    for _ in range(_PASSES):
        weight, level = entries.beyond(beta)
        above = level - (beta - entries.center) * weight >= step
        low, high = torch.where(above & ~settled, beta, low), torch.where(above | settled, high, beta)
        newton = entries.center + (level - step) / weight.clamp_min(_TINY)
        best = torch.where(settled, best, newton.maximum(low).minimum(high))
        nudged = newton * torch.where(above, 1 + _NUDGE, 1 - _NUDGE)
        beta = torch.where((nudged > low) & (nudged < high), nudged, (low + high) / 2)
        # in so narrow a bracket Newton's point is the root, or as near the jump as rounding can tell
        settled = settled | (high - low <= 3 * _NUDGE * high)
        if bool(settled.all()):
            break
    return low, high, best, settled & many


def _sorted(entries: Listed, step: Tensor, low: Tensor, high: Tensor, width: int) -> Tensor:
    """The exact root in ``[low, high]``: the at most ``width`` entries with ``low < m <= high`` of a row are sorted."""
    m, floor, ceiling = entries.m, low.unsqueeze(1), high.unsqueeze(1)
    above = m > ceiling
    keys = torch.where((m > floor) & ~above, m, -1)
    if width < m.shape[1]:
        # in the order of the row, so that ties are summed in one order whatever the width
        chosen = keys.topk(width, dim=1, sorted=False).indices.sort(dim=1).values
        size, order = keys.gather(1, chosen).sort(dim=1, descending=True, stable=True)
        order = chosen.gather(1, order)
    else:
        size, order = keys.sort(dim=1, descending=True, stable=True)
    # sums over the entries that are > beta when beta lies just below the k-th sorted one, k = 0: only those above high
    start = entries.total(above).unsqueeze(2)
    taken = entries.terms.gather(2, order.expand(2, -1, -1)) * (size >= 0)
    weight, level = torch.cat([start, start + taken.cumsum(2)], 2)
    # the k-th linear piece of h holds on [bottom_k, top_k)
    top = torch.cat([ceiling, size.clamp_min(0)], 1)
    bottom = torch.cat([size.clamp_min(0), floor], 1).maximum(floor)
    target, center = step.unsqueeze(1), entries.center.unsqueeze(1)
    # h is at least step at the bottom of the first piece where it is: there, or at the jump above it, lies the root
    reached = (level - (bottom - center) * weight >= target) & (bottom <= top)
    first = reached.to(torch.int8).argmax(1, keepdim=True)
    points = center + (level - target) / weight.clamp_min(_TINY)
    found = points.maximum(bottom).minimum(top).gather(1, first).squeeze(1)
    return torch.where(reached.any(1), found, low)
