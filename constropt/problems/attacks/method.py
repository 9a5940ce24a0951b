"""What published attacks have in common beside being a :class:`~constropt.solvers.Method`, within a radius or not."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from constropt.checks import got, require_whole
from constropt.problem import ConstrainedProblem, ProximableFunction
from constropt.problems.attacks.declared import MaximalLoss, MinimalPerturbation, PerturbationProblem
from constropt.problems.attacks.goals import Loss, as_loss, logit_margin
from constropt.problems.distances import Distance, DistanceLike, Norm, UnsupportedDistance, as_distance, with_gradient
from constropt.problems.model_calls import ModelCall
from constropt.solution import Solution, Status, continued
from constropt.solvers.balls.radius_search import smallest_radius
from constropt.solvers.base import Loop, Method, Solver
from constropt.solving import solve

# What one run solves, and by what.
Prepared = tuple[ConstrainedProblem[Any], Solver[Any]]


class AttackMethod(Method):
    """Subclass as a frozen dataclass of the hyper-parameters; what else it needs the method reads in the problem.

    It declares its ``distances``, by name (None: any with a gradient), whether it is ``dense``: takes a label per
    pixel, a mask and a fraction nu, and whether it is ``budgeted``: stays within a radius where one is given.
    """

    distances: ClassVar[tuple[str, ...] | None] = None
    dense: ClassVar[bool] = False
    budgeted: ClassVar[bool] = False

    @classmethod
    def measured(cls, distance: DistanceLike) -> Distance:
        """The distance; :class:`~constropt.problems.distances.UnsupportedDistance` for one that it does not take."""
        return with_gradient(distance) if cls.distances is None else as_distance(distance, cls.distances)

    def default_steps(self, problem: Any) -> int:
        """How many steps a recipe makes that declares none: by default 100, 500 for dense predictions (Sec. 5.5.5)."""
        return 500 if problem.aim.dense else 100

    def fitting(self, problem: ConstrainedProblem[Any]) -> MinimalPerturbation:
        """The problem, if it is a :class:`MinimalPerturbation` in a distance that the method takes; else raises."""
        return _fitting(problem, MinimalPerturbation, self)

    def check_distance(self, problem: ConstrainedProblem[Any]) -> None:
        """For methods that take any problem: where it has a distance, that is one of the method's."""
        if isinstance(problem, PerturbationProblem):
            self.measured(problem.measure)


P = TypeVar("P", MinimalPerturbation, MaximalLoss)


def _fitting(problem: ConstrainedProblem[Any], kind: type[P], method: AttackMethod) -> P:
    if not isinstance(problem, kind):
        found = f"{type(method).__name__} is for a {kind.__name__}, got {got(problem)}"
        raise TypeError(f"problem: {found}; general problems are for the solvers of constropt.solvers")
    method.measured(problem.measure)
    return problem


def order_of(problem: MinimalPerturbation) -> float:
    """p of the problem's norm; raises for a distance that has only the name of one."""
    if not isinstance(problem.measure, Norm):
        raise UnsupportedDistance(f"distance: takes the norm itself, got another distance named {problem.measure.name}")
    return problem.measure.p


def with_goal(problem: MinimalPerturbation, confidence: float) -> MinimalPerturbation:
    """The problem on its logit difference, or with its own goal, for which a ``confidence`` is a ``ValueError``."""
    if problem.constraint is None:
        return replace(problem, constraint=logit_margin(confidence))
    if confidence:
        raise ValueError(f"confidence: is for the logit difference, got {confidence} beside the problem's constraint")
    return problem


def following(problem: MinimalPerturbation, loss: str | Loss) -> MinimalPerturbation:
    """The same problem with the opposite of ``loss`` as its constraint's surrogate, which direction methods descend."""
    per_entry = as_loss(loss, problem.aim)
    fooled, *others = problem.constraints
    return replace(problem, constraints=(replace(fooled, surrogate=lambda x, z: -per_entry(z)), *others))


def split(problem: MinimalPerturbation, nonsmooth: ProximableFunction) -> MinimalPerturbation:
    """The same problem with ``nonsmooth``, for methods that need its prox, in the place of the distance (Eq. 5.5)."""
    return replace(problem, objective=None, nonsmooth=nonsmooth)


def on_logarithms(problem: MinimalPerturbation) -> MinimalPerturbation:
    """The problem with the logarithms of a model's probabilities for its logits, for attacks that linearise logits."""
    return replace(problem, model=ModelCall(problem.model, logarithm=True))


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


@dataclass(frozen=True, eq=False)
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
        start = measured(solve(*self.method.prepare(origin, origin.inputs, 1), origin.inputs, steps=1))
        largest = origin.measure(box[1], box[0])
        found = smallest_radius(lambda r: measured(attack(r)), start, largest=largest, searches=self.searches)
        return replace(found, forwards=found.forwards + passes) if passes else found


def budgeted_problem(problem: ConstrainedProblem[Any], method: BudgetedMethod) -> MaximalLoss:
    """The problem, if it is a :class:`MaximalLoss` in a distance that the method takes; else raises."""
    return _fitting(problem, MaximalLoss, method)


def solution_at(problem: ConstrainedProblem[Any], x: Tensor) -> Solution:
    """Given points, ``(batch, *event)``, as a solution of ``problem``: objective and feasibility (tolerance 0) there.

    One forward pass is counted, the status is ``BUDGET_SPENT``, and ``first_feasible`` is 0 for feasible rows.

    >>> problem = ConstrainedProblem(objective=lambda x, _: x.square().sum(1))
    >>> solution_at(problem, torch.tensor([[3.0, 4.0]])).objective
    tensor([25.])
    """
    point = problem.evaluate(x, grad=False)
    violation = point.violation()
    feasible = violation <= 0
    passes = torch.ones_like(feasible, dtype=torch.long)
    return Solution(
        problem=problem,
        x=point.x.clone(),
        objective=point.total(),
        feasible=feasible,
        violation=violation,
        status=torch.full_like(feasible, int(Status.BUDGET_SPENT), dtype=torch.int8),
        multipliers=tuple(map(torch.zeros_like, point.values)),
        duals=None,
        forwards=passes,
        backwards=torch.zeros_like(passes),
        first_feasible=torch.where(feasible, 0, -1),
    )


def remeasured(solution: Solution, problem: ConstrainedProblem[Any]) -> Solution:
    """The points of a simpler problem's solution as ``problem`` measures them, in a counted pass (`solution_at`)."""
    return replace(continued(solution, solution_at(problem, solution.x)), status=solution.status, trace=solution.trace)
