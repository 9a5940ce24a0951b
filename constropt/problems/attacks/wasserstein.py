"""The Wasserstein attack (Wong, Schmidt & Kolter, ICML 2019): PGD in a ball of images that moving mass reaches."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.domain import Box, WassersteinBall
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.losses import Loss
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.solution import Solution
from constropt.solvers.balls.steepest_descent import SteepestDescent
from constropt.solvers.base import Callback
from constropt.solving import solve


def wasserstein(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor | None = None,
    targets: Tensor | None = None,
    loss: str | Loss = "ce",
    steps: int = 200,
    size: float = 0.1,
    first_radius: float = 0.01,
    growth: float = 1.17,
    period: int = 10,
    kernel: int = 5,
    regularization: float = 1000.0,
    iterations: int = 50,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """max mean ``loss``  s.t.  x in the Wasserstein ball of the inputs: signed gradient steps and projected Sinkhorn.

    ``inputs``: images ``(batch, channels, height, width)``, the pixels' values over the lower bound being the mass;
    x is what moving that mass within a channel by up to ``kernel // 2`` pixels reaches
    (:class:`~constropt.domain.WassersteinBall`). The radius is in pixels times the part of the mass:
    0.1 moves a tenth of it by one pixel. ``eps=None``: the radius starts at ``first_radius`` and grows by the factor
    ``growth`` every ``period`` steps, a row stops at its first success, and ``Solution.objective`` is the radius there
    (the last one, where there was none). With ``eps``, a number or ``(batch,)``, all ``steps`` are made in that ball,
    and it is the opposite of the loss. ``size``: the step, in parts of the width of the bounds. ``regularization``,
    the inverse of the entropy's weight, and ``iterations``, the Sinkhorn sweeps of a projection, are the ball's.

    Raises what :class:`MaximalLoss` raises, and ``ValueError`` for inputs that are no images and values out of range.

    >>> image = torch.zeros(1, 1, 3, 3)
    >>> image[..., 1, 1] = 1.0
    >>> model = lambda x: torch.stack([x[:, 0, 1, 1], x[:, 0, 1, 2]], 1)
    >>> found = wasserstein(model, image, torch.tensor([0]), eps=0.6, loss="logit difference", steps=30)
    >>> found.feasible.tolist(), round(found.x.sum().item(), 3)
    ([True], 1.0)
    """
    require_whole(steps=steps)
    problem = MaximalLoss(
        model, inputs, labels, eps=0.0 if eps is None else eps, loss=loss, targets=targets, bounds=bounds
    )
    solver = SteepestDescent(
        size=size * (bounds[1] - bounds[0]),
        first=first_radius if eps is None else None,
        growth=growth,
        period=period,
        stop=eps is None,
    )
    largest = solver.radius(steps) if eps is None else problem.eps
    ball = WassersteinBall(largest, problem.inputs, Box(*bounds), kernel, regularization, iterations)
    within = ConstrainedProblem(
        objective=problem.objective, constraints=problem.constraints, forward=problem.forward, domain=ball
    )
    found = solve(within, solver, problem.inputs, steps=steps, callback=callback)
    if eps is not None:
        return found
    radii = torch.tensor([solver.radius(step) for step in range(steps + 1)]).to(found.x)
    # -1, no success, is the last
    objective = radii[found.first_feasible]
    judged = ConstrainedProblem(
        objective=lambda x, z: objective, constraints=problem.constraints, forward=problem.forward, domain=ball
    )
    return replace(found, problem=judged, objective=objective)
