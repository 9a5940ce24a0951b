"""Nonsmooth terms of a problem, each a value and its prox: a norm around a centre, group sparsity, multiples."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from constropt.checks import got, require_one_of, require_whole

from .linf_norm import linf
from .norms import l0, l1, l2, two_thirds
from .rows import row_sum

_length = partial(torch.linalg.vector_norm, dim=1)
_OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]] = {
    "l0": (partial(_length, ord=0.0), l0),
    "two-thirds": (lambda delta: delta.abs().pow(2 / 3).sum(1), two_thirds),
    "l1": (partial(_length, ord=1.0), l1),
    "l2": (partial(_length, ord=2.0), l2),
    "linf": (partial(_length, ord=torch.inf), linf),
}


@dataclass(frozen=True, eq=False)
class NormAround:
    """``||x - center||`` plus the indicator of ``[lower, upper]``, as the nonsmooth term of a problem.

    ``norm``: "l0", "l1", "l2", "linf", or "two-thirds" for ``sum |.|^(2/3)``, which is between the first two;
    ``center`` lies between ``lower`` and ``upper``, numbers or tensors. ``relaxed`` names another one whose operator
    takes the place of the norm's own, where that leads nowhere. Raises ``ValueError`` for another norm.

    >>> term = NormAround("linf", torch.tensor([[0.5, 0.5]]), 0.0, 1.0)
    >>> x = torch.tensor([[0.9, 2.0]])
    >>> term(x), term.prox(x, 1.2)
    (tensor([1.5000]), tensor([[0.8500, 0.8500]]))
    """

    norm: str
    center: Tensor
    lower: Tensor | float
    upper: Tensor | float
    relaxed: str | None = None

    def __post_init__(self) -> None:
        require_one_of("norm", self.norm, _OPERATORS)
        require_one_of("relaxed", self.relaxed or self.norm, _OPERATORS)

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of the difference, ``(batch,)``; the indicator is left to the domain."""
        return _OPERATORS[self.norm][0]((x - self.center).flatten(1))

    def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor:
        """The exact prox, ``(batch, *event)``; ``step`` a number or of one entry per row."""
        operator = _OPERATORS[self.relaxed or self.norm][1]
        lower, upper = self.lower - self.center, self.upper - self.center
        delta = operator(x - self.center, step, lower=lower, upper=upper, metric=metric)
        return _around(self.center, delta, *_sides(x, self.lower, self.upper))


def _sides(x: Tensor, *sides: Tensor | float) -> tuple[Tensor, ...]:
    return tuple(torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in sides)


def _around(center: Tensor, delta: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The sum, which rounds, so that the box is met exactly in the dtype of its sides."""
    return torch.minimum(torch.maximum(center + delta, lower), upper)


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
            raise ValueError(f"groups: takes integers of the shape of one row, {tuple(event)}, got {got(groups)}")
        number, counts = groups.flatten().unique(return_inverse=True, return_counts=True)[1:]
        order = number.argsort(stable=True)
        # the place of every entry, in order of its group, within it
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        members = order.new_full((len(counts), int(counts.max())), len(order))
        members[number[order], place] = order
        object.__setattr__(self, "_members", members.to(self.center.device))

    def __call__(self, x: Tensor) -> Tensor:
        """The sum of the groups' norms, ``(batch,)``; the indicator is left to the domain."""
        return row_sum(torch.linalg.vector_norm(self._gather(x - self.center, 0.0), dim=2)).to(x.dtype)

    def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor:
        """The exact prox, ``(batch, *event)``; ``step`` a number or of one entry per row."""
        groups = self._members.shape[0]
        if isinstance(step, Tensor) and step.numel() > 1:
            step = step.reshape(-1).repeat_interleave(groups)
        lower, upper = _sides(x, self.lower, self.upper)
        low, high = (self._gather((side - self.center).expand_as(x), 0.0).flatten(0, 1) for side in (lower, upper))
        s = None if metric is None else self._gather(metric.expand_as(x), 1.0).flatten(0, 1)
        parts = l2(self._gather(x - self.center, 0.0).flatten(0, 1), step, lower=low, upper=high, metric=s)
        delta = x.new_empty(x.shape[0], x[0].numel() + 1)
        delta[:, self._members.flatten()] = parts.view(x.shape[0], -1)
        return _around(self.center, delta[:, :-1].view_as(x), lower, upper)

    def _gather(self, x: Tensor, filling: float) -> Tensor:
        """``(batch, groups, members)``; ``filling`` where a group is smaller than the largest."""
        rows = x.flatten(1)
        rows = torch.cat([rows, rows.new_full((rows.shape[0], 1), filling)], 1)
        return rows[:, self._members]


class _Proximable(Protocol):
    def __call__(self, x: Tensor) -> Tensor: ...

    def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Scaled:
    """``weight r(x)``: r's value times ``weight``, and r's prox for a step so many times as long.

    ``ValueError`` for a weight that is not >= 0.

    >>> term = Scaled(NormAround("l1", torch.zeros(1, 2), -1.0, 1.0), 0.5)
    >>> term(torch.tensor([[0.5, -0.5]])), term.prox(torch.tensor([[0.75, 2.0]]), 1.0)
    (tensor([0.5000]), tensor([[0.2500, 1.0000]]))
    """

    term: _Proximable
    weight: float

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight: must be >= 0, got {self.weight}")

    def __call__(self, x: Tensor) -> Tensor:
        return self.weight * self.term(x)

    def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor:
        return self.term.prox(x, self.weight * step, metric)
