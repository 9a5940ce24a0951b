"""What a row must show before its outcome is believed: optimality, infeasibility, unboundedness.

All tensors are tables with one problem a row: ``x`` is ``(batch, n)`` in the user's units, gradients likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.domain import Domain
from constropt.solvers.projected_lbfgs.scaling import row_max


@dataclass(frozen=True, eq=False)
class FlatDomain:
    """A domain seen by tables ``(batch, n)``: the projection, and the sides where it is a box (else None)."""

    domain: Domain
    event: tuple[int, ...]
    dtype: torch.dtype
    lower: Tensor | None
    upper: Tensor | None

    @classmethod
    def of(cls, domain: Domain, x: Tensor) -> FlatDomain:
        """For variables like ``x`` of shape ``(batch, *event)``."""
        sides = domain.bounds(x)
        lower, upper = (None, None) if sides is None else (side.reshape(x.shape[0], -1) for side in sides)
        return cls(domain, tuple(x.shape[1:]), x.dtype, lower, upper)

    @property
    def box(self) -> bool:
        return self.lower is not None

    def shaped(self, table: Tensor) -> Tensor:
        """The table as variables ``(batch, *event)`` in the user's dtype."""
        return table.to(self.dtype).reshape(table.shape[0], *self.event)

    def project(self, table: Tensor) -> Tensor:
        """The nearest point of the domain, exactly as the problem sees it: in the user's dtype."""
        return self.domain.project(self.shaped(table)).reshape(table.shape).to(table)

    def free(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Which variables are not held at a bound by the gradient; all of them where the domain is no box."""
        if self.lower is None or self.upper is None:
            return torch.ones_like(x, dtype=torch.bool)
        return ~(((x <= self.lower) & (gradient > 0)) | ((x >= self.upper) & (gradient < 0)))

    def frank_wolfe_gap(self, x: Tensor, gradient: Tensor, reach: Tensor) -> Tensor:
        """``max <gradient, x - v>`` over v of the domain with ``|v - x| <= reach``, entry by entry: ``(batch,)``.

        The most that a linear model promises nearby: it measures in the function's own units what the length of a
        gradient, which changes with the scaling of the variables, cannot. Where the domain is no box, v is the far
        end of the projected gradient path.
        """
        if self.lower is None or self.upper is None:
            steepest = row_max(gradient).clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(1)
            length = 1e3 * reach.amax(1, keepdim=True) / steepest
            away = x - self.project(x - length.clamp_max(1e12) * gradient)
            return (torch.minimum(torch.maximum(away, -reach), reach) * gradient).sum(1).clamp_min(0)
        below = torch.minimum(x - self.lower, reach)
        above = torch.minimum(self.upper - x, reach)
        return (gradient.clamp_min(0) * below + (-gradient).clamp_min(0) * above).sum(1)


@dataclass(frozen=True, eq=False)
class KKTReport:
    """The five tests of a KKT point, ``(batch,)`` booleans each, and the length of the projected gradient.

    ``stationary``: ``||P(z - grad L) - z||_inf <= tol``; ``feasible``: violation in the user's units;
    ``complementary``: ``|e|`` and ``|max(h, -mu)|``; ``product``: ``sum |mu y| <= tol max(1, |g|)`` (``products``),
    which fails where the multipliers grow without limit; ``gap``: Frank-Wolfe gap of the Lagrangian
    ``<= 10 tol max(1, |g|)``, which fails where a small gradient is an artefact of scaling. To first order only: a
    saddle point passes all five.
    """

    projected_gradient: Tensor
    products: Tensor
    stationary: Tensor
    feasible: Tensor
    complementary: Tensor
    product: Tensor
    gap: Tensor

    @property
    def nearly(self) -> Tensor:
        """A point that meets the first three tests: an approximate KKT point."""
        return self.stationary & self.feasible & self.complementary

    @property
    def all(self) -> Tensor:
        return self.nearly & self.product & self.gap


def violation_measure(y: Tensor, mu: Tensor, inequalities: int) -> Tensor:
    """``(batch,)``: the largest ``|max(h, -mu)|`` of inequalities (the first columns) and ``|e|`` of equalities."""
    return row_max(torch.cat([torch.maximum(y[:, :inequalities], -mu[:, :inequalities]), y[:, inequalities:]], 1))


def infeasible_stationary(domain: FlatDomain, x: Tensor, gradient: Tensor, squares: Tensor, reach: Tensor) -> Tensor:
    """Whether a point minimises the violation to first order: ``phi = ||c_+||^2 / 2`` (``squares``), its ``gradient``.

    The linear model promises less than 1 % of phi within ``reach``: relative to phi, since the length of its gradient
    vanishes with the violation at feasible points too.
    """
    return (squares > 0) & (domain.frank_wolfe_gap(x, gradient, reach) <= 0.01 * squares)


def runs_away(objective: Tensor, start: Tensor, merit: Tensor, x: Tensor, x_start: Tensor) -> Tensor:
    """Rows whose objective, augmented Lagrangian (``merit``) or variable left every reasonable range."""
    scale = start.abs().clamp_min(1)
    return (objective < -1e10 * scale) | (merit < -1e12 * scale) | (row_max(x) > 1e10 * row_max(x_start).clamp_min(1))
