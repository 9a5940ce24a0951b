"""Models of other libraries by name, in evaluation mode, from inputs in [0, 1] to logits. They need the extra ``hub``.

``robustbench:NAME:DATASET:THREAT``, ``timm:NAME`` and ``hf:NAME`` (transformers) fetch published weights, unless the
caller fills in its own; images must have the size that the model wants.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from constropt.checks import MissingExtra
from constropt.problems.adapters import Normalized


def is_hub(reference: str) -> bool:
    """Whether ``reference`` names a model of a library, not "module:factory".

    >>> is_hub("timm:resnet18"), is_hub("package.models:resnet18")
    (True, False)
    """
    return reference.partition(":")[0] in _LOADERS


def load_hub(reference: str, *, pretrained: bool = True) -> nn.Module:
    """The model that ``reference`` names, on the CPU; with ``pretrained=False``, fresh weights to be filled in.

    Raises ``ValueError`` for a reference of another form or a name that its library does not have, and
    :class:`MissingExtra` where the library is not installed.
    """
    kind, _, name = reference.partition(":")
    if kind not in _LOADERS:
        raise ValueError(f"model: takes {', '.join(sorted(_FORMS.values()))}, got {reference!r}")
    if not name:
        raise ValueError(f"model: takes {_FORMS[kind]}, got {reference!r}")
    return _LOADERS[kind](name, pretrained).eval()


def _robustbench(name: str, pretrained: bool) -> nn.Module:
    parts = name.split(":")
    if len(parts) != 3 or not all(parts):
        raise ValueError(f"model: takes {_FORMS['robustbench']}, got {'robustbench:' + name!r}")
    model_name, data, threat = parts
    if not pretrained:
        raise ValueError("weights: robustbench brings its own; take no --weights, or the model as module:factory")
    library = _library("robustbench.utils", "robustbench")
    try:
        return library.load_model(model_name=model_name, dataset=data, threat_model=threat)
    except (KeyError, ValueError) as error:
        raise ValueError(f"model: robustbench has no {model_name} for {data}, {threat} ({error})") from None


def _timm(name: str, pretrained: bool) -> nn.Module:
    library = _library("timm", "timm")
    try:
        model = library.create_model(name, pretrained=pretrained)
    except RuntimeError as error:  # what timm raises for a name or weights that it does not have
        raise ValueError(f"model: timm cannot make {name!r} ({error})") from None
    settings = getattr(model, "pretrained_cfg", None) or {}
    return _normalized(model, settings.get("mean"), settings.get("std"))


def _transformers(name: str, pretrained: bool) -> nn.Module:
    library = _library("transformers", "transformers")
    try:
        if pretrained:  # safetensors only, and no code from the model's repository
            model = library.AutoModelForImageClassification.from_pretrained(
                name, use_safetensors=True, trust_remote_code=False
            )
        else:
            config = library.AutoConfig.from_pretrained(name, trust_remote_code=False)
            model = library.AutoModelForImageClassification.from_config(config)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"model: transformers cannot load {name!r} ({reason})") from None
    settings = _processor_settings(library, name)
    if not settings.get("do_normalize", True):
        return _normalized(model, None, None)
    return _normalized(model, settings.get("image_mean"), settings.get("image_std"))


def _processor_settings(library: Any, name: str) -> dict[str, Any]:
    """The preprocessing published with the model; empty if there is none."""
    try:
        return library.ImageProcessingMixin.get_image_processor_dict(name)[0]
    except OSError:
        return {}


def _normalized(model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    return Normalized(model, mean or [0.0], std or [1.0])


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"model: needs {package} ({error}): pip install constropt[hub]") from None


_LOADERS: dict[str, Callable[[str, bool], nn.Module]] = {
    "robustbench": _robustbench,
    "timm": _timm,
    "hf": _transformers,
}
_FORMS = {"robustbench": "robustbench:NAME:DATASET:THREAT", "timm": "timm:NAME", "hf": "hf:NAME"}
