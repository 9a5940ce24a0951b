"""The lp norms of ``x - reference``, and what makes any callable a distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distance:
    """``measure(x, reference) -> (batch,)``, in its own units; 0 at equality.

    ``first_step`` is the increase of the first step of ALMA (Table III-1), about a tenth of the distances expected.
    """

    name: str
    measure: Callable[[Tensor, Tensor], Tensor]
    first_step: float = 0.1

    def __call__(self, x: Tensor, reference: Tensor) -> Tensor:
        return self.measure(x, reference)


@dataclass(frozen=True, init=False)
class Norm(Distance):
    """``||x - reference||_p`` of each row, in the units of the input; the gradient at equality is 0.

    >>> L2(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor([5.])
    """

    p: float

    def __init__(self, p: float, name: str, first_step: float) -> None:
        object.__setattr__(self, "p", p)
        super().__init__(name, self._norm, first_step)

    def _norm(self, x: Tensor, reference: Tensor) -> Tensor:
        return torch.linalg.vector_norm((x - reference).flatten(1), ord=self.p, dim=1)


L0 = Norm(0.0, "l0", 5.0)
L1 = Norm(1.0, "l1", 0.5)
L2 = Norm(2.0, "l2", 0.1)
Linf = Norm(torch.inf, "linf", 0.01)

_BY_NAME = {norm.name: norm for norm in (L0, L1, L2, Linf)}

DistanceLike = str | Distance | Callable[[Tensor, Tensor], Tensor]


def as_distance(distance: DistanceLike, allowed: tuple[str, ...] | None = None) -> Distance:
    """A name, a :class:`Distance` or a callable ``(x, reference) -> (batch,)`` as a :class:`Distance`.

    ``allowed`` restricts the names. Raises ``ValueError`` for an unknown name, listing the known ones, ``TypeError`` otherwise.

    >>> as_distance("l1").first_step
    0.5
    """
    if isinstance(distance, Distance) and (allowed is None or distance.name in allowed):
        return distance
    if isinstance(distance, (str, Distance)):
        name = distance if isinstance(distance, str) else distance.name
        known = [known for known in _BY_NAME if allowed is None or known in allowed]
        if name not in known:
            raise ValueError(f"distance: takes one of {known} here, got {name!r}")
        return _BY_NAME[name]
    if callable(distance) and allowed is None:
        return Distance(getattr(distance, "__name__", type(distance).__name__), distance)
    raise TypeError(
        f"distance: takes {'a name, a Distance or a callable (x, reference) -> (batch,)' if allowed is None else f'one of {list(allowed)}'}, got {type(distance).__name__}"
    )
