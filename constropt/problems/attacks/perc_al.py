"""PerC-AL (Alg. 1.4; Zhao, Liu & Larson, CVPR 2020): alternating steps on loss and perceptual color distance."""

from __future__ import annotations

from torch import Tensor

from constropt.checks import require_whole
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.losses import Loss, following
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import with_gradient
from constropt.problems.distances.norms import DistanceLike
from constropt.solution import Solution
from constropt.solvers.alternating import Alternating
from constropt.solvers.base import Callback
from constropt.solving import solve


def perc_al(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    distance: DistanceLike = "ciede2000",
    loss: str | Loss = "ce",
    steps: int = 1000,
    alpha_l: float = 1.0,
    alpha_c: float = 0.5,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The PerC-AL attack: :class:`MinimalPerturbation` by :class:`~constropt.solvers.Alternating`.

    Rows that do not fool the model take a step of l2 length ``alpha_l`` up the ``loss`` (down it, towards targets), the
    others one of ``alpha_c`` down the ``distance``, "ciede2000" or any other with a gradient; both lengths, in parts of
    the bounds' width, decay along a cosine, to a hundredth and to a tenth. ``alpha_c`` is 0.5, or 0.1 for smaller
    perturbations of models that are easily fooled. ``Solution.objective`` is the distance. One forward and one
    backward pass a step. (The authors' code rounds every point to 8 bits; this is the text's.)

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for lengths that are not > 0.

    >>> import torch
    >>> solution = perc_al(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), distance="l2", steps=100)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.18)
    """
    require_whole(steps=steps)
    for name, value in (("alpha_l", alpha_l), ("alpha_c", alpha_c)):
        if not value > 0:
            raise ValueError(f"{name}: takes a length > 0, in parts of the bounds' width, got {value}")
    problem = MinimalPerturbation(
        model, inputs, labels, distance=with_gradient(distance), targets=targets, bounds=bounds
    )
    width = bounds[1] - bounds[0]
    solver = Alternating(size=alpha_l * width, objective_size=alpha_c * width)
    return solve(following(problem, loss), solver, inputs, steps=steps, callback=callback)
