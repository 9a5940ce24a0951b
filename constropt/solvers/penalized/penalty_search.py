"""Penalty of fixed weight, minimised again and again while the weight is searched: C&W, EAD, LPA, StrAttack."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from constropt.checks import given, got, require_whole, require_within
from constropt.evaluation import Evaluation
from constropt.features import Takes, is_finite_box
from constropt.lagrangian import AugmentedLagrangian, PenaltyLike
from constropt.precision import at_least_float32
from constropt.problem import ConstrainedProblem, ProximableFunction
from constropt.rows import beside, by_row, mixed, per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.penalized.penalty_steps import Adam, Tanh, has_rows, restarted
from constropt.solvers.penalized.weight_search import Bisection, Trial, WeightRule
from constropt.steps import PrimalStep, no_closure

# How often in a search its progress is looked at.
LOOKS = 10
# ... but no closer than in the shortest searches that are published, of 1,000: Adam makes a halt now and then.
APART = 100


def square_root(progress: float) -> float:
    """``sqrt(1 - progress)``: how EAD's step decays over a search."""
    return math.sqrt(1 - progress)


def to_a_tenth(progress: float) -> float:
    """``0.1^progress``: how LPA's step decays over a search."""
    return 0.1**progress


def squared_distance(x: Tensor, x0: Tensor) -> Tensor:
    """``||x - x0||_2^2``, ``(batch,)``: a smooth surrogate of the l2 norm."""
    return (x - x0).flatten(1).square().sum(1)


@dataclass(frozen=True, eq=False)
class PenaltySearchState:
    """Per row: the ``variable`` and the ``step``'s own state; the ``rule``'s; how many steps the search has (``age``)
    and how many searches are over (``number``); what it has come to; its ``least`` loss, now and when it was last
    ``looked`` at. ``decays``: the factor of the size at every step of a search."""

    variable: Tensor
    step: Any
    rule: Any
    age: Tensor
    number: Tensor
    trial: Trial
    least: Tensor
    looked: Tensor
    decays: Tensor


