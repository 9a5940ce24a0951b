"""Exact projections and proximity operators, batched over rows."""

from constropt.prox.projections import project_l1, project_l2, project_linf, project_simplex

__all__ = ["project_l1", "project_l2", "project_linf", "project_simplex"]
