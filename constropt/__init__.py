"""constropt: constrained optimization of deep nets on PyTorch.

Declare a :class:`ConstrainedProblem`, hand it to :func:`solve`, read the :class:`Solution`.
"""

from importlib.metadata import PackageNotFoundError, version

from constropt.constraint import Constraint, equality, inequality
from constropt.domain import Box, Domain, L1Ball, L2Ball, LinfBall, Reals, Simplex, WassersteinBall
from constropt.duals import ConstantRho, Duals, MultiplierUpdate, PeriodicRho, ProgressRho
from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.lagrangian import AugmentedLagrangian
from constropt.problem import ConstrainedProblem
from constropt.solution import KKTResiduals, Solution, Status
from constropt.solving import solve

try:
    __version__ = version("constropt")
except PackageNotFoundError:  # a checkout on the path that is not installed
    __version__ = "0+unknown"

__all__ = [
    "AugmentedLagrangian", "Box", "ConstantRho", "ConstrainedProblem", "Constraint", "Domain", "Duals",
    "Evaluation", "KKTResiduals", "L1Ball", "L2Ball", "LinfBall", "MultiplierUpdate", "PeriodicRho", "ProgressRho",
    "Reals", "Simplex", "Solution", "Status", "Takes", "WassersteinBall", "__version__", "equality", "inequality",
    "solve",
]  # fmt: skip
