"""sigma-zero (Cina et al., ICLR 2025): gradient-based optimisation of l0-norm adversarial examples."""

from __future__ import annotations

from torch import Tensor

from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.losses import following
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import as_distance
from constropt.problems.distances.norms import DistanceLike
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.level_sets.smoothed_l0 import SmoothedL0
from constropt.solving import solve


def sigma_zero(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    distance: DistanceLike = "l0",
    steps: int = 1000,
    size: float = 1.0,
    sigma: float = 1e-3,
    threshold: float = 0.3,
    rate: float = 0.01,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The sigma-zero attack: the l0 :class:`MinimalPerturbation`, on the logit difference, by :class:`SmoothedL0`.

    ``size`` is the length eta_0 of the first step, ``threshold`` the first tau, both in parts of the bounds' width;
    ``sigma``, in parts of its square, smooths the norm; ``rate``, t in the paper, is the change of tau relative to the
    step. The defaults are the published ones. ``Solution.objective`` is the number of *entries* that differ: a pixel
    of three channels may count three times.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for another distance than "l0".

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
    >>> solution = sigma_zero(lambda x: x @ weight.T, torch.tensor([[0.9, 0.2, 0.2]]), torch.tensor([0]), steps=100)
    >>> solution.feasible.tolist(), solution.objective.tolist()
    ([True], [1.0])
    """
    measure = as_distance(distance, ("l0",))
    problem = MinimalPerturbation(model, inputs, labels, distance=measure, targets=targets, bounds=bounds)
    width = bounds[1] - bounds[0]
    solver = SmoothedL0(
        size=size * width, sigma=sigma * width**2, threshold=threshold * width, rate=rate, largest=width
    )
    return solve(following(problem, "logit difference"), solver, inputs, steps=steps, callback=callback)
