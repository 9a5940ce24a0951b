"""Primal-dual (proximal) gradient with the weights of objective and constraints on one simplex: PDGD and PDPGD."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from constropt.checks import require_positive, require_within
from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.precision import least
from constropt.problem import ConstrainedProblem
from constropt.rows import by_row, per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.steps import Closure, PrimalStep, Prox, no_closure


@dataclass(frozen=True)
class ProximalAdam(PrimalStep[tuple[Tensor, Tensor, int]]):
    """``x <- prox^S(x - size m / S)``, m and S = sqrt(v) + floor Adam's moments (Melchior et al., 2019).

    The metric S is handed to the prox, which is exact where the published attack iterates.
    """

    momentum: float = 0.9
    smoothing: float = 0.999
    floor: float = 1e-8

    def init(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        return torch.zeros_like(x), torch.zeros_like(x), 0

    def update(
        self, gradient: Tensor, state: tuple[Tensor, Tensor, int], x: Tensor, size: Tensor, prox: Prox, closure: Closure
    ) -> tuple[Tensor, tuple[Tensor, Tensor, int]]:
        m, v, t = state
        m = torch.lerp(gradient, m, self.momentum)
        v = torch.lerp(gradient.square(), v, self.smoothing)
        metric = (v / (1 - self.smoothing ** (t + 1))).sqrt_().add_(least(self.floor, v))
        moved = torch.addcdiv(x, m * size, metric, value=-1 / (1 - self.momentum ** (t + 1)))
        return prox(moved, size, metric), (m, v, t + 1)


@dataclass(frozen=True, eq=False)
class PrimalDualState:
    """``log_ratios``: per entry of the constraint the log of its weight over the objective's, in float64; ``shares``:
    the smoothed weights on the simplex; ``step``: the primal step's own state."""

    log_ratios: Tensor
    shares: Tensor
    step: Any


@dataclass(frozen=True, eq=False)
class PrimalDual(Solver[PrimalDualState]):
    """min over x, max over the simplex of ``(1 - sum_i l_i) r(x) + sum_i l_i softplus(h_i(x))`` (Eq. A IV-7).

    Matyasko & Chau (2021), and its form for many constraints (Sec. IV.6.1 of the thesis). r is the problem's
    ``nonsmooth`` term, by its prox in the metric of ``primal`` (PDPGD), or else its objective, by its gradient (PDGD);
    h its one inequality, by its surrogate where it has one. The weights l are a softmax, padded by the 0 of r, of logs
    that rise by the dual step where an entry is violated and fall where it is met; they are smoothed by ``ema``. Both
    terms are divided by ``sum_i l_i``, which is the weight that a single constraint has in the paper.

    ``size`` decays exponentially to ``final`` times itself, ``dual_size`` linearly to ``dual_final`` times itself.
    ``ratio`` is the initial ratio of r's weight to that of all constraints, ``limit`` bounds the ratio of r's weight
    to any single one's from below, and its inverse from above. ``unit`` multiplies r throughout.

    Raises ``ValueError`` unless the problem has exactly one constraint, an inequality.
    """

    takes = Takes(least=1, most=1, fraction=True, nonsmooth=True, surrogate=True)

    primal: PrimalStep[Any] = field(default_factory=ProximalAdam)
    size: float = 0.1
    final: float = 0.01
    dual_size: float = 0.1
    dual_final: float = 0.1
    ratio: float = 1.0
    unit: float = 1.0
    ema: float = 0.9
    limit: float = 1e-6
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        require_positive(size=self.size, final=self.final, dual_size=self.dual_size, dual_final=self.dual_final)
        require_positive(ratio=self.ratio, unit=self.unit, limit=self.limit)
        require_within("[0, 1)", ema=self.ema)

    def features(self, problem: ConstrainedProblem[Any]) -> Takes:
        return replace(super().features(problem), objective_gradient=problem.nonsmooth is None)

    def init(self, run: Run, point: Evaluation) -> PrimalDualState:
        counts = point.counted(0)
        number = by_row(counts).sum(1).clamp_min(1).double()
        # Eq. A IV-9: equal weights whose sum is 1 / ratio times that of r
        log_ratios = per_row(-(self.ratio * number).log(), counts.double()).expand(counts.shape)
        return PrimalDualState(log_ratios, _shares(log_ratios, counts), self.primal.init(point.x.detach()))

    def step(self, run: Run, state: PrimalDualState, point: Evaluation, index: int) -> Proposal[PrimalDualState]:
        x, counts = point.x.detach(), point.counted(0)
        shares = state.shares
        if index:
            shares = torch.lerp(_shares(state.log_ratios, counts), shares, self.ema)
        total = by_row(shares).sum(1)
        ratio = self.unit * ((1 - total) / total).clamp_min(0)
        h = point.direction(0)
        weights = shares / per_row(total, shares) * h.detach().double().sigmoid()
        terms = [(h, weights)]
        if run.problem.nonsmooth is None:
            terms.append((point.objective, ratio))
        gradient = point.pull_back(*terms)
        size = per_row(torch.full_like(total, self.size * self.final ** (index / run.steps)), x)
        moved, step = self.primal.update(gradient, state.step, x, size, self._prox(run, ratio), no_closure)
        decay = 1 - (1 - self.dual_final) * index / max(run.steps - 1, 1)
        rise = torch.where(point.values[0].detach() > 0, decay * self.dual_size, -decay * self.dual_size)
        bound = -math.log(self.limit)
        state = PrimalDualState((state.log_ratios + rise).clamp(-bound, bound), shares, step)
        return Proposal(moved, state, multipliers=(weights.to(h),))

    def _prox(self, run: Run, ratio: Tensor) -> Prox:
        problem = run.problem
        if problem.nonsmooth is None:
            return lambda moved, size, metric: problem.domain.project(moved)
        nonsmooth = problem.nonsmooth
        return lambda moved, size, metric: nonsmooth.prox(moved, size.flatten() * ratio.to(size), metric)


def _shares(log_ratios: Tensor, counts: Tensor) -> Tensor:
    """The softmax of the counted entries' logs with a 0 beside them: what the 0 has of the sum 1 is left out."""
    logs = by_row(torch.where(counts, log_ratios, -torch.inf))
    padded = torch.cat([torch.zeros_like(logs[:, :1]), logs], 1)
    return padded.softmax(1)[:, 1:].reshape(log_ratios.shape)
