"""A model from what the user typed: a factory to import, or a model of another library by name (extra ``hub``), and a
weights file to fill its parameters with.

``robustbench:NAME:DATASET:THREAT``, ``timm:NAME`` and ``hf:NAME`` (transformers) are in evaluation mode, from inputs in
[0, 1], of the size that the model wants, to logits. They fetch published weights unless the caller fills in its own.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from constropt.checks import MissingExtra
from constropt.files import replacing
from constropt.lab.runs.specs import RecipeSpec, module_of
from constropt.problems.adapters import Normalized
from constropt.problems.references import load_reference
from constropt.weights import fill_weights, load_weights


def is_hub(reference: str) -> bool:
    """Whether ``reference`` names a model of a library, not "module:factory".

    >>> is_hub("timm:resnet18"), is_hub("package.models:resnet18")
    (True, False)
    """
    return reference.partition(":")[0] in _LOADERS


def load_hub(reference: str, *, pretrained: bool = True) -> nn.Module:
    """The model that ``reference`` names, on the CPU; with ``pretrained=False``, fresh weights to be filled in. Raises
    ``ValueError`` for a reference of another form or a name that its library does not have, and :class:`MissingExtra`
    where the library is not installed.
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
    try:
        model = _library("timm", "timm").create_model(name, pretrained=pretrained)
    except RuntimeError as error:  # what timm raises for a name or weights that it does not have
        raise ValueError(f"model: timm cannot make {name!r} ({error})") from None
    settings = getattr(model, "pretrained_cfg", None) or {}
    return _normalized(model, settings.get("mean"), settings.get("std"))


def _transformers(name: str, pretrained: bool) -> nn.Module:
    library = _library("transformers", "transformers")
    try:
        kind = library.AutoModelForImageClassification
        if pretrained:  # safetensors only, and no code from the model's repository
            model = kind.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
        else:
            model = kind.from_config(library.AutoConfig.from_pretrained(name, trust_remote_code=False))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"model: transformers cannot load {name!r} ({reason})") from None
    settings = _processor_settings(library, name)
    settings = settings if settings.get("do_normalize", True) else {}
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


_LOADERS = {"robustbench": _robustbench, "timm": _timm, "hf": _transformers}
_FORMS = {"robustbench": "robustbench:NAME:DATASET:THREAT", "timm": "timm:NAME", "hf": "hf:NAME"}


def load_model(reference: str, weights: str | Path | None = None, *, device: torch.device | str = "cpu") -> nn.Module:
    """The module that ``reference``, ``"module:factory"``, names or that the factory there builds, in eval mode.

    The factory is called without arguments; models of other libraries are named as :mod:`~constropt.lab.models.weights`
    says. ``weights`` is read by :func:`load_weights`; without it the module stays as it was made. ``ValueError`` for a
    reference that does not import or gives no ``nn.Module``, and for parameters that do not match the weights.
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
