"""The minimal perturbation problem (Eq. 4.2, 4.5): the nearest input, in a distance, that a classifier takes for another class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from constropt.domain import Box
from constropt.problem import ConstrainedProblem, inequality
from constropt.problems.attacks.constraints import class_gaps, cross_entropy, dlr, target_gap, targeted_dlr
from constropt.problems.distances import Distance, as_distance
from constropt.problems.distances.norms import DistanceLike

Model = Callable[[Tensor], Any]


@dataclass(frozen=True, init=False)
class MinimalPerturbation(ConstrainedProblem[Tensor]):
    """min D(x, inputs)  s.t.  DLR+(model(x), labels) <= 0 (tDLR+ with ``targets``),  x in [lower, upper].

    ``model``: any callable to logits ``(batch, K)`` (an output object with ``.logits`` is accepted); ``inputs``:
    ``(batch, *event)`` within ``bounds``; ``labels``: the true classes, ``(batch,)`` int64; ``targets``: classes to be reached
    instead of merely left; ``distance``: a name ("l0", "l1", "l2", "linf"), a :class:`Distance`, or a callable
    ``(x, inputs) -> (batch,)``. Modules in training mode are run in evaluation mode, and put back.

    Raises ``ValueError``/``TypeError``, before any model call, for inputs outside the bounds or not finite, labels or
    targets of a wrong shape, dtype or sign, and targets equal to labels.

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

    def __init__(
        self,
        model: Model,
        inputs: Tensor,
        labels: Tensor,
        *,
        distance: DistanceLike = "l2",
        targets: Tensor | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        check_attack_arguments(model, inputs, labels, targets, bounds)
        inputs, labels = inputs.detach(), labels.detach()
        measure = as_distance(distance)
        if targets is None:
            constraint = inequality(
                lambda x, z: dlr(z, labels),
                name="misclassified",
                surrogate=lambda x, z: -cross_entropy(z, labels),
                alternatives=lambda x, z: class_gaps(z, labels),
            )
        else:
            goal = targets.detach()
            constraint = inequality(
                lambda x, z: targeted_dlr(z, goal),
                name="target reached",
                surrogate=lambda x, z: cross_entropy(z, goal),
                alternatives=lambda x, z: target_gap(z, goal),
            )
        # read once, here: the number of classes is known only from the first output, and a step must not synchronise
        largest = max(int(classes.max()) for classes in (labels, targets) if classes is not None)
        super().__init__(
            objective=lambda x, z: measure(x, inputs),
            constraints=(constraint,),
            forward=lambda x: logits_of(model, x, largest),
            domain=Box(*bounds),
        )
        fields = {"model": model, "inputs": inputs, "labels": labels, "targets": targets, "distance": measure}
        for name, value in fields.items():
            object.__setattr__(self, name, value)


def check_attack_arguments(
    model: Model, inputs: Tensor, labels: Tensor, targets: Tensor | None, bounds: tuple[float, float]
) -> None:
    """What every attack demands of its arguments, checked before the first model call."""
    if not callable(model):
        raise TypeError(f"model: takes a callable from inputs to logits, got {type(model).__name__}")
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() < 2:
        got = f"{inputs.dtype} of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(
            f"inputs: takes a floating point tensor of shape (batch, *event), got {got}; divide 8-bit images by 255"
        )
    lower, upper = bounds
    if not lower < upper:
        raise ValueError(f"bounds: takes (lower, upper) with lower < upper, got {bounds}")
    if not bool(inputs.isfinite().all()):
        rows = (~inputs.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        raise ValueError(f"inputs: takes finite values, got NaN or infinity in rows {rows[:5]}; leave these rows out")
    low, high = float(inputs.min()), float(inputs.max())
    if low < lower or high > upper:
        raise ValueError(
            f"inputs: must lie within bounds={bounds}, got values from {low:.6g} to {high:.6g};"
            " put any normalisation inside the model, or pass bounds=(lower, upper)"
        )
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is None:
            continue
        if not isinstance(classes, Tensor) or classes.dtype != torch.int64 or classes.shape != inputs.shape[:1]:
            got = (
                f"{classes.dtype} of shape {tuple(classes.shape)}"
                if isinstance(classes, Tensor)
                else type(classes).__name__
            )
            raise ValueError(f"{name}: takes int64 class indices of shape (batch,) = ({inputs.shape[0]},), got {got}")
        if classes.device != inputs.device:
            raise ValueError(f"{name}: must be on the device of the inputs, {inputs.device}, got {classes.device}")
        if classes.numel() and int(classes.min()) < 0:
            raise ValueError(f"{name}: takes class indices >= 0, got {int(classes.min())}")
    if targets is not None and bool((targets == labels).any()):
        rows = (targets == labels).nonzero().flatten().tolist()
        raise ValueError(
            f"targets: must differ from labels, got the label itself in rows {rows[:5]}; labels are always the true classes"
        )


def logits_of(model: Model, x: Tensor, largest: int) -> Tensor:
    """The model's logits at x, ``(batch, K)``, in evaluation mode; ``ValueError`` when they are none, or K <= ``largest``."""
    with evaluating(model):
        output = model(x)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[0] != x.shape[0] or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model: must return logits of shape (batch, classes) = ({x.shape[0]}, >= 2), got {got}")
    if not logits.is_floating_point():
        raise ValueError(f"model: must return floating point logits, got {logits.dtype}")
    if largest >= logits.shape[1]:
        raise ValueError(
            f"labels: class {largest} among labels or targets, but the model has {logits.shape[1]} classes"
        )
    return logits


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """The model's modules in evaluation mode for a while, each put back into the mode it was found in."""
    training = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
