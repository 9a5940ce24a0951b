"""LPA (Laidlaw, Singla & Feizi, ICLR 2021): the Lagrangian perceptual attack, within a budget of any distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.constraint import inequality
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.losses import as_loss
from constropt.problems.attacks.maximal_loss import radius_of, row_mean
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.attacks.remeasured import remeasured
from constropt.problems.distances import with_gradient
from constropt.problems.distances.norms import DistanceLike
from constropt.rows import per_row
from constropt.solution import Solution
from constropt.solvers.alternating import Alternating
from constropt.solvers.balls.radius_search import smallest_radius
from constropt.solvers.base import Callback
from constropt.solvers.directions import normalised
from constropt.solvers.penalized.penalty_search import PenaltySearch, to_a_tenth
from constropt.solvers.penalized.weight_search import Growth
from constropt.solving import solve
from constropt.steps import Closure, PrimalStep, Prox

# The standard deviation of the random start, in parts of the bounds' width, and the confidence of the margin loss.
START, KAPPA = 0.01, 1.0


@dataclass(frozen=True)
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


def lpa(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor | None = None,
    targets: Tensor | None = None,
    distance: DistanceLike = "lpips",
    steps: int = 100,
    searches: int = 5,
    size: float | Tensor | None = None,
    weight: float = 0.01,
    factor: float = 10.0,
    h: float = 0.1,
    seed: int = 0,
    largest: float | Tensor | None = None,
    radii: int = 13,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The LPA attack: max margin loss s.t. ``D(x, inputs) <= eps``, by
    :class:`~constropt.solvers.PenaltySearch` on the distance's constraint.

    min ``-min(max_{k != y} z_k - z_y, 1) + lambda max(D - eps, 0)``, lambda from ``weight`` on, times ``factor`` after
    each of ``searches`` searches that ends outside the budget: the published 5 x 20 steps (5 x 40 for evaluation). A
    step is as long as changes the distance by ``size``, ``eps`` by default, which decays to a tenth in every search;
    that takes one more measurement of the distance, at a point ``h`` away, but no model pass. It starts near the
    inputs, at a random point that ``seed`` fixes, the same in all rows. The best point within the budget is returned,
    in place of a projection on it.

    ``distance``: "lpips", another name, a :class:`~constropt.problems.distances.Distance`, or a callable ``(x, inputs)
    -> (batch,)``. ``eps=None`` searches the smallest radius that succeeds by ``radii`` bisections of ``steps`` each up
    to ``largest`` (by default the distance to the far corner of the bounds); ``Solution.objective`` is then the
    distance, otherwise the opposite of the loss. ``Solution.feasible``: within the budget and the model fooled.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for values out of range.

    >>> import torch
    >>> x, labels = torch.tensor([[0.75, 0.5]]), torch.tensor([0])
    >>> [lpa(lambda x: x, x, labels, eps=eps, distance="l2").feasible.tolist() for eps in (0.1, 0.3)]
    [[False], [True]]
    """
    require_whole(steps=steps, searches=searches, radii=radii)
    problem = MinimalPerturbation(
        model, inputs, labels, distance=with_gradient(distance), targets=targets, bounds=bounds
    )
    if not h > 0:
        raise ValueError(f"h: takes a length > 0, in parts of the bounds' width, got {h}")
    width = bounds[1] - bounds[0]
    measure, origin = problem.distance, problem.inputs
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(origin.shape[1:], generator=generator, dtype=torch.float64).to(origin)
    start = problem.domain.project(origin + START * width * noise)
    primal = DistanceStep(lambda x, moved: measure.bind(x, bounds)(moved), h * width)

    def attack(radius: Tensor) -> Solution:
        tiny = torch.finfo(radius.dtype).tiny
        solver = PenaltySearch(
            primal=primal,
            size=radius.clamp_min(tiny) if size is None else size,
            decay=to_a_tenth,
            searches=searches,
            rule=Growth(weight=weight, factor=factor),
            abort=None,
        )
        within = _within(problem, radius)
        both = replace(within, constraints=(*problem.constraints, *within.constraints))
        return remeasured(solve(within, solver, start, steps=steps, callback=callback), both)

    if eps is not None:
        return attack(radius_of(eps, origin))
    lower, upper = bounds
    if largest is None:
        largest = measure.bind(origin, bounds)(torch.where(origin - lower > upper - origin, lower, upper))

    def measured(solution: Solution) -> Solution:
        distance = problem.objective(solution.x, solution.x)
        return replace(solution, problem=problem, objective=distance, multipliers=solution.multipliers[:1])

    return smallest_radius(
        lambda radius: measured(attack(radius)),
        solve(problem, Alternating(), origin, steps=1),
        largest=largest,
        searches=radii,
    )


def _within(problem: MinimalPerturbation, radius: Tensor) -> ConstrainedProblem[Tensor]:
    """The margin loss, at most :data:`KAPPA`, to be maximised within ``radius`` of the inputs."""
    per_entry, mean = as_loss("logit difference", problem.aim), row_mean(problem.aim.counted)
    return ConstrainedProblem(
        objective=lambda x, z: -mean(per_entry(z).clamp_max(KAPPA)),
        constraints=(inequality(lambda x, z: problem.objective(x, z) - radius, name="within the budget"),),
        forward=problem.forward,
        domain=problem.domain,
    )
