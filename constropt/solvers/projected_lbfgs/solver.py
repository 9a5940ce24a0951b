"""The default solver: an augmented Lagrangian whose inner problems are solved by batched projected L-BFGS.

The nested loops of the method are unrolled: one step evaluates every row once, and each row remembers what that
evaluation is for (its *phase*), so that a row that rejects a trial point holds up no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from constropt.checks import given, require_positive, require_whole
from constropt.duals import Duals
from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.lagrangian import AugmentedLagrangian
from constropt.precision import at_least_float32
from constropt.problem import ConstrainedProblem
from constropt.solution import Status
from constropt.solvers.base import Proposal, Run, Solver, default_tolerance
from constropt.solvers.projected_lbfgs.certificates import FlatDomain, runs_away
from constropt.solvers.projected_lbfgs.line_search import acceptable, advance, aim, flat, shrink
from constropt.solvers.projected_lbfgs.multiplier_loop import (
    given_duals,
    initial_duals,
    judge_feasibility,
    kkt_report,
    penalise,
    safeguard,
    second_start,
    turn_back,
    update_duals,
    violated,
)
from constropt.solvers.projected_lbfgs.scaling import Layout, Scaling, row_max
from constropt.solvers.projected_lbfgs.search_state import CHECK, FRESH, NONMONOTONE, TRIAL, Pairs, SearchState, Visited

MOST_RETURNS = 6
MOST_OUTER = 100
MOST_FUTILE = 2


@dataclass(frozen=True, eq=False)
class ProjectedLBFGS(Solver[SearchState]):
    """Augmented Lagrangian with batched projected L-BFGS inside and a spectral projected gradient to fall back on.

    The multiplier loop is Alg. 4.1 of Rony (2023) after Birgin & Martinez, *Practical Augmented Lagrangian Methods
    for Constrained Optimization* (SIAM, 2014); the fallback is that of Birgin, Martinez & Raydan (SIAM J. Optim. 10,
    2000). It scales the problem at the start, chooses rho itself and needs no tuning. Each step is one forward and
    one backward pass for the whole batch (the start takes one more of ``steps``, vectorised over the constraints, to
    scale). Over a box (or all of space) the directions are L-BFGS, over any other domain spectral projected gradients.

    ``lagrangian``: penalty, multiplier safeguards and rho schedule; its ``mu`` and ``rho``, if given, are the initial
    values in the units of the problem. ``memory``: pairs kept per row (``2 memory`` copies of the variable);
    ``inner_steps``: the most steps between two multiplier updates; ``kkt_tolerance``: of the (scaled) KKT residuals,
    by default 1e-6 in float64 and 1e-4 in float32; ``tolerance``: violation up to which a row counts as feasible.

    A row ends as CONVERGED only when all tests of ``certificates.KKTReport`` hold, as APPROXIMATE when only the
    products ``mu y`` do not vanish (as where no multipliers exist), INFEASIBLE when two starts led to a minimiser of
    the violation, UNBOUNDED when the objective falls without limit.

    Raises ``ValueError`` (in :func:`~constropt.solve`, before the first evaluation) for a nonsmooth term, rows that are
    not independent, shared multipliers, and equality constraints under a penalty that has no equality form.

    >>> from constropt import ConstrainedProblem, inequality, solve
    >>> problem = ConstrainedProblem(
    ...     objective=lambda x, _: x.sum(1), constraints=[inequality(lambda x, _: x.square().sum(1) - 2.0)]
    ... )
    >>> solution = solve(problem, ProjectedLBFGS(), torch.zeros(1, 2, dtype=torch.float64), steps=100)
    >>> solution.x.round(decimals=4), solution.messages()[0][:9]
    (tensor([[-1., -1.]], dtype=torch.float64), 'converged')
    """

    takes = Takes(equalities=True, feasibility=True)

    lagrangian: AugmentedLagrangian = field(default_factory=AugmentedLagrangian)
    memory: int = 20
    inner_steps: int = 250
    kkt_tolerance: float | None = None
    tolerance: float | None = None
    check_every: int = 8

    def __post_init__(self) -> None:
        require_whole(0, memory=self.memory, check_every=self.check_every)
        require_whole(inner_steps=self.inner_steps)
        require_positive(**given(kkt_tolerance=self.kkt_tolerance, tolerance=self.tolerance))

    # ------------------------------------------------------------------------------------------------- the contract

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        for constraint in problem.constraints:
            self.lagrangian.form(constraint.equality)

    def init(self, run: Run, point: Evaluation) -> SearchState:
        return self._begin(run, point, None)

    def resume(self, run: Run, point: Evaluation, duals: Sequence[Duals]) -> SearchState:
        return self._begin(run, point, duals)

    def duals(self, state: SearchState) -> tuple[Duals, ...]:
        """Per constraint the multipliers and rho in the problem's units, shaped like its value."""
        layout, scaling = state.layout, state.scaling
        y = layout.split(state.current.y / scaling.constraints)
        mus, rhos = layout.split(scaling.multipliers(state.mu)), layout.split(scaling.rho(state.rho))
        return tuple(
            Duals(mu, rho, y.abs() if equality else y.clamp_min(0), y.abs() <= 0 if equality else y <= 0, 1, equality)
            for mu, rho, y, equality in zip(mus, rhos, y, layout.equalities)
        )

    def step(self, run: Run, state: SearchState, point: Evaluation, index: int) -> Proposal[SearchState]:
        """Judge the evaluated point by each row's phase, update the duals where an inner problem ended, and move on."""
        tolerance, given = self._tolerance(point.x.dtype), state
        fresh, trial, checking = state.phase == FRESH, state.phase == TRIAL, state.phase == CHECK
        seen, finite = self._visit(state, point)
        multipliers = state.layout.split(state.scaling.multipliers(seen.candidate))

        # the line search's verdict
        still = (seen.x == state.current.x).all(1)
        accepted = finite & (fresh | (trial & acceptable(state, seen) & ~still))
        rejected, broken = trial & ~accepted, fresh & ~finite
        plateau_refuted = rejected & (state.probed == 1)
        state, exhausted = shrink(state, seen, finite, rejected)
        exhausted = exhausted | (rejected & still)
        retry, stuck = exhausted & ~state.spectral, exhausted & state.spectral
        state = advance(replace(state, pairs=state.pairs.clear(retry)), seen, accepted, fresh)

        # certificates
        report = kkt_report(state, tolerance, min(tolerance, run.tolerance))
        current, start = state.current, state.start
        converged = accepted & report.all
        # a start that passes may lie on a plateau (HS25): one long step tells, before it is believed
        probe = converged & (state.probed == 0) & (report.projected_gradient > 0)
        converged = converged & ~probe
        state = replace(state, probed=torch.where(probe, 1, torch.where(trial | fresh, 2, state.probed)))
        away = accepted & ~converged & runs_away(current.objective, start.objective, current.merit, current.x, start.x)
        unbounded = away & (current.violation <= 1e-6 * row_max(current.x).clamp_min(1))
        away = away & ~unbounded
        lost = away & (state.returns >= MOST_RETURNS)
        checked = checking & finite
        state, infeasible, restart = judge_feasibility(state, self.lagrangian, seen.gradient, checked, tolerance)

        # the outer iteration, for rows whose inner problem ended
        stuck = stuck | (accepted & trial & flat(state))
        done = (report.projected_gradient <= state.inner_tolerance) | (state.inner >= self.inner_steps)
        ended = (stuck | (accepted & done)) & ~(converged | unbounded | away | probe)
        state, changed, doubtful = update_duals(state, self.lagrangian, report, ended, tolerance)
        stalled = ended & ((stuck & ~changed) | (state.outer >= MOST_OUTER) | (state.futile >= MOST_FUTILE))
        state = turn_back(state, away)

        # where to go next: on with a shorter step, in a new direction, or the current point under new duals
        turning = (accepted & ~ended & ~away) | (ended & ~changed) | retry
        state = aim(state, turning, index + 1)
        searching = turning | (rejected & ~exhausted & ~plateau_refuted)
        x = state.domain.project(state.current.x + state.alpha.unsqueeze(1) * state.direction)
        x = torch.where(searching.unsqueeze(1), x, torch.where(away.unsqueeze(1), state.anchor, state.current.x))
        x = torch.where(restart.unsqueeze(1), state.second, x)
        phase = torch.where(searching, TRIAL, torch.where(doubtful & changed, CHECK, FRESH))

        # multipliers without limit spoil the gradient before rho reaches its own: what was seen on the way counts
        approximate = (report.nearly & ~report.product) | (stalled & report.feasible & state.approached)
        status = torch.where(approximate, int(Status.APPROXIMATE), int(Status.BUDGET_SPENT))
        for rows, code in (
            (converged, Status.CONVERGED),
            (unbounded, Status.UNBOUNDED),
            (lost | broken, Status.DIVERGED),
            (infeasible | (broken & (state.restarts > 0)), Status.INFEASIBLE),
        ):
            status = torch.where(rows, int(code), status)
        finished = converged | unbounded | infeasible | lost | broken | stalled
        certified = converged | (stalled & approximate & accepted & report.nearly)
        state = replace(self._retire(state, given, converged, finished), phase=phase)
        return Proposal(state.domain.shaped(x), state, multipliers, finished, certified, status.to(torch.int8))

    # ------------------------------------------------------------------------------------------------------ helpers

    def _tolerance(self, dtype: torch.dtype) -> float:
        return default_tolerance(dtype) if self.kkt_tolerance is None else self.kkt_tolerance

    def _retire(self, state: SearchState, given: SearchState, converged: Tensor, finished: Tensor) -> SearchState:
        """The duals of done rows as they were ``given``; converged rows get the multipliers of their solution."""
        reached = safeguard(self.lagrangian, state.layout, state.current.candidate)
        mu = torch.where(converged.unsqueeze(1), reached, state.mu)
        mu, rho = torch.where(given.done.unsqueeze(1), given.mu, mu), torch.where(given.done, given.rho, state.rho)
        return replace(state, mu=mu, rho=rho, done=given.done | finished)

    def _begin(self, run: Run, point: Evaluation, duals: Sequence[Duals] | None) -> SearchState:
        x = at_least_float32(point.x.detach().flatten(1))
        layout = Layout.of(point)
        domain = FlatDomain.of(run.problem.domain, point.x.detach())
        # a set that is no box would change its shape, and with it its projection, in scaled variables
        variables = x.abs().clamp_min(1) if domain.box else torch.ones_like(x)
        scaling = Scaling.at(point, layout, x, variables)
        objective = point.objective.detach().to(x)
        y = self._values(layout, scaling, point, x)
        if duals is None:
            mu, rho = initial_duals(self.lagrangian, layout, scaling, y, objective)
        else:
            mu, rho = given_duals(self.lagrangian, layout, scaling, duals, x)
        zero, count = torch.zeros_like(objective), torch.zeros_like(objective, dtype=torch.long)
        start = Visited(x, objective, zero + torch.inf, y, torch.zeros_like(y), zero, torch.zeros_like(x))
        return SearchState(
            layout=layout, domain=domain, scaling=scaling, mu=mu, rho=rho, first_rho=rho, current=start, start=start,
            phase=torch.full_like(count, FRESH), direction=torch.zeros_like(x), slope=zero, alpha=zero + 1,
            spectral=count.bool(), spectral_step=zero, merits=x.new_full((NONMONOTONE, x.shape[0]), -torch.inf),
            pairs=Pairs.empty(self.memory if domain.box else 0, x),
            # good multipliers deserve an accurate solve at once
            inner_tolerance=zero + self._tolerance(point.x.dtype) ** (0.5 if duals is None else 1.0),
            inner=count, outer=count, measure=zero + torch.inf, products=zero + torch.inf, approached=count.bool(),
            futile=count, anchor=x, second=second_start(domain, x), strikes=count, probed=count, restarts=count,
            returns=count, done=count.bool(),
        )  # fmt: skip

    def _values(self, layout: Layout, scaling: Scaling, point: Evaluation, x: Tensor) -> Tensor:
        """The table of scaled constraint values, 0 where an entry does not count."""
        y, counted = layout.table(point.values, x) * scaling.constraints, layout.counted(point)
        return y if counted is None else torch.where(counted, y, 0)

    def _visit(self, state: SearchState, point: Evaluation) -> tuple[Visited, Tensor]:
        """The evaluated point with its one gradient, and which rows are finite in all that matters.

        The gradient is that of the merit or, for rows that check their feasibility, of half the squared violations.
        """
        layout, scaling = state.layout, state.scaling
        x = point.x.detach().flatten(1).to(state.current.x)
        y = self._values(layout, scaling, point, x)
        term, candidate = penalise(self.lagrangian, layout, y, state.rho, state.mu)
        counted = layout.counted(point)
        if counted is not None:
            term, candidate = torch.where(counted, term, 0), torch.where(counted, candidate, 0)
        objective = point.objective.detach().to(x)
        merit = scaling.objective * objective + term.sum(1)
        finite = merit.isfinite() & candidate.isfinite().all(1)
        checking = state.phase == CHECK
        weights = torch.where(checking.unsqueeze(1), violated(layout, y), candidate) * scaling.constraints
        # a zero weight does not silence a row whose derivative is infinite (0 * inf): what comes back is looked at too
        weights = torch.where(finite.unsqueeze(1), weights, 0)
        gradient = point.gradient(torch.where(finite & ~checking, scaling.objective, 0), layout.split(weights))
        gradient = gradient.detach().flatten(1).to(x)
        finite = finite & gradient.isfinite().all(1)
        gradient = torch.where(finite.unsqueeze(1), gradient, 0)
        return Visited(x, objective, point.violation().to(x), y, candidate, merit, gradient), finite
