"""The entropic 1-Wasserstein distance between images as masses on the pixel grid."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from constropt.checks import require_whole
from constropt.problems.distances.base import ImageDistance


@dataclass(frozen=True, kw_only=True)
class Wasserstein(ImageDistance):
    """What it costs to move the mass of one image onto that of the other, in pixels: mass 1, cost C = |di| + |dj|.

    An image less its lower bound, divided by its sum, is a mass on the grid; a black image is uniform. So brightness
    does not count. ``per_channel``: the mean of the channels' distances; False: the distance of the sums over channels.

    Since C is a metric, mass that a and b have in common need not move: with p and q the positive and negative parts
    of a - b and t the mass of each, the distance is

        t min_P <P, C> + eps KL(P | p q^T / t^2)   over the plans P between p / t and q / t     (Cuturi, 2013).

    It is 0 at equality and exceeds the exact distance by t eps log(pixels) at most, eps being the ``regularization`` in
    pixels. On a and b themselves the iterations would need 1 / eps over the relative change, the more the nearer the
    images are. C is a sum over rows and columns, so exp(-C / eps) is a product, and one of the ``iterations`` takes
    time linear in the pixels; they run on logarithms, while eps falls to its value from the size of the image. With
    the default, values are within about 8 % of the exact ones, and symmetric to as much. The gradient is that of the
    dual, the potentials held (envelope theorem).

    >>> x = torch.zeros(1, 1, 3, 3)
    >>> x[0, 0, 0, 0] = 1
    >>> round(Wasserstein()(x, x.roll(2, 3)).item(), 3), Wasserstein()(x, x).item()
    (2.0, 0.0)
    """

    name: str = "wasserstein"
    first_step: float = 1e-3
    regularization: float = 0.05
    iterations: int = 60
    per_channel: bool = True

    def __post_init__(self) -> None:
        if not self.regularization > 0:
            raise ValueError(f"regularization: takes pixels > 0, got {self.regularization!r}; 0.05 is nearly exact")
        require_whole(iterations=self.iterations)

    def prepare(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        b = self._masses(reference)

        def measure(x: Tensor) -> Tensor:
            change = self._masses(x) - b
            # relu has slope 0 at 0: pixels of equal mass have no say
            p, q = change.relu(), (-change).relu()
            with torch.no_grad():
                f, g = self._potentials(p, q)
            cost = (p * f + q * g).flatten(2).sum(2)
            return cost.clamp_min(0).mean(1)

        return measure

    def _masses(self, x: Tensor) -> Tensor:
        """``(batch, channels or 1, height, width)``, of sum 1 each."""
        x = (x if self.per_channel else x.sum(1, keepdim=True)).clamp_min(0)
        total = x.sum((2, 3), keepdim=True)
        lit = total > 0
        return torch.where(lit, x / torch.where(lit, total, 1.0), 1.0 / x[0, 0].numel())

    def _potentials(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """The dual potentials at every pixel, on p and on q; in float64, for the range of its exponents."""
        log_p, log_q = _log_shares(p.double()), _log_shares(q.double())
        f = g = torch.zeros_like(log_p)
        start = max(float(sum(p.shape[-2:])), self.regularization)
        for index in range(1, self.iterations + 1):
            fraction = index / self.iterations
            eps = start ** (1 - fraction) * self.regularization**fraction
            f = _soft_minimum(g, log_q, eps)
            g = _soft_minimum(f, log_p, eps)
        return f.to(p), g.to(p)


def _log_shares(mass: Tensor) -> Tensor:
    """The logarithm of each pixel's share of its image's mass; equal shares where there is none."""
    total = mass.sum((2, 3), keepdim=True)
    return torch.where(total > 0, mass, 1.0).log() - torch.where(total > 0, total, mass[0, 0].numel()).log()


def _soft_minimum(potential: Tensor, log_mass: Tensor, eps: float) -> Tensor:
    """-eps log sum over pixels j of mass_j exp((potential_j - |i - j|_1) / eps), at every pixel i."""
    return -eps * _spread(_spread(potential / eps + log_mass, 1 / eps).mT, 1 / eps).mT


def _spread(h: Tensor, rate: float) -> Tensor:
    """log sum_j exp(h_j - rate |i - j|) along the last dimension.

    A matrix product while the least number of float64 leaves something of the largest h at every i; else, in double
    the time and more, the cumulative sums up to i and from i + 1 on.
    """
    places = torch.arange(h.shape[-1], dtype=h.dtype, device=h.device)
    if rate * (h.shape[-1] - 1) < 700:
        kernel = torch.exp(-rate * (places - places.unsqueeze(1)).abs())
        largest = h.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
        return ((h - largest).exp() @ kernel).log() + largest
    slope = rate * places
    below = (h + slope).logcumsumexp(-1) - slope
    above = (h - slope).flip(-1).logcumsumexp(-1).flip(-1) + slope
    return torch.logaddexp(below, functional.pad(above[..., 1:] - rate, (0, 1), value=-torch.inf))
