"""A solution of one problem as one of another: what it is worth there, by one more forward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from constropt.problem import ConstrainedProblem
from constropt.solution import Solution


def remeasured(solution: Solution, problem: ConstrainedProblem[Any]) -> Solution:
    """The solution's points with the objective and feasibility (exactly, tolerance 0) that they have in ``problem``.

    For methods that solve a simpler problem, such as one without the attack's constraint. The pass is counted; there
    are no multipliers, and ``first_feasible`` is 0 for feasible rows.
    """
    point = problem.evaluate(solution.x, grad=False)
    violation = point.violation()
    feasible = violation <= 0
    return replace(
        solution,
        problem=problem,
        objective=point.total(),
        violation=violation,
        feasible=feasible,
        multipliers=tuple(torch.zeros_like(value) for value in point.values),
        duals=None,
        forwards=solution.forwards + 1,
        first_feasible=torch.where(feasible, 0, -1),
    )
