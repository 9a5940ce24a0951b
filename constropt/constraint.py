"""Constraints as data: what must be ``<= 0`` or ``== 0``, which entries count, what stands in for the gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from constropt.checks import got, require_within

Z = TypeVar("Z")


@dataclass(frozen=True)
class Constraint(Generic[Z]):
    """One constraint, of any number of entries; built by :func:`inequality` or :func:`equality`.

    ``value(x, z)`` returns ``(batch, *dual)``, z being what ``problem.forward(x)`` returned; an entry is met iff it
    is ``<= 0`` (``== 0`` for an equality). ``mask``, of a shape that broadcasts to it, says which entries count.
    ``shared`` names the dimensions along which one multiplier is shared: ``(0,)`` gives class-wise multipliers over
    samples. ``fraction`` is nu, the fraction of a row's counted entries that must be met for the row to be feasible.
    ``surrogate``, where given, is what is differentiated in place of ``value`` (Cooper's vocabulary: ``value`` is the
    strict violation): directions follow it, feasibility and multipliers follow ``value``. ``alternatives(x, z)``,
    ``(batch, m)``, is for a constraint that is met iff *one* of m functions is ``<= 0`` (an attack may reach any
    class): a hint, what solvers that linearise choose among.
    """

    value: Callable[[Tensor, Z], Tensor]
    name: str
    mask: Callable[[Tensor, Z], Tensor] | Tensor | None = None
    shared: tuple[int, ...] = ()
    equality: bool = False
    surrogate: Callable[[Tensor, Z], Tensor] | None = None
    alternatives: Callable[[Tensor, Z], Tensor] | None = None
    fraction: float = 1.0

    def __post_init__(self) -> None:
        name = f"Constraint {self.name!r}"
        require_within("(0, 1]", "of the entries that must be met, lies", **{f"{name}: fraction": self.fraction})
        if not callable(self.value):
            raise TypeError(f"{name}: value must be a callable of (x, z), got {got(self.value)}")
        if not (self.mask is None or callable(self.mask) or isinstance(self.mask, Tensor)):
            raise TypeError(f"{name}: mask must be a tensor or a callable of (x, z), got {got(self.mask)}")


def inequality(
    value: Callable[[Tensor, Any], Tensor],
    *,
    name: str = "inequality",
    mask: Callable[[Tensor, Any], Tensor] | Tensor | None = None,
    shared: tuple[int, ...] = (),
    surrogate: Callable[[Tensor, Any], Tensor] | None = None,
    alternatives: Callable[[Tensor, Any], Tensor] | None = None,
    fraction: float = 1.0,
) -> Constraint[Any]:
    """The constraint ``value(x, z) <= 0``, entry by entry (see :class:`Constraint`).

    >>> inequality(lambda x, _: x.norm(dim=1) - 1.0, name="ball").name
    'ball'
    """
    return Constraint(value, name, mask, tuple(shared), False, surrogate, alternatives, fraction)


def equality(
    value: Callable[[Tensor, Any], Tensor],
    *,
    name: str = "equality",
    mask: Callable[[Tensor, Any], Tensor] | Tensor | None = None,
    shared: tuple[int, ...] = (),
) -> Constraint[Any]:
    """The constraint ``value(x, z) == 0``, entry by entry (see :class:`Constraint`).

    >>> equality(lambda x, _: x.sum(1) - 1.0, name="sum").equality
    True
    """
    return Constraint(value, name, mask, tuple(shared), True, None)
