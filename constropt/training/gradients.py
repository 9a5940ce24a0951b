"""A gradient that is not there, in training: what is said of it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from constropt.training.constraints import TrainingConstraint

CAUSES = (
    "usual causes: a value that is detached or computed with numpy, by argmax or by a comparison (give a count or a"
    " rate a surrogate=...), a model that ran under no_grad"
)
_CALL = 6  # frames between a warning and the call of the loss, which nn.Module passes on twice


def requires_gradient(value: Any) -> bool:
    """Whether a tensor of a network's output requires a gradient, those in tuples, lists and dictionaries too."""
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return False
    return any(requires_gradient(part) for part in value)


@torch.no_grad()
def is_violated(constraint: TrainingConstraint, output: Any, target: Any, counted: Tensor | None) -> bool:
    """Whether a batch violates a constraint: by its mean, or by any sample that counts. Waits for the device."""
    y = constraint.value_of(constraint.value, output, target)
    mask = constraint.mask_of(y, output, target, counted)
    y = y if mask is None else torch.where(mask, y, 0)
    if constraint.average:
        y = y.sum(constraint.sample_dims(y))  # of the sign of the mean
    return bool((y != 0).any() if constraint.equality else (y > 0).any())


def warn_of_constraint(constraint: TrainingConstraint) -> None:
    """Say that a violated constraint does not train the network."""
    part = "value" if constraint.surrogate is None else "surrogate"
    warnings.warn(
        f"constraint {constraint.name!r} is violated, but its {part} gives no gradient: training ignores it while its"
        f" multiplier grows; {CAUSES}",
        stacklevel=_CALL,
    )


def warn_of_objective() -> None:
    """Say that the objective does not train the network."""
    warnings.warn(
        "objective: it gives no gradient although the output or a constraint requires one, so that training ignores it;"
        f" {CAUSES}. An objective of zeros, of a feasibility problem, is not warned of",
        stacklevel=_CALL,
    )