@dataclass(frozen=True, eq=False)
class PenaltySearch(Solver[PenaltySearchState]):
    """min ``g(x) + r(x) + c sum_i P(h_i(x))`` for weights c that ``rule`` searches in every row, one after the other.

    The ``steps`` of :func:`~constropt.solve` are those of all searches together: each of ``searches`` gets its share.
    P(h) is ``max(h, 0)`` (``|e|`` for an equality), or ``penalty(h, 1, 1)`` for one of the penalty functions; where a
    constraint has a surrogate, that is h, penalised while the constraint's own value is violated. Feasible points of
    all searches are compared by the problem's objective. ``surrogate(x, x0)``, ``(batch,)``, is a smooth function to
    minimise in its place (a squared norm for a norm), ``nonsmooth`` one with a prox, to stand for the problem's.

    ``primal`` is the step of the inner loop, its ``size`` a number or ``(batch,)``, times ``decay(progress)``, the
    progress of the search in [0, 1). ``tanh``: the change of variables of Carlini & Wagner (2017) in place of the
    projection on the box. ``abort``: a search ends when, between two of ten looks at least 100 steps apart, its least
    loss has not fallen by this fraction (the authors stop a whole batch, by its last loss). Rows do not wait for each
    other: a row whose search is over starts the next one at once, and one that has spent its searches is finished.

    Raises ``ValueError`` for values out of range; for ``tanh`` without a finite box or with a nonsmooth term; for an
    equality under a penalty without a form for it; and for a ``primal`` whose state is not one row per row, unless
    rows start their searches together (``abort=None``).

    >>> from constropt import Box, inequality, solve
    >>> problem = ConstrainedProblem(
    ...     objective=lambda x, _: x.square().sum(1), constraints=[inequality(lambda x, _: 0.5 - x[:, 0])], domain=Box()
    ... )
    >>> solution = solve(problem, PenaltySearch(size=0.01), torch.full((1, 2), 0.1), steps=900)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.25)
    """

    takes = Takes(equalities=True, fraction=True, nonsmooth=True, surrogate=True, feasibility=True)

    primal: PrimalStep[Any] = field(default_factory=Adam)
    size: float | Tensor = 0.01
    decay: Callable[[float], float] | None = None
    searches: int = 9
    rule: WeightRule[Any] = field(default_factory=Bisection)
    penalty: PenaltyLike | None = None
    surrogate: Callable[[Tensor, Tensor], Tensor] | None = None
    nonsmooth: ProximableFunction | None = None
    tanh: bool = False
    abort: float | None = 1e-4
    tolerance: float | None = 0.0
    check_every: int = 50

    def __post_init__(self) -> None:
        require_whole(searches=self.searches)
        if not bool((torch.as_tensor(self.size) > 0).all()):
            raise ValueError(f"size: takes a step > 0, got {self.size}")
        require_within("[0, 1)", "takes a fraction", ", or None to end no search early", **given(abort=self.abort))

    def features(self, problem: ConstrainedProblem[Any]) -> Takes:
        # a function to minimise in the objective's place is what is differentiated
        given = self.surrogate is None and type(self.rule).smooth is WeightRule.smooth
        return replace(super().features(problem), objective_gradient=given)

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        if self.tanh and not is_finite_box(problem.domain, x0):
            raise ValueError(f"tanh: needs a finite Box as the problem's domain, got {problem.domain}")
        if self.tanh and self._nonsmooth(problem) is not None:
            raise ValueError("tanh: a nonsmooth term has no prox in the new variable; use tanh=False")
        if self.penalty is not None:
            for constraint in problem.constraints:
                AugmentedLagrangian(penalty=self.penalty).form(constraint.equality)
        if not self._together and not has_rows(self.primal.init(x0), x0.shape[0]):
            wrong = (
                f"the state of {got(self.primal)} is not one row per row, but rows start their searches at different"
            )
            raise ValueError(f"primal: {wrong} steps; use abort=None with Bisection, or another step such as Adam()")

    @property
    def _together(self) -> bool:
        """Whether all rows start their searches at the same steps."""
        return self.abort is None and type(self.rule).succeeded is WeightRule.succeeded

    def budget(self, steps: int) -> int:
        # what does not divide is of no use to searches that are limited in number
        return max(steps // self.searches, 1) * self.searches if self.rule.limited else steps

    def init(self, run: Run, point: Evaluation) -> PenaltySearchState:
        x = point.x.detach()
        variable = Tanh.on(run.problem.domain, x).w(x) if self.tanh else x
        none = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        infinite = torch.full_like(point.total(), torch.inf)
        trial = Trial(none.bool(), infinite, x, ~none.bool(), torch.zeros_like(x))
        looked = at_least_float32(x.new_full(none.shape, torch.inf))
        step, rule = self.primal.init(variable), self.rule.init(run.x0)
        steps = self._share(run)
        # computed once and looked up: a vectorised power rounds differently from batch to batch
        decays = [1.0 if self.decay is None else self.decay(age / steps) for age in range(steps)]
        return PenaltySearchState(variable, step, rule, none, none, trial, looked, looked, looked.new_tensor(decays))

    def step(self, run: Run, state: PenaltySearchState, point: Evaluation, index: int) -> Proposal[PenaltySearchState]:
        x, steps = point.x.detach(), self._share(run)
        feasible = point.violation() <= run.tolerance
        loss, terms, weights = self._penalised(run, state, point)
        gradient = point.pull_back(*terms)
        trial = _seen(state.trial, point, feasible, gradient)
        state = replace(state, trial=trial)
        moved, variable, step = self._move(run, state, x, gradient)

        ended = state.age + 1 >= steps
        looked = state.looked
        least = torch.minimum(state.least, loss)
        if self.abort is not None:
            looking = state.age % max(steps // LOOKS, APART) == 0
            # the first look of a search compares with infinity
            ended = ended | (looking & looked.isfinite() & (least > looked - self.abort * looked.abs()))
            looked = torch.where(looking, least, looked)
        succeeded = self.rule.succeeded(state.rule, loss, feasible)
        if succeeded is not None:
            ended = ended | succeeded
        state = replace(state, variable=variable, step=step, age=state.age + 1, least=least, looked=looked)
        state, moved, finished = self._restart(run, state, moved, ended, (index + 1) % steps == 0)
        return Proposal(x=moved, state=state, multipliers=weights, finished=finished)

    # ------------------------------------------------------------------------------------------------------ helpers

    def _share(self, run: Run) -> int:
        """How many steps a search has."""
        return max(run.steps // self.searches, 1)

    def _nonsmooth(self, problem: ConstrainedProblem[Any]) -> ProximableFunction | None:
        return problem.nonsmooth if self.nonsmooth is None else self.nonsmooth

    def _penalised(
        self, run: Run, state: PenaltySearchState, point: Evaluation
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]], tuple[Tensor, ...]]:
        """The loss, ``(batch,)``; the outputs to be differentiated with their weights; the constraints' weights."""
        with torch.enable_grad():
            smooth = self.rule.smooth(state.rule, point.x, run.x0)
            if smooth is None:
                smooth = point.objective if self.surrogate is None else self.surrogate(point.x, run.x0)
        c = state.rule.weight
        loss = smooth.detach().to(c)
        nonsmooth = self._nonsmooth(run.problem)
        if nonsmooth is not None:
            loss = loss + nonsmooth(point.x.detach()).to(c)
        terms, weights = [(smooth, torch.ones_like(smooth))], []
        for constraint, value, mask in zip(point.constraints, point.values, point.masks):
            h = point.direction(len(weights))
            amount, slope = self._penalty(h.detach().to(c), value.detach(), constraint.equality)
            if mask is not None:
                amount, slope = torch.where(mask, amount, 0), torch.where(mask, slope, 0)
            loss = loss + c * by_row(amount).sum(1)
            weights.append(slope * per_row(c, slope))
            terms.append((h, weights[-1]))
        return loss, terms, tuple(weights)

    def _penalty(self, h: Tensor, value: Tensor, equality: bool) -> tuple[Tensor, Tensor]:
        """P(h) and its derivative, entry by entry."""
        if self.penalty is not None:
            form = AugmentedLagrangian(penalty=self.penalty).form(equality)
            return form(h, 1.0, 1.0), form.derivative(h, 1.0, 1.0)
        if equality:
            return h.abs(), h.sign()
        return torch.where(value > 0, h.clamp_min(0), 0), (value > 0).to(h)

    def _move(self, run: Run, state: PenaltySearchState, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Any]:
        """The next point, its variable and the step's state."""
        domain, nonsmooth = run.problem.domain, self._nonsmooth(run.problem)
        size = torch.as_tensor(self.size, device=x.device) * state.decays[state.age]
        if self.tanh:
            change = Tanh.on(domain, x)
            gradient = change.pull_back(gradient, state.variable)
            size = per_row(size, gradient)
            w, step = self.primal.update(gradient, state.step, state.variable, size, _unchanged, no_closure)
            return self.rule.restrict(state.rule, change.x(w), run.x0), w, step

        def prox(moved: Tensor, size: Tensor, metric: Tensor | None) -> Tensor:
            return domain.project(moved if nonsmooth is None else nonsmooth.prox(moved, size.flatten(), metric))

        moved, step = self.primal.update(gradient, state.step, x, per_row(size, x), prox, no_closure)
        moved = self.rule.restrict(state.rule, domain.project(moved), run.x0)
        return moved, moved, step

    def _restart(
        self, run: Run, state: PenaltySearchState, moved: Tensor, ended: Tensor, everywhere: bool
    ) -> tuple[PenaltySearchState, Tensor, Tensor]:
        """The state with the next search of the rows whose search has ``ended``; and which rows are finished."""
        rule, finished = self.rule.update(state.rule, state.trial, run.x0)
        rule = mixed(ended, rule, state.rule)
        number = state.number + ended
        finished = torch.zeros_like(ended) if finished is None else finished & ended
        if self.rule.limited:
            finished = finished | (number >= self.searches)
        x, variable = moved, state.variable
        if self.rule.continues:
            x = self.rule.restrict(rule, x, run.x0)
        else:
            start = Tanh.on(run.problem.domain, run.x0).w(run.x0) if self.tanh else run.x0
            rows = beside(ended, x)
            x, variable = torch.where(rows, run.x0, x), torch.where(rows, start, variable)
        if not self.tanh:
            variable = x
        if self._together:
            step = self.primal.init(variable) if everywhere else state.step
        else:
            step = restarted(ended, self.primal.init(variable), state.step)
        trial = replace(state.trial, found=state.trial.found & ~ended)
        if not self.rule.continues:
            trial = replace(trial, value=torch.where(ended, torch.inf, trial.value))
        least, looked = (torch.where(ended, torch.inf, value) for value in (state.least, state.looked))
        state = replace(state, variable=variable, step=step, rule=rule, number=number, trial=trial)
        return replace(state, age=torch.where(ended, 0, state.age), least=least, looked=looked), x, finished


def _seen(trial: Trial, point: Evaluation, feasible: Tensor, gradient: Tensor) -> Trial:
    """The trial with one more point."""
    value, x = point.total(), point.x.detach()
    better = feasible & (value < trial.value)
    least, best = torch.where(better, value, trial.value), torch.where(beside(better, x), x, trial.point)
    slope = torch.where(beside(feasible, x), trial.slope, gradient)
    return Trial(trial.found | better, least, best, ~feasible, slope)


def _unchanged(moved: Tensor, size: Tensor, metric: Tensor | None) -> Tensor:
    return moved
