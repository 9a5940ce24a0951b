"""How the weight c of a penalty is searched, row by row, from one minimisation of ``g + c P(h)`` to the next.

A rule is data; its state, one entry per row, is outside it. Rules that tighten something (a tolerance on the entries,
the set of entries that may change) go on from where the last minimisation ended, bisection starts each one anew.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from constropt.checks import require_within
from constropt.rows import per_row
from constropt.solvers.directions import row_norm

R = TypeVar("R", bound=Any)


@dataclass(frozen=True, eq=False)
class Trial:
    """What a minimisation has come to: whether a feasible point was ``found``, ``(batch,)``, the least objective
    ``value`` of one (infinite without) and that ``point``, ``(batch, *event)``; whether the last point was
    ``violated``; and the ``slope``, the gradient of the penalised function at the last point with a violation."""

    found: Tensor
    value: Tensor
    point: Tensor
    violated: Tensor
    slope: Tensor


class WeightRule(Generic[R]):
    """Subclass with :meth:`init` and :meth:`update`; a state has a field ``weight``, ``(batch,)``.

    ``continues``: a search starts where the last one ended, and only a better point counts as found. ``limited``: a row
    ends with the number of searches that the solver has; otherwise when the rule says so, or with the budget.
    """

    continues: ClassVar[bool] = False
    limited: ClassVar[bool] = True

    def init(self, x0: Tensor) -> R:
        """The state before the first search from ``x0``."""
        raise NotImplementedError  # abstract

    def update(self, state: R, trial: Trial, x0: Tensor) -> tuple[R, Tensor | None]:
        """The state for the next search of every row, and which rows have nothing left to search."""
        raise NotImplementedError  # abstract

    def smooth(self, state: R, x: Tensor, x0: Tensor) -> Tensor | None:
        """What is minimised in place of the objective, ``(batch,)``, with its graph; None: the solver's choice."""
        return None

    def restrict(self, state: R, x: Tensor, x0: Tensor) -> Tensor:
        """The point, with what must not change put back."""
        return x

    def succeeded(self, state: R, loss: Tensor, feasible: Tensor) -> Tensor | None:
        """Rows whose search may end early, since it has reached what it can; None: none."""
        return None


def weights(x0: Tensor, weight: float) -> Tensor:
    """One weight per row, in float32 at least: 1e10 is beyond float16."""
    return torch.full(x0.shape[:1], weight, dtype=torch.promote_types(x0.dtype, torch.float32), device=x0.device)


def require_factor(**values: float) -> None:
    """``ValueError`` for a weight that is not > 0 or a factor that is not > 1."""
    for name, value in values.items():
        least = 1 if name == "factor" else 0
        if not value > least:
            raise ValueError(f"{name}: must be > {least}, got {value}")


@dataclass(frozen=True, eq=False)
class Bracket:
    """``weight``, the next one, ``lower``, which failed (0: none yet), and ``upper``, which did not (infinite)."""

    weight: Tensor
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True)
class Bisection(WeightRule[Bracket]):
    """Line search up, then bisection (Carlini & Wagner, 2017): times ``factor`` until feasible, then the middle.

    >>> rule, x0 = Bisection(weight=1.0), torch.zeros(1, 2)
    >>> none, state = torch.tensor([False]), rule.init(x0)
    >>> state, _ = rule.update(state, Trial(none, torch.tensor([torch.inf]), x0, ~none, x0), x0)
    >>> state, _ = rule.update(state, Trial(~none, torch.tensor([3.0]), x0, none, x0), x0)
    >>> state.weight
    tensor([5.5000])
    """

    weight: float = 1e-3
    factor: float = 10.0

    def __post_init__(self) -> None:
        require_factor(weight=self.weight, factor=self.factor)

    def init(self, x0: Tensor) -> Bracket:
        weight = weights(x0, self.weight)
        return Bracket(weight, torch.zeros_like(weight), torch.full_like(weight, torch.inf))

    def update(self, state: Bracket, trial: Trial, x0: Tensor) -> tuple[Bracket, None]:
        lower = torch.where(trial.found, state.lower, state.weight)
        upper = torch.where(trial.found, state.weight, state.upper)
        weight = torch.where(upper.isfinite(), (lower + upper) / 2, state.weight * self.factor)
        return Bracket(weight, lower, upper), None


@dataclass(frozen=True, eq=False)
class Weight:
    """The weight alone."""

    weight: Tensor


@dataclass(frozen=True)
class Growth(WeightRule[Weight]):
    """Times ``factor`` after every search whose last point is infeasible (Laidlaw et al., 2021), going on from it."""

    continues: ClassVar[bool] = True
    weight: float = 1e-2
    factor: float = 10.0

    def __post_init__(self) -> None:
        require_factor(weight=self.weight, factor=self.factor)

    def init(self, x0: Tensor) -> Weight:
        return Weight(weights(x0, self.weight))

    def update(self, state: Weight, trial: Trial, x0: Tensor) -> tuple[Weight, None]:
        return Weight(torch.where(trial.violated, state.weight * self.factor, state.weight)), None


