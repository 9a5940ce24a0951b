"""The Brendel & Bethge attack (NeurIPS 2019): from a far adversarial point along the decision boundary."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from constropt.checks import require_whole
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.fgsm import bim
from constropt.problems.attacks.goals import logit_margin
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import as_distance
from constropt.problems.distances.norms import DistanceLike, Norm
from constropt.solution import Solution, continued
from constropt.solvers.base import Callback
from constropt.solvers.linearized.boundary_walk import BoundaryWalk
from constropt.solving import solve

# Steps of the search for starts: from one end of the bounds to the other in 1.25 / 10 of their width each.
START_STEPS = 10


def brendel_bethge(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    distance: DistanceLike = "l2",
    steps: int = 1000,
    starts: Tensor | None = None,
    radius: float | None = None,
    decay: float = 0.5,
    decays: int = 20,
    overshoot: float = 1.1,
    momentum: float = 0.8,
    searches: int = 10,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The Brendel & Bethge attack, minimal in "l0", "l1", "l2" or "linf", by :class:`BoundaryWalk`.

    ``starts``: adversarial points to begin from, of the shape of ``inputs`` -- as published, for instance inputs that
    the model takes for another class (for the target). By default they are searched by :func:`bim` without a limit on
    the norm, on the logit difference, with 10 of the ``steps`` (a quarter of them, if that is less), so that a row's
    start depends on nothing but the row; noise, which the reference implementation begins from, is an input of one and
    the same class for most models. ``searches`` bisections lead from the starts to the boundary. ``radius`` is that of
    the first trust region in the l2 norm, in parts of the bounds' width, by default ``sqrt(n) / 3`` for inputs of n
    entries. That of the reference implementation is ``1e-3 n`` times the size of the batch: of a single input a walk
    of 100 steps ends before it has come near. It is multiplied by ``decay`` ``decays`` times. ``overshoot`` and
    ``momentum`` are those of the solver. ``Solution.objective`` is the distance; "l0" counts entries, so that a pixel
    of three channels may count three times.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError``/``TypeError`` for another distance and for
    ``starts`` of another shape or outside the bounds.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> x, labels = torch.tensor([[0.75, 0.5]]), torch.tensor([0])
    >>> solution = brendel_bethge(lambda x: x @ weight.T, x, labels, distance="linf", steps=40)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
    """
    measure = as_distance(distance, ("l0", "l1", "l2", "linf"))
    assert isinstance(measure, Norm)
    problem = MinimalPerturbation(
        model, inputs, labels, distance=measure, targets=targets, constraint=logit_margin(), bounds=bounds
    )
    require_whole(steps=steps)
    width = bounds[1] - bounds[0]
    solver = BoundaryWalk(
        p=measure.p,
        starts=starts,
        radius=None if radius is None else radius * width,
        decay=decay,
        decays=decays,
        overshoot=overshoot,
        momentum=momentum,
        searches=searches,
    )
    if starts is not None:
        return solve(problem, solver, inputs, steps=steps, callback=callback)
    far = min(START_STEPS, max(steps // 4, 1))
    search = bim(model, inputs, labels, eps=width, targets=targets, loss="logit difference", steps=far, bounds=bounds)
    solver = replace(solver, starts=search.x)
    return continued(search, solve(problem, solver, inputs, steps=max(steps - far, 1), callback=callback))
