"""What is left of a perturbation once the image is saved with 8 bits per value."""

from __future__ import annotations

from torch import Tensor

LEVELS = 255


def round_to_8_bits(x: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """``x`` on the 256 levels between the bounds that an 8-bit image can hold: multiples of 1/255 within (0, 1).

    Exact for inputs that were bytes divided by 255. Halves go to the even level, as ``torch.round`` does.

    >>> import torch
    >>> round_to_8_bits(torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0])).mul(255).tolist()
    [0.0, 0.0, 1.0, 255.0]
    """
    low, high = bounds
    level = ((x - low) * (LEVELS / (high - low))).round().clamp(0, LEVELS)
    if (low, high) == (0.0, 1.0):
        return level / LEVELS  # the very division that makes [0, 1] of bytes
    return (low + level * ((high - low) / LEVELS)).clamp(low, high)
