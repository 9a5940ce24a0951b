"""Distances between a batch and its reference: per-row values whose gradients stay finite at equality."""

from constropt.problems.distances.norms import L0, L1, L2, Distance, Linf, Norm, as_distance

__all__ = ["L0", "L1", "L2", "Distance", "Linf", "Norm", "as_distance"]
