"""Group sparsity: the sum over groups of entries of their l2 norms, and its prox, block soft-thresholding in a box."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.prox.norms import l2
from constropt.prox.rows import row_sum


def patches(event: torch.Size | tuple[int, ...], size: int) -> Tensor:
    """Group numbers, of the shape ``event``: squares of ``size`` pixels over the last two dimensions, all channels.

    Squares at the right and lower sides may be smaller. ``ValueError`` for an event of fewer dimensions, or a size < 1.

    >>> patches((1, 2, 3), 2)
    tensor([[[0, 0, 1],
             [0, 0, 1]]])
    """
    require_whole(size=size)
    if len(event) < 2:
        raise ValueError(f"size: patches takes events (..., height, width), got {tuple(event)}")
    rows, columns = (torch.arange(n) // size for n in event[-2:])
    return (rows.unsqueeze(1) * (int(columns[-1]) + 1) + columns).expand(*event)


@dataclass(frozen=True, eq=False)
class GroupSparsity:
    """``sum_g ||(x - center)_g||_2`` plus the indicator of ``[lower, upper]``, as the nonsmooth term of a problem.

    ``groups``: integers of the shape of one row of x, ``event``: entries of the same number make a group, so that each
    entry is in one. ``center``, ``(batch, *event)``, lies between ``lower`` and ``upper``, numbers or tensors. The prox
    (Xu et al., ICLR 2019, Eq. 17) is exact in the box and in a diagonal metric: groups are problems of their own.

    Raises ``ValueError`` for groups that are no integers of that shape.

    >>> term = GroupSparsity(torch.tensor([0, 0, 1]), torch.zeros(1, 3), -1.0, 1.0)
    >>> x = torch.tensor([[0.3, 0.4, 0.2]])
    >>> term(x).round(decimals=4), term.prox(x, 0.25).round(decimals=4)
    (tensor([0.7000]), tensor([[0.1500, 0.2000, 0.0000]]))
    """

    groups: Tensor
    center: Tensor
    lower: Tensor | float
    upper: Tensor | float
    # (groups, the size of the largest): the entries of each group, and as a filling the number past the last entry
    _members: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        groups, event = self.groups, self.center.shape[1:]
        if not isinstance(groups, Tensor) or groups.is_floating_point() or groups.shape != event or not groups.numel():
            got = f"{groups.dtype} of {tuple(groups.shape)}" if isinstance(groups, Tensor) else type(groups).__name__
            raise ValueError(f"groups: takes integers of the shape of one row, {tuple(event)}, got {got}")
        number, counts = groups.flatten().unique(return_inverse=True, return_counts=True)[1:]
        order = number.argsort(stable=True)
        # the place of every entry, in order of its group, within it
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        members = order.new_full((len(counts), int(counts.max())), len(order))
        members[number[order], place] = order
        object.__setattr__(self, "_members", members.to(self.center.device))

    def __call__(self, x: Tensor) -> Tensor:
        """The sum of the groups' norms, ``(batch,)``; the indicator is left to the domain."""
        norms = torch.linalg.vector_norm(self._gather(x - self.center, 0.0), dim=2)
        return row_sum(norms).to(x.dtype)

    def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor:
        """The exact prox, ``(batch, *event)``; ``step`` a number or of one entry per row."""
        groups = self._members.shape[0]
        if isinstance(step, Tensor) and step.numel() > 1:
            step = step.reshape(-1).repeat_interleave(groups)
        lower, upper = (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in (self.lower, self.upper))
        parts = l2(
            self._gather(x - self.center, 0.0).flatten(0, 1),
            step,
            lower=self._gather((lower - self.center).expand_as(x), 0.0).flatten(0, 1),
            upper=self._gather((upper - self.center).expand_as(x), 0.0).flatten(0, 1),
            metric=None if metric is None else self._gather(metric.expand_as(x), 1.0).flatten(0, 1),
        )
        delta = x.new_empty(x.shape[0], x[0].numel() + 1)
        delta[:, self._members.flatten()] = parts.view(x.shape[0], -1)
        # the sum with the centre rounds: the box is met exactly
        return torch.minimum(torch.maximum(self.center + delta[:, :-1].view_as(x), lower), upper)

    def _gather(self, x: Tensor, filling: float) -> Tensor:
        """``(batch, groups, members)``; ``filling`` where a group is smaller than the largest."""
        rows = x.flatten(1)
        rows = torch.cat([rows, rows.new_full((rows.shape[0], 1), filling)], 1)
        return rows[:, self._members]
