"""The minimal perturbation problem (Eq. 4.2, 4.5, 5.1): the nearest input, in a distance, that a model takes for
another.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from constropt.domain import Box
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.arguments import IGNORE_INDEX, Aim, Model, check_inputs
from constropt.problems.attacks.goals import GoalLike, as_constraint
from constropt.problems.distances import Distance, as_distance
from constropt.problems.distances.norms import DistanceLike


@dataclass(frozen=True, init=False)
class MinimalPerturbation(ConstrainedProblem[Tensor]):
    """min D(x, inputs)  s.t.  DLR+(model(x), labels) <= 0 (tDLR+ with ``targets``),  x in [lower, upper].

    ``model``: any callable to logits ``(batch, K)`` (an output object with ``.logits`` is accepted); ``inputs``:
    ``(batch, *event)`` within ``bounds``; ``labels``: the true classes, ``(batch,)`` int64; ``targets``: classes to be
    reached instead of merely left; ``distance``: a name (:func:`constropt.problems.distances.names`), a
    :class:`Distance`, which prepares the inputs once, or a callable ``(x, inputs) -> (batch,)``. Modules in training
    mode are run in evaluation mode, and put back.

    Dense predictions: ``labels`` (and ``targets``) of shape ``(batch, *pixels)`` make every pixel a constraint, on
    logits ``(batch, K, *pixels)`` (:class:`constropt.problems.adapters.DenseLogits` brings other outputs to this
    form). Pixels labelled ``ignore_index``, or out of ``mask`` (booleans, same shape), do not count. A row is feasible
    when the fraction ``nu`` of its counted pixels is met: the attack pixel success rate (APSR, Eq. 5.19), 0.99 by
    default.

    Raises ``ValueError``/``TypeError``, before any model call, for inputs outside the bounds or not finite, labels,
    targets or a mask of a wrong shape, dtype or sign, targets equal to labels, rows of which no pixel counts, and
    inputs that the distance does not take; at the first call for labels that are no classes of the model.

    >>> import torch
    >>> model = torch.nn.Linear(2, 3)
    >>> problem = MinimalPerturbation(model, torch.full((1, 2), 0.5), torch.tensor([0]), distance="l1")
    >>> problem.evaluate(torch.full((1, 2), 0.5)).objective.tolist()
    [0.0]
    """

    model: Model
    inputs: Tensor
    labels: Tensor
    targets: Tensor | None
    distance: Distance
    aim: Aim

    def __init__(
        self,
        model: Model,
        inputs: Tensor,
        labels: Tensor,
        *,
        distance: DistanceLike = "l2",
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        nu: float | None = None,
        constraint: GoalLike = None,
        ignore_index: int = IGNORE_INDEX,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        check_inputs(model, inputs, bounds)
        aim = Aim.of(inputs, labels, targets, mask, ignore_index)
        inputs, measure = inputs.detach(), as_distance(distance)
        to_inputs = measure.bind(inputs, bounds)
        super().__init__(
            objective=lambda x, z: to_inputs(x),
            constraints=(as_constraint(constraint, aim, nu),),
            forward=lambda x: aim.logits(model, x),
            domain=Box(*bounds),
        )
        fields = {
            "model": model,
            "inputs": inputs,
            "labels": labels,
            "targets": targets,
            "distance": measure,
            "aim": aim,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
