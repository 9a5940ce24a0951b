"""Ordinary (not robust) training of a small classifier or segmentation network on tensors in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_positive
from constropt.modes import evaluating


@dataclass(frozen=True)
class OneCycle:
    """``lr`` is the peak of the cycle. Raises ``ValueError`` unless all but ``seed`` are positive."""

    epochs: int
    batch_size: int
    lr: float
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)

    def train(
        self, model: nn.Module, samples: int, loss_of: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]],
        progress: Callable[[int, int, float], None] | None,
    ) -> None:  # fmt: skip
        """Minimise the first of what ``loss_of(rows, generator)`` returns for the rows of a batch, on the CPU.

        The second is the share of the batch in the mean loss that ``progress(epoch, epochs, loss)`` is told. The model
        is trained in place and ends in eval mode; the same ``seed`` and initial weights give the same result on one
        device, and the global generators are left as they were.
        """
        device = next(model.parameters()).device
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr)
        steps = self.epochs * -(-samples // self.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps)
        cuda = [device.index or 0] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            torch.manual_seed(self.seed)  # dropout draws from the global generator: seeded here, put back afterwards
            generator = torch.Generator().manual_seed(self.seed)
            model.train()
            for epoch in range(self.epochs):
                mean = torch.zeros((), dtype=torch.float64, device=device)
                for rows in torch.randperm(samples, generator=generator).split(self.batch_size):
                    loss, share = loss_of(rows, generator)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    mean += share.detach()
                if progress is not None:
                    progress(epoch + 1, self.epochs, mean.item())
        optimizer.zero_grad(set_to_none=True)
        model.eval()


Model = TypeVar("Model", bound=nn.Module)


def train_classifier(
    model: Model, inputs: Tensor, labels: Tensor, *, epochs: int = 20, seed: int = 0, batch_size: int = 64,
    lr: float = 3e-3, device: torch.device | str | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Model:  # fmt: skip
    """Minimise the cross-entropy of ``model`` in place by Adam with a one-cycle step size; returns it in eval mode.

    ``inputs`` is ``(samples, *event)``, ``labels`` ``(samples,)`` int64. ``lr`` is the peak of the cycle. ``device``
    moves the model (default: it stays); batches follow it. ``progress(epoch, epochs, loss)`` is called after each epoch
    with its mean loss. Seeds are as :meth:`OneCycle.train` says. Raises ``ValueError`` for empty or mismatched data and
    unless ``epochs``, ``batch_size`` and ``lr`` are positive.

    >>> x = torch.linspace(0, 1, 64)[:, None]
    >>> model = train_classifier(nn.Linear(1, 2), x, (x[:, 0] > 0.5).long(), epochs=60, batch_size=16, lr=0.3)
    >>> bool((model(x).argmax(1) == (x[:, 0] > 0.5)).float().mean() > 0.9)
    True
    """
    if inputs.shape[0] == 0 or labels.shape != inputs.shape[:1]:
        raise ValueError(f"labels: takes one label per input, got {tuple(labels.shape)} for {tuple(inputs.shape)}")
    cycle = OneCycle(epochs, batch_size, lr, seed)
    if device is not None:
        model.to(device)
    device = next(model.parameters()).device
    inputs, labels = inputs.to(device), labels.to(device)

    def loss_of(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = rows.to(device)
        loss = functional.cross_entropy(model(inputs[rows]), labels[rows])
        return loss, loss * (len(rows) / len(inputs))

    cycle.train(model, len(inputs), loss_of, progress)
    return model


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor, *, batch_size: int = 1000) -> float:
    """Fraction of ``inputs`` that ``model``, in eval mode, classifies as ``labels``; its mode is put back.

    >>> accuracy(nn.Flatten(), torch.eye(3), torch.tensor([0, 1, 1]))
    0.6666666666666666
    """
    with evaluating(model), torch.no_grad():
        hits = [model(x).argmax(1) == y for x, y in zip(inputs.split(batch_size), labels.split(batch_size))]
    return torch.cat(hits).double().mean().item()


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
    model: Model, images: Tensor, labels: Tensor, *, epochs: int = 20, batch_size: int = 8, lr: float = 1e-2,
    pixels: PixelSettings = PLAIN, seed: int = 0, device: torch.device | str | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Model:  # fmt: skip
    """Minimise the cross-entropy per pixel of ``model``, with all other arguments as in :func:`train_classifier`.

    ``images`` is ``(samples, channels, height, width)``, ``labels`` ``(samples, height, width)`` int64; ``model``
    returns logits ``(batch, classes, height, width)``. The loss that ``progress`` is told is the mean per counted
    pixel. Raises as it does, and ``ValueError`` for labels that all are ``ignore_index``.

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
