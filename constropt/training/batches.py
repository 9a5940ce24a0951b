"""What a dual pass makes of the batches of a loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Predict = Callable[[Any, Any], tuple[Any, Any]]


def predict_pair(model: Any, batch: Any) -> tuple[Any, Any]:
    """Output and target of a batch that is a pair ``(inputs, target)``, on the model's device."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        got = f"{type(batch).__name__} of length {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
        raise TypeError(
            f"loader: batches must be pairs (inputs, target), got {got}; pass predict=lambda model, batch: (output,"
            " target) for others"
        )
    inputs, target = batch
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if parameter is not None:
        inputs, target = moved(inputs, parameter.device), moved(target, parameter.device)
    return model(inputs), target


def moved(value: Any, device: torch.device) -> Any:
    """The tensors of a value on ``device``, those in tuples, lists and dictionaries too."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(part, device) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [moved(part, device) for part in value]
    return value
