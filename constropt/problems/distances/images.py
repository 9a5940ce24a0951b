"""Distances between images: what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.precision import at_least_float32
from constropt.problems.distances.norms import Distance


@dataclass(frozen=True, kw_only=True)
class ImageDistance(Distance):
    """A distance between images ``(batch, channels, height, width)``, whose bounds are taken to [0, 1] first.

    Subclass with :meth:`prepare`, and with :meth:`check` for images that it does not take. Half precision is computed
    in float32, autocast is off inside, and the result has the dtype of ``x``.
    """

    name: str = "image"

    def check(self, reference: Tensor) -> None:
        """Raise ``ValueError`` for images that the distance does not take."""

    def prepare(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        """``x -> (batch,)`` for images in [0, 1], in float32 or float64; called without gradients."""
        raise NotImplementedError  # abstract

    def bind(self, reference: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Callable[[Tensor], Tensor]:
        """``x -> (batch,)``, the distances to ``reference``, which is prepared here, once.

        Raises ``ValueError`` for what is no batch of images, or of images that the distance does not take.
        """
        if reference.dim() != 4 or not reference.is_floating_point():
            raise ValueError(
                f"distance: {self.name!r} takes floating point images (batch, channels, height, width), got"
                f" {reference.dtype} of shape {tuple(reference.shape)}"
            )
        self.check(reference)
        shape, kind = reference.shape, reference.device.type
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            measure = self.prepare(_unit(reference.detach(), bounds))

        def bound(x: Tensor) -> Tensor:
            if x.shape != shape:
                raise ValueError(
                    f"distance: {self.name!r} compares images of one shape, got {tuple(x.shape)} and {tuple(shape)}"
                )
            with torch.autocast(kind, enabled=False):
                return measure(_unit(x, bounds)).to(x.dtype)

        return bound


def root(t: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0 and below.

    >>> t = torch.zeros(1, requires_grad=True)
    >>> torch.autograd.grad(root(t), t)
    (tensor([0.]),)
    """
    positive = t > 0
    return torch.where(positive, torch.where(positive, t, 1.0).sqrt(), 0.0)


def _unit(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """x within ``bounds`` taken to [0, 1], in float32 at least."""
    x = at_least_float32(x)
    lower, upper = bounds
    return x if (lower, upper) == (0, 1) else (x - lower) / (upper - lower)
