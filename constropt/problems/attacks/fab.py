"""FAB (Croce & Hein, ICML 2020): the fast adaptive boundary attack."""

from __future__ import annotations

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.problems.attacks.arguments import Model, width_of
from constropt.problems.attacks.deepfool import others
from constropt.problems.attacks.log_outputs import LogOutputs
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import as_distance
from constropt.problems.distances.norms import DistanceLike, Norm
from constropt.solution import Solution, best_of
from constropt.solvers.base import Callback
from constropt.solvers.linearized.boundary_projection import BoundaryProjection
from constropt.solvers.linearized.segment_search import SegmentSearch
from constropt.solving import solve

# Random restarts start within half this distance, in parts of the bounds' width (official code).
EPS = {1.0: 5.0, 2.0: 1.0, torch.inf: 0.3}


def fab(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    distance: DistanceLike = "linf",
    steps: int = 100,
    restarts: int = 1,
    by_class: bool = False,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    eps: float | None = None,
    candidates: int | None = None,
    search: int = 3,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The FAB attack, "linf", "l2" or "l1": :class:`MinimalPerturbation` by :class:`BoundaryProjection`.

    ``restarts`` runs of ``steps`` iterations each, the first from the inputs, the others from a random point at most
    ``eps / 2`` away (by default ``eps`` is 0.3, 1 and 5 for linf, l2 and l1, in parts of the bounds' width). Every
    iteration linearises the boundaries to the other classes, all of them or those among the ``candidates`` most likely.
    ``by_class`` is FAB-T, for many classes: run r follows the boundary to the r-th most likely other class alone, and
    any other class counts as a success; AutoAttack makes ``restarts=9`` such runs. With ``targets`` the targets must be
    reached. ``search`` secant steps (0: none) towards the inputs end the attack.

    An iteration is two forward passes and as many backward passes as there are boundaries, one with ``by_class`` or
    ``targets``. Outputs that are probabilities are attacked through their logarithm.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for another distance and values out of range.

    >>> import torch
    >>> solution = fab(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), distance="linf")
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
    """
    require_whole(steps=steps, restarts=restarts)
    require_whole(0, search=search)
    measure = as_distance(distance, ("linf", "l2", "l1"))
    assert isinstance(measure, Norm)
    problem = MinimalPerturbation(LogOutputs(model), inputs, labels, distance=measure, targets=targets, bounds=bounds)
    if eps is None:
        eps = EPS[measure.p] * width_of(bounds)
    solver = BoundaryProjection(
        p=measure.p,
        alpha=alpha_max,
        eta=eta,
        beta=beta,
        candidates=others(candidates),
        runs=restarts,
        radius=eps,
        single=by_class,
        seed=seed,
    )
    found = solve(problem, solver, inputs, steps=restarts * steps, callback=callback)
    if not search:
        return found
    end = SegmentSearch(found.x, secant=True)
    return best_of(found, solve(problem, end, inputs, steps=search + 1, callback=callback))
