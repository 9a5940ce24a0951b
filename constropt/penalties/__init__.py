"""Penalty-Lagrangian functions P(y, rho, mu): ``get("PHR")``, ``names()``, and ``@penalty(name=...)`` for your own."""

from . import classical as classical
from . import families as families
from .base import Penalty, get, names, penalty

__all__ = ["Penalty", "get", "names", "penalty"]
