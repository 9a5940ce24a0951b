"""From sRGB to CIELAB under the D65 illuminant (Eq. III-3 to III-5)."""

from __future__ import annotations

import torch
from torch import Tensor

# Eq. III-3: rows give X, Y and Z, of linear R, G and B in [0, 1].
_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE_D65 = (95.0489, 100.0, 108.8840)
_DELTA = 6 / 29


def srgb_to_lab(rgb: Tensor, *, luminance: float = 100.0) -> Tensor:
    """L*, a*, b* of sRGB images ``(batch, 3, *pixels)`` in [0, 1], the gamma undone; L* lies in [0, 100].

    ``luminance`` is Y of the color (1, 1, 1), whose white is (95.0489, 100, 108.8840). The text and the published code
    leave it at 1, so that images are a hundred times darker than their white, L* <= 9, and color differences are
    smaller, and weighted otherwise, than those that CIEDE2000 was made for; ``luminance=1`` is for a comparison with
    the tables.

    >>> srgb_to_lab(torch.tensor([[[1.0], [0.0], [0.0]]])).flatten().round(decimals=1)
    tensor([53.2000, 80.1000, 67.2000])
    """
    if rgb.dim() < 2 or rgb.shape[1] != 3:
        raise ValueError(f"rgb: takes colors (batch, 3, *pixels), got shape {tuple(rgb.shape)}")
    # both branches of a where are differentiated: powers are kept away from where their slope is infinite
    power = ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    red, green, blue = torch.where(rgb > 0.04045, power, rgb / 12.92).unbind(1)
    # sums, not a matrix product: a pixel does not depend on how many there are
    x, y, z = (
        _root((r * red + g * green + b * blue) * (luminance / white)) for (r, g, b), white in zip(_TO_XYZ, _WHITE_D65)
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _root(t: Tensor) -> Tensor:
    """Eq. III-5: the cube root, continued by its tangent below delta^3."""
    return torch.where(t > _DELTA**3, t.clamp_min(_DELTA**3) ** (1 / 3), t / (3 * _DELTA**2) + 4 / 29)
