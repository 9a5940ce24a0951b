"""Distances between a batch and its reference: per-row values whose gradients stay finite at equality."""

from constropt.problems.distances.color import CIEDE2000, ciede2000, srgb_to_lab
from constropt.problems.distances.lpips import LPIPS
from constropt.problems.distances.measures import (
    L0,
    L0_PIXELS,
    L1,
    L2,
    Distance,
    DistanceLike,
    ImageDistance,
    Linf,
    Norm,
)
from constropt.problems.distances.registry import UnsupportedDistance, as_distance, names, with_gradient
from constropt.problems.distances.ssim import MSSSIM, SSIM
from constropt.problems.distances.wasserstein import Wasserstein

__all__ = [
    "CIEDE2000", "Distance", "DistanceLike", "ImageDistance", "L0", "L0_PIXELS", "L1", "L2", "LPIPS", "Linf",
    "MSSSIM", "Norm", "SSIM", "UnsupportedDistance", "Wasserstein", "as_distance", "ciede2000", "names",
    "srgb_to_lab", "with_gradient",
]  # fmt: skip
