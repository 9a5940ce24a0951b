"""DeepFool (Alg. 1.2; Moosavi-Dezfooli, Fawzi & Frossard, CVPR 2016)."""

from __future__ import annotations

from torch import Tensor

from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.log_outputs import LogOutputs
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import as_distance
from constropt.problems.distances.norms import DistanceLike, Norm
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.linearized.class_projection import NearestProjection
from constropt.solving import solve


def deepfool(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    distance: DistanceLike = "l2",
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int | None = 10,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The DeepFool attack, "l2" or "linf": :class:`MinimalPerturbation` by :class:`NearestProjection`.

    Every step linearises the boundaries to the ``candidates - 1`` most likely other classes (None: all) and goes to the
    nearest one, ``overshoot`` times as far beyond. A row ends at its first point that is misclassified as it is
    returned, overshoot and clipping included. The paper knows no bounds: here every point is clipped to them, and with
    ``bounds=(-inf, inf)`` none. ``targets``, which are not in the paper, leave one boundary. Outputs that are
    probabilities are attacked through their logarithm. ``steps`` are iterations: one forward pass and ``candidates -
    1`` backward passes each.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for another distance and ``candidates < 2``.

    >>> import torch
    >>> solution = deepfool(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), distance="linf")
    >>> solution.feasible.tolist(), round(solution.objective.item(), 4)
    ([True], 0.1276)
    """
    measure = as_distance(distance, ("l2", "linf"))
    assert isinstance(measure, Norm)
    problem = MinimalPerturbation(LogOutputs(model), inputs, labels, distance=measure, targets=targets, bounds=bounds)
    solver = NearestProjection(p=measure.p, overshoot=overshoot, candidates=others(candidates))
    return solve(problem, solver, inputs, steps=steps, callback=callback)


def others(candidates: int | None) -> int | None:
    """How many other classes there are among ``candidates`` classes, the label being one; ``ValueError`` below 2."""
    if candidates is None:
        return None
    if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 2:
        raise ValueError(
            "candidates: takes the number of most likely classes, the label included, a whole number >= 2, or None for"
            f" all, got {candidates!r}"
        )
    return candidates - 1
