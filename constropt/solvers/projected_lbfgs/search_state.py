"""What the default solver remembers of every row between two evaluations."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from constropt.rows import beside
from constropt.solvers.projected_lbfgs.certificates import FlatDomain
from constropt.solvers.projected_lbfgs.lbfgs_direction import Pairs
from constropt.solvers.projected_lbfgs.scaling import Layout, Scaling

# phases: what the next evaluation of a row is for
FRESH = 0  # the current point under new multipliers or a new rho (or the start): take it as it is
TRIAL = 1  # a point along the search direction: accept or shrink
CHECK = 2  # the current point once more, for the gradient of the violation: is the row infeasible?

NONMONOTONE = 10  # the merit may rise up to the largest of so many accepted values


@dataclass(frozen=True)
class Visited:
    """An evaluated point of every row.

    ``x`` ``(batch, n)`` and ``objective``, ``violation`` ``(batch,)`` are in the user's units; ``y`` and ``candidate``
    ``(batch, m)`` in those of the scaled problem. ``merit`` ``(batch,)`` is the scaled augmented Lagrangian,
    ``gradient`` ``(batch, n)`` its gradient in ``x``: that of the Lagrangian with the candidates as multipliers too.
    """

    x: Tensor
    objective: Tensor
    violation: Tensor
    y: Tensor
    candidate: Tensor
    merit: Tensor
    gradient: Tensor

    def take(self, rows: Tensor, other: Visited) -> Visited:
        """This, with the given ``rows`` from ``other``."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Visited(*(torch.where(beside(rows, old), new, old) for old, new in pairs))


@dataclass(frozen=True)
class SearchState:
    """The solver's state; every tensor has one entry or row per problem.

    ``mu`` ``(batch, m)``, ``rho`` ``(batch,)``: scaled duals. ``direction`` ``(batch, n)`` and ``slope`` are in the
    user's x, ``alpha`` is the step along it, ``spectral`` says which kind it is; ``spectral_step`` is the
    Barzilai-Borwein length (0: not known yet). ``merits`` ``(NONMONOTONE, batch)`` are the last accepted values.
    ``inner_tolerance``, ``inner`` and ``outer`` belong to the nested loops that the phases unroll, ``measure`` is the
    violation measure of the last outer iteration, ``products`` its ``sum |mu y|`` and ``anchor`` its point.
    ``futile`` counts consecutive outer iterations that no longer bring the products down, ``approached`` tells that
    one ended at an approximate KKT point. ``probed``: a start that already passes as a solution has been tested for
    being a plateau (0: not yet, 1: the test is under way, 2: done). ``strikes`` counts consecutive signs of
    infeasibility, ``restarts`` and ``returns`` what was tried against it and against running away. The duals of rows
    that are ``done`` change no more.
    """

    layout: Layout
    domain: FlatDomain
    scaling: Scaling
    mu: Tensor
    rho: Tensor
    first_rho: Tensor
    current: Visited
    start: Visited
    phase: Tensor
    direction: Tensor
    slope: Tensor
    alpha: Tensor
    spectral: Tensor
    spectral_step: Tensor
    merits: Tensor
    pairs: Pairs
    inner_tolerance: Tensor
    inner: Tensor
    outer: Tensor
    measure: Tensor
    products: Tensor
    approached: Tensor
    futile: Tensor
    anchor: Tensor
    second: Tensor
    strikes: Tensor
    probed: Tensor
    restarts: Tensor
    returns: Tensor
    done: Tensor
