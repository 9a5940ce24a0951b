"""Square Attack (Andriushchenko et al., ECCV 2020): a black-box attack by random search, from forward passes alone."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from constropt.checks import require_whole
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.budgets import Attack, BudgetedMethod
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.problems.attacks.method import Prepared
from constropt.problems.attacks.recipe import BudgetedRecipe
from constropt.solution import Solution, best_of
from constropt.solvers.balls.square import SquareSearch
from constropt.solvers.base import Loop


@dataclass(frozen=True)
class Square(BudgetedMethod):
    """Square Attack: :class:`MaximalLoss` by ``restarts`` runs of :class:`~constropt.solvers.SquareSearch`.

    A run makes ``steps`` queries of the model after that of the inputs, and a row ends at the first that fools it:
    ``Solution.forwards`` counts them per row, ``Solution.backwards`` is 0. Of ``inputs`` ``(batch, *event)`` the last
    two dimensions are the image; those of one dimension are searched by intervals. ``loss`` is the logit difference by
    default, cross-entropy with ``targets``; ``area`` is the part of the image that the first windows have, 0.8 as in
    AutoAttack (the paper: 0.05 for "linf", 0.1 for "l2"). ``seed`` fixes the draws, which are the same in all rows.

    >>> import torch
    >>> solution = square(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), eps=0.25, steps=20)
    >>> solution.feasible.tolist(), solution.backwards.tolist()
    ([True], [0])
    """

    restarts: int = 1
    area: float = 0.8
    seed: int = 0

    dense: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_whole(restarts=self.restarts)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        return problem, self._solver(0)

    def _solver(self, run: int) -> SquareSearch:
        return SquareSearch(area=self.area, seed=self.seed + run, stop=True)

    def within(self, problem: MaximalLoss, x0: Tensor, loop: Loop) -> tuple[Attack, int]:
        solvers = [self._solver(run) for run in range(self.restarts)]

        def attack(radius: Tensor) -> Solution:
            at = replace(problem, eps=radius)
            return best_of(*(loop(at, solver, x0) for solver in solvers))

        return attack, 0


square = BudgetedRecipe(
    "square", Square, steps=5000, losses=("logit difference", "ce"), reference="Andriushchenko et al., ECCV 2020"
)
