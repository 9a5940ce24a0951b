"""1 - SSIM (Wang, Bovik, Sheikh & Simoncelli, 2004) and 1 - MS-SSIM (Wang, Simoncelli & Bovik, 2003)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from constropt.checks import require_positive, require_whole
from constropt.problems.distances.base import ImageDistance

# Wang, Simoncelli & Bovik (2003), Sec. 3.2: the exponents of scales 1 to 5.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@dataclass(frozen=True, kw_only=True)
class SSIM(ImageDistance):
    """1 - SSIM, in [0, 2]: the mean over windows and channels of 1 - l c, with

        1 - l = (m1 - m2)^2 / (m1^2 + m2^2 + C1),   1 - c = var(x - reference) / (var1 + var2 + C2),

    m and var the means and variances under a Gaussian window of ``window`` pixels a side that lies wholly in the
    image, C = (k L)^2, L the range of the bounds. Written in x - reference as it is here, nothing cancels: in float32,
    distances of 1e-10 are still right (1 minus a similarity is lost below 1e-7), and value and gradient are 0 at
    equality. Color images: the mean over the channels (Sec. III.7).

    ``window`` must be odd. Raises ``ValueError`` for images smaller than it: another window is another measure.

    >>> x = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
    >>> SSIM()(x, x).item(), round(SSIM()(x, 0.5 * x).item(), 4)
    (0.0, 0.3479)
    """

    name: str = "ssim"
    first_step: float = 3e-5
    window: int = 11
    sigma: float = 1.5
    k1: float = 0.01
    k2: float = 0.03

    def __post_init__(self) -> None:
        require_whole(3, window=self.window)
        if not self.window % 2:
            raise ValueError(f"window: takes an odd number of pixels >= 3, got {self.window!r}")
        require_positive(sigma=self.sigma, k1=self.k1, k2=self.k2)

    def check(self, reference: Tensor) -> None:
        side = min(reference.shape[2:])
        if side < self.window:
            largest = side - 1 + side % 2
            cure = f"; pass SSIM(window={largest}), or a smaller odd one" if largest >= 3 else ""
            takes = f"images of at least {self.window} pixels a side (its window)"
            raise ValueError(f"distance: {self.name!r} takes {takes}, got {tuple(reference.shape[2:])}{cure}")

    def prepare(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        differences = self.differences(reference)

        def measure(x: Tensor) -> Tensor:
            luminance, contrast = differences(x - reference)
            return (luminance + contrast - luminance * contrast).mean((1, 2, 3))

        return measure

    def differences(self, reference: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """``delta -> (1 - l, 1 - c)`` at reference + delta, each ``(batch, channels, height', width')``."""
        channels = reference.shape[1]
        offsets = torch.arange(self.window, dtype=torch.float64) - self.window // 2
        kernel = (-(offsets**2) / (2 * self.sigma**2)).softmax(0).to(reference)
        columns = kernel.view(1, 1, -1, 1).repeat(3 * channels, 1, 1, 1)

        def blur(maps: Tensor) -> Tensor:
            weight = columns[: (groups := maps.shape[1])]
            return functional.conv2d(functional.conv2d(maps, weight, groups=groups), weight.mT, groups=groups)

        # a variance does not see an offset, but its rounding errors do
        centered = reference - 0.5
        mean = blur(reference)
        offset = blur(centered)
        variance = (blur(centered.square()) - offset.square()).clamp_min(0)

        def measure(delta: Tensor) -> tuple[Tensor, Tensor]:
            stacked = torch.cat([delta, delta.square(), delta * centered], 1)
            shift, square, product = blur(stacked).chunk(3, 1)
            spread = (square - shift.square()).clamp_min(0)
            both = (2 * variance + 2 * (product - shift * offset) + spread).clamp_min(0)
            luminance = shift.square() / (mean.square() + (mean + shift).square() + self.k1**2)
            return luminance, spread / (both + self.k2**2)

        return measure


@dataclass(frozen=True, kw_only=True)
class MSSSIM(SSIM):
    """1 - MS-SSIM, in [0, 1]: 1 - (l_M c_M)^(w_M) prod_{j < M} c_j^(w_j) of means over windows, averaged over channels.

    Scale j + 1 is scale j averaged over 2x2 pixels; l counts at the last scale only. With fewer than five ``scales``
    the first weights are taken, scaled to sum 1. A channel of which a mean is negative (its structure inverted) is at
    distance 1, without gradient. ``ValueError`` for images whose last scale is below the window: 5 take 176 pixels.

    >>> x = torch.linspace(0, 1, 1024).reshape(1, 1, 32, 32)
    >>> round(MSSSIM(scales=2)(x, 0.5 * x).item(), 4)
    0.324
    """

    name: str = "ms_ssim"
    scales: int = len(SCALE_WEIGHTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(scales=self.scales)
        if self.scales > len(SCALE_WEIGHTS):
            raise ValueError(f"scales: takes a whole number from 1 to {len(SCALE_WEIGHTS)}, got {self.scales!r}")

    def check(self, reference: Tensor) -> None:
        side = min(reference.shape[2:])
        fitting = [scales for scales in range(1, 6) if side >> (scales - 1) >= self.window]
        if self.scales not in fitting:
            cure = f"pass MSSSIM(scales={fitting[-1]})" if fitting else f"the window of {self.window} is too large"
            takes = f"{self.scales} scales takes images of at least {self.window << (self.scales - 1)} pixels a side"
            raise ValueError(f"distance: {self.name!r} with {takes}, got {tuple(reference.shape[2:])}; {cure}")

    def prepare(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        weights = torch.tensor(SCALE_WEIGHTS[: self.scales], dtype=torch.float64)
        weights = (weights / weights.sum()).to(reference).view(-1, 1, 1)
        pyramid = [reference]
        for _ in range(self.scales - 1):
            pyramid.append(functional.avg_pool2d(pyramid[-1], 2))
        levels = [self.differences(level) for level in pyramid]

        def measure(x: Tensor) -> Tensor:
            delta, lost = x - reference, []
            for scale, differences in enumerate(levels):
                luminance, contrast = differences(delta)
                if scale == self.scales - 1:
                    contrast = luminance + contrast - luminance * contrast
                else:
                    delta = functional.avg_pool2d(delta, 2)
                lost.append(contrast.mean((2, 3)))
            loss = torch.stack(lost)
            inverted = (loss >= 1).any(0)
            # 1 - prod (1 - d)^w without the cancellation
            product = -torch.expm1((weights * torch.log1p(-loss.masked_fill(loss >= 1, 0.0))).sum(0))
            return product.masked_fill(inverted, 1.0).mean(1)

        return measure
