"""Factories that a user names, called with the arguments that are found for them by their names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from constropt.lab.runs.references import load_reference
from constropt.lab.runs.specs import RecipeSpec
from constropt.near_names import near_names


def known(name: str, value: str, choices: Mapping[str, Any]) -> None:
    """``ValueError`` that lists near names unless ``value`` is among ``choices``."""
    if value not in choices:
        hint = near_names(value, choices, cutoff=0.4)
        raise ValueError(f"{name}: unknown name {value!r}{hint}; known are {', '.join(choices)}")


def made_network(spec: RecipeSpec, available: Mapping[str, Any], seed: int) -> nn.Module:
    """The network that the factory of ``spec`` makes of those of ``available`` that it takes, its weights drawn by
    ``seed``; the global generator is left as it was. Raises as :func:`call_with`, ``ValueError`` if it is no module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return module_of(load_reference(spec.reference, what="model"), available, spec, what="model")


def module_of(make: Any, available: Mapping[str, Any], spec: RecipeSpec, *, what: str) -> nn.Module:
    """What :func:`call_with` returns, or ``ValueError`` if that is no module."""
    found = call_with(make, available, spec, what=what)
    if not isinstance(found, nn.Module):
        raise ValueError(f"{what}: {spec.label} gave a {type(found).__name__}, not a torch.nn.Module")
    return found


def call_with(make: Any, available: Mapping[str, Any], spec: RecipeSpec, *, what: str) -> Any:
    """``make`` called with those of ``available`` that it takes, and the options of ``spec``, which come first.

    Raises ``ValueError``, which begins with ``what``, for what can't be called, an option that it does not take, and a
    parameter that nothing is given for.
    """
    if not callable(make):
        raise ValueError(f"{what}: {spec.reference} is a {type(make).__name__}, not a factory")
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return make(**spec.options)
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        for name in spec.options:
            known(f"{what}: option of {spec.reference}", name, named)
    given = {name: value for name, value in available.items() if name in named} | dict(spec.options)
    fixed = (p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.default is p.empty)
    missing = [p.name for p in fixed if p.name not in given]
    if missing:
        raise ValueError(
            f"{what}: {spec.reference} needs {', '.join(missing)}; give {spec.reference}[{missing[0]}=...]"
        )
    return make(**given)
