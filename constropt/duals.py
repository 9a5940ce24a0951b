"""Dual variables as state, and the rules that change them: pure functions of (y, duals), nothing hidden.

The vocabulary: ``y`` value of a constraint, ``mu`` multiplier, ``rho`` penalty parameter, *candidate* = dP/dy. All
shapes broadcast to ``y``; a dimension of size one in ``mu`` where ``y`` has more is a multiplier shared along it.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from constropt.checks import require_within


@dataclass(frozen=True, eq=False)
class Duals:
    """The dual state of one constraint.

    ``mu`` and ``rho`` have the shape of ``y`` with the ``shared`` dimensions reduced to one. ``violation`` is what
    the rho schedule saw at its last check (infinite before the first), ``met`` whether the entry has been met (ever, or
    since that check: the schedule decides), ``updates`` how many updates were made.
    """

    mu: Tensor
    rho: Tensor
    violation: Tensor
    met: Tensor
    updates: int = 0
    equality: bool = False
    shared: tuple[int, ...] = ()

    def violated(self, level: Tensor) -> Tensor:
        """By how much constraint values of this kind violate: ``max(0, y)``, or ``|e|`` for equalities."""
        return level.abs() if self.equality else level.clamp_min(0)


class RhoSchedule(Protocol):
    """When and how the penalty parameter grows.

    ``(level, duals) -> (rho, violation to remember, met to remember)``; ``level`` is y, averaged along the shared
    dimensions. Return ``duals.rho, duals.violation, duals.met`` themselves at an update without a check: nothing is
    computed then.
    """

    def __call__(self, level: Tensor, duals: Duals) -> tuple[Tensor, Tensor, Tensor]: ...


@dataclass(frozen=True)
class ConstantRho:
    """The penalty parameter never changes."""

    def __call__(self, level: Tensor, duals: Duals) -> tuple[Tensor, Tensor, Tensor]:
        return duals.rho, duals.violation, duals.met


@dataclass(frozen=True)
class ProgressRho:
    """Alg. 4.1 and 6.1: at every update, ``rho <- min(factor rho, maximum)`` where the violation exceeds ``ratio``
    times the last one.

    Entries that are met to within ``tolerance`` keep their rho. ``every`` checks at each that many updates only (Alg.
    6.2 with Table V-4: 10). Progress is then measured from the check before, the first time from the first update; or,
    with ``from_update``, from the update before, as in the code published with CALS.
    """

    factor: float = 10.0
    ratio: float = 0.5
    maximum: float = 1e12
    tolerance: float = 0.0
    every: int = 1
    from_update: bool = False

    def __call__(self, level: Tensor, duals: Duals) -> tuple[Tensor, Tensor, Tensor]:
        checks = (duals.updates + 1) % self.every == 0
        if not (checks or self.from_update or duals.updates == 0):
            return duals.rho, duals.violation, duals.met
        violation = duals.violated(level)
        if not checks:
            return duals.rho, violation, duals.met
        grows = (violation > self.ratio * duals.violation) & (violation > self.tolerance)
        return _grown(duals.rho, grows, self.factor, self.maximum), violation, duals.met


@dataclass(frozen=True)
class PeriodicRho:
    """Alg. 4.2: every ``every`` updates, ``rho <- min(factor rho, maximum)`` for entries never met so far whose
    violation has not fallen below ``ratio`` times that of the check before.

    ``recent``: never met *since the check before* (Alg. IV-2), so that rho may grow again where a constraint is lost.
    """

    every: int = 10
    factor: float = 1.2
    ratio: float = 0.95
    maximum: float = 1e12
    recent: bool = False

    def __call__(self, level: Tensor, duals: Duals) -> tuple[Tensor, Tensor, Tensor]:
        # the first update, which follows the first primal step, is where progress is measured from
        if duals.updates and (duals.updates + 2) % self.every:
            return duals.rho, duals.violation, duals.met
        violation = duals.violated(level)
        grows = ~duals.met & (violation > self.ratio * duals.violation)
        met = torch.zeros_like(duals.met) if self.recent else duals.met
        return _grown(duals.rho, grows, self.factor, self.maximum), violation, met


def _grown(rho: Tensor, grows: Tensor, factor: float, maximum: float) -> Tensor:
    return torch.where(grows, (rho * factor).clamp_max(maximum), rho)


@dataclass(frozen=True)
class MultiplierUpdate:
    """``mu <- clip(ema mu + (1 - ema) candidate, minimum, maximum)`` (Eq. 4.8, 4.9); ``ema = 0`` is the exact update.

    The safeguards keep multipliers of inequalities positive; those of equalities lie in ``[-maximum, maximum]``.
    """

    ema: float = 0.0
    minimum: float = 1e-6
    maximum: float = 1e12

    def __post_init__(self) -> None:
        require_within("[0, 1)", "must lie", " (0 is the exact update, 0.9 a slow one)", ema=self.ema)
        if not 0 <= (least := self.minimum) <= self.maximum:
            raise ValueError(f"minimum and maximum: need 0 <= minimum <= maximum, got {least} and {self.maximum}")

    def __call__(self, candidate: Tensor, duals: Duals) -> Tensor:
        mixed = torch.lerp(candidate, duals.mu, self.ema) if self.ema else candidate
        return mixed.clamp(-self.maximum if duals.equality else self.minimum, self.maximum)


def shared_mean(value: Tensor, shared: tuple[int, ...], mask: Tensor, absent: Tensor) -> Tensor:
    """The mean of the counted entries along the ``shared`` dimensions (kept, of size one; none: ``value`` itself), and
    ``absent`` where none counts."""
    if not shared:
        return value
    count = mask.sum(shared, keepdim=True)
    mean = torch.where(mask, value, 0).sum(shared, keepdim=True) / count.clamp_min(1)
    return torch.where(count > 0, mean, absent)


def advance(
    y: Tensor,
    candidate: Tensor,
    duals: Duals,
    multiplier: MultiplierUpdate,
    schedule: RhoSchedule,
    mask: Tensor | None = None,
) -> Duals:
    """One dual update from constraint values ``y`` and candidates of the same shape.

    Entries that ``mask`` excludes (classes absent from a batch) and entries whose candidate is not finite keep their
    state: one NaN never reaches the duals.
    """
    y, candidate = y.to(duals.mu), candidate.to(duals.mu)
    finite = candidate.abs() < torch.inf  # isfinite() takes twice as many passes
    counted = finite if mask is None else mask & finite
    candidate = shared_mean(candidate, duals.shared, counted, duals.mu)
    present = counted.any(duals.shared, keepdim=True) if duals.shared else counted
    level = shared_mean(y, duals.shared, counted, duals.mu) if duals.shared else y
    met = duals.met | (present & (level == 0 if duals.equality else level <= 0))
    rho, violation, met = schedule(level, replace(duals, met=met))
    mu = torch.where(present, multiplier(candidate, duals), duals.mu)
    rho = rho if rho is duals.rho else torch.where(present, rho, duals.rho)
    if violation is not duals.violation:
        violation = torch.where(present, violation, duals.violation)
    return replace(duals, mu=mu, rho=rho, violation=violation, met=met, updates=duals.updates + 1)


def keep(level: Tensor, candidate: Tensor, duals: Duals, present: Tensor) -> Duals:
    """The dual rule that changes nothing: fixed weights."""
    return duals


@dataclass(frozen=True)
class HeuristicMultipliers:
    """CALS-HR's rule (Eq. 6.15): ``mu <- factor mu`` where P, the mean penalty, is above ``ratio`` times that of the
    update before, ``mu <- mu / factor`` where that was above ``ratio`` times this one; within [minimum, maximum].

    ``level`` is the mean violation; with ``weighted``, P is ``mu`` times it, as in the published code. Nothing changes
    at the first update, and for entries that had no sample.
    """

    factor: float = 1.1
    ratio: float = 1.1
    minimum: float = 1e-6
    maximum: float = 1e6
    weighted: bool = False

    def __post_init__(self) -> None:
        for name, value in (("factor", self.factor), ("ratio", self.ratio)):
            if not value > 1:
                raise ValueError(f"{name}: must be > 1, got {value}")

    def __call__(self, level: Tensor, candidate: Tensor, duals: Duals, present: Tensor) -> Duals:
        P, before = (duals.mu * level if self.weighted else level), duals.violation
        rises, falls = self.ratio * before < P, (before > self.ratio * P) & before.isfinite()
        mu = torch.where(rises, duals.mu * self.factor, torch.where(falls, duals.mu / self.factor, duals.mu))
        mu = torch.where(present, mu.clamp(self.minimum, self.maximum), duals.mu)
        return replace(duals, mu=mu, violation=torch.where(present, P, before), updates=duals.updates + 1)
