"""Ordinary (not robust) training of a small classifier on tensors in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.lab.models.one_cycle import OneCycle
from constropt.modes import evaluating

Model = TypeVar("Model", bound=nn.Module)


def train_classifier(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    epochs: int = 20,
    seed: int = 0,
    batch_size: int = 64,
    lr: float = 3e-3,
    device: torch.device | str | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Model:
    """Minimise the cross-entropy of ``model`` in place by Adam with a one-cycle step size; returns it in eval mode.

    ``inputs`` is ``(samples, *event)``, ``labels`` ``(samples,)`` int64. ``lr`` is the peak of the cycle. ``device``
    moves the model (default: it stays); batches follow it. ``progress(epoch, epochs, loss)`` is called after each
    epoch with its mean loss. The same ``seed`` and initial weights give the same result on one device; the global
    generators are left as they were.

    Raises ``ValueError`` for empty or mismatched data and unless ``epochs``, ``batch_size`` and ``lr`` are positive.

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
