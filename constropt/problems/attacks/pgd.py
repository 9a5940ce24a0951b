"""PGD (Madry et al., 2018): projected gradient ascent of a loss in a ball, from random starts."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from constropt.checks import require_whole
from constropt.problems.attacks.arguments import IGNORE_INDEX, Model
from constropt.problems.attacks.budgeted import budgeted, seeds_of
from constropt.problems.attacks.losses import Loss
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.problems.distances.norms import DistanceLike
from constropt.solution import Solution
from constropt.solvers.balls.projected_gradient import ProjectedGradient
from constropt.solvers.base import Callback

# The length of a run's path in radii: from anywhere in the ball to anywhere else, and some steps to refine.
PGD_PATH = 2.5


def pgd(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor | None = None,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    nu: float | None = None,
    distance: DistanceLike = "linf",
    loss: str | Loss = "ce",
    steps: int = 40,
    restarts: int = 1,
    size: float | None = None,
    seed: int | None = 0,
    searches: int = 13,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The PGD attack: :class:`MaximalLoss` by ``restarts`` runs of ``steps // restarts`` steps from random points.

    ``size`` is the step relative to the radius, by default ``2.5`` over the steps of a run. ``seed`` fixes the starts,
    which are the same in all rows; ``seed=None`` starts the first run at the inputs. ``eps=None`` searches the
    smallest radius that succeeds, by ``searches`` bisections of ``steps`` steps each (Sec. 5.5.5.2 of the thesis: 40
    steps with ``restarts=1`` or ``4``, ``loss="ce"`` or ``"dlr"``); ``Solution.objective`` is then the distance,
    otherwise the opposite of the loss. The other arguments are those of :class:`MaximalLoss`.

    Raises what :class:`MaximalLoss` raises, and ``ValueError`` unless ``1 <= restarts <= steps``.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> x, labels = torch.tensor([[0.75, 0.5]]), torch.tensor([0])
    >>> [pgd(lambda x: x @ weight.T, x, labels, eps=eps).feasible.tolist() for eps in (0.1, 0.2)]
    [[False], [True]]
    """
    within = partial(
        MaximalLoss,
        model,
        inputs,
        labels,
        distance=distance,
        loss=loss,
        targets=targets,
        mask=mask,
        nu=nu,
        ignore_index=ignore_index,
        bounds=bounds,
    )
    require_whole(steps=steps, restarts=restarts)
    if restarts > steps:
        raise ValueError(f"restarts: share the budget of steps={steps}, of which each needs one, got {restarts}")
    run = steps // restarts
    seeds = seeds_of(seed, restarts)
    solver = ProjectedGradient(size=PGD_PATH / run if size is None else size)
    return budgeted(within, solver, eps=eps, steps=run, seeds=seeds, searches=searches, callback=callback)
