"""Ordinary (not robust) training of a segmentation network on tensors in memory, and its label maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.lab.models.one_cycle import OneCycle
from constropt.modes import evaluating

Model = TypeVar("Model", bound=nn.Module)
Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PixelSettings:
    """How pixels count: ``ignore_index`` does not, ``weight`` ``(classes,)`` multiplies the loss of a pixel by that of
    its label. With ``mirror``, every image is mirrored left to right with probability one half; ``augment(images,
    labels, generator)``, where given, then changes each batch further.
    """

    ignore_index: int = 255
    weight: Tensor | None = None
    mirror: bool = True
    augment: Augment | None = None


PLAIN = PixelSettings()


def train_segmenter(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int = 20,
    batch_size: int = 8,
    lr: float = 1e-2,
    pixels: PixelSettings = PLAIN,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Model:
    """Minimise the cross-entropy per pixel of ``model`` in place by Adam with a one-cycle step size; returns it in
    eval mode.

    ``images`` is ``(samples, channels, height, width)``, ``labels`` ``(samples, height, width)`` int64; ``model``
    returns logits ``(batch, classes, height, width)``. ``lr`` is the peak of the cycle. ``device`` moves the model
    (default: it stays); batches follow it. ``progress(epoch, epochs, loss)`` is called after each epoch with its mean
    loss per counted pixel. The same ``seed`` and initial weights give the same result on one device; the global
    generators are left as they were.

    Raises ``ValueError`` for empty or mismatched data, labels that all are ``ignore_index``, and unless ``epochs``,
    ``batch_size`` and ``lr`` are positive.

    >>> x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> bright = (x[:, 0] > 0.5).long()
    >>> model = train_segmenter(nn.Conv2d(1, 2, 1), x, bright, epochs=60, lr=0.5)
    >>> bool((predict(model, x) == bright).float().mean() > 0.9)
    True
    """
    if images.dim() != 4 or images.shape[0] == 0 or labels.shape != (images.shape[0], *images.shape[2:]):
        raise ValueError(f"labels: takes one map per image, got {tuple(labels.shape)} for {tuple(images.shape)}")
    cycle = OneCycle(epochs, batch_size, lr, seed)
    ignored = pixels.ignore_index
    count = int((labels != ignored).sum())
    if count == 0:
        raise ValueError(f"labels: every pixel is ignore_index, {ignored}")
    if device is not None:
        model.to(device)
    device = next(model.parameters()).device
    weight = None if pixels.weight is None else pixels.weight.to(device)

    def loss_of(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = images[rows].to(device), labels[rows].to(device)
        if pixels.mirror:
            mirrored = (torch.rand(len(rows), generator=generator) < 0.5).to(device)
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
            y = torch.where(mirrored[:, None, None], y.flip(2), y)
        if pixels.augment is not None:
            x, y = pixels.augment(x, y, generator)
        # the sum over a batch with nothing to count is 0, where the mean would be NaN and stay in the weights
        loss = functional.cross_entropy(model(x), y, weight, ignore_index=ignored, reduction="sum")
        return loss / (y != ignored).sum().clamp_min(1), loss / count

    cycle.train(model, len(images), loss_of, progress)
    return model


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, *, batch_size: int = 8) -> Tensor:
    """Label maps ``(samples, height, width)``, int64 on the CPU, of ``model`` in eval mode; its mode is put back.

    >>> predict(nn.Identity(), torch.tensor([[[[0.1, 0.9]], [[0.4, 0.2]]]]))
    tensor([[[1, 0]]])
    """
    device = next((parameter.device for parameter in model.parameters()), images.device)
    with evaluating(model):
        return torch.cat([model(x.to(device)).argmax(1).cpu() for x in images.split(batch_size)])
