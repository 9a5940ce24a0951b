"""Fig. I-1 of the thesis: cross-entropy and SPCE over the epochs of training a small network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from constropt.files import finite, replacing
from constropt.lab.data.labelled import LabelledData
from constropt.lab.models.embedders import small_embedder
from constropt.lab.studies.epochs import TRAIN_LOSS, History, TrainingSettings, run_epochs, shuffled
from constropt.lab.studies.metric_learning.figures import training_curves
from constropt.lab.studies.metric_learning.training import embed
from constropt.problems.metric_learning.classifier import CrossEntropy
from constropt.problems.metric_learning.pairs import SplitLoss, class_sums
from constropt.problems.metric_learning.pairwise_cross_entropy import SPCE

DIMENSION = 100
SETTINGS = TrainingSettings(epochs=10, batch_size=128, optimizer="adam", lr=1e-4, weight_decay=1e-4, schedule="cosine")
_ACCURACY = "accuracy"


def figure_one(
    train: LabelledData,
    validation: LabelledData,
    *,
    out: str | Path,
    settings: TrainingSettings = SETTINGS,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Train a network of four convolutions with cross-entropy and with SPCE, from the same weights on the same batches.

    The thesis' settings: d = 100, Adam, batches of 128, learning rate 1e-4 with cosine annealing, weight decay 1e-4
    (images of MNIST). SPCE has no classifier of its own: a sample is of the class k of largest ``z^T S_k``, the sums
    over the training part. Writes ``figure-I-1.png`` and ``.json`` to ``out``; returns loss and accuracy of each.

    Raises ``ValueError`` for images with more than one label each, and
    :class:`~constropt.lab.MissingExtra` without matplotlib.
    """
    if train.labels.dim() != 1:
        raise ValueError("data: takes images with one class each, got a label per pixel")
    out, classes = Path(out), int(max(part.labels.max() for part in (train, validation))) + 1
    found: dict[str, dict[str, list[float]]] = {}
    for name, loss in (("CE", CrossEntropy(classes, DIMENSION)), ("SPCE", SPCE())):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = small_embedder(channels=train.inputs.shape[1], dimension=DIMENSION).to(device)
        report = None if progress is None else lambda done, total, name=name: progress(name, done, total)
        history = _trained(model, loss.to(device), train, validation, settings, seed, report)
        found[name] = {"loss": history.figures[TRAIN_LOSS], _ACCURACY: history.figures[_ACCURACY]}
    curves = [{name: curve[kind] for name, curve in found.items()} for kind in ("loss", _ACCURACY)]
    training_curves(*curves, path=out / "figure-I-1.png")
    content: dict[str, Any] = {"samples": len(train.labels), "seed": seed, "curves": found}
    with replacing(out / "figure-I-1.json") as unfinished:
        unfinished.write_text(json.dumps(finite(content), indent=2) + "\n", encoding="utf-8")
    return found


def _trained(
    model: nn.Module,
    loss: SplitLoss,
    train: LabelledData,
    validation: LabelledData,
    settings: TrainingSettings,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> History:
    device = next(model.parameters()).device
    images, labels = (part.to(device) for part in train)
    parts = {"model": model, "criterion": loss}

    def look(history: History) -> None:
        weight, bias = _classifier(model, loss, train)
        predicted = (embed(model, validation.inputs) @ weight.mT + bias).argmax(1)
        history.add(**{_ACCURACY: (predicted == validation.labels).double().mean().item()})

    return run_epochs(
        parts,
        settings.build(nn.ModuleList(parts.values())),
        settings,
        batches=lambda: shuffled(len(labels), settings.batch_size, device),
        loss_of=lambda rows: loss(model(images[rows]), labels[rows]),
        look=look,
        seed=seed,
        progress=progress,
    )


def _classifier(model: nn.Module, loss: SplitLoss, train: LabelledData) -> tuple[Tensor, Tensor | float]:
    """Weight ``(K, d)`` and bias: learned, or the sums over the classes of the training part, on the CPU."""
    if isinstance(loss, CrossEntropy):
        return loss.classifier.weight.detach().cpu(), loss.classifier.bias.detach().cpu()
    classes = int(train.labels.max()) + 1
    return class_sums(embed(model, train.inputs), train.labels, classes) / len(train.labels), 0.0
