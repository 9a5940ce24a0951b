"""Tensors by name from a file, and into a module, without executing anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


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


def fill_weights(model: nn.Module, weights: Mapping[str, Tensor], mismatch: str) -> None:
    """Give ``model`` the ``weights``; ``ValueError`` that begins with ``mismatch`` and names what differs."""
    own = model.state_dict()
    # the counters of BatchNorm came later than many published weights, and evaluation does not read them
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in weights}
    weights = {**weights, **counters}
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    shapes = ((name, tuple(weights[name].shape), tuple(own[name].shape)) for name in own if name in weights)
    problems += [f"{name} has shape {given} instead of {wanted}" for name, given, wanted in shapes if given != wanted]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"weights: {mismatch}: {', '.join(problems[:3])}{more}")
    model.load_state_dict(weights)
