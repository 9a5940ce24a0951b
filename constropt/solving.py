"""``solve``: the one loop. It evaluates, keeps the best point of every row, and lets the solver propose the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.lagrangian import AugmentedLagrangian
from constropt.problem import ConstrainedProblem, Evaluation
from constropt.solution import BestPoint, Solution, Status
from constropt.solvers.base import Callback, Method, Run, Solver
from constropt.solvers.projected_lbfgs.solver import ProjectedLBFGS


def default_tolerance(dtype: torch.dtype) -> float:
    """The violation up to which an entry counts as met where the solver does not say: 1e-6 in float64, 1e-4 in
    float32, coarser below.
    """
    return {torch.float64: 1e-6, torch.float32: 1e-4}.get(dtype, 1e-2)


def solve(
    problem: ConstrainedProblem[Any],
    solver: Solver[Any] | Method | AugmentedLagrangian | None,
    x0: Tensor,
    *,
    steps: int,
    tolerance: float | None = None,
    duals: Any = None,
    trace: Callable[[int, Evaluation], dict[str, Tensor]] | None = None,
    callback: Callback | None = None,
) -> Solution:
    """Minimise ``problem.objective`` subject to its constraints, from ``x0`` of shape ``(batch, *event)``.

    ``solver`` is a :class:`~constropt.solvers.Solver`, or an :class:`AugmentedLagrangian` (or ``None``), which means
    the default loop around it: batched projected L-BFGS, no tuning needed. ``steps`` bounds the gradient evaluations
    of each row. ``tolerance`` is the violation up to which a row counts as feasible (default: the solver's, else by
    dtype, :func:`default_tolerance`). ``duals`` warm-starts a solver from an earlier ``Solution.duals``.
    ``trace(step, point)`` may return tensors to record per step, stacked in ``Solution.trace``; ``callback(step,
    point, proposal)`` is called once a step, after it.

    Raises ``TypeError``/``ValueError`` before the first evaluation for an ``x0`` that is no floating tensor with a
    batch dimension or is not finite, and for ``steps < 1``.

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
    _check_arguments(problem, solver, x0, steps, tolerance)
    x0 = x0.detach()
    x = problem.domain.project(x0)
    if tolerance is None:
        tolerance = default_tolerance(x.dtype) if solver.tolerance is None else solver.tolerance
    run = Run(problem, x, steps, tolerance)

    point = run.evaluate(x, grad=solver.gradients)
    state = solver.init(run, point) if duals is None else solver.resume(run, point, duals)
    best = BestPoint.start(x, point)
    finished = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    broken = finished.clone()
    status = torch.full((x.shape[0],), int(Status.BUDGET_SPENT), dtype=torch.int8, device=x.device)
    records: list[dict[str, Tensor]] = []

    for index in range(max(steps - solver.start_passes, 1)):
        if index:
            # the old point's output would lie in memory beside the whole graph of the new one
            del point
            point = run.evaluate(x, grad=solver.gradients, rows=~finished)
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
        rows = finished.view(-1, *[1] * (x.dim() - 1))
        x = torch.where(rows, best.x, proposal.x)
        if callback is not None:
            callback(index, point, proposal)
        if solver.check_every and (index + 1) % solver.check_every == 0 and bool(finished.all()):
            break
    else:
        point = run.evaluate(x, grad=False, rows=~finished)
        multipliers = solver.multipliers(state, point)
        best.update(point, tolerance, steps, proposal.multipliers if multipliers is None else multipliers)

    status = torch.where(broken, int(Status.DIVERGED), status)
    return _finish(run, best, status, solver.duals(state), _stack(records))


@dataclass(frozen=True)
class _Loop:
    """The arguments of a call of :func:`solve`, for the runs of a :class:`~constropt.solvers.Method`."""

    steps: int
    tolerance: float | None
    duals: Any
    trace: Callable[[int, Evaluation], dict[str, Tensor]] | None
    callback: Callback | None

    def __call__(
        self, problem: ConstrainedProblem[Any], solver: Solver[Any], x0: Tensor, *, steps: int | None = None
    ) -> Solution:
        return solve(
            problem,
            solver,
            x0,
            steps=self.steps if steps is None else steps,
            tolerance=self.tolerance,
            duals=self.duals,
            trace=self.trace,
            callback=self.callback,
        )


def _finish(run: Run, best: BestPoint, status: Tensor, duals: Any, trace: dict[str, Tensor] | None) -> Solution:
    """The solution, its claims re-checked by one clean forward pass on the very tensor that is returned."""
    clean = run.evaluate(best.x, grad=False)
    violation, objective = clean.violation(), clean.total()
    feasible = (violation <= run.tolerance) & objective.isfinite()
    # a row that never had a finite value has nothing to return but its start
    status = torch.where(~objective.isfinite() | ~violation.isfinite(), int(Status.DIVERGED), status).to(torch.int8)
    return Solution(
        problem=run.problem,
        x=best.x,
        objective=objective,
        feasible=feasible,
        violation=violation,
        status=status,
        multipliers=best.multipliers,
        duals=duals,
        forwards=run.forwards,
        backwards=run.backwards,
        first_feasible=best.first_feasible,
        trace=trace,
    )


def _stack(records: list[dict[str, Tensor]]) -> dict[str, Tensor] | None:
    return {name: torch.stack([record[name] for record in records]) for name in records[0]} if records else None


def _check_arguments(
    problem: ConstrainedProblem[Any], solver: Solver[Any], x0: Tensor, steps: int, tolerance: float | None
) -> None:
    if not isinstance(problem, ConstrainedProblem):
        raise TypeError(f"problem: takes a ConstrainedProblem, got {type(problem).__name__}")
    if not isinstance(solver, Solver):
        raise TypeError(f"solver: takes a Solver, an AugmentedLagrangian or None, got {type(solver).__name__}")
    if not isinstance(x0, Tensor) or not x0.is_floating_point() or x0.dim() < 2:
        got = f"{x0.dtype} of shape {tuple(x0.shape)}" if isinstance(x0, Tensor) else type(x0).__name__
        raise ValueError(
            f"x0: takes a floating point tensor of shape (batch, *event) with at least two dimensions, got {got}"
        )
    if x0.numel() == 0:
        raise ValueError(f"x0: is empty, got shape {tuple(x0.shape)}")
    if not bool(x0.isfinite().all()):
        rows = (~x0.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        raise ValueError(f"x0: takes finite values, got NaN or infinity in rows {rows[:5]}; leave these rows out")
    require_whole(steps=steps)
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance: takes a violation >= 0 that counts as none, or None, got {tolerance!r}")
    try:
        fits = problem.domain.project(x0.detach()).shape == x0.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"problem.domain: its tensors do not fit x0 of shape {tuple(x0.shape)}, got {problem.domain}")
    solver.check(problem, x0)
