"""Figures (extra ``plot``): the map of embeddings, curves over training, and Fig. I-1 of the thesis, cross-entropy and
SPCE on a small network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from constropt.lab.attacks.plots import class_colors
from constropt.lab.data.readers import LabelledData
from constropt.lab.models.embedders import small_embedder
from constropt.lab.studies.epochs import TRAIN_LOSS, History, TrainingSettings, run_epochs, shuffled
from constropt.lab.studies.metric_learning.study import embed
from constropt.lab.writing import write_json
from constropt.plotting import figure_of, save_figure
from constropt.problems.metric_learning.classifier import CrossEntropy
from constropt.problems.metric_learning.pairs import SplitLoss, check_embeddings, check_labels, class_sums
from constropt.problems.metric_learning.pairwise_cross_entropy import SPCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def principal_components(embeddings: Tensor, count: int = 2) -> tuple[Tensor, Tensor]:
    """The coordinates ``(n, count)`` along the directions of most variance, each so that its largest coordinate is
    positive, and the share of it that each has. Raises ``ValueError`` for more directions than samples or features.

    >>> z = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    >>> coordinates, share = principal_components(z, 1)
    >>> coordinates.flatten().abs().tolist(), share.tolist()
    ([5.0, 0.0, 5.0], [1.0])
    """
    check_embeddings(embeddings)
    if not 1 <= count <= min(embeddings.shape):
        raise ValueError(f"count: takes 1 to {min(embeddings.shape)} directions, got {count}")
    centered = embeddings.detach().double()
    centered = centered - centered.mean(0)
    left, spread, _ = torch.linalg.svd(centered, full_matrices=False)
    coordinates = left[:, :count] * spread[:count]
    largest = coordinates.gather(0, coordinates.abs().argmax(0, keepdim=True))
    share = spread[:count].square() / spread.square().sum().clamp_min(torch.finfo(spread.dtype).tiny)
    return coordinates * torch.where(largest < 0, -1.0, 1.0), share


def embedding_map(
    embeddings: Tensor, labels: Tensor, *, classes: int = 12, path: str | Path | None = None, title: str | None = None
) -> Figure:
    """The embeddings ``(n, d)`` along their two directions of most variance (PCA), ``classes`` classes colored, others
    grey; the share of the variance stands at each axis.

    The figure is written to ``path`` if given, in the format of its suffix. Raises ``ValueError`` for embeddings of one
    feature or sample, and :class:`~constropt.lab.MissingExtra` without matplotlib.
    """
    check_labels(labels, len(embeddings))
    coordinates, share = principal_components(embeddings)
    figure = figure_of(5.4, 4.8)
    axes = figure.subplots()
    found = labels.unique()
    # spread over the numbers: neighbours may be of one kind, as the characters of an alphabet
    shown = found[torch.linspace(0, len(found) - 1, min(classes, len(found))).round().long()].tolist()
    others = ~torch.isin(labels, torch.tensor(shown, dtype=labels.dtype))
    if bool(others.any()):
        axes.scatter(*coordinates[others].T.numpy(), s=6, color="0.85", linewidths=0)
    for color, label in zip(class_colors(len(shown)), shown):
        axes.scatter(*coordinates[labels == label].T.numpy(), s=14, color=color, linewidths=0)
    axes.set_xlabel(f"first direction, {share[0]:.0%} of the variance")
    axes.set_ylabel(f"second, {share[1]:.0%}")
    axes.set_title(title or f"{len(labels)} embeddings, {len(shown)} of {len(found)} classes in colour")
    if path is not None:
        save_figure(figure, path)
    return figure


def training_curves(
    losses: Mapping[str, Sequence[float]], accuracies: Mapping[str, Sequence[float]], *, path: str | Path | None = None
) -> Figure:
    """Loss and validation accuracy of some runs over the epochs, side by side (Fig. I-1), written to ``path`` if given.
    Raises :class:`~constropt.lab.MissingExtra` without matplotlib.
    """
    figure = figure_of(8.4, 3.4)
    left, right = figure.subplots(1, 2)
    for axes, curves, name in ((left, losses, "training loss"), (right, accuracies, "validation accuracy")):
        for label, values in curves.items():
            axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=label)
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.legend()
    left.set_ylim(bottom=0)
    if path is not None:
        save_figure(figure, path)
    return figure


DIMENSION = 100
SETTINGS = TrainingSettings(epochs=10, batch_size=128, optimizer="adam", lr=1e-4, weight_decay=1e-4, schedule="cosine")
_ACCURACY = "accuracy"


def figure_one(
    train: LabelledData, validation: LabelledData, *, out: str | Path, settings: TrainingSettings = SETTINGS,
    seed: int = 0, device: torch.device | str = "cpu", progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, dict[str, list[float]]]:  # fmt: skip
    """Train a network of four convolutions with cross-entropy and with SPCE, from the same weights on the same batches.

    The thesis' settings: d = 100, Adam, batches of 128, learning rate 1e-4 with cosine annealing, weight decay 1e-4
    (images of MNIST). SPCE has no classifier of its own: a sample is of the class k of largest ``z^T S_k``, the sums
    over the training part. Writes ``figure-I-1.png`` and ``.json`` to ``out``; returns loss and accuracy of each.
    Raises ``ValueError`` for images with several labels each, :class:`~constropt.lab.MissingExtra` without matplotlib.
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
    losses, accuracies = ({name: curve[kind] for name, curve in found.items()} for kind in ("loss", _ACCURACY))
    training_curves(losses, accuracies, path=out / "figure-I-1.png")
    content: dict[str, Any] = {"samples": len(train.labels), "seed": seed, "curves": found}
    write_json(out / "figure-I-1.json", content)
    return found


def _trained(
    model: nn.Module, loss: SplitLoss, train: LabelledData, validation: LabelledData, settings: TrainingSettings,
    seed: int, progress: Callable[[int, int], None] | None,
) -> History:  # fmt: skip
    device = next(model.parameters()).device
    images, labels = (part.to(device) for part in train)
    parts = {"model": model, "criterion": loss}

    def look(history: History) -> None:
        weight, bias = _classifier(model, loss, train)
        predicted = (embed(model, validation.inputs) @ weight.mT + bias).argmax(1)
        history.add(**{_ACCURACY: (predicted == validation.labels).double().mean().item()})

    return run_epochs(
        parts, settings.build(nn.ModuleList(parts.values())), settings,
        batches=lambda: shuffled(len(labels), settings.batch_size, device),
        loss_of=lambda rows: loss(model(images[rows]), labels[rows]), look=look, seed=seed, progress=progress,
    )  # fmt: skip


def _classifier(model: nn.Module, loss: SplitLoss, train: LabelledData) -> tuple[Tensor, Tensor | float]:
    """Weight ``(K, d)`` and bias: learned, or the sums over the classes of the training part, on the CPU."""
    if isinstance(loss, CrossEntropy):
        return loss.classifier.weight.detach().cpu(), loss.classifier.bias.detach().cpu()
    classes = int(train.labels.max()) + 1
    return class_sums(embed(model, train.inputs), train.labels, classes) / len(train.labels), 0.0
