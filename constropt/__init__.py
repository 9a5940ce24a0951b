"""constropt: constrained optimization of deep nets on PyTorch.

Declare a :class:`ConstrainedProblem`, hand it to :func:`solve`, read the :class:`Solution`.
"""

from constropt.domain import Box, Domain, L1Ball, L2Ball, LinfBall, Reals, Simplex
from constropt.duals import ConstantRho, Duals, MultiplierUpdate, PeriodicRho, ProgressRho
from constropt.lagrangian import AugmentedLagrangian
from constropt.problem import ConstrainedProblem, Constraint, Evaluation, equality, inequality
from constropt.solution import KKTResiduals, Solution, Status
from constropt.solve import solve

__all__ = [
    "AugmentedLagrangian",
    "Box",
    "ConstantRho",
    "ConstrainedProblem",
    "Constraint",
    "Domain",
    "Duals",
    "Evaluation",
    "KKTResiduals",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "MultiplierUpdate",
    "PeriodicRho",
    "ProgressRho",
    "Reals",
    "Simplex",
    "Solution",
    "Status",
    "equality",
    "inequality",
    "solve",
]
