"""Which of very many constraints count at a step, and by how much: the quantile mask (Eq. 5.6), the scale (Eq. 5.8).

Both are for problems of which only a fraction nu of the constraints must hold (``Constraint.fraction``), in any
augmented Lagrangian: pure functions of constraint values, to be put between them and
:meth:`~constropt.AugmentedLagrangian.update`::

    y = scaling(w, met) * y;  mask = masking(y, mask, nu, progress);  duals = lagrangian.update(y, duals, mask)

(Rony, Pesquet & Ben Ayed, CVPR 2023, Sec. 5.4.1 of the thesis.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import require_within
from constropt.rows import beside, by_row


def row_quantile(value: Tensor, mask: Tensor | None, fraction: Tensor | float, least: float) -> Tensor:
    """``(batch,)``: the least counted entry of each row that ``fraction`` of its counted entries do not exceed.

    ``least`` bounds the fractions from below: only the largest ``1 - least`` of the entries are sorted. Shapes alone
    say how many these are, so nothing waits for the device. ``-inf`` for a row of which nothing counts.

    >>> row_quantile(torch.tensor([[4.0, 1.0, 3.0, 2.0]]), None, 0.75, 0.75)
    tensor([3.])
    """
    entries = by_row(value)
    count = torch.full((entries.shape[0],), entries.shape[1], device=value.device)
    if mask is not None:
        entries, count = torch.where(by_row(mask), entries, -torch.inf), by_row(mask).sum(1)
    # 1e-6: (1 - 0.99) * 100 may fall just below 1
    largest = entries.topk(min(int((1 - least) * entries.shape[1] + 1e-6) + 1, entries.shape[1]), dim=1).values
    exceeding = ((1 - torch.as_tensor(fraction, dtype=torch.float64)) * count + 1e-6).long()
    return largest.gather(1, exceeding.clamp_max(largest.shape[1] - 1).view(-1, 1)).squeeze(1)


@dataclass(frozen=True)
class QuantileMask:
    """Eq. 5.6: drop the largest constraints, none at the first step and the fraction ``1 - nu`` at the last.

    The dropped ones are those least likely to be met; without them their multipliers need not grow for ever. With
    ``decaying=False`` the fraction ``1 - nu`` is dropped from the first step on.

    >>> QuantileMask()(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), None, 0.5, progress=1.0)
    tensor([[False,  True, False,  True]])
    """

    decaying: bool = True

    def __call__(self, y: Tensor, mask: Tensor | None, nu: float, progress: float) -> Tensor | None:
        """The entries that count, of the shape of ``y``, ``(batch, *dual)``; ``mask``: those that count at all.

        ``nu`` in (0, 1] is the fraction that must be met, ``progress`` in [0, 1] the part of the run that is over. At
        least ``nu`` of each row's counted entries are kept, and ``mask`` itself is returned while nothing is dropped.
        """
        kept = 1 - (1 - nu) * progress if self.decaying else nu
        if kept >= 1:
            return mask
        small = y.detach() <= beside(row_quantile(y.detach(), mask, kept, nu), y)
        return small if mask is None else small & mask


@dataclass(frozen=True)
class ConstraintScale:
    """Eq. 5.8: w, by which a row's constraints are multiplied, grows while too few are met and shrinks otherwise.

    ``w <- clip(w / (1 - rate)) `` where the row is not feasible, ``clip(w / (1 + rate))`` where it is, between
    ``minimum`` and ``maximum``. Two opposite updates leave w slightly larger.

    >>> ConstraintScale()(torch.tensor([1.0, 0.5]), torch.tensor([True, False]))
    tensor([0.9804, 0.5102])
    """

    rate: float = 0.02
    minimum: float = 0.1
    maximum: float = 1.0
    initial: float = 1.0

    def __post_init__(self) -> None:
        require_within("[0, 1)", "must lie", " (the published value is 0.02)", rate=self.rate)
        if not 0 < self.minimum <= self.initial <= self.maximum:
            found = f"{self.minimum}, {self.initial} and {self.maximum}"
            raise ValueError(f"ConstraintScale: needs 0 < minimum <= initial <= maximum, got {found}")

    def __call__(self, w: Tensor, met: Tensor) -> Tensor:
        """The next ``w``, ``(batch,)``, given which rows are feasible."""
        return (w / torch.where(met, 1 + self.rate, 1 - self.rate)).clamp(self.minimum, self.maximum)
