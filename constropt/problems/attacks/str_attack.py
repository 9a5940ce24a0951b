"""StrAttack (Xu et al., ICLR 2019): attacks whose perturbation is sparse in groups of entries."""

from __future__ import annotations

from torch import Tensor

from constropt.checks import require_whole
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.goals import logit_margin
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances.norms import Distance
from constropt.prox.groups import GroupSparsity, patches
from constropt.prox.scaled import Scaled
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.penalized.penalty_search import PenaltySearch, square_root, squared_distance
from constropt.solvers.penalized.penalty_steps import ShrinkageThresholding
from constropt.solvers.penalized.weight_search import Bisection
from constropt.solving import solve


def str_attack(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    groups: int | Tensor = 2,
    tau: float = 2.0,
    gamma: float = 1.0,
    steps: int = 9000,
    searches: int = 9,
    size: float = 0.01,
    weight: float = 1.0,
    factor: float = 5.0,
    confidence: float = 0.0,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """StrAttack's problem, min ``gamma ||delta||_2^2 + tau sum_g ||delta_g||_2`` over what fools the model, by a
    proximal :class:`~constropt.solvers.PenaltySearch`.

    ``groups``: the side of square patches of pixels, all channels together, or group numbers of the shape of one
    input; groups do not overlap. The model's part is ``c max(z_y - max_{k != y} z_k + confidence, 0)``, c searched from
    ``weight`` on, times ``factor`` until the row is fooled, then bisected. ``tau`` and ``gamma`` are the published
    weights. The groups' norms and the box are handled together by their exact prox, in FISTA with steps ``size
    sqrt(1 - progress)``, where the paper splits them into the variables of an ADMM: the problem is the same.
    ``Solution.objective`` is that objective, at one forward and one backward pass a step.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for groups of another shape and for values out
    of range.

    >>> import torch
    >>> x = torch.tensor([[0.75, 0.5, 0.5, 0.5]])
    >>> weight = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.5]])
    >>> model, groups = lambda x: x @ weight.T, torch.tensor([0, 0, 1, 1])
    >>> solution = str_attack(model, x, torch.tensor([0]), groups=groups, steps=900)
    >>> ((solution.x - x)[:, 2:].abs() < 1e-6).all().item(), solution.feasible.tolist()
    (True, [True])
    """
    require_whole(steps=steps, searches=searches)
    for name, value in (("tau", tau), ("gamma", gamma)):
        if not value >= 0:
            raise ValueError(f"{name}: takes a weight >= 0, got {value}")
    width = bounds[1] - bounds[0]
    problem = MinimalPerturbation(
        model,
        inputs,
        labels,
        distance=Distance("squared l2", lambda x, reference: gamma * squared_distance(x, reference)),
        targets=targets,
        constraint=logit_margin(confidence),
        bounds=bounds,
    )
    numbers = groups if isinstance(groups, Tensor) else patches(inputs.shape[1:], groups)
    sparse = ConstrainedProblem(
        objective=problem.objective,
        constraints=problem.constraints,
        forward=problem.forward,
        domain=problem.domain,
        nonsmooth=Scaled(GroupSparsity(numbers, problem.inputs, *bounds), tau * width),
    )
    solver = PenaltySearch(
        primal=ShrinkageThresholding(),
        size=size,
        decay=square_root,
        searches=searches,
        rule=Bisection(weight=weight * width**2, factor=factor),
    )
    return solve(sparse, solver, inputs, steps=steps, callback=callback)
