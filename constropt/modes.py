"""Whether modules train or evaluate, and putting them back as they were found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model's modules in evaluation mode for a while, each put back into the mode it was found in.

    Module by module: a network that trains with some of its layers frozen in evaluation mode stays so. What is no
    module passes through.

    >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    >>> frozen = model[0].eval()
    >>> with evaluating(model):
    ...     [module.training for module in model]
    [False, False]
    >>> [module.training for module in model]
    [False, True]
    """
    training = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
