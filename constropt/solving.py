"""``solve``: the one loop. It evaluates, keeps the best point of every row, and lets the solver propose the next."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from constropt.checks import got, require_whole
from constropt.evaluation import Evaluation
from constropt.features import Takes, require_features
from constropt.gradients import require_gradient
from constropt.lagrangian import AugmentedLagrangian
from constropt.modes import normal, normal_mode
from constropt.problem import ConstrainedProblem
from constropt.rows import beside
from constropt.solution import BestPoint, Solution, Status
from constropt.solvers.base import Callback, Method, Proposal, Run, Solver, declared_solvers, default_tolerance
from constropt.solvers.projected_lbfgs.solver import ProjectedLBFGS

Trace = Callable[[int, Evaluation], dict[str, Tensor]]


def solve(
    problem: ConstrainedProblem[Any],
    solver: Solver[Any] | Method | AugmentedLagrangian | None,
    x0: Tensor,
    *,
    steps: int,
    tolerance: float | None = None,
    duals: Any = None,
    trace: Trace | None = None,
    callback: Callback | None = None,
) -> Solution:
    """Minimise ``problem.objective`` subject to its constraints, from ``x0`` of shape ``(batch, *event)``.

    ``solver`` is a :class:`~constropt.solvers.Solver`, or an :class:`AugmentedLagrangian` (or ``None``), which means
    the default loop around it: batched projected L-BFGS, no tuning needed. ``steps`` bounds the gradient evaluations
    of each row. ``tolerance`` is the violation up to which a row counts as feasible (default: the solver's, else by
    dtype, :func:`~constropt.solvers.base.default_tolerance`). ``duals`` warm-starts a solver from an earlier
    ``Solution.duals``. ``trace(step, point)`` may return tensors to record per step, stacked in ``Solution.trace``;
    ``callback(step, point, proposal)`` is called once a step, after it.

    Raises ``TypeError``/``ValueError`` before the first evaluation for an ``x0`` that is no floating tensor with a
    batch dimension or is not finite, for ``steps < 1``, and for what of the problem the solver does not take
    (:class:`~constropt.Takes`); after it for a term that the solver differentiates and that does not depend on x.
    The caller's grad mode (``no_grad``, ``inference_mode``) changes nothing.

    >>> a = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    >>> problem = ConstrainedProblem(objective=lambda x, _: (x - a).square().sum(1))
    >>> solve(problem, None, torch.zeros(1, 2, dtype=torch.float64), steps=50).x.round(decimals=6)
    tensor([[3., 0.]], dtype=torch.float64)
    """
    if isinstance(solver, Method):
        require_whole(steps=steps)
        return solver.run(problem, x0, _Loop(steps, tolerance, duals, trace, callback))
    if solver is None or isinstance(solver, AugmentedLagrangian):
        solver = ProjectedLBFGS(solver or AugmentedLagrangian())
    with normal_mode(), torch.no_grad():
        features = _check_arguments(problem, solver, x0, steps, tolerance)
        x = problem.domain.project(normal(x0))
        if tolerance is None:
            tolerance = default_tolerance(x.dtype) if solver.tolerance is None else solver.tolerance
        run = Run(problem, x, steps, tolerance)
        return _solve(run, solver, features, duals, trace, callback)


def _solve(
    run: Run, solver: Solver[Any], features: Takes, duals: Any, trace: Trace | None, callback: Callback | None
) -> Solution:
    """The loop. Finished rows of a ``rowwise`` problem are left out of the model's passes from the next check on."""
    x, tolerance = run.x0, run.tolerance
    point = run.evaluate(x, grad=features.gradients)
    require_gradients(point, features)
    state = solver.init(run, point) if duals is None else solver.resume(run, point, duals)
    best = BestPoint.start(x, point)
    finished = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    broken, idle = finished.clone(), finished
    status = torch.full((x.shape[0],), int(Status.BUDGET_SPENT), dtype=torch.int8, device=x.device)
    records: list[dict[str, Tensor]] = []
    proposal: Proposal[Any] | None = None

    for index in range(max(solver.budget(run.steps) - run.taken, 1)):
        if index:
            # the old point's output would lie in memory beside the whole graph of the new one
            del point
            point = run.evaluate(x, grad=features.gradients)
        if trace is not None:
            records.append({name: value.detach().clone() for name, value in trace(index, point).items()})
        proposal = solver.step(run, state, point, index)
        best.update(point, tolerance, index, proposal.multipliers, proposal.certified)
        state = proposal.state
        if proposal.status is not None:
            status = torch.where(finished, status, proposal.status)
        if proposal.finished is not None:
            finished = finished | proposal.finished
        lost = ~proposal.x.isfinite().flatten(1).all(1)
        broken = broken | (lost & ~finished)
        finished = finished | lost
        x = torch.where(beside(finished, x), best.x, proposal.x)
        if callback is not None:
            callback(index, point, proposal)
        if solver.check_every and (index + 1) % solver.check_every == 0:
            if bool(finished.all()):
                break
            if run.problem.rowwise:  # what had finished at the last check has been evaluated where it stays
                run.rows = (~idle).nonzero().flatten() if bool(idle.any()) else None
                idle = finished
    else:
        if not (solver.check_every and bool(finished.all())):
            point = run.evaluate(x, grad=False)
            multipliers = solver.multipliers(state, point)
            if multipliers is None and proposal is not None:
                multipliers = proposal.multipliers
            best.update(point, tolerance, run.steps, multipliers)

    stacked = {name: torch.stack([record[name] for record in records]) for name in (records[0] if records else ())}
    return _finish(run, best, status, broken, solver.duals(state), stacked if records else None)


