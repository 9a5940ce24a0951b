"""One small instance of every distance, and images on which they break."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from constropt.problems.distances import CIEDE2000, L0, L0_PIXELS, L1, L2, LPIPS, MSSSIM, SSIM, Linf, Wasserstein
from constropt.problems.distances.lpips import BACKBONES


@cache
def squeezenet() -> LPIPS:
    """LPIPS on a network with random weights, of the size that keeps features alive through its layers."""
    backbone = BACKBONES["squeeze"]
    stack, generator = backbone.build(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in stack.parameters():
            fan = weight[0].numel() if weight.dim() > 1 else torch.inf
            weight.copy_((2 / fan) ** 0.5 * torch.randn(weight.shape, generator=generator))
    return LPIPS(net="squeeze", backbone=stack, heads=[torch.full((count,), 0.02) for count in backbone.channels])


SIDE = 18
NORMS = {"l0": L0, "l0_pixels": L0_PIXELS, "l1": L1, "l2": L2, "linf": Linf}
IMAGES = {
    "ssim": SSIM(),
    "ms_ssim": MSSSIM(scales=2, window=7),
    "ciede2000": CIEDE2000(),
    "wasserstein": Wasserstein(iterations=20),
    "lpips": squeezenet(),
}
ALL = {**NORMS, **IMAGES}


def batch(seed: int, kind: str = "noise", rows: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images of the kinds on which distances break: noise, grey, black, white, of one color, saturated."""
    x = torch.rand(rows, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    if kind == "grey":
        return x.mean(1, keepdim=True).repeat(1, 3, 1, 1)
    if kind == "saturated":
        return x.round()
    if kind == "black":
        return torch.zeros_like(x)
    if kind == "white":
        return torch.ones_like(x)
    if kind == "flat":
        return x[:, :, :1, :1].repeat(1, 1, SIDE, SIDE)
    return x
