"""Colors in CIELAB under D65 (Eq. III-3 to III-5), and their difference CIEDE2000 (Sharma, Wu & Dalal, 2005)."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from constropt.problems.distances.base import ImageDistance, root

# Eq. III-3: rows give X, Y and Z, of linear R, G and B in [0, 1].
_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE_D65 = (95.0489, 100.0, 108.8840)
_DELTA = 6 / 29


def srgb_to_lab(rgb: Tensor, *, luminance: float = 100.0) -> Tensor:
    """L*, a*, b* of sRGB images ``(batch, 3, *pixels)`` in [0, 1], the gamma undone; L* lies in [0, 100].

    ``luminance`` is Y of the color (1, 1, 1), whose white is (95.0489, 100, 108.8840). The text and the published code
    leave it at 1 (``luminance=1`` is for a comparison with the tables), so that images are a hundred times darker than
    their white, L* <= 9, and color differences smaller, and weighted otherwise, than CIEDE2000 was made for.

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
        _cube_root((r * red + g * green + b * blue) * (luminance / white))
        for (r, g, b), white in zip(_TO_XYZ, _WHITE_D65)
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _cube_root(t: Tensor) -> Tensor:
    """Eq. III-5: the cube root, continued by its tangent below delta^3."""
    return torch.where(t > _DELTA**3, t.clamp_min(_DELTA**3) ** (1 / 3), t / (3 * _DELTA**2) + 4 / 29)


def ciede2000(lab: Tensor, reference: Tensor) -> Tensor:
    """Delta E_00 of colors L*, a*, b*: ``(batch, 3, *pixels)`` to ``(batch, *pixels)``; 1 is just noticeable.

    Hue differences and mean hues come from vectors, not from angles: nothing wraps around, and the gradient is finite
    everywhere (0 at equal colors). Where the formula jumps, at hues exactly opposite, it follows Sharma's rules.

    >>> ciede2000(torch.tensor([[50.0, 2.6772, -79.7751]]), torch.tensor([[50.0, 0.0, -82.7485]])).round(decimals=4)
    tensor([2.0425])
    """
    return root(ciede2000_squared(lab, reference))


def ciede2000_squared(lab: Tensor, reference: Tensor) -> Tensor:
    """The square of :func:`ciede2000`, smooth at equal colors."""
    (l1, a1, b1), (l2, a2, b2) = reference.unbind(1), lab.unbind(1)
    # a is stretched where the mean chroma is small
    stretch = 1.5 - 0.5 * _strength((_length(a1, b1) + _length(a2, b2)) / 2)
    a1, a2 = stretch * a1, stretch * a2
    c1, c2 = _length(a1, b1), _length(a2, b2)
    mean_c = (c1 + c2) / 2

    # c2 - c1 and 2 sqrt(c1 c2) sin((h2 - h1) / 2), from sums and products of the two vectors
    delta_c = _ratio((a2 - a1) * (a2 + a1) + (b2 - b1) * (b2 + b1), c1 + c2)
    product, dot, cross = c1 * c2, a1 * a2 + b1 * b2, a1 * b2 - a2 * b1
    acute = _ratio(2**0.5 * cross, root(product + dot.clamp_min(0)))
    obtuse = torch.where(cross < 0, -1.0, 1.0) * root(2 * (product - dot.clamp_max(0)).clamp_min(0))
    delta_h = torch.where(dot >= 0, acute, obtuse)

    cosine, sine = _mean_hue(a1, b1, c1, a2, b2, c2)
    hue = torch.atan2(sine, cosine)
    weight = 1 - 0.17 * torch.cos(hue - pi / 6) + 0.24 * torch.cos(2 * hue) + 0.32 * torch.cos(3 * hue + pi / 30)
    weight = weight - 0.20 * torch.cos(4 * hue - 63 * pi / 180)
    degrees = torch.where(hue < 0, hue + 2 * pi, hue) * (180 / pi)
    turn = (pi / 3) * torch.exp(-(((degrees - 275) / 25) ** 2))
    middle = ((l1 + l2) / 2 - 50).square()

    light = (l2 - l1) / (1 + 0.015 * middle / torch.sqrt(20 + middle))
    chroma = delta_c / (1 + 0.045 * mean_c)
    tint = delta_h / (1 + 0.015 * mean_c * weight)
    rotation = -2 * torch.sin(turn) * _strength(mean_c)
    # abs(rotation) < 2: the form is positive, up to rounding
    return light.square() + (chroma.square() + tint.square() + rotation * chroma * tint).clamp_min(0)


@dataclass(frozen=True, kw_only=True)
class CIEDE2000(ImageDistance):
    """The l2 norm over the pixels of Delta E_00 (Zhao, Liu & Larson, 2020; thesis Sec. 4.2.3), of sRGB images.

    ``CIEDE2000(luminance=1, first_step=0.05)`` measures as the published tables do, in which white is at L* = 9
    (:func:`~constropt.problems.distances.color.srgb_to_lab`), with the first step of Table III-1; the default first
    step is that one at L* = 100. Raises ``ValueError`` for images that are not of 3 channels.

    >>> x = torch.full((1, 3, 2, 2), 0.5)
    >>> CIEDE2000()(x, x).item(), round(CIEDE2000()(x + 0.1, x).item(), 2)
    (0.0, 17.72)
    """

    name: str = "ciede2000"
    first_step: float = 0.5
    luminance: float = 100.0

    def __post_init__(self) -> None:
        if not self.luminance > 0:
            raise ValueError(f"luminance: must be > 0, 100 for colors relative to their white, got {self.luminance!r}")

    def check(self, reference: Tensor) -> None:
        if reference.shape[1] != 3:
            takes = f"RGB images (batch, 3, height, width), got shape {tuple(reference.shape)}"
            raise ValueError(f"distance: {self.name!r} takes {takes}; repeat a grey channel three times")

    def prepare(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        lab = srgb_to_lab(reference, luminance=self.luminance)

        return lambda x: root(ciede2000_squared(srgb_to_lab(x, luminance=self.luminance), lab).flatten(1).sum(1))


def _length(a: Tensor, b: Tensor) -> Tensor:
    return root(a.square() + b.square())


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, 0 where the denominator is 0."""
    positive = denominator > 0
    return torch.where(positive, numerator / torch.where(positive, denominator, 1.0), 0.0)


def _strength(c: Tensor) -> Tensor:
    """sqrt(c^7 / (c^7 + 25^7))."""
    c = c / 25
    return c**3.5 / torch.sqrt(1 + c**7)


def _mean_hue(a1: Tensor, b1: Tensor, c1: Tensor, a2: Tensor, b2: Tensor, c2: Tensor) -> tuple[Tensor, Tensor]:
    """A vector whose angle is the mean hue: the bisector; the hue of the other color beside a grey one; of two
    opposite ones the right angle to that in [0, 180) degrees, counterclockwise.
    """
    a1, b1, a2, b2 = _ratio(a1, c1), _ratio(b1, c1), _ratio(a2, c2), _ratio(b2, c2)
    cosine, sine = a1 + a2, b1 + b2
    opposite = (cosine.square() + sine.square() < 64 * torch.finfo(a1.dtype).eps ** 2) & (c1 > 0) & (c2 > 0)
    first = (b1 > 0) | ((b1 == 0) & (a1 > 0))
    cosine = torch.where(opposite, torch.where(first, -b1, -b2), cosine)
    sine = torch.where(opposite, torch.where(first, a1, a2), sine)
    return torch.where((c1 == 0) & (c2 == 0), 1.0, cosine), sine
