"""Convex sets with a projection: the simple set C that the variable is kept in.

Law (checked by :func:`constropt.testing.check_domain`): a projection is idempotent, feasible in the dtype of its
input, leaves the points of the set where they are, is non-expansive, and no point of the set is nearer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from constropt.checks import got, require_positive
from constropt.prox import project_l1, project_l2, project_linf, project_simplex
from constropt.prox.wasserstein_ball import check_sinkhorn, project_wasserstein

Bound = float | Tensor


class Domain:
    """A closed convex set of variables of shape ``(batch, *event)``, rows independent of each other."""

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the set, row by row: ``(batch, *event) -> (batch, *event)``."""
        raise NotImplementedError  # abstract

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Elementwise ``(lower, upper)``, shaped like ``x``, of a set that *is* a box, maybe infinite; else None."""
        return None

    def contains(self, x: Tensor, tolerance: float = 0.0) -> Tensor:
        """``(batch,)``: which rows are within ``tolerance`` (largest absolute difference) of their projection."""
        return (self.project(x) - x).abs().flatten(1).amax(1) <= tolerance


@dataclass(frozen=True)
class Reals(Domain):
    """The whole space: no constraint on the variable.

    >>> Reals().project(torch.tensor([[5.0]]))
    tensor([[5.]])
    """

    def project(self, x: Tensor) -> Tensor:
        return x

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(x, -torch.inf), torch.full_like(x, torch.inf)


@dataclass(frozen=True, eq=False)
class Box(Domain):
    """``{x : lower <= x <= upper}`` elementwise; sides are numbers or tensors that broadcast to ``(batch, *event)``,
    infinity allowed.

    Raises ``ValueError`` when a lower side lies above its upper side.

    >>> Box(0.0, 1.0).project(torch.tensor([[-1.0, 0.5, 2.0]]))
    tensor([[0.0000, 0.5000, 1.0000]])
    """

    lower: Bound = 0.0
    upper: Bound = 1.0

    def __post_init__(self) -> None:
        if not bool((torch.as_tensor(self.lower) <= torch.as_tensor(self.upper)).all()):
            sides = f"lower={self.lower} and upper={self.upper}"
            raise ValueError(f"Box: lower must not exceed upper (and neither be NaN), got {sides}")

    def project(self, x: Tensor) -> Tensor:
        if isinstance(self.lower, Tensor) or isinstance(self.upper, Tensor):
            lower, upper = self._sides(x)
            return torch.minimum(torch.maximum(x, lower), upper)
        return x.clamp(self.lower, self.upper)

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._sides(x)
        return lower.expand_as(x), upper.expand_as(x)

    def _sides(self, x: Tensor) -> Iterator[Tensor]:
        return (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in (self.lower, self.upper))


@dataclass(frozen=True, eq=False)
class _Ball(Domain):
    """``{x : ||x - center||_p <= radius}``, optionally within a :class:`Box` that contains the centre.

    ``radius``: a number or ``(batch,)``. The projection on the intersection is exact, no composition of two.
    """

    _projection: ClassVar[Callable[..., Tensor]]  # of x - center, with the radius and the sides of the box

    radius: Bound = 1.0
    center: Bound = 0.0
    box: Box | None = None

    def __post_init__(self) -> None:
        if not bool((torch.as_tensor(self.radius) >= 0).all()):
            raise ValueError(f"{type(self).__name__}: radius must be >= 0, got {self.radius}")
        if self.box is not None:
            center = torch.as_tensor(self.center)
            lower, upper = (torch.as_tensor(side).to(center) for side in (self.box.lower, self.box.upper))
            if not bool(((lower <= center) & (center <= upper)).all()):
                raise ValueError(f"{type(self).__name__}: center must lie in the box; move it there, or drop the box")

    def project(self, x: Tensor) -> Tensor:
        center = self.center.to(x) if isinstance(self.center, Tensor) else self.center
        lower, upper = (None, None) if self.box is None else (side - center for side in self.box.bounds(x))
        d = x - center
        p = self._projection(d, self.radius, lower=lower, upper=upper)
        # the sum with the centre rounds: entries that need not move stay as they are, and the box is met exactly
        projected = torch.where(p == d, x, center + p)
        return projected if self.box is None else self.box.project(projected)


@dataclass(frozen=True, eq=False)
class L1Ball(_Ball):
    """``{x : ||x - center||_1 <= radius}``, optionally within a ``box``; ``radius`` a number or ``(batch,)``."""

    _projection = staticmethod(project_l1)


@dataclass(frozen=True, eq=False)
class L2Ball(_Ball):
    """``{x : ||x - center||_2 <= radius}``, optionally within a ``box``; ``radius`` a number or ``(batch,)``."""

    _projection = staticmethod(project_l2)


@dataclass(frozen=True, eq=False)
class LinfBall(_Ball):
    """``{x : ||x - center||_inf <= radius}``, optionally within a ``box``; ``radius`` a number or ``(batch,)``."""

    _projection = staticmethod(project_linf)


@dataclass(frozen=True)
class Simplex(Domain):
    """``{x >= 0 : sum of a row = total}``.

    >>> Simplex().project(torch.tensor([[1.0, 1.0]]))
    tensor([[0.5000, 0.5000]])
    """

    total: float = 1.0

    def __post_init__(self) -> None:
        require_positive(total=self.total)

    def project(self, x: Tensor) -> Tensor:
        return project_simplex(x, self.total)


@dataclass(frozen=True, eq=False)
class WassersteinBall(Domain):
    """Images that local transport of ``center``'s mass reaches at a cost within ``radius`` (``project_wasserstein``).

    ``center``: ``(batch, channels, height, width)`` within ``box``, over whose lower side the mass is counted and
    whose upper side no pixel exceeds. ``radius``: a number or ``(batch,)``, in pixels times the part of the mass. The
    projection is that of the entropic problem, not of the exact ball: within the ball, but not idempotent.

    Raises ``ValueError`` for a center that is no batch of images in the box, a box that is not finite below, and
    numbers out of range.

    >>> center = torch.eye(3).view(1, 1, 3, 3)
    >>> WassersteinBall(0.1, center).project(center).equal(center)
    True
    """

    radius: Bound
    center: Tensor
    box: Box = Box(0.0, 1.0)
    kernel: int = 5
    regularization: float = 1000.0
    iterations: int = 50
    p: float = 2.0

    def __post_init__(self) -> None:
        check_sinkhorn(self.kernel, self.regularization, self.iterations)
        if not bool((torch.as_tensor(self.radius) >= 0).all()):
            raise ValueError(f"radius: takes numbers >= 0, in pixels times the part of the mass, got {self.radius}")
        if not isinstance(self.center, Tensor) or self.center.dim() != 4:
            raise ValueError(f"center: takes images (batch, channels, height, width), got {got(self.center)}")
        if not bool(self.box.contains(self.center).all()) or not bool(self.box.bounds(self.center)[0].isfinite().all()):
            raise ValueError(f"center: must lie in the box, which must be finite below, got {self.box}")

    def project(self, x: Tensor) -> Tensor:
        center = self.center.to(x)
        lower, upper = self.box.bounds(center)
        project = partial(project_wasserstein, kernel=self.kernel, iterations=self.iterations, p=self.p)
        moved = project(x - lower, center - lower, self.radius, upper=upper - lower, regularization=self.regularization)
        same = (x == center).flatten(1).all(1).view(-1, 1, 1, 1)
        return torch.where(same, center, self.box.project(lower + moved))
