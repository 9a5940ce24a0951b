"""General solvers of constrained problems: one file each, the loops and nothing else."""

from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.projected_lbfgs import ProjectedLBFGS

__all__ = ["ProjectedLBFGS", "Proposal", "Run", "Solver"]
