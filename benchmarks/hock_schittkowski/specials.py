"""Small problems with a known outcome other than (or harder than) plain convergence.

They are made up for testing a solver's statuses; ``cq_failure`` is the geometry of Fiacco and McCormick's example
(problem 13 of Hock and Schittkowski). ``expected`` is what a solver should report:

- ``"infeasible"``: no point meets the constraints;
- ``"unbounded"``: the objective has no lower bound on the feasible set;
- ``"akkt"``: the minimiser is not a KKT point, only an approximate (sequential) one: multipliers diverge;
- ``"converged"``: an ordinary solution with value ``optimum``, reached in spite of degeneracy or scaling.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal

import torch

from .problem import BatchFunction, equal, nonnegative, scalar

Expected = Literal["infeasible", "unbounded", "converged", "akkt"]


@dataclass(frozen=True)
class SpecialProblem:
    """A problem in the form of ``HSProblem``, with a name for a number and the expected outcome."""

    name: str
    expected: Expected
    x0: tuple[float, ...]
    optimum: float | None
    objective: BatchFunction
    inequalities: BatchFunction | None = None
    equalities: BatchFunction | None = None
    lower: tuple[float, ...] | None = None
    upper: tuple[float, ...] | None = None


_circle = scalar(lambda x1, x2: (x1 - 2.0) ** 2 + (x2 - 1.0) ** 2)

_PROBLEMS: tuple[SpecialProblem, ...] = (
    # x^2 + 1 <= 0: the least violation is 1, at x = 0, where the constraint's gradient vanishes.
    SpecialProblem(
        "no_real_root", "infeasible", (2.0,), None, scalar(lambda x1: x1), nonnegative(lambda x1: (-(x1**2) - 1,))
    ),
    # x1 + x2 <= -1 and x1 + x2 >= 1.
    SpecialProblem(
        "contradictory_half_planes",
        "infeasible",
        (3.0, -1.0),
        None,
        _circle,
        nonnegative(lambda x1, x2: (-1 - x1 - x2, x1 + x2 - 1)),
    ),
    SpecialProblem(
        "contradictory_equalities",
        "infeasible",
        (0.0, 0.0),
        None,
        _circle,
        equalities=equal(lambda x1, x2: (x1 + x2 - 1, x1 + x2 - 2)),
    ),
    # x1 * x2 >= 2 cannot be met in the unit box.
    SpecialProblem(
        "box_against_constraint",
        "infeasible",
        (0.5, 0.5),
        None,
        _circle,
        nonnegative(lambda x1, x2: (x1 * x2 - 2,)),
        lower=(0.0, 0.0),
        upper=(1.0, 1.0),
    ),
    SpecialProblem(
        "linear_on_half_plane",
        "unbounded",
        (1.0, 1.0),
        None,
        scalar(lambda x1, x2: -x1 - 2 * x2),
        nonnegative(lambda x1, x2: (x1 - x2 + 1,)),
    ),
    # Bounded along x2, concave along x1 with a bound on one side only.
    SpecialProblem(
        "concave_direction",
        "unbounded",
        (1.0, 1.0),
        None,
        scalar(lambda x1, x2: x2**2 - x1**2),
        nonnegative(lambda x1, x2: (x1 - x2,)),
        lower=(0.0, -inf),
    ),
    # One equality given twice and scaled: multipliers exist but are not unique. The solution is (1, 0).
    SpecialProblem(
        "duplicated_equality",
        "converged",
        (3.0, 2.0),
        2.0,
        _circle,
        equalities=equal(lambda x1, x2: (x1 + x2 - 1, x1 + x2 - 1, 2 * x1 + 2 * x2 - 2)),
    ),
    # Four inequalities of the plane are active at the solution (1, 0), so their gradients are dependent.
    SpecialProblem(
        "redundant_corner",
        "converged",
        (0.2, 0.9),
        2.0,
        _circle,
        nonnegative(lambda x1, x2: (1 - x1 - x2, 1 - x1, -x2, 2 - 2 * x1 - x2)),
    ),
    # Two discs touch at the origin, the only feasible point; no multipliers exist there, because the objective's
    # gradient is orthogonal to both (parallel) constraint gradients.
    SpecialProblem(
        "touching_discs",
        "akkt",
        (0.5, 0.5),
        0.0,
        scalar(lambda x1, x2: x2),
        nonnegative(lambda x1, x2: (1 - (x1 - 1) ** 2 - x2**2, 1 - (x1 + 1) ** 2 - x2**2)),
    ),
    # The cusp (1, 0): the gradients of (1 - x1)^3 - x2 >= 0 and x2 >= 0 are opposite there.
    SpecialProblem(
        "cq_failure",
        "akkt",
        (0.2, 0.2),
        -1.0,
        scalar(lambda x1, x2: -x1),
        nonnegative(lambda x1, x2: ((1 - x1) ** 3 - x2, x2)),
    ),
    # min 1e8 * (x1 + x2) on the unit disc, the constraint multiplied by 1e-6: the multiplier is 1e14 / sqrt(2).
    SpecialProblem(
        "scaled_functions",
        "converged",
        (0.5, -0.3),
        -1e8 * sqrt(2),
        scalar(lambda x1, x2: 1e8 * (x1 + x2)),
        nonnegative(lambda x1, x2: (1e-6 * (1 - x1**2 - x2**2),)),
    ),
    # In u = 1e4 * x1 and v = 1e-4 * x2: Rosenbrock's function on u^2 + v^2 = 2, whose solution is u = v = 1.
    SpecialProblem(
        "scaled_variables",
        "converged",
        (0.5e-4, 1.5e4),
        0.0,
        scalar(lambda x1, x2: 100 * (1e-4 * x2 - 1e8 * x1**2) ** 2 + (1 - 1e4 * x1) ** 2),
        equalities=equal(lambda x1, x2: (1e8 * x1**2 + 1e-8 * x2**2 - 2,)),
    ),
    # The gradient at the start is 2e4 times that at the solution (0, 0).
    SpecialProblem(
        "stiff_exponential",
        "converged",
        (0.5, 0.5),
        2.0,
        scalar(lambda x1, x2: torch.exp(20 * x1) + torch.exp(20 * x2)),
        nonnegative(lambda x1, x2: (x1 + x2,)),
    ),
)

SPECIALS: dict[str, SpecialProblem] = {problem.name: problem for problem in _PROBLEMS}
