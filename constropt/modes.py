"""The modes that results must not depend on: whether modules train, and whether the caller records gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: Any) -> Iterator[list[str]]:
    """The model's modules in evaluation mode for a while, each put back into the mode it was found in; gives the names
    of those that were training.

    Module by module: a network that trains with some of its layers frozen in evaluation mode stays so. What is no
    module passes through.

    >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    >>> frozen = model[0].eval()
    >>> with evaluating(model) as training:
    ...     training, [module.training for module in model]
    (['(the model itself)', '1'], [False, False])
    >>> [module.training for module in model]
    [False, True]
    """
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    found = [(name or "(the model itself)", module) for name, module in modules if module.training]
    for _, module in found:
        module.training = False
    try:
        yield [name for name, _ in found]
    finally:
        for _, module in found:
            module.training = True


def normal_mode() -> torch.inference_mode:
    """A context (or decorator) in which tensors are made that gradients may later pass, whatever the caller's mode is.

    >>> with torch.inference_mode(), normal_mode():
    ...     torch.ones(1).is_inference()
    False
    """
    return torch.inference_mode(False)


def normal(tensor: Tensor) -> Tensor:
    """The tensor, detached, as one that autograd may save: a copy of one that was made in inference mode.

    >>> with torch.inference_mode():
    ...     normal(torch.ones(1)).is_inference()
    False
    """
    if not tensor.is_inference():
        return tensor.detach()
    with normal_mode():
        return tensor.clone()
