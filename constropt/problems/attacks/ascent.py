"""Gradient ascent of a loss in a ball: FGSM, BIM or I-FGSM, MI-FGSM, PGD (Goodfellow, Kurakin, Dong, Madry et al.)."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from constropt.checks import require_whole
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.budgets import Attack, BudgetedMethod, best_start, seeds_of
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.problems.attacks.method import Prepared
from constropt.problems.attacks.recipe import BudgetedRecipe
from constropt.solvers.balls.projected_gradient import ProjectedGradient
from constropt.solvers.base import Loop

# The path of BIM is a quarter longer than the radius, as with its published min(eps + 4, 1.25 eps) steps of 1/255.
BIM_PATH = 1.25
# The length of a run's path in radii: from anywhere in the ball to anywhere else, and some steps to refine.
PGD_PATH = 2.5


@dataclass(frozen=True)
class FGSM(BudgetedMethod):
    """One step of length ``eps`` up the loss of :class:`MaximalLoss`: ``x = inputs + eps sign(grad)`` for linf.

    >>> import torch
    >>> solution = fgsm(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), eps=0.25)
    >>> solution.feasible.tolist(), solution.x.tolist()
    ([True], [[0.5, 0.75]])
    """

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        return problem, ProjectedGradient(size=1.0)

    def within(self, problem: MaximalLoss, x0: Tensor, loop: Loop) -> tuple[Attack, int]:
        """One step, whatever the budget is."""
        return lambda radius: loop(replace(problem, eps=radius), ProjectedGradient(size=1.0), x0, steps=1), 0


@dataclass(frozen=True)
class BIM(BudgetedMethod):
    """BIM, or I-FGSM: ``steps`` steps of ``size`` times the radius (default ``1.25 / steps``), from the inputs.

    >>> import torch
    >>> solution = bim(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
    """

    size: float | None = None

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        return problem, ProjectedGradient(size=BIM_PATH / steps if self.size is None else self.size)


@dataclass(frozen=True)
class MIFGSM(BudgetedMethod):
    """MI-FGSM: ``steps`` steps of ``1 / steps`` times the radius along ``m <- momentum m + grad / ||grad||_1``.

    >>> import torch
    >>> solution = mi_fgsm(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), eps=0.25)
    >>> solution.x.round(decimals=4).tolist()
    [[0.5, 0.75]]
    """

    momentum: float = 1.0

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        return problem, ProjectedGradient(size=1 / steps, momentum=self.momentum)


@dataclass(frozen=True)
class PGD(BudgetedMethod):
    """The PGD attack: :class:`MaximalLoss` by ``restarts`` runs of ``steps // restarts`` steps from random points.

    ``size`` is the step relative to the radius, by default ``2.5`` over the steps of a run. ``seed`` fixes the starts,
    which are the same in all rows; ``seed=None`` starts the first run at the inputs. In Sec. 5.5.5.2 of the thesis: 40
    steps with ``restarts=1`` or ``4``, ``loss="ce"`` or ``"dlr"``. ``ValueError`` unless ``1 <= restarts <= steps``.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> x, labels = torch.tensor([[0.75, 0.5]]), torch.tensor([0])
    >>> [pgd(lambda x: x @ weight.T, x, labels, eps=eps).feasible.tolist() for eps in (0.1, 0.2)]
    [[False], [True]]
    """

    restarts: int = 1
    size: float | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        require_whole(restarts=self.restarts)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        return problem, self._solver(steps)

    def _solver(self, steps: int) -> ProjectedGradient:
        return ProjectedGradient(size=PGD_PATH / steps if self.size is None else self.size)

    def within(self, problem: MaximalLoss, x0: Tensor, loop: Loop) -> tuple[Attack, int]:
        restarts, seeds = self.restarts, seeds_of(self.seed, self.restarts)
        if restarts > loop.steps:
            raise ValueError(
                f"restarts: share the budget of steps={loop.steps}, of which each needs one, got {restarts}"
            )
        steps = loop.steps // restarts
        solver = self._solver(steps)
        return lambda radius: best_start(replace(problem, eps=radius), solver, x0, seeds, loop, steps), 0


fgsm = BudgetedRecipe("fgsm", FGSM, steps=1, without=("steps",), reference="Eq. 1.6; Goodfellow et al., 2015")
bim = BudgetedRecipe("bim", BIM, steps=20, reference="Kurakin et al., 2017")
mi_fgsm = BudgetedRecipe("mi_fgsm", MIFGSM, steps=20, reference="Dong et al., 2018")
pgd = BudgetedRecipe("pgd", PGD, steps=40, reference="Eq. 1.9; Madry et al., 2018")
