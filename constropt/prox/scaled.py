"""A nonsmooth term times a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class _Proximable(Protocol):
    def __call__(self, x: Tensor) -> Tensor: ...

    def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Scaled:
    """``weight r(x)``: r's value times ``weight``, and r's prox for a step so many times as long.

    ``ValueError`` for a weight that is not >= 0.

    >>> import torch
    >>> from constropt.prox.norms import NormAround
    >>> term = Scaled(NormAround("l1", torch.zeros(1, 2), -1.0, 1.0), 0.5)
    >>> term(torch.tensor([[0.5, -0.5]])), term.prox(torch.tensor([[0.75, 2.0]]), 1.0)
    (tensor([0.5000]), tensor([[0.2500, 1.0000]]))
    """

    term: _Proximable
    weight: float

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight: must be >= 0, got {self.weight}")

    def __call__(self, x: Tensor) -> Tensor:
        return self.weight * self.term(x)

    def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor:
        return self.term.prox(x, self.weight * step, metric)
