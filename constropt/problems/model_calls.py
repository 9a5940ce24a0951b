"""How a model is called: what is taken of its output."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returned: the tensor itself or the ``logits`` of an output object.

    Raises ``TypeError`` for anything else.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise TypeError(f"model: must return logits or an object with them, got {type(output).__name__}")
    return logits
