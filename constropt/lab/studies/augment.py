"""Random changes of images that keep their class, drawn per image from the global generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional


def shift(images: Tensor) -> Tensor:
    """Each of ``images`` ``(batch, channels, height, width)`` moved by up to an eighth of its size, what comes in 0.

    >>> shift(torch.ones(2, 3, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """
    batch, _, height, width = images.shape
    reach = max(1, height // 8), max(1, width // 8)
    padded = functional.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    down, right = (torch.randint(0, 2 * r + 1, (batch, 1), device=images.device) for r in reach)
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    picked = torch.arange(batch, device=images.device)[:, None, None]
    # indices around a slice put its dimension last
    return padded[picked, :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def shift_and_mirror(images: Tensor) -> Tensor:
    """:func:`shift`, and every other image, by chance, mirrored left to right.

    >>> shift_and_mirror(torch.ones(2, 3, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return shift(torch.where(mirrored, images.flip(3), images))


AUGMENTATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "shift": shift,
    "shift-mirror": shift_and_mirror,
}
