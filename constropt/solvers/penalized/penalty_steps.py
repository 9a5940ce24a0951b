"""Primal steps whose state has one row per row of x, so that a row may start anew while the others go on; and a box
without its sides: ``x = middle + half tanh(w)`` with w unbounded (Carlini & Wagner, 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constropt.domain import Domain
from constropt.precision import least
from constropt.rows import beside, per_row
from constropt.steps import Closure, PrimalStep, Prox

# x is shrunk by so much towards the middle before its w is taken: at the sides w is infinite.
_SHRINK = 1e-6
Moments = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Adam(PrimalStep[Moments]):
    """Adam (Kingma & Ba, 2015): ``x <- prox(x - size m / (sqrt(v) + floor))``, m and v the moments without their bias.

    The powers that the bias is made of are kept in the state, ``(batch, 2)``, so that every row has its own count. The
    prox is taken in the plain metric.
    """

    momentum: float = 0.9
    smoothing: float = 0.999
    floor: float = 1e-8

    def init(self, x: Tensor) -> Moments:
        # in float64: 1 - 0.999 has three digits less than its dtype
        powers = torch.ones(x.shape[0], 2, dtype=torch.float64, device=x.device)
        return torch.zeros_like(x), torch.zeros_like(x), powers

    def update(
        self, gradient: Tensor, state: Moments, x: Tensor, size: Tensor, prox: Prox, closure: Closure
    ) -> tuple[Tensor, Moments]:
        m, v, powers = state
        m = torch.lerp(gradient, m, self.momentum)
        v = torch.lerp(gradient.square(), v, self.smoothing)
        # products, not powers of a count: those round differently from batch to batch
        powers = powers * powers.new_tensor([self.momentum, self.smoothing])
        first, second = (per_row(1 - power, x) for power in powers.unbind(1))
        scale = (v / second).sqrt_().add_(least(self.floor, v))
        return prox(x - size / first * m / scale, size, None), (m, v, powers)


@dataclass(frozen=True)
class ShrinkageThresholding(PrimalStep[tuple[Tensor, Tensor]]):
    """Proximal gradient, ISTA or (``accelerated``) FISTA (Beck & Teboulle, 2009): ``p = prox(x - size g)``, and next
    ``x = p + k / (k + 3) (p - p_previous)``, where the next gradient is taken.

    ``threshold``: the step of the prox in place of ``size``: 1 thresholds by the weight of the nonsmooth term itself,
    however short the step is.
    """

    accelerated: bool = True
    threshold: float | None = None

    def init(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.clone(), torch.zeros_like(x[(slice(None), *[0] * (x.dim() - 1))])

    def update(
        self, gradient: Tensor, state: tuple[Tensor, Tensor], x: Tensor, size: Tensor, prox: Prox, closure: Closure
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        previous, count = state
        step = size if self.threshold is None else torch.full_like(size, self.threshold)
        p = prox(x - size * gradient, step, None)
        if not self.accelerated:
            return p, (p, count)
        return p + per_row(count / (count + 3), x) * (p - previous), (p, count + 1)


def has_rows(state: Any, rows: int) -> bool:
    """Whether a step's state is made of tensors with one row per row of x, and of nothing else."""
    if isinstance(state, Tensor):
        return state.dim() > 0 and state.shape[0] == rows
    return state is None or (isinstance(state, tuple) and all(has_rows(part, rows) for part in state))


def restarted(rows: Tensor, fresh: Any, state: Any) -> Any:
    """The state with the ``rows``, ``(batch,)``, of a ``fresh`` one; both are such that :func:`has_rows`."""
    if isinstance(state, Tensor):
        return torch.where(beside(rows, state), fresh, state)
    return state if state is None else tuple(restarted(rows, new, old) for new, old in zip(fresh, state))


@dataclass(frozen=True, eq=False)
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
        """For points like ``x``; the domain must be a box with finite sides."""
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
