"""How budgeted methods run: within the problem's radius, or at the smallest radius where they succeed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from constropt.checks import require_whole
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.problems.attacks.method import AttackMethod
from constropt.solution import Solution, best_of
from constropt.solvers.balls.radius_search import smallest_radius
from constropt.solvers.base import Loop, Method, Solver
from constropt.solving import solve

Attack = Callable[[Tensor], Solution]


class BudgetedMethod(AttackMethod):
    """A method for :class:`MaximalLoss`. Subclass with ``prepare``, or with :meth:`within` for one of several runs."""

    distances: ClassVar[tuple[str, ...] | None] = ("l1", "l2", "linf")
    dense: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True

    def within(self, problem: MaximalLoss, x0: Tensor, loop: Loop) -> tuple[Attack, int]:
        """``attack(radius)``, radius ``(batch,)``, and how many forward passes were made to choose it."""

        def attack(radius: Tensor) -> Solution:
            prepared, solver = self.prepare(replace(problem, eps=radius), x0, loop.steps)
            return loop(prepared, solver, x0)

        return attack, 0

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        """The method in the problem's ball."""
        budgeted = budgeted_problem(problem, self)
        attack, passes = self.within(budgeted, x0, loop)
        found = attack(budgeted.radius)
        return replace(found, forwards=found.forwards + passes) if passes else found

    def smallest(self, searches: int) -> Method:
        """The method for the minimal problem, whose radius is not given."""
        return SmallestRadius(self, searches)


@dataclass(frozen=True)
class SmallestRadius(Method):
    """A budgeted method for the minimal problem: the smallest radius at which it succeeds, by ``searches`` bisections.

    They are each a full attack, in every row between 0 and the distance across the bounds
    (:func:`~constropt.solvers.balls.radius_search.smallest_radius`); one step at the inputs themselves finds the rows
    that need no perturbation. The problem's ``eps`` is not used; the objective is the distance.
    """

    method: BudgetedMethod
    searches: int = 13

    def __post_init__(self) -> None:
        require_whole(searches=self.searches)

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        origin = replace(budgeted_problem(problem, self.method), eps=0.0)
        minimal = origin.minimal()
        attack, passes = self.method.within(origin, x0, loop)

        def measured(solution: Solution) -> Solution:
            return replace(solution, problem=minimal, objective=origin.measure(solution.x, origin.inputs))

        box = minimal.domain.bounds(origin.inputs[:1])
        assert box is not None
        found = smallest_radius(
            lambda radius: measured(attack(radius)),
            measured(solve(*self.method.prepare(origin, origin.inputs, 1), origin.inputs, steps=1)),
            largest=origin.measure(box[1], box[0]),
            searches=self.searches,
        )
        return replace(found, forwards=found.forwards + passes) if passes else found


def budgeted_problem(problem: ConstrainedProblem[Any], method: BudgetedMethod) -> MaximalLoss:
    """The problem, if it is a :class:`MaximalLoss` in a distance that the method takes; else raises."""
    if not isinstance(problem, MaximalLoss):
        raise TypeError(
            f"problem: {type(method).__name__} is for a MaximalLoss, got {type(problem).__name__}; general problems are"
            " for the solvers of constropt.solvers"
        )
    method.measured(problem.measure)
    return problem


def best_start(
    problem: MaximalLoss, solver: Solver[Any], x0: Tensor, seeds: list[int | None], loop: Loop, steps: int
) -> Solution:
    """The best of one run of ``steps`` per seed; None starts at ``x0``, a seed at random."""
    starts = (x0 if seed is None else problem.random_start(seed) for seed in seeds)
    return best_of(*(loop(problem, solver, start, steps=steps) for start in starts))


def seeds_of(seed: int | None, restarts: int) -> list[int | None]:
    """The seeds of ``restarts`` runs, from ``seed`` on; None, which starts at the inputs, for the first run alone."""
    return [None if seed is None and not k else (seed or 0) + k for k in range(restarts)]
