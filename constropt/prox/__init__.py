"""Exact projections and proximity operators, batched over rows."""

from constropt.prox.linf_norm import linf
from constropt.prox.norms import l0, l1, l2
from constropt.prox.projections import project_l1, project_l2, project_linf, project_simplex
from constropt.prox.two_thirds_norm import two_thirds

__all__ = ["l0", "l1", "l2", "linf", "project_l1", "project_l2", "project_linf", "project_simplex", "two_thirds"]
