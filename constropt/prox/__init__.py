"""Exact projections and proximity operators, batched over rows."""

from .linf_norm import linf
from .norms import l0, l1, l2, two_thirds
from .projections import project_l0, project_l1, project_l2, project_linf, project_simplex
from .terms import GroupSparsity, NormAround, Scaled, patches
from .wasserstein_ball import project_wasserstein

__all__ = [
    "GroupSparsity", "NormAround", "Scaled", "l0", "l1", "l2", "linf", "patches", "project_l0", "project_l1",
    "project_l2", "project_linf", "project_simplex", "project_wasserstein", "two_thirds",
]  # fmt: skip