@dataclass(frozen=True)
class _Loop:
    """The arguments of a call of :func:`solve`, for the runs of a :class:`~constropt.solvers.Method`."""

    steps: int
    tolerance: float | None
    duals: Any
    trace: Trace | None
    callback: Callback | None

    def __call__(
        self, problem: ConstrainedProblem[Any], solver: Solver[Any], x0: Tensor, *, steps: int | None = None
    ) -> Solution:
        steps = self.steps if steps is None else steps
        run = partial(solve, tolerance=self.tolerance, duals=self.duals, trace=self.trace, callback=self.callback)
        return run(problem, solver, x0, steps=steps)


def _finish(
    run: Run, best: BestPoint, status: Tensor, broken: Tensor, duals: Any, trace: dict[str, Tensor] | None
) -> Solution:
    """The solution, re-checked by one clean pass on the very tensor returned; ``broken`` rows were not finite."""
    run.rows = None
    status = torch.where(broken, int(Status.DIVERGED), status)
    clean = run.evaluate(best.x, grad=False)
    violation, objective = clean.violation(), clean.total()
    feasible = (violation <= run.tolerance) & objective.isfinite()
    # a row that never had a finite value has nothing to return but its start
    status = torch.where(~objective.isfinite() | ~violation.isfinite(), int(Status.DIVERGED), status).to(torch.int8)
    passes = run.forwards, run.backwards
    known = best.x, objective, feasible, violation, status, best.multipliers
    return Solution(run.problem, *known, duals, *passes, best.first_feasible, trace)


def require_gradients(point: Evaluation, features: Takes) -> None:
    """``ValueError`` for a term that the solver differentiates and that does not depend on x."""
    if features.objective_gradient and point.has_objective:
        require_gradient("objective", point.objective, point.x, "objective=None says that any feasible point will do")
    if not features.constraint_gradients:
        return
    for index, constraint in enumerate(point.constraints):
        what, output = f"constraint {constraint.name!r}", point.alternatives(index) if features.alternatives else None
        if output is None:
            output = point.direction(index)
            what += ": surrogate" if constraint.surrogate is not None else ""
        if output.numel():
            require_gradient(what, output, point.x, "a value without a gradient takes a surrogate=... that has one")


def _check_arguments(
    problem: ConstrainedProblem[Any], solver: Solver[Any], x0: Tensor, steps: int, tolerance: float | None
) -> Takes:
    """What the solver takes of this problem."""
    if not isinstance(problem, ConstrainedProblem):
        raise TypeError(f"problem: takes a ConstrainedProblem, got {got(problem)}")
    if not isinstance(solver, Solver):
        raise TypeError(f"solver: takes a Solver, an AugmentedLagrangian or None, got {got(solver)}")
    if not isinstance(x0, Tensor) or not x0.is_floating_point() or x0.dim() < 2:
        takes = "a floating point tensor of shape (batch, *event) with at least two dimensions"
        raise ValueError(f"x0: takes {takes}, got {got(x0)}")
    if x0.numel() == 0:
        raise ValueError(f"x0: is empty, got shape {tuple(x0.shape)}")
    if not bool(x0.isfinite().all()):
        rows = (~x0.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        raise ValueError(f"x0: takes finite values, got NaN or infinity in rows {rows[:5]}; leave these rows out")
    require_whole(steps=steps)
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance: takes a violation >= 0 that counts as none, or None, got {tolerance!r}")
    try:
        fits = problem.domain.project(normal(x0)).shape == x0.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"problem.domain: its tensors do not fit x0 of shape {tuple(x0.shape)}, got {problem.domain}")
    features = solver.features(problem)
    require_features(problem, features, x0, type(solver).__name__, declared_solvers())
    solver.check(problem, x0)
    return features
