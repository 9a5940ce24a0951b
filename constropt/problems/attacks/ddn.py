"""DDN (Alg. 3.1; Rony et al., CVPR 2019): decoupled direction and norm, a minimal l2 attack."""

from __future__ import annotations

from torch import Tensor

from constropt.problems.attacks.arguments import IGNORE_INDEX, Model
from constropt.problems.attacks.losses import following
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.level_sets.level_set import LevelSetProjection
from constropt.solving import solve


def ddn(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    nu: float | None = None,
    steps: int = 100,
    gamma: float = 0.05,
    radius: float = 1.0,
    quantize: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The DDN attack: the l2 :class:`MinimalPerturbation` by projection on spheres, along the gradient of the
    cross-entropy.

    ``radius`` is the first norm, ``gamma`` its change per step; ``quantize=256`` makes every evaluated point, hence
    the result, an 8-bit image. For dense predictions the cross-entropies of all counted pixels are summed. The other
    arguments are those of :class:`MinimalPerturbation`. Raises what :class:`MinimalPerturbation` raises.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> solution = ddn(lambda x: x @ weight.T, torch.tensor([[0.75, 0.25]]), torch.tensor([0]), steps=100)
    >>> solution.feasible.tolist()
    [True]
    """
    problem = MinimalPerturbation(
        model,
        inputs,
        labels,
        distance="l2",
        targets=targets,
        mask=mask,
        nu=nu,
        ignore_index=ignore_index,
        bounds=bounds,
    )
    solver = LevelSetProjection(radius=radius, gamma=gamma, quantize=quantize)
    return solve(following(problem, "ce"), solver, inputs, steps=steps, callback=callback)
