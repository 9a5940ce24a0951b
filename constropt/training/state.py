"""What a constrained training keeps of one constraint: its duals, and the sums of a dual pass; buffers of a module."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from constropt.duals import Duals
from constropt.lagrangian import AugmentedLagrangian
from constropt.training.constraints import TrainingConstraint


class Sums(NamedTuple):
    """Sums over the counted entries of samples, each of the constraint's ``shape``; added up over batches and ranks."""

    candidate: Tensor
    level: Tensor
    count: Tensor


class DualState(nn.Module):
    """The multipliers ``mu`` and penalty parameters ``rho`` of one constraint, each of its ``shape``, as buffers.

    ``level`` is the mean value of the constraint in the last dual pass (NaN before the first). All of it is in the
    ``state_dict``: the sums of a pass that is under way and the initial values too, so that a run that is resumed
    equals one that was not interrupted bit for bit.
    """

    mu: Tensor
    rho: Tensor
    violation: Tensor
    met: Tensor
    level: Tensor
    sum_candidate: Tensor
    sum_level: Tensor
    count: Tensor

    def __init__(self, constraint: TrainingConstraint, lagrangian: AugmentedLagrangian) -> None:
        super().__init__()
        self.equality = constraint.equality
        duals = lagrangian.init(torch.zeros(constraint.shape), equality=constraint.equality)
        for name in ("mu", "rho", "violation", "met"):
            self.register_buffer(name, getattr(duals, name))
        self.register_buffer("level", torch.full(constraint.shape, torch.nan))
        # float64: float32 sums of a pass over a million pixels lose their last digits, and counts stop at 2^24
        for name in ("sum_candidate", "sum_level", "count"):
            self.register_buffer(name, torch.zeros(constraint.shape, dtype=torch.float64))
        self.initial = (float(duals.mu.flatten()[0]), float(duals.rho.flatten()[0])) if duals.mu.numel() else (0.0, 1.0)
        self.updates = 0

    def duals(self) -> Duals:
        """The duals as the library's immutable state."""
        return Duals(self.mu, self.rho, self.violation, self.met, self.updates, self.equality)

    def assign(self, duals: Duals, level: Tensor, allowed: Tensor) -> None:
        """Take new duals over, in place, where ``allowed`` (a scalar) is true."""
        for name in ("mu", "rho", "violation", "met"):
            mine, new = getattr(self, name), getattr(duals, name)
            if new is not mine:
                mine.copy_(torch.where(allowed, new, mine))
        self.level.copy_(torch.where(allowed, level.to(self.level), self.level))
        self.updates = duals.updates

    def add(self, sums: Sums, allowed: Tensor) -> None:
        """Add the sums of one batch where ``allowed`` (a scalar) is true."""
        for mine, new in zip(self.sums(), sums):
            mine += torch.where(allowed, new.to(mine), 0)

    def sums(self) -> Sums:
        """What has been added up since the last dual step."""
        return Sums(self.sum_candidate, self.sum_level, self.count)

    def clear(self) -> None:
        """Forget what has been added up."""
        for mine in self.sums():
            mine.zero_()

    def reset(self) -> None:
        """Back to the initial duals."""
        mu, rho = self.initial
        for name, value in (("mu", mu), ("rho", rho), ("violation", torch.inf), ("met", False), ("level", torch.nan)):
            getattr(self, name).fill_(value)
        self.updates = 0
        self.clear()

    def get_extra_state(self) -> Tensor:
        """The number of updates and the initial values, as a tensor: checkpoints stay loadable without code."""
        return torch.tensor([self.updates, *self.initial], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Of what :meth:`get_extra_state` returned."""
        updates, mu, rho = state.tolist()
        self.updates, self.initial = int(updates), (mu, rho)
