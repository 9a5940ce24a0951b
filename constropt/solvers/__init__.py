"""General solvers of constrained problems, the loops and nothing else: families are folders, all are exported here."""

from constropt.solvers.alternating import Alternating
from constropt.solvers.balls.auto_projected_gradient import AutoProjectedGradient
from constropt.solvers.balls.projected_gradient import ProjectedGradient
from constropt.solvers.balls.square import SquareSearch
from constropt.solvers.balls.steepest_descent import SteepestDescent
from constropt.solvers.base import Loop, Method, Proposal, Run, Solver
from constropt.solvers.first_order import FirstOrder
from constropt.solvers.greedy import GreedyAccumulation
from constropt.solvers.level_sets.level_set import LevelSetProjection
from constropt.solvers.level_sets.minimum_norm import MinimumNorm
from constropt.solvers.level_sets.smoothed_l0 import SmoothedL0
from constropt.solvers.linearized.boundary_projection import BoundaryProjection
from constropt.solvers.linearized.boundary_walk import BoundaryWalk
from constropt.solvers.linearized.class_projection import NearestProjection
from constropt.solvers.linearized.linearized_projection import LinearizedProjection
from constropt.solvers.linearized.segment_search import SegmentSearch
from constropt.solvers.linearized.trust_region import TrustRegion
from constropt.solvers.penalized.penalty_search import PenaltySearch
from constropt.solvers.primal_dual import PrimalDual
from constropt.solvers.projected_lbfgs.solver import ProjectedLBFGS
from constropt.solvers.saliency import Saliency

__all__ = [
    "Alternating", "AutoProjectedGradient", "BoundaryProjection", "BoundaryWalk", "FirstOrder",
    "GreedyAccumulation", "LevelSetProjection", "LinearizedProjection", "Loop", "Method", "MinimumNorm",
    "NearestProjection", "PenaltySearch", "PrimalDual", "ProjectedGradient", "ProjectedLBFGS", "Proposal", "Run",
    "Saliency", "SegmentSearch", "SmoothedL0", "Solver", "SquareSearch", "SteepestDescent", "TrustRegion",
]  # fmt: skip
