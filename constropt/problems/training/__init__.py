"""Constrained training problems that are not calibration, each a declaration on ``ConstrainedLoss``."""

from constropt.problems.training.fairness import DemographicParity, EqualOpportunity
from constropt.problems.training.neyman_pearson import NeymanPearson
from constropt.problems.training.rates import binary_scores, straight_through
from constropt.problems.training.region_size import RegionSize, size_bounds

__all__ = [
    "DemographicParity",
    "EqualOpportunity",
    "NeymanPearson",
    "RegionSize",
    "binary_scores",
    "size_bounds",
    "straight_through",
]
