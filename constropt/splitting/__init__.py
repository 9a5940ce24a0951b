"""Batched splitting solvers: composite convex problems, every row of ``(batch, *event)`` a problem of its own."""

from constropt.splitting.alternating import admm, douglas_rachford
from constropt.splitting.dual import accelerated_dual_forward_backward, dual_forward_backward
from constropt.splitting.linear import LinearMap, operator_norm
from constropt.splitting.loop import SplittingResult
from constropt.splitting.operators import conjugate, with_distance
from constropt.splitting.primal_dual import chambolle_pock, condat_vu
from constropt.splitting.proximal_gradient import fista, forward_backward
from constropt.splitting.smooth import Backtracking, Smooth
from constropt.splitting.variable_metric import RMS, variable_metric_forward_backward

__all__ = [
    "RMS", "Backtracking", "LinearMap", "Smooth", "SplittingResult", "accelerated_dual_forward_backward", "admm",
    "chambolle_pock", "condat_vu", "conjugate", "douglas_rachford", "dual_forward_backward", "fista",
    "forward_backward", "operator_norm", "variable_metric_forward_backward", "with_distance",
]  # fmt: skip
