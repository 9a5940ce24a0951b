"""Distances between a batch and its reference, by name: per-row values whose gradients stay finite at equality."""

from collections.abc import Callable
from functools import cache

from constropt.near_names import near_names
from constropt.problems.distances.base import L0, L0_PIXELS, L1, L2, Distance, DistanceLike, ImageDistance, Linf, Norm
from constropt.problems.distances.color import CIEDE2000, ciede2000, srgb_to_lab
from constropt.problems.distances.lpips import LPIPS
from constropt.problems.distances.ssim import MSSSIM, SSIM
from constropt.problems.distances.wasserstein import Wasserstein

__all__ = [
    "CIEDE2000", "Distance", "DistanceLike", "ImageDistance", "L0", "L0_PIXELS", "L1", "L2", "LPIPS", "Linf",
    "MSSSIM", "Norm", "SSIM", "UnsupportedDistance", "Wasserstein", "as_distance", "ciede2000", "names",
    "srgb_to_lab", "with_gradient",
]  # fmt: skip


class UnsupportedDistance(ValueError):
    """A distance that a method does not take; the message says which it takes."""


# Built at first use: LPIPS reads files.
_BY_NAME: dict[str, Callable[[], Distance]] = {
    "l0": lambda: L0, "l0_pixels": lambda: L0_PIXELS, "l1": lambda: L1, "l2": lambda: L2, "linf": lambda: Linf,
    "ssim": SSIM, "ms_ssim": MSSSIM, "ciede2000": CIEDE2000, "lpips": LPIPS, "wasserstein": Wasserstein,
}  # fmt: skip


def names() -> tuple[str, ...]:
    """The names that :func:`as_distance` takes.

    >>> "ssim" in names()
    True
    """
    return tuple(_BY_NAME)


@cache
def _named(name: str) -> Distance:
    return _BY_NAME[name]()


def as_distance(distance: DistanceLike, allowed: tuple[str, ...] | None = None) -> Distance:
    """A name, a :class:`Distance` or a callable ``(x, reference) -> (batch,)`` as a :class:`Distance`.

    ``allowed`` restricts the names, for a solver that needs more of a distance than its gradient. Raises
    :class:`UnsupportedDistance` (a ``ValueError``) for an unknown name, listing the known and the near ones, and for
    one that is not allowed here, naming recipes that take it; ``TypeError`` for anything else.

    >>> as_distance("l1").first_step
    0.5
    """
    if isinstance(distance, (str, Distance)):
        name = distance if isinstance(distance, str) else distance.name
        if isinstance(distance, Distance) and (allowed is None or name in allowed):
            return distance
        known = [known for known in _BY_NAME if allowed is None or known in allowed]
        if name in known:
            return _named(name)
        hint = near_names(name, known, "; did you mean {}?", cutoff=0.5)
        if isinstance(distance, Distance) or name in _BY_NAME:
            hint = "; this attack needs its projection or proximity operator, alma, cw and pdgd only its gradient"
        raise UnsupportedDistance(f"distance: takes one of {known} here, got {name!r}{hint}")
    if callable(distance) and allowed is None:
        return Distance(getattr(distance, "__name__", type(distance).__name__), distance)
    takes = "a name, a Distance or a callable (x, reference) -> (batch,)" if allowed is None else f"one of {[*allowed]}"
    raise TypeError(f"distance: takes {takes}, got {type(distance).__name__}")


def with_gradient(distance: DistanceLike) -> Distance:
    """:func:`as_distance` for attacks that follow its gradient; :class:`UnsupportedDistance` where it has none.

    >>> with_gradient("l2").name
    'l2'
    """
    measure = as_distance(distance)
    if not measure.smooth:
        cure = "fmn, sigma_zero, brendel_bethge and jsma count entries"
        raise UnsupportedDistance(f"distance: {measure.name!r} has no gradient, which this attack follows; {cure}")
    return measure
