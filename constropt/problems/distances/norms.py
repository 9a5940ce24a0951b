"""What a distance is, and those of the lp family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distance:
    """``measure(x, reference) -> (batch,)``, in its own units; 0 at equality.

    A callable ``distance(x, reference)``; ``distance.bind(reference)`` is the same for one reference, which is then
    prepared once: that is what a problem evaluates at every step. Subclasses that have something to prepare override
    :meth:`bind` and need no ``measure``. ``first_step`` is the increase of the first step of ALMA (Table III-1), about
    a tenth of the distances expected; ``smooth`` is false for one without a gradient, such as a count.

    Raises ``TypeError`` without a measure.

    >>> half = Distance("half l1", lambda x, reference: (x - reference).abs().flatten(1).sum(1) / 2)
    >>> half(torch.ones(1, 4), torch.zeros(1, 4)), half.bind(torch.zeros(1, 4))(torch.ones(1, 4))
    (tensor([2.]), tensor([2.]))
    """

    name: str
    measure: Callable[[Tensor, Tensor], Tensor] | None = None
    first_step: float = 0.1
    smooth: bool = True

    def __post_init__(self) -> None:
        if not callable(self.measure) and type(self).bind is Distance.bind:
            raise TypeError(f"measure: takes a callable (x, reference) -> (batch,), got {type(self.measure).__name__}")

    def bind(self, reference: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Callable[[Tensor], Tensor]:
        """``x -> (batch,)``, the distances to ``reference``, whose entries lie within ``bounds``."""
        measure = self.measure
        assert measure is not None
        return lambda x: measure(x, reference)

    def __call__(self, x: Tensor, reference: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
        return self.bind(reference, bounds)(x)


@dataclass(frozen=True, init=False)
class Norm(Distance):
    """``||x - reference||_p`` of each row, in the units of the input; the gradient at equality is 0.

    ``p = 0`` counts the entries that differ, and has no gradient.

    >>> L2(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor([5.])
    """

    p: float

    def __init__(self, p: float, name: str, first_step: float) -> None:
        object.__setattr__(self, "p", p)
        super().__init__(name, self._norm, first_step, smooth=p > 0)

    def _norm(self, x: Tensor, reference: Tensor) -> Tensor:
        return torch.linalg.vector_norm((x - reference).flatten(1), ord=self.p, dim=1)


def changed_pixels(x: Tensor, reference: Tensor) -> Tensor:
    """``(batch,)``: in how many pixels of ``(batch, channels, *pixels)`` any channel differs. It has no gradient.

    >>> changed_pixels(torch.tensor([[[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]]), torch.zeros(1, 2, 3))
    tensor([2.])
    """
    if x.dim() < 3:
        raise ValueError(f"l0_pixels: takes images (batch, channels, *pixels), got shape {tuple(x.shape)}; use 'l0'")
    return torch.linalg.vector_norm((x - reference).abs().amax(1).flatten(1), ord=0, dim=1)


L0 = Norm(0.0, "l0", 5.0)
L0_PIXELS = Distance("l0_pixels", changed_pixels, 5.0, smooth=False)
L1 = Norm(1.0, "l1", 0.5)
L2 = Norm(2.0, "l2", 0.1)
Linf = Norm(torch.inf, "linf", 0.01)

DistanceLike = str | Distance | Callable[[Tensor, Tensor], Tensor]
