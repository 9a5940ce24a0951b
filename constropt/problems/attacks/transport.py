"""The Wasserstein attack (Wong, Schmidt & Kolter, ICML 2019): PGD in a ball of images that moving mass reaches."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from constropt.domain import Box, WassersteinBall
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.declared import MaximalLoss
from constropt.problems.attacks.method import BudgetedMethod, Prepared, budgeted_problem
from constropt.problems.attacks.recipe import BudgetedRecipe
from constropt.solution import Solution
from constropt.solvers.balls.steepest_descent import SteepestDescent
from constropt.solvers.base import Loop, Method


@dataclass(frozen=True)
class WassersteinAttack(BudgetedMethod):
    """max mean ``loss``  s.t.  x in the Wasserstein ball of the inputs: signed gradient steps and projected Sinkhorn.

    ``inputs``: images ``(batch, channels, height, width)``, the pixels' values over the lower bound being the mass;
    x is what moving that mass within a channel by up to ``kernel // 2`` pixels reaches
    (:class:`~constropt.domain.WassersteinBall`). The radius is in pixels times the part of the mass:
    0.1 moves a tenth of it by one pixel. ``eps=None``: the radius starts at ``first_radius`` and grows by the factor
    ``growth`` every ``period`` steps, a row stops at its first success, and ``Solution.objective`` is the radius there
    (the last one, where there was none). With ``eps``, a number or ``(batch,)``, all ``steps`` are made in that ball,
    and it is the opposite of the loss. ``size``: the step, in parts of the width of the bounds. ``regularization``,
    the inverse of the entropy's weight, and ``iterations``, the Sinkhorn sweeps of a projection, are the ball's.

    ``ValueError`` for inputs that are no images.

    >>> image = torch.zeros(1, 1, 3, 3)
    >>> image[..., 1, 1] = 1.0
    >>> model = lambda x: torch.stack([x[:, 0, 1, 1], x[:, 0, 1, 2]], 1)
    >>> found = wasserstein(model, image, torch.tensor([0]), eps=0.6, loss="logit difference", steps=30)
    >>> found.feasible.tolist(), round(found.x.sum().item(), 3)
    ([True], 1.0)
    """

    size: float = 0.1
    first_radius: float = 0.01
    growth: float = 1.17
    period: int = 10
    kernel: int = 5
    regularization: float = 1000.0
    iterations: int = 50

    distances: ClassVar[tuple[str, ...] | None] = ("linf",)
    dense: ClassVar[bool] = False

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        """In the ball of the problem's eps."""
        return self.in_ball(problem)

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        return loop(*self.prepare(problem, x0, loop.steps), x0)

    def smallest(self, searches: int) -> Method:
        """In a ball that grows."""
        return GrowingBall(self)

    def in_ball(
        self, problem: ConstrainedProblem[Any], grown: int | None = None
    ) -> tuple[MaximalLoss, SteepestDescent]:
        """The problem in a Wasserstein ball, of its own radius or one ``grown`` so many steps, and signed steps."""
        loss, first = budgeted_problem(problem, self), None if grown is None else self.first_radius
        size, stop = self.size * loss.width, grown is not None
        solver = SteepestDescent(size=size, first=first, growth=self.growth, period=self.period, stop=stop)
        radius = loss.radius if grown is None else solver.radius(grown)
        box = Box(*loss.bounds)
        ball = WassersteinBall(radius, loss.inputs, box, self.kernel, self.regularization, self.iterations)
        return replace(loss, domain=ball), solver


@dataclass(frozen=True, eq=False)
class GrowingBall(Method):
    """The Wasserstein attack in a ball that grows until it succeeds; the problem's ``eps`` is not used."""

    attack: WassersteinAttack

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        """One run; the objective is the radius of the first success, or the last one."""
        within, solver = self.attack.in_ball(problem, loop.steps)
        found = loop(within, solver, x0)
        radii = torch.tensor([solver.radius(step) for step in range(loop.steps + 1)]).to(found.x)
        objective = radii[found.first_feasible]  # -1, no success, is the last
        return replace(found, problem=replace(within, objective=lambda x, z: objective), objective=objective)


_REFERENCE, _WITHOUT = "Wong, Schmidt & Kolter, ICML 2019", ("distance", "searches")
wasserstein = BudgetedRecipe("wasserstein", WassersteinAttack, steps=200, without=_WITHOUT, reference=_REFERENCE)
