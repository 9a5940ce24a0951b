"""Batched splitting solvers: composite convex problems, every row of ``(batch, *event)`` a problem of its own."""

from .alternating import admm, douglas_rachford
from .linear import LinearMap, operator_norm
from .loop import SplittingResult
from .primal_dual import accelerated_dual_forward_backward, chambolle_pock, condat_vu, dual_forward_backward
from .proximal_gradient import RMS, Backtracking, fista, forward_backward, variable_metric_forward_backward
from .terms import Smooth, conjugate, with_distance

__all__ = [
    "RMS", "Backtracking", "LinearMap", "Smooth", "SplittingResult", "accelerated_dual_forward_backward", "admm",
    "chambolle_pock", "condat_vu", "conjugate", "douglas_rachford", "dual_forward_backward", "fista",
    "forward_backward", "operator_norm", "variable_metric_forward_backward", "with_distance",
]  # fmt: skip
