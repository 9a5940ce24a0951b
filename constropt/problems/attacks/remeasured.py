"""What given points, such as the solution of another problem, are worth in a problem, by one forward pass."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from constropt.problem import ConstrainedProblem
from constropt.solution import Solution, Status, continued


def solution_at(problem: ConstrainedProblem[Any], x: Tensor) -> Solution:
    """Given points, ``(batch, *event)``, as a solution of ``problem``: objective and feasibility (tolerance 0) there.

    One forward pass is counted and no backward; the status is ``BUDGET_SPENT``, there are no multipliers, and
    ``first_feasible`` is 0 for feasible rows.

    >>> problem = ConstrainedProblem(objective=lambda x, _: x.square().sum(1))
    >>> solution_at(problem, torch.tensor([[3.0, 4.0]])).objective
    tensor([25.])
    """
    point = problem.evaluate(x, grad=False)
    violation = point.violation()
    feasible = violation <= 0
    passes = torch.ones_like(feasible, dtype=torch.long)
    return Solution(
        problem=problem,
        x=point.x.clone(),
        objective=point.total(),
        feasible=feasible,
        violation=violation,
        status=torch.full_like(feasible, int(Status.BUDGET_SPENT), dtype=torch.int8),
        multipliers=tuple(torch.zeros_like(value) for value in point.values),
        duals=None,
        forwards=passes,
        backwards=torch.zeros_like(passes),
        first_feasible=torch.where(feasible, 0, -1),
    )


def remeasured(solution: Solution, problem: ConstrainedProblem[Any]) -> Solution:
    """The solution's points with the objective and feasibility (exactly, tolerance 0) that they have in ``problem``.

    For methods that solve a simpler problem, such as one without the attack's constraint. The pass is counted; there
    are no multipliers, and ``first_feasible`` is 0 for feasible rows.
    """
    measured = solution_at(problem, solution.x)
    return replace(continued(solution, measured), status=solution.status, trace=solution.trace)
