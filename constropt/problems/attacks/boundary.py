"""The Brendel & Bethge attack (NeurIPS 2019): from a far adversarial point along the decision boundary."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.ascent import BIM
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.problems.attacks.method import AttackMethod, order_of, with_goal
from constropt.problems.attacks.recipe import MinimalRecipe
from constropt.solution import Solution, continued
from constropt.solvers.base import Loop
from constropt.solvers.linearized.boundary_walk import BoundaryWalk
from constropt.solving import solve

# Steps of the search for starts: from one end of the bounds to the other in 1.25 / 10 of their width each.
START_STEPS = 10


@dataclass(frozen=True)
class BrendelBethge(AttackMethod):
    """The Brendel & Bethge attack, minimal in "l0", "l1", "l2" or "linf", by :class:`BoundaryWalk`.

    ``starts``: adversarial points to begin from, of the shape of ``inputs`` -- as published, for instance inputs that
    the model takes for another class (for the target). By default they are searched by :func:`bim` without a limit on
    the norm, on the logit difference, with 10 of the ``steps`` (a quarter of them, if that is less), so that a row's
    start depends on nothing but the row; noise, which the reference implementation begins from, is an input of one and
    the same class for most models. ``searches`` bisections lead from the starts to the boundary. ``radius`` is that of
    the first trust region in the l2 norm, in parts of the bounds' width, by default ``sqrt(n) / 3`` for inputs of n
    entries. That of the reference implementation is ``1e-3 n`` times the size of the batch: of a single input a walk
    of 100 steps ends before it has come near. It is multiplied by ``decay`` ``decays`` times. ``overshoot`` and
    ``momentum`` are those of the solver. "l0" counts entries, so that a pixel of three channels may count three times.

    ``ValueError``/``TypeError`` for ``starts`` of another shape or outside the bounds.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> x, labels = torch.tensor([[0.75, 0.5]]), torch.tensor([0])
    >>> solution = brendel_bethge(lambda x: x @ weight.T, x, labels, distance="linf", steps=40)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
    """

    starts: Tensor | None = None
    radius: float | None = None
    decay: float = 0.5
    decays: int = 20
    overshoot: float = 1.1
    momentum: float = 0.8
    searches: int = 10

    distances: ClassVar[tuple[str, ...] | None] = ("l0", "l1", "l2", "linf")

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        """The search for starts, where none are given, and the walk."""
        attack = with_goal(self.fitting(problem), 0.0)
        width = attack.width
        solver = BoundaryWalk(
            p=order_of(attack),
            starts=self.starts,
            radius=None if self.radius is None else self.radius * width,
            decay=self.decay,
            decays=self.decays,
            overshoot=self.overshoot,
            momentum=self.momentum,
            searches=self.searches,
        )
        if self.starts is not None:
            return loop(attack, solver, x0)
        far = min(START_STEPS, max(loop.steps // 4, 1))
        anywhere = MaximalLoss(
            attack.model,
            attack.inputs,
            attack.labels,
            eps=width,
            loss="logit difference",
            targets=attack.targets,
            bounds=attack.bounds,
        )
        search = solve(anywhere, BIM(), attack.inputs, steps=far)
        walk = loop(attack, replace(solver, starts=search.x), x0, steps=max(loop.steps - far, 1))
        return continued(search, walk)


brendel_bethge = MinimalRecipe("brendel_bethge", BrendelBethge, steps=1000, reference="Brendel et al., NeurIPS 2019")
