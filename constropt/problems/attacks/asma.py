"""ASMA (Ozbulak et al., MICCAI 2019): adaptive segmentation mask attack, targeted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from constropt.evaluation import Evaluation
from constropt.problems.attacks.arguments import IGNORE_INDEX, Aim, Model
from constropt.problems.attacks.constraints import logit_of
from constropt.problems.attacks.losses import following
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.greedy import GreedyAccumulation
from constropt.solving import solve


def asma(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor,
    mask: Tensor | None = None,
    nu: float | None = None,
    steps: int = 1000,
    tau: float = 1e-7,
    beta: float = 1e-6,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The ASMA attack: the targets' logits of the pixels not yet there are raised, an l2 perturbation accumulates.

    Each step adds ``beta IoU + tau`` times the gradient of ``sum z_t - ||delta||_2^2``, the sum over counted pixels
    that have not reached their target, IoU the mean over classes of the prediction's overlap with the targets. The
    gradient is not normalised: ``tau`` and ``beta``, here the published ones, have to fit the model's logits and the
    number of pixels, and with small networks they have to be larger by orders of magnitude. Units are those of inputs
    in [0, 1], whatever the ``bounds``. The nearest point that reaches the targets at the fraction ``nu`` is returned,
    ``Solution.objective`` is its l2 distance.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` without targets.

    >>> x, labels = torch.tensor([[[0.75], [0.5]]]), torch.tensor([[0]])
    >>> solution = asma(lambda x: x, x, labels, targets=torch.tensor([[1]]), tau=0.01, steps=100)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.25)
    """
    if targets is None:
        raise ValueError("targets: asma is a targeted attack, give the classes to be reached; dag attacks without any")
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
    aim, width = problem.aim, bounds[1] - bounds[0]
    solver = GreedyAccumulation(size=_sizes(aim, tau, beta, width), p=None, pull=2 / width**2, stop=False)
    return solve(following(problem, _target_logit), solver, inputs, steps=steps, callback=callback)


def _target_logit(logits: Tensor, aim: Aim) -> Tensor:
    assert aim.targets is not None
    return logit_of(logits, aim.targets)


def _sizes(aim: Aim, tau: float, beta: float, width: float) -> Callable[[Evaluation], Tensor]:
    """The step of each row, ``beta IoU + tau``."""
    assert aim.targets is not None
    targets = aim.targets

    def size(point: Evaluation) -> Tensor:
        logits = point.output.detach()
        return width**2 * (beta * mean_iou(logits.argmax(1), targets, aim.counted, logits.shape[1]) + tau)

    return size


def mean_iou(predicted: Tensor, targets: Tensor, counted: Tensor | None, classes: int) -> Tensor:
    """Intersection over union of each row, the mean over the classes that occur in it, ``(batch,)``.

    >>> mean_iou(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]), None, 3)
    tensor([0.5833])
    """
    rows = predicted.shape[0]
    weight = torch.ones_like(targets) if counted is None else counted.long()

    def count(labels: Tensor, entries: Tensor) -> Tensor:
        return entries.new_zeros(rows, classes).scatter_add_(1, labels.reshape(rows, -1), entries.reshape(rows, -1))

    both = count(targets, weight * (predicted == targets))
    union = count(targets, weight) + count(predicted, weight) - both
    return (both / union.clamp_min(1)).sum(1) / (union > 0).sum(1).clamp_min(1)