@dataclass(frozen=True, eq=False)
class Tolerance:
    """The weight, and what every entry may change without being penalised, ``tau``, ``(batch,)``."""

    weight: Tensor
    tau: Tensor


@dataclass(frozen=True)
class ShrinkingTolerance(WeightRule[Tolerance]):
    """``sum_i max(|x_i - x0_i| - tau, 0)`` in place of the largest change (C&W linf; Carlini & Wagner, 2017).

    After a search that found a better point, tau becomes ``decrease`` times the least of itself and the largest change
    at that point; after another, the weight grows by ``factor``. A row ends when tau falls below ``least``, or the
    weight exceeds ``largest``. With ``early`` a search ends when its loss is below 1e-4 of the weight.
    """

    continues: ClassVar[bool] = True
    limited: ClassVar[bool] = False
    weight: float = 1e-5
    factor: float = 2.0
    largest: float = 20.0
    start: float = 1.0
    decrease: float = 0.9
    least: float = 1 / 255
    early: bool = True

    def __post_init__(self) -> None:
        require_factor(weight=self.weight, factor=self.factor, start=self.start, least=self.least)
        require_within("(0, 1)", decrease=self.decrease)

    def init(self, x0: Tensor) -> Tolerance:
        return Tolerance(weights(x0, self.weight), weights(x0, self.start))

    def smooth(self, state: Tolerance, x: Tensor, x0: Tensor) -> Tensor:
        return ((x - x0).abs() - per_row(state.tau, x)).clamp_min(0).flatten(1).sum(1)

    def succeeded(self, state: Tolerance, loss: Tensor, feasible: Tensor) -> Tensor:
        return feasible & (loss < 1e-4 * state.weight) & self.early

    def update(self, state: Tolerance, trial: Trial, x0: Tensor) -> tuple[Tolerance, Tensor]:
        reached = row_norm(trial.point - x0, torch.inf).to(state.tau)
        tau = torch.where(trial.found, self.decrease * torch.minimum(state.tau, reached), state.tau)
        weight = torch.where(trial.found, state.weight, state.weight * self.factor)
        return Tolerance(weight, tau), (tau <= self.least) | (weight > self.largest)


@dataclass(frozen=True, eq=False)
class Support:
    """The weight, and the entries that may change, ``allowed``, of the shape of x."""

    weight: Tensor
    allowed: Tensor


@dataclass(frozen=True)
class ShrinkingSupport(WeightRule[Support]):
    """The set of entries that may change, made smaller after every success (C&W l0; Carlini & Wagner, 2017).

    After a search that found a better point, the entries that it changed by less than ``negligible`` are fixed, and of
    the others those with the least ``|slope_i (x_i - x0_i)|``: ``share`` times the root of the number of fixed entries,
    at least one. After another the weight grows by ``factor``; a row ends when it exceeds ``largest``, or when no entry
    is left. A search ends with its first better point.
    """

    continues: ClassVar[bool] = True
    limited: ClassVar[bool] = False
    weight: float = 1e-3
    factor: float = 2.0
    largest: float = 2e6
    negligible: float = 1e-4
    share: float = 0.3

    def __post_init__(self) -> None:
        require_factor(weight=self.weight, factor=self.factor)

    def init(self, x0: Tensor) -> Support:
        return Support(weights(x0, self.weight), torch.ones_like(x0, dtype=torch.bool))

    def restrict(self, state: Support, x: Tensor, x0: Tensor) -> Tensor:
        return torch.where(state.allowed, x, x0)

    def succeeded(self, state: Support, loss: Tensor, feasible: Tensor) -> Tensor:
        return feasible

    def update(self, state: Support, trial: Trial, x0: Tensor) -> tuple[Support, Tensor]:
        change = trial.point - x0
        allowed = (state.allowed & (change.abs() >= self.negligible)).flatten(1)
        fixed = allowed.shape[1] - allowed.sum(1)
        score = torch.where(allowed, (trial.slope * change).abs().flatten(1), torch.inf)
        rank = score.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        allowed = allowed & (rank >= (self.share * fixed.to(score).sqrt()).clamp_min(1).unsqueeze(1))
        allowed = torch.where(per_row(trial.found, state.allowed), allowed.view_as(state.allowed), state.allowed)
        weight = torch.where(trial.found, state.weight, state.weight * self.factor)
        empty = ~allowed.flatten(1).any(1)
        return replace(state, weight=weight, allowed=allowed), empty | (weight > self.largest)
