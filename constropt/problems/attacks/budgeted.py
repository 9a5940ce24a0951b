"""How budgeted recipes run: within a given radius, or, without one, at the smallest radius where they succeed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from constropt.checks import require_whole
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.solution import Solution, best_of
from constropt.solvers.balls.radius_search import smallest_radius
from constropt.solvers.base import Callback, Solver
from constropt.solving import solve


def budgeted(
    within: Callable[..., MaximalLoss],
    solver: Solver[Any],
    *,
    eps: float | Tensor | None,
    steps: int,
    seeds: Sequence[int | None] = (None,),
    searches: int = 13,
    callback: Callback | None = None,
) -> Solution:
    """The best of one run of ``steps`` per seed on ``within(eps=eps)``; None starts at the inputs, a seed at random.

    ``eps=None``: the minimal problem, see :func:`at_budget`.
    """
    require_whole(steps=steps, searches=searches)

    def attack(radius: Tensor) -> Solution:
        problem = within(eps=radius)
        starts = (problem.inputs if seed is None else problem.random_start(seed) for seed in seeds)
        return best_of(*(solve(problem, solver, start, steps=steps, callback=callback) for start in starts))

    return at_budget(attack, within, solver, eps=eps, searches=searches)


def at_budget(
    attack: Callable[[Tensor], Solution],
    within: Callable[..., MaximalLoss],
    solver: Solver[Any],
    *,
    eps: float | Tensor | None,
    searches: int,
) -> Solution:
    """``attack(radius)``, radius ``(batch,)``, at ``eps``, or where that is None at the smallest radius that succeeds.

    ``eps=None``: the minimal problem, by ``smallest_radius`` of the solvers up to the distance
    across the bounds; one step of ``solver`` at the inputs themselves finds the rows that need no perturbation. The
    objective is then the distance. ``within(eps=...)`` is checked before the first model call.
    """
    if eps is not None:
        return attack(within(eps=eps).eps)
    origin = within(eps=0.0)
    minimal = origin.minimal()

    def measured(solution: Solution) -> Solution:
        return replace(solution, problem=minimal, objective=origin.distance(solution.x, origin.inputs))

    box = minimal.domain.bounds(origin.inputs[:1])
    assert box is not None
    lower, upper = box
    return smallest_radius(
        lambda radius: measured(attack(radius)),
        measured(solve(origin, solver, origin.inputs, steps=1)),
        largest=origin.distance(upper, lower),
        searches=searches,
    )


def seeds_of(seed: int | None, restarts: int) -> list[int | None]:
    """The seeds of ``restarts`` runs, from ``seed`` on; None, which starts at the inputs, for the first run alone."""
    return [None if seed is None and not k else (seed or 0) + k for k in range(restarts)]
