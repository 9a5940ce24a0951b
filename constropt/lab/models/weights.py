"""A model from what the user typed: a factory to import and a weights file to fill its parameters with."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from constropt.files import replacing
from constropt.lab.models.hub import is_hub, load_hub
from constropt.lab.runs.references import load_reference
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
        model = _made(reference)
    if weights is not None:
        inner = model.model if isinstance(model, Normalized) else model  # files know nothing of our normalisation
        fill_weights(inner, load_weights(weights), f"{weights} does not fit {reference}")
    return model.to(device).eval()


def _made(reference: str) -> nn.Module:
    """The module that "module:factory" names or makes."""
    factory = load_reference(reference, what="model")
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ValueError(f"model: {reference!r} is a {type(factory).__name__}, not a factory")
    needed = _required(factory)
    if needed:
        raise ValueError(f"model: {reference!r} needs {', '.join(needed)}; give a factory that needs nothing")
    model = factory()
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: {reference!r} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the state of ``model`` as safetensors, under its final name only once it is complete."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with replacing(path) as unfinished:
        save_file(state, unfinished)


def _required(factory: Any) -> list[str]:
    """The parameters of ``factory`` that have no default; none where its signature cannot be read."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
