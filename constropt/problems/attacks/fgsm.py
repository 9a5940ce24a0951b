"""FGSM (Goodfellow et al., 2015), and iterated: BIM or I-FGSM (Kurakin et al., 2017), MI-FGSM (Dong et al., 2018)."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from constropt.problems.attacks.arguments import IGNORE_INDEX, Model
from constropt.problems.attacks.budgeted import budgeted
from constropt.problems.attacks.losses import Loss
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.problems.distances.norms import DistanceLike
from constropt.solution import Solution
from constropt.solvers.balls.projected_gradient import ProjectedGradient
from constropt.solvers.base import Callback

# The path of BIM is a quarter longer than the radius, as with its published min(eps + 4, 1.25 eps) steps of 1/255.
BIM_PATH = 1.25


def fgsm(
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
    searches: int = 13,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """One step of length ``eps`` up the loss of :class:`MaximalLoss`: ``x = inputs + eps sign(grad)`` for linf.

    ``eps=None`` searches the smallest radius that succeeds, by ``searches`` bisections. The other arguments are those
    of :class:`MaximalLoss`.

    >>> import torch
    >>> solution = fgsm(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), eps=0.25)
    >>> solution.feasible.tolist(), solution.x.tolist()
    ([True], [[0.5, 0.75]])
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
    return budgeted(within, ProjectedGradient(size=1.0), eps=eps, steps=1, searches=searches, callback=callback)


def bim(
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
    steps: int = 20,
    size: float | None = None,
    searches: int = 13,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """BIM, or I-FGSM: ``steps`` steps of ``size`` times the radius (default ``1.25 / steps``), from the inputs.

    ``eps=None`` searches the smallest radius that succeeds, by ``searches`` bisections of ``steps`` steps each. The
    other arguments are those of :class:`MaximalLoss`.

    >>> import torch
    >>> solution = bim(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
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
    solver = ProjectedGradient(size=BIM_PATH / max(steps, 1) if size is None else size)
    return budgeted(within, solver, eps=eps, steps=steps, searches=searches, callback=callback)


def mi_fgsm(
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
    steps: int = 20,
    momentum: float = 1.0,
    searches: int = 13,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """MI-FGSM: ``steps`` steps of ``1 / steps`` times the radius along ``m <- momentum m + grad / ||grad||_1``.

    ``eps=None`` searches the smallest radius that succeeds, by ``searches`` bisections of ``steps`` steps each. The
    other arguments are those of :class:`MaximalLoss`.

    >>> import torch
    >>> solution = mi_fgsm(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), eps=0.25)
    >>> solution.x.round(decimals=4).tolist()
    [[0.5, 0.75]]
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
    solver = ProjectedGradient(size=1 / max(steps, 1), momentum=momentum)
    return budgeted(within, solver, eps=eps, steps=steps, searches=searches, callback=callback)
