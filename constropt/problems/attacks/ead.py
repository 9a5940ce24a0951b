"""EAD (Eq. 1.11; Chen et al., AAAI 2018): elastic-net attacks, C&W with an l1 term and its prox."""

from __future__ import annotations

from torch import Tensor

from constropt.checks import require_whole
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.goals import logit_margin
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances.norms import L1, Distance
from constropt.prox.norms import NormAround
from constropt.prox.scaled import Scaled
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.penalized.penalty_search import PenaltySearch, square_root, squared_distance
from constropt.solvers.penalized.penalty_steps import ShrinkageThresholding
from constropt.solvers.penalized.weight_search import Bisection
from constropt.solving import solve

RULES = ("l1", "EN")


def ead(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    rule: str = "EN",
    beta: float = 1e-3,
    steps: int = 9000,
    searches: int = 9,
    size: float = 0.01,
    weight: float = 1e-3,
    factor: float = 10.0,
    confidence: float = 0.0,
    accelerated: bool = True,
    threshold: str = "published",
    abort_early: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The elastic-net attack: :class:`MinimalPerturbation` by a proximal
    :class:`~constropt.solvers.PenaltySearch`.

    min ``||delta||_2^2 + beta ||delta||_1 + c max(z_y - max_{k != y} z_k + confidence, 0)`` by FISTA
    (``accelerated=False``: ISTA) with steps ``size sqrt(1 - progress)``; c starts at ``weight``, grows by ``factor``
    until the row is fooled, and is then bisected, in ``searches`` of ``steps // searches`` steps: the published 9 x
    1,000. ``abort_early``, which the authors' code has and the text has not, ends
    a search that makes no progress: a third of the passes for l1 norms some 5 to 15 % larger.

    A larger ``beta`` suits perturbations of large entries: with 0.01, Foolbox' default, l1 norms were a quarter smaller
    than with the published 1e-3 on two small networks, and a quarter larger on a ResNet, in few steps.

    ``rule`` is the published decision rule, which says what is best among the points that fool the model, and what
    ``Solution.objective`` is: "EN", the elastic-net distance ``||delta||_2^2 + beta ||delta||_1``, or "l1". The
    published threshold is beta itself, which makes the weight of the l1 norm ``beta / size`` and more;
    ``threshold="exact"`` makes it beta, as the formula says.

    One forward and one backward pass a step: of FISTA's two points the model sees the one where the gradient is taken,
    within the bounds. Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for an unknown rule or
    threshold and for values out of range.

    >>> import torch
    >>> solution = ead(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), rule="l1", steps=900)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.25)
    """
    if rule not in RULES:
        raise ValueError(f"rule: takes one of {list(RULES)}, got {rule!r}")
    if threshold not in ("published", "exact"):
        raise ValueError(f"threshold: takes 'published' or 'exact', got {threshold!r}")
    require_whole(steps=steps, searches=searches)
    width = bounds[1] - bounds[0]

    def elastic_net(x: Tensor, reference: Tensor) -> Tensor:
        return squared_distance(x, reference) + beta * width * L1(x, reference)

    problem = MinimalPerturbation(
        model,
        inputs,
        labels,
        distance=L1 if rule == "l1" else Distance("elastic net", elastic_net),
        targets=targets,
        constraint=logit_margin(confidence),
        bounds=bounds,
    )
    solver = PenaltySearch(
        primal=ShrinkageThresholding(accelerated=accelerated, threshold=1.0 if threshold == "published" else None),
        size=size,
        decay=square_root,
        searches=searches,
        # the distance is in squared units of the inputs, the logits are not
        rule=Bisection(weight=weight * width**2, factor=factor),
        surrogate=squared_distance,
        nonsmooth=Scaled(NormAround("l1", problem.inputs, *bounds), beta * width),
        abort=1e-4 if abort_early else None,
    )
    return solve(problem, solver, inputs, steps=steps, callback=callback)
