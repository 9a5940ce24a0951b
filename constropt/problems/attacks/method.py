"""What the published attacks have in common beside being a :class:`~constropt.solvers.Method`."""

from dataclasses import replace
from typing import Any, ClassVar

from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.declared import PerturbationProblem
from constropt.problems.attacks.goals import logit_margin
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import Distance, DistanceLike, Norm, UnsupportedDistance, as_distance, with_gradient
from constropt.problems.model_calls import ModelCall
from constropt.solvers.base import Method, Solver

# What one run solves, and by what.
Prepared = tuple[ConstrainedProblem[Any], Solver[Any]]


class AttackMethod(Method):
    """A method that declares its ``distances``, by name (None: any with a gradient), whether it is ``dense``: takes a
    label per pixel, a mask and a fraction nu, and whether it is ``budgeted``: stays within a radius where one is given.

    Subclass as a frozen dataclass of the hyper-parameters. What else it needs it reads in the problem.
    """

    distances: ClassVar[tuple[str, ...] | None] = None
    dense: ClassVar[bool] = False
    budgeted: ClassVar[bool] = False

    @classmethod
    def measured(cls, distance: DistanceLike) -> Distance:
        """The distance; :class:`~constropt.problems.distances.UnsupportedDistance` for one that the method does not
        take.
        """
        return with_gradient(distance) if cls.distances is None else as_distance(distance, cls.distances)

    def default_steps(self, problem: Any) -> int:
        """How many steps a recipe makes that declares none: published ones depend on the problem."""
        raise NotImplementedError  # for methods of a recipe without steps

    def fitting(self, problem: ConstrainedProblem[Any]) -> MinimalPerturbation:
        """The problem, if it is a :class:`MinimalPerturbation` in a distance that the method takes; else raises."""
        if not isinstance(problem, MinimalPerturbation):
            raise TypeError(
                f"problem: {type(self).__name__} is for a MinimalPerturbation, got {type(problem).__name__}; general"
                " problems are for the solvers of constropt.solvers"
            )
        self.measured(problem.measure)
        return problem

    def check_distance(self, problem: ConstrainedProblem[Any]) -> None:
        """For methods that take any problem: where it has a distance, that is one of the method's."""
        if isinstance(problem, PerturbationProblem):
            self.measured(problem.measure)


def order_of(problem: MinimalPerturbation) -> float:
    """p of the problem's norm; raises for a distance that has only the name of one."""
    if not isinstance(problem.measure, Norm):
        raise UnsupportedDistance(f"distance: takes the norm itself, got another distance named {problem.measure.name}")
    return problem.measure.p


def with_goal(problem: MinimalPerturbation, confidence: float) -> MinimalPerturbation:
    """The problem on its logit difference, by ``confidence``, unless it has a goal of its own.

    ``ValueError`` for a confidence where it has: nothing would be confident.
    """
    if problem.constraint is None:
        return replace(problem, constraint=logit_margin(confidence))
    if confidence:
        raise ValueError(f"confidence: is for the logit difference, got {confidence} beside the problem's constraint")
    return problem


def on_logarithms(problem: MinimalPerturbation) -> MinimalPerturbation:
    """The problem with the logarithms of a model's probabilities for its logits, for attacks that linearise logits."""
    return replace(problem, model=ModelCall(problem.model, logarithm=True))


def require_positive(unit: str, /, **values: float) -> None:
    """``ValueError`` that names the first of ``values`` that is not > 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: takes a length > 0, in parts of {unit}, got {value}")
