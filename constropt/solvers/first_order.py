"""Augmented Lagrangian with first-order primal steps: nested (Alg. 4.1, 6.1) and joint (Alg. 4.2) loops in one."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from constropt.checks import got, require_whole
from constropt.duals import Duals, PeriodicRho
from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.lagrangian import AugmentedLagrangian
from constropt.masking import ConstraintScale, QuantileMask
from constropt.problem import ConstrainedProblem
from constropt.rows import beside, by_row, per_row
from constropt.solution import Status, kkt_residuals
from constropt.solvers.base import Proposal, Run, Solver
from constropt.steps import Gradient, PrimalStep, StepSize, first_step_size


@dataclass(frozen=True, eq=False)
class FirstOrderState:
    """Duals (one per constraint), the primal step's own state; per row the initial step size, the first feasible
    step, and the constraint scale w."""

    duals: tuple[Duals, ...]
    step: Any
    size: Tensor
    first_feasible: Tensor
    scale: Tensor


@dataclass(frozen=True, eq=False)
class FirstOrder(Solver[FirstOrderState]):
    """min g(x) + sum_i P(h_i(x), rho_i, mu_i) by primal steps, the duals updated every ``inner_steps`` of them.

    ``inner_steps = 1`` is the joint loop (Alg. 4.2): multipliers move at every step, smoothed by the EMA of
    ``lagrangian.multiplier``; a larger number approximates the nested loop (Alg. 4.1) by that many inner steps. Duals
    are updated from the constraint values of the very pass whose gradient is taken, so a step costs one forward and
    one backward pass.

    ``explore_first``: the first step follows the constraints' gradient alone (no objective, no dual update), as ALMA
    does: at x0 a distance has no gradient. ``masking`` drops the largest constraints of a row of which a fraction
    must be met (Eq. 5.6), ``scaling`` multiplies them by one w per row (Eq. 5.8). ``kkt_tolerance``: rows whose KKT
    residuals fall below it are certified and stop.

    Raises ``ValueError`` for an equality constraint under a penalty without an equality form.
    """

    takes = Takes(
        equalities=True, shared=True, fraction=True, nonsmooth=True, surrogate=True, one_problem=True, feasibility=True
    )

    lagrangian: AugmentedLagrangian = field(default_factory=lambda: AugmentedLagrangian(schedule=PeriodicRho()))
    primal: PrimalStep[Any] = field(default_factory=Gradient)
    size: StepSize = field(default_factory=StepSize)
    inner_steps: int = 1
    explore_first: bool = False
    masking: QuantileMask | None = None
    scaling: ConstraintScale | None = None
    kkt_tolerance: float | None = None
    tolerance: float | None = None
    check_every: int = 0

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        require_whole(inner_steps=self.inner_steps)
        if self.size.increase is not None and (problem.objective is None or not problem.independent):
            cure = "without one, or for rows that are one problem, give the size itself, StepSize(initial=...)"
            raise ValueError(f"size: increase is that of each row's objective; {cure}")
        for constraint in problem.constraints:
            self.lagrangian.form(constraint.equality)

    def init(self, run: Run, point: Evaluation) -> FirstOrderState:
        duals = tuple(
            self.lagrangian.init(y.detach(), equality=c.equality, shared=c.shared)
            for c, y in zip(run.problem.constraints, point.values)
        )
        return self.resume(run, point, duals)

    def resume(self, run: Run, point: Evaluation, duals: tuple[Duals, ...]) -> FirstOrderState:
        _check_duals(point, duals)
        size = point.x.detach().new_full(point.objective.shape, self.size.initial)
        first_feasible = torch.full(size.shape, -1, device=size.device)
        scale = torch.full_like(size, 1.0 if self.scaling is None else self.scaling.initial)
        return FirstOrderState(duals, self.primal.init(point.x.detach()), size, first_feasible, scale)

    def duals(self, state: FirstOrderState) -> tuple[Duals, ...]:
        return state.duals

    def multipliers(self, state: FirstOrderState, point: Evaluation) -> tuple[Tensor, ...]:
        return self._weights(self._scaled(point, state.scale), point.masks, state.duals, state.scale)

    def step(self, run: Run, state: FirstOrderState, point: Evaluation, index: int) -> Proposal[FirstOrderState]:
        exploring = self.explore_first and index == 0
        duals = state.duals
        met = point.violation() <= run.tolerance
        scale = state.scale if self.scaling is None else self.scaling(state.scale, met)
        values, masks = self._scaled(point, scale), point.masks
        if self.masking is not None:
            progress = index / max(run.steps - 1, 1)
            masks = tuple(self.masking(y, m, c.fraction, progress) for y, m, c in zip(values, masks, point.constraints))
        if index and index % self.inner_steps == 0:
            duals = tuple(self.lagrangian.update(y, d, mask) for y, d, mask in zip(values, duals, masks))
        weights = self._weights(values, masks, duals, scale)
        gradient = point.gradient(0.0 if exploring else 1.0, weights)
        x = point.x.detach()
        first_feasible = torch.where(met & (state.first_feasible < 0), index, state.first_feasible)
        searched = index == 0 and self.size.increase is not None
        size = self._search(run, point, gradient, weights) if searched else state.size
        now = beside(self.size.at(size, index, run.steps, first_feasible), x)

        def closure(elsewhere: Tensor) -> tuple[Tensor, Tensor]:
            if torch.equal(elsewhere, x):
                return self._value(point, values, masks, duals), gradient
            other = run.evaluate(elsewhere)
            there = self._scaled(other, scale)
            slope = other.gradient(1.0, self._weights(there, masks, duals, scale))
            return self._value(other, there, masks, duals), slope

        moved, step = self.primal.update(gradient, state.step, x, now, self._prox(run), closure)
        finished = status = None
        if self.kkt_tolerance is not None:
            residuals = kkt_residuals(run.problem, point, weights, gradient)
            finished = (torch.stack(residuals).amax(0) <= self.kkt_tolerance) & (residuals.feasibility <= run.tolerance)
            if not point.independent:
                finished = finished.all().expand_as(finished)
            status = torch.where(finished, int(Status.CONVERGED), int(Status.BUDGET_SPENT)).to(torch.int8)
        state = FirstOrderState(duals, step, size, first_feasible, scale)
        return Proposal(moved, state, multipliers=weights, finished=finished, certified=finished, status=status)

    def _scaled(self, point: Evaluation, scale: Tensor) -> tuple[Tensor, ...]:
        """The detached constraint values, times w where rows are scaled."""
        values = tuple(y.detach() for y in point.values)
        return values if self.scaling is None else tuple(per_row(scale, y) * y for y in values)

    def _weights(
        self, values: tuple[Tensor, ...], masks: tuple[Tensor | None, ...], duals: tuple[Duals, ...], scale: Tensor
    ) -> tuple[Tensor, ...]:
        """d P(w y)/dy per constraint, 0 where an entry does not count: weights of gradients, multiplier estimates."""
        candidates = (self.lagrangian.candidate(y, d) for y, d in zip(values, duals))
        if self.scaling is not None:
            candidates = (per_row(scale, c) * c for c in candidates)
        return tuple(c if mask is None else torch.where(mask, c, 0) for c, mask in zip(candidates, masks))

    def _value(
        self, point: Evaluation, values: tuple[Tensor, ...], masks: tuple[Tensor | None, ...], duals: tuple[Duals, ...]
    ) -> Tensor:
        terms = (self.lagrangian.term(y, d) for y, d in zip(values, duals))
        counted = (t if mask is None else torch.where(mask, t, 0) for t, mask in zip(terms, masks))
        return point.objective.detach().sum() + sum(t.sum() for t in counted)

    def _prox(self, run: Run) -> Any:
        if run.problem.nonsmooth is not None:
            return run.problem.nonsmooth.prox
        return lambda x, size, metric: run.problem.domain.project(x)

    def _search(self, run: Run, point: Evaluation, gradient: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """The rows' initial sizes; the objective is measured with the output of the first pass: no model call."""
        x, project = point.x.detach(), run.problem.domain.project
        increase, objective = self.size.increase, run.problem.objective
        assert increase is not None and objective is not None  # see check
        tiny = torch.finfo(x.dtype).tiny

        def move(size: Tensor) -> Tensor:
            return project(x - beside(size, x) * gradient)

        def measure(p: Tensor) -> Tensor:
            return objective(p, point.output).detach()

        total = gradient.abs().flatten(1).sum(1)
        # the size that moves x by `increase` in l1, well below the one sought in any of the usual distances
        base = torch.where(total > 0, increase / total.clamp_min(tiny), increase) * 2.0**-12
        # the size at which the linearised violation vanishes: a boundary nearer than `increase` is not jumped over
        amount = sum(by_row(w * v).sum(1) for w, v in zip(weights, point.violations()))
        linear = (amount / gradient.square().flatten(1).sum(1).clamp_min(tiny)).nan_to_num(0.0)
        with torch.no_grad():
            reach = measure(move(linear)) - measure(x)
            target = torch.where(reach > 0, reach, increase).clamp_max(increase)
            return first_step_size(measure, move, base, target)


def _check_duals(point: Evaluation, duals: Any) -> None:
    """Raise for a warm start that is not one :class:`Duals` a constraint, broadcastable to its value."""
    if not isinstance(duals, (tuple, list)) or not all(isinstance(d, Duals) for d in duals):
        raise TypeError(f"duals: takes the duals of an earlier Solution, one Duals a constraint, got {got(duals)}")
    if len(duals) != len(point.values):
        raise ValueError(f"duals: takes one a constraint, {len(point.values)} here, got {len(duals)}")
    for constraint, y, d in zip(point.constraints, point.values, duals):
        fits = d.mu.dim() == y.dim() and all(a in (1, b) for a, b in zip(d.mu.shape, y.shape))
        if not fits or d.equality != constraint.equality:
            theirs = f"those of constraint {constraint.name!r} have shape {tuple(d.mu.shape)} and equality={d.equality}"
            value = f"its value of shape {tuple(y.shape)} and equality={constraint.equality}"
            raise ValueError(f"duals: {theirs}, which does not fit {value}; leave duals out to start afresh")
