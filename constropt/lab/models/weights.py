"""A model from what the user typed: a factory to import and a weights file to fill its parameters with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from constropt.files import replacing
from constropt.lab.models.hub import is_hub, load_hub
from constropt.lab.runs.factories import module_of
from constropt.lab.runs.references import load_reference
from constropt.lab.runs.specs import RecipeSpec
from constropt.problems.adapters import Normalized
from constropt.weights import fill_weights, load_weights


def load_model(reference: str, weights: str | Path | None = None, *, device: torch.device | str = "cpu") -> nn.Module:
    """The module that ``reference``, ``"module:factory"``, names or that the factory there builds, in eval mode.

    The factory is called without arguments; models of other libraries are named as
    :mod:`~constropt.lab.models.hub` says. ``weights`` is read by :func:`load_weights`; without it the module stays as
    the factory made it. Raises ``ValueError`` for a reference that does not import, does not give an ``nn.Module``,
    or whose parameters do not match the weights.
    """
    if is_hub(reference):
        model: Any = load_hub(reference, pretrained=weights is None)
    else:
        found = load_reference(reference, what="model")
        model = found if isinstance(found, nn.Module) else module_of(found, {}, RecipeSpec(reference), what="model")
    if weights is not None:
        inner = model.model if isinstance(model, Normalized) else model  # files know nothing of our normalisation
        fill_weights(inner, load_weights(weights), f"{weights} does not fit {reference}")
    return model.to(device).eval()


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the state of ``model`` as safetensors, under its final name only once it is complete."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with replacing(path) as unfinished:
        save_file(state, unfinished)
