"""A small segmentation network, cheap enough to attack on a CPU; inputs in [0, 1], outputs logits per pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_whole


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) with BatchNorm, whose finest level has ``1/stride`` of the input's resolution.

    The first convolution has step ``stride``; ``depth`` times the maps are halved and their channels, ``width`` at the
    finest level, doubled; on the way back they are joined with the maps of the same size. Logits are computed at the
    finest level and interpolated bilinearly to the input's size: most of the cost lies in the finest level, so that
    stride 2 costs about a quarter of stride 1. Sizes that ``stride`` or ``2**depth`` do not divide need no padding:
    maps are halved rounding up, and doubled to the size of the map that they join.

    Takes images ``(batch, in_channels, height, width)`` in [0, 1], normalised inside, returns logits
    ``(batch, classes, height, width)``. In eval mode, as attacks need it, rows do not influence each other.

    Raises ``ValueError`` unless ``classes`` is at least 2 and the other numbers are at least 1 (``depth`` may be 0).

    >>> UNet(5, width=4, depth=2).eval()(torch.zeros(2, 3, 33, 50)).shape
    torch.Size([2, 5, 33, 50])
    """

    def __init__(self, classes: int, *, in_channels: int = 3, width: int = 16, depth: int = 3, stride: int = 2) -> None:
        super().__init__()
        require_whole(2, classes=classes)
        require_whole(in_channels=in_channels, width=width, stride=stride)
        require_whole(0, depth=depth)
        channels = [width * 2**level for level in range(depth + 1)]
        self.stem = nn.Sequential(*_convolution(in_channels, width, stride=stride), *_convolution(width, width))
        self.down = nn.ModuleList(
            nn.Sequential(*_convolution(finer, coarser), *_convolution(coarser, coarser))
            for finer, coarser in zip(channels, channels[1:])
        )
        self.up = nn.ModuleList(
            nn.Sequential(*_convolution(coarser + finer, finer), *_convolution(finer, finer))
            for coarser, finer in zip(channels[:0:-1], channels[-2::-1])
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes, height, width)`` of ``images``."""
        features = self.stem((images - 0.5) / 0.25)
        skipped: list[Tensor] = []
        for block in self.down:
            skipped.append(features)
            features = block(functional.max_pool2d(features, 2, ceil_mode=True))
        for block in self.up:
            finer = skipped.pop()
            features = block(torch.cat([functional.interpolate(features, size=finer.shape[-2:]), finer], dim=1))
        return functional.interpolate(self.head(features), size=images.shape[-2:], mode="bilinear", align_corners=False)


def _convolution(inputs: int, outputs: int, *, stride: int = 1) -> list[nn.Module]:
    """3x3 convolution, BatchNorm, ReLU; with a step, a kernel wide enough that neighbours overlap."""
    kernel = 3 if stride == 1 else 2 * stride - 1
    return [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def unet(classes: int = 11, *, in_channels: int = 3, width: int = 16, depth: int = 3, stride: int = 2) -> UNet:
    """The :class:`UNet` of these sizes, with fresh weights from torch's global generator.

    The default has the 11 classes of CamVid and takes about 40 ms for logits and the gradient of the input of a 240x176
    image on one thread of a small CPU.

    >>> sum(p.numel() for p in unet().parameters())
    488171
    """
    return UNet(classes, in_channels=in_channels, width=width, depth=depth, stride=stride)
