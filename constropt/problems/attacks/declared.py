"""Problems that are declared by a model and its inputs: their terms are made of that, and made anew by ``replace``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor

from constropt.constraint import Constraint, inequality
from constropt.domain import Box, Domain, Reals
from constropt.modes import normal_mode
from constropt.problem import ConstrainedProblem, ProximableFunction
from constropt.problems.attacks.aim import width_of
from constropt.problems.distances import Distance
from constropt.problems.distances.measures import DistanceLike
from constropt.problems.model_calls import Model, ModelCall

Z = TypeVar("Z")


@dataclass(frozen=True, eq=False)
class Terms(Generic[Z]):
    """The terms of a problem that are made of its declaration."""

    objective: Callable[[Tensor, Z], Tensor]
    constraint: Constraint[Z]
    forward: Callable[[Tensor], Z]
    domain: Domain


def _missing(*_: Any) -> Any:
    raise NotImplementedError  # takes the place of a term until there is one


# What a problem is given where it is to make a term itself.
MISSING: Terms[Any] = Terms(_missing, inequality(_missing), _missing, Reals())


@dataclass(frozen=True)
class DeclaredProblem(ConstrainedProblem[Z]):
    """A problem whose objective, constraint, forward and domain are made of what its subclass declares.

    ``dataclasses.replace`` takes both: a declared field, from which the terms are made anew, and a term, which is kept
    as given then and in later replacements. ``terms`` are those that the problem made itself: what is none of them was
    given. Subclasses make them in ``make``, in normal mode: a problem made in inference mode is like any other.
    """

    objective: Callable[[Tensor, Z], Tensor] | None = field(default=MISSING.objective, kw_only=True, repr=False)
    constraints: Sequence[Constraint[Z]] = field(default=(MISSING.constraint,), kw_only=True, repr=False)
    forward: Callable[[Tensor], Z] = field(default=MISSING.forward, kw_only=True, repr=False)
    domain: Domain = field(default=MISSING.domain, kw_only=True)
    nonsmooth: ProximableFunction | None = field(default=None, kw_only=True)
    independent: bool = field(default=True, kw_only=True)
    rowwise: bool = field(init=False, default=False, repr=False)
    terms: Terms[Z] = field(default=MISSING, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        with normal_mode():
            old, new = self.terms, self.make()
        self._set(
            objective=new.objective if self.objective is old.objective else self.objective,
            forward=new.forward if self.forward is old.forward else self.forward,
            domain=new.domain if self.domain is old.domain else self.domain,
            terms=new,
        )
        # a network computes row by row; a function, or a forward that was given, may look at the whole batch
        self._set(rowwise=isinstance(self.forward, ModelCall) and self.forward.network)
        if isinstance(self.constraints, Sequence):
            made = (new.constraint if given is old.constraint else given for given in self.constraints)
            self._set(constraints=tuple(made))
        super().__post_init__()

    def make(self) -> Terms[Z]:
        """Check what is declared and make the terms of it; fields may be completed by ``_set``."""
        raise NotImplementedError  # abstract

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class PerturbationProblem(DeclaredProblem[Z]):
    """min D(x, inputs) over ``bounds`` under a constraint on what ``model`` returns: what minimal attacks have in
    common. Subclasses declare the constraint.
    """

    model: Model
    inputs: Tensor
    distance: DistanceLike = field(default="l2", kw_only=True)
    bounds: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)
    measure: Distance = field(init=False, repr=False, compare=False)

    @property
    def width(self) -> float:
        """The width of the bounds, in parts of which published lengths are; 1, as of images, where there are none."""
        return width_of(self.bounds)

    def make_from(
        self, constraint: Constraint[Z], forward: Callable[[Tensor], Z], inputs: Tensor, measure: Distance
    ) -> Terms[Z]:
        """The terms, with the distance to ``inputs`` as objective; both are kept as they will be used."""
        to_inputs = measure.bind(inputs, self.bounds)
        self._set(inputs=inputs, distance=measure, measure=measure)
        return Terms(lambda x, z: to_inputs(x), constraint, forward, Box(*self.bounds))
