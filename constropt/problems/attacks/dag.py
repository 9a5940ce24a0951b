"""DAG (Alg. IV-1; Xie et al., ICCV 2017): dense adversary generation."""

from __future__ import annotations

from torch import Tensor

from constropt.problems.attacks.arguments import IGNORE_INDEX, Model
from constropt.problems.attacks.losses import following
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import as_distance
from constropt.problems.distances.norms import DistanceLike, Norm
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.greedy import GreedyAccumulation
from constropt.solving import solve


def dag(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    nu: float | None = None,
    distance: DistanceLike = "linf",
    size: float = 0.003,
    steps: int = 500,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The DAG attack: :class:`MinimalPerturbation` by :class:`GreedyAccumulation`, on the pixels that are still right.

    Every step has length ``size`` in ``distance``, "linf" or "l2", in parts of the bounds' width, along the gradient of
    the logit differences of the counted pixels that are not yet fooled; a row ends at its first feasible point, whose
    distance is ``Solution.objective``. Published sizes are 0.003 and, for smaller perturbations and more failures,
    0.001, both for linf (Sec. 5.5.5.1); an l2 step of the same effect is larger by about the root of the number of
    entries. ``labels``, ``targets``, ``mask``, ``nu`` and ``ignore_index`` are those of :class:`MinimalPerturbation`;
    a classifier is one pixel a row.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for another distance.

    >>> import torch
    >>> solution = dag(lambda x: x, torch.tensor([[[0.75], [0.5]]]), torch.tensor([[0]]))
    >>> solution.feasible.tolist(), solution.backwards.tolist(), round(solution.objective.item(), 3)
    ([True], [43], 0.126)
    """
    measure = as_distance(distance, ("l2", "linf"))
    assert isinstance(measure, Norm)
    problem = MinimalPerturbation(
        model,
        inputs,
        labels,
        distance=measure,
        targets=targets,
        mask=mask,
        nu=nu,
        ignore_index=ignore_index,
        bounds=bounds,
    )
    solver = GreedyAccumulation(size=size * (bounds[1] - bounds[0]), p=measure.p)
    return solve(following(problem, "logit difference"), solver, inputs, steps=steps, callback=callback)
