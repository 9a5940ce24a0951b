"""What the default solver remembers of every row between two evaluations: a row's own points, duals, L-BFGS pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.solvers.projected_lbfgs.certificates import FlatDomain
from constropt.solvers.projected_lbfgs.scaling import Layout, Scaling

# phases: what the next evaluation of a row is for
FRESH = 0  # the current point under new multipliers or a new rho (or the start): take it as it is
TRIAL = 1  # a point along the search direction: accept or shrink
CHECK = 2  # the current point once more, for the gradient of the violation: is the row infeasible?

NONMONOTONE = 10  # the merit may rise up to the largest of so many accepted values
PAIR_COSINE = 1e-10  # a pair whose cosine is below this has no curvature worth using


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class Pairs:
    """The last steps ``s`` and gradient differences ``y``, ``(memory, batch, n)``, newest first.

    Nocedal, Updating quasi-Newton matrices with limited storage, Math. Comp. 35 (1980). Every row holds its own, so
    that its direction depends on nothing but its own history. The first ``count`` ``(batch,)`` of a row are valid.
    """

    s: Tensor
    y: Tensor
    count: Tensor

    @classmethod
    def empty(cls, memory: int, x: Tensor) -> Pairs:
        """No pairs yet, for rows like ``x`` of shape ``(batch, n)``."""
        none = x.new_zeros(memory, *x.shape)
        return cls(none, none.clone(), torch.zeros(x.shape[0], dtype=torch.long, device=x.device))

    def push(self, s: Tensor, y: Tensor, rows: Tensor) -> Pairs:
        """With the pair ``(s, y)``, ``(batch, n)`` each, added for the given ``rows``; the oldest is dropped."""
        if not self.s.shape[0]:
            return self
        count = torch.where(rows, (self.count + 1).clamp_max(self.s.shape[0]), self.count)
        chosen, both = rows.view(1, -1, 1), ((s, self.s), (y, self.y))
        s, y = (torch.where(chosen, torch.cat([new.unsqueeze(0), old[:-1]]), old) for new, old in both)
        return Pairs(s, y, count)

    def clear(self, rows: Tensor) -> Pairs:
        """Without the pairs of the given ``rows``."""
        return Pairs(self.s, self.y, torch.where(rows, 0, self.count))

    def inverse_times(self, gradient: Tensor, free: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """``H g`` on the ``free`` variables by the two-loop recursion, and which rows had a usable pair.

        ``gradient`` is zero off ``free``; both ``(batch, n)``. Pairs are restricted to the free variables, and those
        without curvature there are passed over. ``most`` is a number of pairs that no row exceeds.
        """
        memory = min(self.s.shape[0], most)
        if not memory:
            return gradient, torch.zeros_like(gradient[:, 0], dtype=torch.bool)
        mask = free.to(gradient)
        s, y = self.s[:memory] * mask, self.y[:memory] * mask
        sy, yy = (s * y).sum(2), (y * y).sum(2)
        lengths = s.square().sum(2).sqrt() * yy.sqrt()
        age = torch.arange(memory, device=gradient.device).unsqueeze(1)
        use = (age < self.count) & (sy > PAIR_COSINE * lengths) & sy.isfinite() & yy.isfinite()
        inverse = torch.where(use, sy, 1).reciprocal().mul(use)

        q = gradient
        weights = []
        for i in range(memory):
            weight = (s[i] * q).sum(1) * inverse[i]
            q = q - weight.unsqueeze(1) * y[i]
            weights.append(weight)
        newest = use.to(torch.uint8).argmax(0, keepdim=True)
        scale = (torch.where(use, sy, 1) / torch.where(use, yy, 1)).gather(0, newest).squeeze(0)
        r = scale.unsqueeze(1) * q
        for i in reversed(range(memory)):
            weight = weights[i] - (y[i] * r).sum(1) * inverse[i]
            r = r + torch.where(use[i], weight, 0).unsqueeze(1) * s[i]
        return r, use.any(0)


@dataclass(frozen=True, eq=False)
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
