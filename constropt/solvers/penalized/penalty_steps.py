"""Primal steps whose state has one row per row of x, so that a row may start anew while the others go on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constropt.rows import per_row
from constropt.steps import Closure, PrimalStep, Prox


@dataclass(frozen=True)
class Adam(PrimalStep[tuple[Tensor, Tensor, Tensor]]):
    """Adam (Kingma & Ba, 2015): ``x <- prox(x - size m / (sqrt(v) + floor))``, m and v the moments without their bias.

    The powers that the bias is made of are kept in the state, ``(batch, 2)``, so that every row has its own count. The
    prox is taken in the plain metric.
    """

    momentum: float = 0.9
    smoothing: float = 0.999
    floor: float = 1e-8

    def init(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # in float64: 1 - 0.999 has three digits less than its dtype
        powers = torch.ones(x.shape[0], 2, dtype=torch.float64, device=x.device)
        return torch.zeros_like(x), torch.zeros_like(x), powers

    def update(
        self,
        gradient: Tensor,
        state: tuple[Tensor, Tensor, Tensor],
        x: Tensor,
        size: Tensor,
        prox: Prox,
        closure: Closure,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        m, v, powers = state
        m = torch.lerp(gradient, m, self.momentum)
        v = torch.lerp(gradient.square(), v, self.smoothing)
        # products, not powers of a count: those round differently from batch to batch
        powers = powers * powers.new_tensor([self.momentum, self.smoothing])
        first, second = (per_row(1 - power, x) for power in powers.unbind(1))
        scale = (v / second).sqrt_().add_(max(self.floor, torch.finfo(v.dtype).tiny))
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
        return torch.where(rows.view(-1, *[1] * (state.dim() - 1)), fresh, state)
    return state if state is None else tuple(restarted(rows, new, old) for new, old in zip(fresh, state))
