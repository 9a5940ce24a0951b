"""Linear maps L of rows, their adjoints by automatic differentiation where not given, and their norms."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from constropt.checks import got

from .loop import row_norm, spread
from .terms import Function, Step, checked, positive

# Power iterations, and the margin for what they may still lack: they approach the norm from below.
_ITERATIONS = 100
_MARGIN = 1.02
_ADJOINT_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class LinearMap:
    """``Lx`` and, if it is known, its adjoint ``L*u``; otherwise one backward pass through ``forward`` computes it.

    ``forward``: ``(batch, *event) -> (batch, *image)``, linear in x and row by row; ``adjoint`` the way back.

    >>> difference = LinearMap(lambda x: x.diff(dim=1))
    >>> difference.transpose(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 3))
    tensor([[-1.,  1.,  0.]])
    """

    forward: Function
    adjoint: Function | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def transpose(self, u: Tensor, x: Tensor) -> Tensor:
        """``L*u``, of the shape of ``x``."""
        if self.adjoint is not None:
            return checked("linear.adjoint", self.adjoint(u), x)
        with torch.enable_grad():
            zero = torch.zeros_like(x, requires_grad=True)
            return torch.autograd.grad(self.forward(zero), zero, u)[0]


Linear = LinearMap | Function | None  # what the solvers take; None is the identity


def as_linear(linear: Linear, x: Tensor) -> LinearMap | None:
    """The map, checked on random rows like x: it has to return rows, and its adjoint has to be one.

    Raises ``TypeError`` for what is no map and ``ValueError`` for a wrong image or adjoint.
    """
    if linear is None:
        return None
    if not callable(linear):
        raise TypeError(f"linear: takes a LinearMap, a callable or None for the identity, got {got(linear)}")
    if not isinstance(linear, LinearMap):
        linear = LinearMap(linear)
    probe = _random(x)
    image = linear(probe)
    if not isinstance(image, Tensor) or image.dim() < 2 or image.shape[0] != x.shape[0] or image.dtype != x.dtype:
        wanted = f"must map rows to rows, {x.dtype} (batch, ...) with batch {x.shape[0]}"
        raise ValueError(f"linear: {wanted}, got {got(image)}")
    if linear.adjoint is not None:
        u = _random(image)
        forth, back = image * u, probe * linear.transpose(u, x)
        gap = (forth.flatten(1).sum(1) - back.flatten(1).sum(1)).abs()
        if bool((gap > _ADJOINT_TOLERANCE * row_norm(image) * row_norm(u)).any()):
            raise ValueError("linear.adjoint: <Lx, u> and <x, L*u> differ; leave it out to have it computed")
    return linear


def operator_norm(linear: LinearMap, x: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """``||L||`` of each row's map, ``(batch,)``, by power iteration on L*L from a fixed start: a bound from below.

    ``x`` gives shape, dtype and device only. The estimate lacks about ``log(n) / iterations`` at worst, relatively
    (Kuczynski & Wozniakowski 1992), and far less where the largest singular values are apart.

    >>> operator_norm(LinearMap(lambda x: 3 * x), torch.zeros(1, 2))
    tensor([3.])
    """
    v = _random(x)
    squared = torch.ones(x.shape[0], dtype=x.dtype, device=x.device)
    for _ in range(iterations):
        v = v / spread(row_norm(v).to(v).clamp_min(torch.finfo(v.dtype).tiny), v)
        v = linear.transpose(linear(v), x)
        squared = row_norm(v).to(v)
    return squared.sqrt()


class NormBounds(NamedTuple):
    """``||L||``, ``(batch, 1, ...)``: from above, to choose steps by, and from below, to refuse steps by."""

    above: Tensor
    below: Tensor


def norm_of(linear: LinearMap | None, norm: Step | None, x: Tensor) -> NormBounds:
    """The norm given, 1 for the identity, else an estimate and its margin; where a map is 0, 1 from above."""
    if norm is not None or linear is None:
        known = positive("norm", 1.0 if norm is None else norm, x)
        return NormBounds(known, known)
    estimate = spread(operator_norm(linear, x), x)
    return NormBounds(torch.where(estimate == 0, 1, _MARGIN * estimate), estimate)


def _random(x: Tensor) -> Tensor:
    """Normal numbers in the shape of x, the same for every row: a row must not depend on its place in the batch."""
    event = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return event.to(x).expand_as(x)
