"""Attacks within a ball around the inputs: FGSM, BIM or I-FGSM, MI-FGSM, PGD, APGD and Square Attack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.declared import MaximalLoss
from constropt.problems.attacks.goals import leading_classes, towards
from constropt.problems.attacks.method import Attack, BudgetedMethod, Prepared
from constropt.problems.attacks.recipe import BudgetedRecipe
from constropt.solution import Solution, best_of, continued
from constropt.solvers.balls.auto_projected_gradient import AutoProjectedGradient
from constropt.solvers.balls.projected_gradient import ProjectedGradient
from constropt.solvers.balls.square import SquareSearch
from constropt.solvers.base import Loop

# The path of BIM is a quarter longer than the radius, as with its published min(eps + 4, 1.25 eps) steps of 1/255.
BIM_PATH = 1.25
# The length of a run's path in radii: from anywhere in the ball to anywhere else, and some steps to refine.
PGD_PATH = 2.5
# The share of a run's steps that every stage but the last gets (Croce & Hein, 2021, Sec. 3.2).
SHARE = 0.3
# Between the seeds of the runs towards one class and the next: more than there are restarts.
STRIDE = 1009
Stages = Sequence[tuple[float, int]]


@dataclass(frozen=True)
class FGSM(BudgetedMethod):
    """One step of length ``eps`` up the loss of :class:`MaximalLoss`: ``x = inputs + eps sign(grad)`` for linf.

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
        return problem, ProjectedGradient(size=PGD_PATH / steps if self.size is None else self.size)

    def within(self, problem: MaximalLoss, x0: Tensor, loop: Loop) -> tuple[Attack, int]:
        steps, restarts = loop.steps, self.restarts
        if restarts > steps:
            raise ValueError(f"restarts: share the budget of steps={steps}, of which each needs one, got {restarts}")
        _, solver = self.prepare(problem, x0, steps // restarts)

        def attack(radius: Tensor) -> Solution:
            at = replace(problem, eps=radius)
            starts = (_start(at, x0, seed) for seed in _seeds(self.seed, restarts))
            return best_of(*(loop(at, solver, start, steps=steps // restarts) for start in starts))

        return attack, 0


def _seeds(seed: int | None, restarts: int) -> list[int | None]:
    """The seeds of ``restarts`` runs, from ``seed`` on; None, which starts at the inputs, for the first run alone."""
    return [None if seed is None and not k else (seed or 0) + k for k in range(restarts)]


def _start(problem: MaximalLoss, x0: Tensor, seed: int | None) -> Tensor:
    return x0 if seed is None else problem.random_start(seed)


@dataclass(frozen=True)
class APGD(BudgetedMethod):
    """The APGD attack (l1: Croce & Hein, ICML 2021): :class:`MaximalLoss` by :class:`AutoProjectedGradient`.

    ``restarts`` runs of ``steps`` steps each, from random points that ``seed`` fixes and that are the same in all rows;
    ``seed=None`` starts the first run at the inputs. ``loss="targeted dlr"`` without ``targets`` makes a run towards
    each of the ``target_classes`` classes that the model finds likeliest at the inputs beside the label (one more
    forward pass; fewer where there are fewer), ``restarts`` times; a sequence picks them by rank, 0 the likeliest.
    ``radii``, relative to ``eps``, splits a run into stages in balls of these radii, each from the result of the one
    before and each but the last with 30 % of the steps: ``(3.0, 2.0, 1.0)`` by default in "l1" (the multi-eps form),
    ``(1.0,)``, a single stage, in the others. The objective at a budget is the opposite of the loss, of "targeted dlr"
    that towards the best class. ``ValueError`` for counts below 1, ``radii`` that are not positive or do not end with
    1, or more of them than steps.

    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> x, labels = torch.tensor([[0.75, 0.5]]), torch.tensor([0])
    >>> [apgd(lambda x: x @ weight.T, x, labels, eps=eps, loss="dlr").feasible.tolist() for eps in (0.1, 0.2)]
    [[False], [True]]
    """

    restarts: int = 1
    target_classes: int | Sequence[int] = 9
    radii: Sequence[float] | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        require_whole(restarts=self.restarts)
        _ranks(self.target_classes)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        return problem, AutoProjectedGradient()

    def within(self, problem: MaximalLoss, x0: Tensor, loop: Loop) -> tuple[Attack, int]:
        """The best of the runs, from every seed towards every class."""
        radii, steps = self.radii, loop.steps
        if radii is None:
            radii = (3.0, 2.0, 1.0) if problem.measure.name == "l1" and steps >= 3 else (1.0,)
        stages, seeds = _stages(radii, steps), _seeds(self.seed, self.restarts)
        classes = self._classes(problem)

        def attack(radius: Tensor) -> Solution:
            if not classes:
                return best_of(*(_run(problem, radius, x0, seed, stages, loop) for seed in seeds))
            judge = replace(problem, eps=radius)

            def run(seed: int | None, rank: int, c: Tensor) -> Solution:
                seed = None if seed is None else seed + STRIDE * rank  # every class from another point
                return _judged(_run(replace(problem, loss=towards(c)), radius, x0, seed, stages, loop), judge)

            return best_of(*(run(seed, rank, c) for seed in seeds for rank, c in classes))

        return attack, int(bool(classes))

    def _classes(self, problem: MaximalLoss) -> list[tuple[int, Tensor]]:
        """The classes to run towards and their ranks, by one look at the inputs; none where it is not asked for."""
        if problem.loss != "targeted dlr" or problem.targets is not None:
            return []
        if problem.aim.dense:
            raise ValueError("loss: 'targeted dlr' without targets is for classifiers; for dense predictions use 'dlr'")
        ranks = _ranks(self.target_classes)
        with torch.no_grad():
            logits = problem.forward(problem.inputs)
        leading = leading_classes(logits, problem.labels, max(ranks) + 1)
        classes = [(rank, leading[:, rank]) for rank in ranks if rank < leading.shape[1]]
        if not classes:
            raise ValueError(f"target_classes: the model has {leading.shape[1]} other classes, got ranks {ranks}")
        return classes


def _run(problem: MaximalLoss, radius: Tensor, x0: Tensor, seed: int | None, stages: Stages, loop: Loop) -> Solution:
    """One run: a stage in a ball of ``factor`` times the radius for each pair ``(factor, steps)``; passes add up."""
    (factor, steps), *others = stages
    stage = replace(problem, eps=factor * radius)
    found = loop(stage, AutoProjectedGradient(), _start(stage, x0, seed), steps=steps)
    # the sparsity of what has been found is the one to go on with
    solver = AutoProjectedGradient(density=None)
    for factor, steps in others:
        found = continued(found, loop(replace(problem, eps=factor * radius), solver, found.x, steps=steps))
    return found


def _judged(found: Solution, problem: MaximalLoss) -> Solution:
    """The same points measured by another loss, so that runs of different losses compare; one forward pass."""
    point = problem.evaluate(found.x, grad=False)
    return replace(found, problem=problem, objective=point.total(), forwards=found.forwards + 1)


def _ranks(target_classes: int | Sequence[int]) -> tuple[int, ...]:
    """The ranks of the classes to run towards."""
    if isinstance(target_classes, int):
        require_whole(target_classes=target_classes)
        return tuple(range(target_classes))
    ranks = tuple(target_classes)
    if not ranks or not all(isinstance(rank, int) and rank >= 0 for rank in ranks):
        raise ValueError(f"target_classes: takes a number of classes, or ranks >= 0, got {target_classes!r}")
    return ranks


def _stages(radii: Sequence[float], steps: int) -> list[tuple[float, int]]:
    """Each radius with its share of the steps."""
    if not radii or not all(factor > 0 for factor in radii) or radii[-1] != 1:
        raise ValueError(f"radii: takes positive factors of eps, the last of them 1, got {tuple(radii)}")
    early = max(int(SHARE * steps), 1)
    last = steps - early * (len(radii) - 1)
    if last < 1:
        raise ValueError(f"radii: {len(radii)} stages share steps={steps}, and none is left for the last")
    return [(factor, early) for factor in radii[:-1]] + [(1.0, last)]


@dataclass(frozen=True)
class Square(BudgetedMethod):
    """Square Attack: :class:`MaximalLoss` by ``restarts`` runs of :class:`~constropt.solvers.SquareSearch`.

    A run makes ``steps`` queries of the model after that of the inputs, and a row ends at the first that fools it:
    ``Solution.forwards`` counts them per row, ``Solution.backwards`` is 0. Of ``inputs`` ``(batch, *event)`` the last
    two dimensions are the image; those of one dimension are searched by intervals. ``loss`` is the logit difference by
    default, cross-entropy with ``targets``; ``area`` is the part of the image that the first windows have, 0.8 as in
    AutoAttack (the paper: 0.05 for "linf", 0.1 for "l2"). ``seed`` fixes the draws, which are the same in all rows.

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


fgsm = BudgetedRecipe("fgsm", FGSM, steps=1, without=("steps",), reference="Eq. 1.6; Goodfellow et al., 2015")
bim = BudgetedRecipe("bim", BIM, steps=20, reference="Kurakin et al., 2017")
mi_fgsm = BudgetedRecipe("mi_fgsm", MIFGSM, steps=20, reference="Dong et al., 2018")
pgd = BudgetedRecipe("pgd", PGD, steps=40, reference="Eq. 1.9; Madry et al., 2018")
apgd = BudgetedRecipe("apgd", APGD, steps=100, reference="Croce & Hein, 2020, 2021")
square = BudgetedRecipe(
    "square", Square, steps=5000, losses=("logit difference", "ce"), reference="Andriushchenko et al., ECCV 2020"
)
