"""Square Attack (Andriushchenko et al., ECCV 2020): a black-box attack by random search, from forward passes alone."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from constropt.checks import require_whole
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.budgeted import at_budget
from constropt.problems.attacks.losses import Loss
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.problems.distances.norms import DistanceLike
from constropt.solution import Solution, best_of
from constropt.solvers.balls.square import SquareSearch
from constropt.solvers.base import Callback
from constropt.solving import solve


def square(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor | None = None,
    targets: Tensor | None = None,
    distance: DistanceLike = "linf",
    loss: str | Loss | None = None,
    steps: int = 5000,
    restarts: int = 1,
    area: float = 0.8,
    seed: int = 0,
    searches: int = 13,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """Square Attack: :class:`MaximalLoss` by ``restarts`` runs of :class:`~constropt.solvers.SquareSearch`.

    A run makes ``steps`` queries of the model after that of the inputs, and a row ends at the first that fools it:
    ``Solution.forwards`` counts them per row, ``Solution.backwards`` is 0. Of ``inputs`` ``(batch, *event)`` the last
    two dimensions are the image; those of one dimension are searched by intervals. ``loss`` is the logit difference by
    default, cross-entropy with ``targets``; ``area`` is the part of the image that the first windows have, 0.8 as in
    AutoAttack (the paper: 0.05 for "linf", 0.1 for "l2"). ``seed`` fixes the draws, which are the same in all rows.
    ``eps=None`` searches the smallest radius that succeeds, by ``searches`` bisections of ``steps`` queries each.
    The other arguments are those of :class:`MaximalLoss`.

    Raises what :class:`MaximalLoss` raises, and ``ValueError`` for counts below 1.

    >>> import torch
    >>> solution = square(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), eps=0.25, steps=20)
    >>> solution.feasible.tolist(), solution.backwards.tolist()
    ([True], [0])
    """
    require_whole(steps=steps, restarts=restarts, searches=searches)
    if loss is None:
        loss = "logit difference" if targets is None else "ce"
    within = partial(
        MaximalLoss,
        model,
        inputs,
        labels,
        distance=distance,
        loss=loss,
        targets=targets,
        bounds=bounds,
    )
    solvers = [SquareSearch(area=area, seed=seed + k, stop=True) for k in range(restarts)]

    def attack(radius: Tensor) -> Solution:
        problem = within(eps=radius)
        return best_of(*(solve(problem, solver, problem.inputs, steps=steps, callback=callback) for solver in solvers))

    return at_budget(attack, within, solvers[0], eps=eps, searches=searches)
