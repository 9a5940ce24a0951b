"""A box without its sides: ``x = middle + half tanh(w)`` with w unbounded (Carlini & Wagner, 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.domain import Domain

# x is shrunk by so much towards the middle before its w is taken: at the sides w is infinite.
_SHRINK = 1e-6


@dataclass(frozen=True)
class Tanh:
    """The change of variables on a finite box; w is float32 at least.

    >>> from constropt import Box
    >>> change = Tanh.on(Box(0.0, 1.0), torch.zeros(1, 2))
    >>> change.x(change.w(torch.tensor([[0.25, 1.0]]))).round(decimals=4)
    tensor([[0.2500, 1.0000]])
    """

    middle: Tensor
    half: Tensor
    domain: Domain
    dtype: torch.dtype

    @classmethod
    def on(cls, domain: Domain, x: Tensor) -> Tanh:
        """For points like ``x``; the domain must be a box with finite sides (:func:`is_finite_box`)."""
        bounds = domain.bounds(x)
        assert bounds is not None
        lower, upper = (side.to(torch.promote_types(x.dtype, torch.float32)) for side in bounds)
        return cls((lower + upper) / 2, (upper - lower) / 2, domain, x.dtype)

    def w(self, x: Tensor) -> Tensor:
        """Where ``x`` is in the new variable; 0 where the box is a point."""
        relative = (x.to(self.half) - self.middle) / self.half
        return torch.where(self.half > 0, relative.clamp(-1, 1) * (1 - _SHRINK), 0).atanh()

    def x(self, w: Tensor) -> Tensor:
        """The point of the box, in the dtype that x has."""
        return self.domain.project((self.middle + self.half * w.tanh()).to(self.dtype))

    def pull_back(self, gradient: Tensor, w: Tensor) -> Tensor:
        """The gradient in w from that in x."""
        return gradient.to(w) * self.half * (1 - w.tanh().square())


def is_finite_box(domain: Domain, x: Tensor) -> bool:
    """Whether the domain is a box, and all its sides are finite."""
    bounds = domain.bounds(x)
    return bounds is not None and bool(torch.stack(bounds).isfinite().all())
