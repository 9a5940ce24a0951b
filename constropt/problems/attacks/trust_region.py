"""The trust-region attack (Alg. 1.3; Yao, Gholami, Xu, Keutzer & Mahoney, CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from constropt.problems.attacks.arguments import Model, width_of
from constropt.problems.attacks.deepfool import others
from constropt.problems.attacks.log_outputs import LogOutputs
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import as_distance
from constropt.problems.distances.norms import DistanceLike, Norm
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.linearized.trust_region import TrustRegion
from constropt.solving import solve

# The least and the greatest radius, in parts of the bounds' width (official code).
RADII = {2.0: (0.0005, 0.05), torch.inf: (0.0001, 0.01)}


def trust_region(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    distance: DistanceLike = "l2",
    steps: int = 100,
    eps: float = 0.001,
    eps_min: float | None = None,
    eps_max: float | None = None,
    eta: float = 1.2,
    sigma_low: float = 0.5,
    sigma_high: float = 0.9,
    overshoot: float = 0.02,
    candidates: int | None = 10,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The trust-region attack, "l2" or "linf": :class:`MinimalPerturbation` by :class:`TrustRegion`.

    The nearest boundary, by its linearisation at the inputs, of the ``candidates - 1`` most likely other classes (None:
    all) is approached by steps of at most the radius: ``eps`` first, then larger or smaller by the factor ``eta``,
    between ``eps_min`` and ``eps_max``, as the logit difference falls by more than ``sigma_high`` or less than
    ``sigma_low`` of what the gradient predicts. ``eta=1`` is the variant with a constant radius. All radii are in parts
    of the bounds' width; the limits are by default 0.0005 and 0.05 for l2, 0.0001 and 0.01 for linf. A row ends at its
    first point that is misclassified as it is returned. ``targets``, which are not in the paper, leave one boundary,
    that to the leading other class; where that changes often the radius shrinks, and ``eta=1`` gets farther.
    Outputs that are probabilities are attacked through their logarithm. ``steps`` are iterations: one forward and one
    backward pass each, the first ``candidates - 1`` backward passes.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for another distance and values out of range.

    >>> import torch
    >>> solution = trust_region(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), distance="linf")
    >>> solution.feasible.tolist(), 0.125 < solution.objective.item() < 0.1276
    ([True], True)
    """
    measure = as_distance(distance, ("l2", "linf"))
    assert isinstance(measure, Norm)
    problem = MinimalPerturbation(LogOutputs(model), inputs, labels, distance=measure, targets=targets, bounds=bounds)
    width = width_of(bounds)
    least, most = RADII[measure.p]
    solver = TrustRegion(
        p=measure.p,
        radius=eps * width,
        least=(min(least, eps) if eps_min is None else eps_min) * width,
        most=(max(most, eps) if eps_max is None else eps_max) * width,
        eta=eta,
        low=sigma_low,
        high=sigma_high,
        overshoot=overshoot,
        candidates=others(candidates),
    )
    return solve(problem, solver, inputs, steps=steps, callback=callback)
