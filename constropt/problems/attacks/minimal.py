"""``minimal``: the recommended minimal l1, l2 and linf attack, averaged-cut projection on the decision boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.goals import misclassified
from constropt.problems.attacks.log_outputs import LogOutputs
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import as_distance
from constropt.problems.distances.norms import DistanceLike, Norm
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.linearized.linearized_projection import LinearizedProjection
from constropt.solving import solve

# Beyond a tie, in parts of the spread of the logits: on small nets the rounding of another batch size is 2e-6 of it.
MARGIN = 1e-5


def minimal(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    distance: DistanceLike = "l2",
    steps: int = 100,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The nearest adversarial inputs by :class:`~constropt.solvers.LinearizedProjection`.

    ``distance``: "l1", "l2" or "linf". Nothing to tune, no dependence on the logits' scale, and outputs that are
    probabilities are recognised (row by row: nonnegative, of sum 1) and their logarithm is attacked, with the same
    result as for the logits. One forward and one backward pass a step, ``steps`` in all; in l2 and linf they are split
    into at most five runs of at least 25, from several starts, of four or five the last from the best point; in l1 into
    two from 200 on. ``Solution.objective`` is the distance of each row, ``Solution.feasible`` says which rows fool the
    model.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for another distance.

    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> solution = minimal(lambda x: x @ weight.T, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), distance="linf")
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
    """
    measure = as_distance(distance, ("l1", "l2", "linf"))
    assert isinstance(measure, Norm)
    problem = MinimalPerturbation(
        LogOutputs(model),
        inputs,
        labels,
        distance=measure,
        targets=targets,
        constraint=misclassified(MARGIN),
        bounds=bounds,
    )
    # the solver's reach is in units of images in [0, 1]
    width = bounds[1] - bounds[0]
    solver = LinearizedProjection(p=measure.p, reach={1.0: 10.0, 2.0: 1.0, torch.inf: 0.3}[measure.p] * width)
    return solve(problem, solver, inputs, steps=steps, callback=callback)
