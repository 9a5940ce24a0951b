"""FMN (Alg. 1.6; Pintor et al., NeurIPS 2021): fast minimum-norm attacks."""

from __future__ import annotations

from torch import Tensor

from constropt.problems.attacks.arguments import IGNORE_INDEX, Model
from constropt.problems.attacks.losses import following
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import as_distance
from constropt.problems.distances.norms import DistanceLike, Norm
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.level_sets.minimum_norm import MinimumNorm
from constropt.solving import solve

# The first step, in the l2 norm, for a single constraint a row and for dense predictions (Sec. 5.5.5.2).
ALPHA = {False: 1.0, True: 10.0}


def fmn(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    nu: float | None = None,
    distance: DistanceLike = "linf",
    steps: int | None = None,
    alpha: float | None = None,
    gamma: float = 0.05,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The FMN attack, minimal in "linf", "l2", "l1" or "l0": :class:`MinimalPerturbation` by :class:`MinimumNorm`.

    ``alpha`` is the length of the first step in the l2 norm, in parts of the bounds' width: 1 by default, 10 for dense
    predictions, as published for images of half a million pixels; it decays to a hundredth. ``gamma`` is the change of
    the radius per step, decaying to 0.001. For dense predictions the loss is the mean logit difference of the counted
    pixels, and a row is taken for fooled when the fraction ``nu`` of them is (Sec. 5.5.5.2). ``steps`` is 100 by
    default, 500 for dense predictions. ``Solution.objective`` is the distance; "l0" counts entries, so that a pixel of
    three channels may count three times. The other arguments are those of :class:`MinimalPerturbation`.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for another distance.

    >>> import torch
    >>> solution = fmn(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
    """
    measure = as_distance(distance, ("l0", "l1", "l2", "linf"))
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
    dense = problem.aim.dense
    if steps is None:
        steps = 500 if dense else 100
    alpha = ALPHA[dense] if alpha is None else alpha
    solver = MinimumNorm(p=measure.p, size=alpha * (bounds[1] - bounds[0]), gamma=gamma)
    return solve(following(problem, "logit difference"), solver, inputs, steps=steps, callback=callback)
