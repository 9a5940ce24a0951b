"""Constrained training problems that are not calibration, each a declaration on ``ConstrainedLoss``."""

from constropt.problems.objectives.rates import (
    DemographicParity,
    EqualOpportunity,
    NeymanPearson,
    binary_scores,
    straight_through,
)
from constropt.problems.objectives.region_size import RegionSize, size_bounds

__all__ = [
    "DemographicParity", "EqualOpportunity", "NeymanPearson", "RegionSize", "binary_scores", "size_bounds",
    "straight_through",
]  # fmt: skip
