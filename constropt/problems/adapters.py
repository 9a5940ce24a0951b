"""Models as attacks take them: inputs in [0, 1], logits out, whatever a library's model takes and returns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.problems.model_calls import logits_of

_USUAL_KEYS = ("logits", "out")  # Hugging Face, torchvision


class DenseLogits(nn.Module):
    """A model's logits at the size of its input: ``(batch, classes, height, width)`` from any usual kind of output.

    ``model``, a module or function, may return the logits themselves, a mapping or object that holds them as ``logits``
    (Hugging Face) or ``out`` (torchvision), or a tuple or list that starts with them; ``key`` names or numbers another
    entry (an attribute works too). Logits smaller than the input, as SegFormer's, are interpolated bilinearly
    (``align_corners=False``) unless ``upsample`` is false; logits ``(batch, classes)`` of classifiers pass through.
    ``mean`` and ``std``, per channel, are what the model's inputs are normalised with: images in [0, 1] go in.

    Calls raise ``ValueError`` when the output holds no logits there, for logits of another dimension or batch size, and
    for logits larger than the input, which would have to be cropped in a way that only the model's author knows.

    >>> model = DenseLogits(lambda x: {"out": x[:, :2, ::4, ::4], "aux": None})
    >>> model(torch.zeros(1, 3, 10, 14)).shape
    torch.Size([1, 2, 10, 14])
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        *,
        key: str | int | None = None,
        upsample: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model: takes a module or function, got {type(model).__name__}")
        if std is not None and not all(value > 0 for value in std):
            raise ValueError(f"std: takes positive numbers, one per channel, got {std!r}")
        self.model, self.key, self.upsample = model, key, upsample
        for name, values in (("mean", mean), ("std", std)):
            value = None if values is None else torch.tensor(values, dtype=torch.get_default_dtype())[:, None, None]
            self.register_buffer(name, value, persistent=False)  # no part of the model's weights
        self.training = getattr(model, "training", False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images`` ``(batch, channels, height, width)`` in [0, 1]."""
        x = images if self.mean is None else images - self.mean
        logits = find_logits(self.model(x if self.std is None else x / self.std), key=self.key)
        count = images.shape[0]
        if logits.dim() not in (2, 4) or logits.shape[0] != count:
            takes = f"({count}, classes) or ({count}, classes, height, width) for {count} images"
            raise ValueError(f"model: must return logits {takes}, got shape {tuple(logits.shape)}")
        if logits.dim() == 2 or not self.upsample or logits.shape[2:] == images.shape[2:]:
            return logits
        if logits.shape[2] > images.shape[2] or logits.shape[3] > images.shape[3]:
            sizes = f"{tuple(logits.shape[2:])}, larger than the images' {tuple(images.shape[2:])}"
            raise ValueError(f"model: returned logits of size {sizes}; crop them in a function around the model")
        return functional.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)


def find_logits(output: Any, *, key: str | int | None = None) -> Tensor:
    """The logits in a model's ``output``: itself, its entry or attribute ``key``, or the usual one.

    Without ``key``: the entry or attribute ``logits`` or ``out``, or the first of a tuple or list. Raises
    ``ValueError`` where that is missing or no tensor, saying what there is.

    >>> find_logits({"aux": None, "out": torch.zeros(1, 2)})
    tensor([[0., 0.]])
    """
    if key is not None:
        found = _entry(output, key)
    elif isinstance(output, Tensor):
        found = output
    else:
        found = next((value for name in _USUAL_KEYS if (value := _entry(output, name)) is not None), None)
        if found is None and isinstance(output, Sequence) and output:
            found = output[0]
    if not isinstance(found, Tensor):
        wanted = f"under {key!r}" if key is not None else "(a tensor, an entry or attribute 'logits' or 'out')"
        held = f" with {', '.join(map(repr, output))}" if isinstance(output, Mapping) else ""
        raise ValueError(f"model: found no logits {wanted} in the {type(output).__name__}{held} that it returned")
    return found


def _entry(output: Any, key: str | int) -> Any:
    """``output[key]`` or, for a name, ``output.key``; ``None`` where there is neither."""
    if isinstance(output, Mapping) and key in output:
        return output[key]
    if isinstance(key, int):
        inside = isinstance(output, Sequence) and -len(output) <= key < len(output)
        return output[key] if inside else None
    return getattr(output, key, None)


class Normalized(nn.Module):
    """Logits of ``model`` at ``(images - mean) / std``, so that attacks see images in [0, 1].

    The constants are no part of the state; the model's parameters stand below ``model.``.

    >>> Normalized(nn.Flatten(), [0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not min(std) > 0:
            raise ValueError(f"std: takes {len(mean)} positive numbers like mean, got {list(std)}")
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.model((images - self.mean) / self.std))
