"""A model from what the user typed: a factory to import and a weights file to fill its parameters with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from constropt.evaluation.files import replacing
from constropt.evaluation.hub import Normalized, is_hub, load_hub
from constropt.evaluation.references import load_reference


def load_model(reference: str, weights: str | Path | None = None, *, device: torch.device | str = "cpu") -> nn.Module:
    """The module that ``reference``, ``"module:factory"``, names or that the factory there builds, in eval mode.

    The factory is called without arguments; models of other libraries are named as
    :mod:`~constropt.evaluation.hub` says. ``weights`` is read by :func:`load_weights`; without it the module stays as
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


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of any other one by ``torch.load(weights_only=True)``.

    A nested ``state_dict`` (also a list of one) is unwrapped, and the ``module.`` of a parallel training run taken off
    the names. Raises ``ValueError`` for a missing file and for one that holds no tensors by name; nothing in the file
    is ever executed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights: no file {path.absolute()}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise a dozen kinds for a file that is not theirs
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"weights: cannot read {path} without executing code from it ({reason})") from None
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if isinstance(content, (list, tuple)) and len(content) == 1:
        content = content[0]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"weights: {path} holds no tensors by name (a state_dict), but a {type(content).__name__}")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the state of ``model`` as safetensors, under its final name only once it is complete."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with replacing(path) as unfinished:
        save_file(state, unfinished)


@contextmanager
def evaluation_mode(model: Any) -> Iterator[list[str]]:
    """Every module of ``model`` in evaluation mode for a while, each put back then; gives the names of those it found
    in training mode.

    >>> with evaluation_mode(nn.Sequential(nn.Dropout().eval(), nn.Linear(1, 1)).requires_grad_(False)) as training:
    ...     training
    ['(the model itself)', '1']
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


def fill_weights(model: nn.Module, weights: Mapping[str, Tensor], mismatch: str) -> None:
    """Give ``model`` the ``weights``; ``ValueError`` that begins with ``mismatch`` and names what differs."""
    own = model.state_dict()
    # the counters of BatchNorm came later than many published weights, and evaluation does not read them
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in weights}
    weights = {**weights, **counters}
    problems = [
        *(f"missing {name}" for name in own if name not in weights),
        *(f"unexpected {name}" for name in weights if name not in own),
        *(
            f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ),
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"weights: {mismatch}: {', '.join(problems[:3])}{more}")
    model.load_state_dict(weights)


def _required(factory: Any) -> list[str]:
    """The parameters of ``factory`` that have no default; none where its signature cannot be read."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
