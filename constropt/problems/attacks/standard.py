"""A standard evaluation at a fixed budget, in the manner of AutoAttack (Croce & Hein, ICML 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.problems.attacks.apgd import apgd
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.fab import fab
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.problems.attacks.square import square
from constropt.problems.attacks.worst_case import WorstCase, worst_case
from constropt.problems.distances.norms import DistanceLike
from constropt.solution import Solution
from constropt.solvers.base import Callback


def standard(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    distance: DistanceLike = "linf",
    steps: int = 100,
    queries: int = 5000,
    target_classes: int = 9,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> WorstCase:
    """Which rows are fooled within ``eps``: APGD on cross-entropy, APGD on the targeted DLR, FAB-T, Square Attack.

    In this order, each only on the rows that are still robust, the targeted ones one class at a time, towards the
    ``target_classes`` likeliest others (fewer where there are fewer). The first three make ``steps`` steps a run, the
    last, black-box, ``queries``. ``distance`` is "linf", "l2" or "l1". ``1 - feasible.mean()`` is the robust accuracy
    where all inputs were classified rightly; ``Solution.objective`` is the distance, ``WorstCase.winner`` says what
    fooled a row first. The smaller the model's share of robust rows, the fewer passes are made.

    Raises what :class:`MaximalLoss` raises, and ``ValueError`` for counts below 1.

    >>> x, labels = torch.tensor([[0.75, 0.5], [0.9, 0.1]]), torch.tensor([0, 0])
    >>> found = standard(lambda x: x, x, labels, eps=0.2, steps=5, queries=5)
    >>> found.feasible.tolist(), found.winners()
    ([True, False], ['apgd ce', None])
    """
    require_whole(steps=steps, queries=queries, target_classes=target_classes)
    problem = MaximalLoss(model, inputs, labels, eps=eps, distance=distance, bounds=bounds)
    if problem.aim.dense:
        raise ValueError("labels: standard evaluates classifiers, (batch,); use worst_case for dense predictions")
    with torch.no_grad():
        count = min(target_classes, problem.forward(problem.inputs).shape[1] - 1)
    recipes: dict[str, Callable[..., Solution]] = {"apgd ce": partial(apgd, loss="ce", steps=steps, seed=seed)}
    for rank in range(count):
        targeted = partial(apgd, loss="targeted dlr", target_classes=(rank,), steps=steps, seed=seed)
        recipes[f"apgd targeted dlr {rank + 1}"] = targeted
    # its eps is that of random starts
    recipes["fab targeted"] = partial(fab, by_class=True, restarts=count, steps=steps, eps=None, seed=seed)
    recipes["square"] = partial(square, steps=queries, seed=seed)
    found = worst_case(
        model, inputs, labels, recipes=recipes, distance=distance, eps=eps, bounds=bounds, callback=callback
    )
    return replace(found, forwards=found.forwards + 1)
