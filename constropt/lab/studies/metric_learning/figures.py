"""Figures: the map of embeddings, and the curves of losses over training. They need the extra ``plot``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from constropt.lab.attacks.plots import class_colors
from constropt.plotting import figure_of, save_figure
from constropt.problems.metric_learning.pairs import check_embeddings, check_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def principal_components(embeddings: Tensor, count: int = 2) -> tuple[Tensor, Tensor]:
    """The coordinates ``(n, count)`` along the directions of most variance, and the share of it that each has.

    The sign of a direction is that which makes its largest coordinate positive. Raises ``ValueError`` for more
    directions than samples or features.

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
    """The embeddings ``(n, d)`` along their two directions of most variance (PCA), ``classes`` classes in colour, the
    others grey.

    The share of the variance that a direction has stands at its axis. The figure is written to ``path`` if given, in
    the format of its suffix. Raises ``ValueError`` for embeddings of one feature or sample, and
    :class:`~constropt.lab.MissingExtra` without matplotlib.
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
    """Loss and validation accuracy of some runs over the epochs, side by side (Fig. I-1).

    The figure is written to ``path`` if given. Raises :class:`~constropt.lab.MissingExtra` without matplotlib.
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
