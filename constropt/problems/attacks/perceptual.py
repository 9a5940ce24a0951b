"""Attacks in perceptual distances: PerC-AL (Zhao, Liu & Larson, 2020), LPA (Laidlaw, Singla & Feizi, 2021)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from constropt.checks import require_positive, require_whole
from constropt.constraint import inequality
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.declared import MinimalPerturbation, radius_of, row_mean
from constropt.problems.attacks.goals import Loss, as_loss
from constropt.problems.attacks.method import AttackMethod, Prepared, following, remeasured
from constropt.problems.attacks.recipe import MinimalRecipe
from constropt.rows import per_row
from constropt.solution import Solution
from constropt.solvers.alternating import Alternating
from constropt.solvers.balls.radius_search import smallest_radius
from constropt.solvers.base import Loop
from constropt.solvers.directions import normalised
from constropt.solvers.penalized.penalty_search import PenaltySearch, to_a_tenth
from constropt.solvers.penalized.weight_search import Growth
from constropt.solving import solve
from constropt.steps import Closure, PrimalStep, Prox


@dataclass(frozen=True, eq=False)
class PerCAL(AttackMethod):
    """The PerC-AL attack: :class:`MinimalPerturbation` by :class:`~constropt.solvers.Alternating`.

    Rows that do not fool the model take a step of l2 length ``alpha_l`` up the ``loss`` (down it, towards targets), the
    others one of ``alpha_c`` down the ``distance``, "ciede2000" or any other with a gradient; both lengths, in parts of
    the bounds' width, decay along a cosine, to a hundredth and to a tenth. ``alpha_c`` is 0.5, or 0.1 for smaller
    perturbations of models that are easily fooled. One forward and one backward pass a step, no rounding to 8 bits.

    >>> solution = perc_al(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), distance="l2", steps=100)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.18)
    """

    loss: str | Loss = "ce"
    alpha_l: float = 1.0
    alpha_c: float = 0.5

    def __post_init__(self) -> None:
        require_positive(alpha_l=self.alpha_l, alpha_c=self.alpha_c)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        attack = self.fitting(problem)
        solver = Alternating(size=self.alpha_l * attack.width, objective_size=self.alpha_c * attack.width)
        return following(attack, self.loss), solver


# LPA: the standard deviation of the random start, in parts of the bounds' width, and the confidence of the margin loss.
START, KAPPA = 0.01, 1.0


@dataclass(frozen=True, eq=False)
class DistanceStep(PrimalStep[None]):
    """``x <- prox(x - size g / rate)``: g normalised, and rate the distance that a step of length ``h`` covers, over h.

    ``size`` is thus in the units of ``between(x, moved)``, ``(batch,)``, which is measured once more at every step.
    """

    between: Callable[[Tensor, Tensor], Tensor]
    h: float = 0.1

    def init(self, x: Tensor) -> None:
        return None

    def update(
        self, gradient: Tensor, state: None, x: Tensor, size: Tensor, prox: Prox, closure: Closure
    ) -> tuple[Tensor, None]:
        direction = normalised(gradient, 2)
        with torch.no_grad():
            rate = self.between(x, x - self.h * direction) / self.h
        # as published: a row whose distance does not see the step moves far, and is then projected
        return prox(x - size / (per_row(rate, x) + 1e-8) * direction, size, None), None


@dataclass(frozen=True, eq=False)
class LPA(AttackMethod):
    """The LPA attack: max margin loss s.t. ``D(x, inputs) <= eps``, by :class:`~constropt.solvers.PenaltySearch`.

    min ``-min(max_{k != y} z_k - z_y, 1) + lambda max(D - eps, 0)``, lambda from ``weight`` on, times ``factor`` after
    each of ``searches`` searches that ends outside the budget: the published 5 x 20 steps (5 x 40 for evaluation). A
    step is as long as changes the distance by ``size``, ``eps`` by default, which decays to a tenth in every search;
    that takes one more measurement of the distance, at a point ``h`` away, but no model pass. It starts near the
    inputs, at a random point that ``seed`` fixes, the same in all rows. The best point within the budget is returned.

    ``distance``: "lpips", another name, a :class:`~constropt.problems.distances.Distance`, or a callable ``(x, inputs)
    -> (batch,)``. ``eps=None`` searches the smallest radius that succeeds by ``radii`` bisections of ``steps`` each up
    to ``largest`` (by default the distance to the far corner of the bounds); ``Solution.objective`` is then the
    distance, otherwise the opposite of the loss. ``Solution.feasible``: within the budget and the model fooled.

    >>> x, labels = torch.tensor([[0.75, 0.5]]), torch.tensor([0])
    >>> [lpa(lambda x: x, x, labels, eps=eps, distance="l2").feasible.tolist() for eps in (0.1, 0.3)]
    [[False], [True]]
    """

    eps: float | Tensor | None = None
    searches: int = 5
    size: float | Tensor | None = None
    weight: float = 0.01
    factor: float = 10.0
    h: float = 0.1
    seed: int = 0
    largest: float | Tensor | None = None
    radii: int = 13

    budgeted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_whole(searches=self.searches, radii=self.radii)
        require_positive(h=self.h)

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        minimal = self.fitting(problem)
        if self.eps is not None:
            return self._attack(minimal, radius_of(self.eps, minimal.inputs), loop)
        largest, (lower, upper), origin = self.largest, minimal.bounds, minimal.inputs
        to_inputs = minimal.measure.bind(origin, minimal.bounds)
        if largest is None:
            largest = to_inputs(torch.where(origin - lower > upper - origin, lower, upper))

        def attack(radius: Tensor) -> Solution:
            found = self._attack(minimal, radius, loop)
            distance = to_inputs(found.x)
            return replace(found, problem=minimal, objective=distance, multipliers=found.multipliers[:1])

        start = solve(minimal, Alternating(), origin, steps=1)
        return smallest_radius(attack, start, largest=largest, searches=self.radii)

    def _attack(self, problem: MinimalPerturbation, radius: Tensor, loop: Loop) -> Solution:
        width, origin, measure = problem.width, problem.inputs, problem.measure
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(origin.shape[1:], generator=generator, dtype=torch.float64).to(origin)
        solver = PenaltySearch(
            primal=DistanceStep(lambda x, moved: measure.bind(x, problem.bounds)(moved), self.h * width),
            size=radius.clamp_min(torch.finfo(radius.dtype).tiny) if self.size is None else self.size,
            decay=to_a_tenth,
            searches=self.searches,
            rule=Growth(weight=self.weight, factor=self.factor),
            abort=None,
        )
        within = _within(problem, radius)
        both = replace(within, constraints=(*problem.constraints, *within.constraints))
        return remeasured(loop(within, solver, problem.domain.project(origin + START * width * noise)), both)


def _within(problem: MinimalPerturbation, radius: Tensor) -> ConstrainedProblem[Tensor]:
    """The margin loss, at most :data:`KAPPA`, to be maximised within ``radius`` of the inputs."""
    per_entry, mean = as_loss("logit difference", problem.aim), row_mean(problem.aim.counted)
    to_inputs = problem.measure.bind(problem.inputs, problem.bounds)
    return ConstrainedProblem(
        objective=lambda x, z: -mean(per_entry(z).clamp_max(KAPPA)),
        constraints=(inequality(lambda x, z: to_inputs(x) - radius, name="within the budget"),),
        forward=problem.forward,
        domain=problem.domain,
    )


perc_al = MinimalRecipe("perc_al", PerCAL, "ciede2000", steps=1000, reference="Alg. 1.4; Zhao et al., CVPR 2020")
lpa = MinimalRecipe("lpa", LPA, "lpips", reference="Laidlaw, Singla & Feizi, ICLR 2021")
