"""What a distance is, those of the lp family, and what distances between images have in common."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import got
from constropt.precision import at_least_float32


@dataclass(frozen=True)
class Distance:
    """``measure(x, reference) -> (batch,)``, in its own units; 0 at equality.

    A callable ``distance(x, reference)``; ``distance.bind(reference)`` is the same for one reference, which is then
    prepared once: that is what a problem evaluates at every step. Subclasses that have something to prepare override
    :meth:`bind` and need no ``measure``. ``first_step`` is the increase of the first step of ALMA (Table III-1), about
    a tenth of the distances expected; ``smooth`` is false without a gradient. Raises ``TypeError`` without a measure.

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
        """As of any distance; ``ValueError`` for what is no batch of images, or of some that the distance refuses."""
        if reference.dim() != 4 or not reference.is_floating_point():
            takes = "floating point images (batch, channels, height, width)"
            raise ValueError(f"distance: {self.name!r} takes {takes}, got {got(reference)}")
        self.check(reference)
        shape, kind = reference.shape, reference.device.type
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            measure = self.prepare(_unit(reference.detach(), bounds))

        def bound(x: Tensor) -> Tensor:
            if x.shape != shape:
                shapes = f"{tuple(x.shape)} and {tuple(shape)}"
                raise ValueError(f"distance: {self.name!r} compares images of one shape, got {shapes}")
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
