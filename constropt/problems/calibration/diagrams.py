"""Figures: the reliability diagram, and the multipliers of CALS over the epochs. They need the extra ``plot``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from constropt.checks import require_whole
from constropt.plotting import figure_of, save_figure
from constropt.problems.calibration.entries import BinStatistics, Entries, check_bins, summed
from constropt.problems.calibration.metrics import require_entries

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACCURACY, _GAP = "tab:blue", "tab:red"


def reliability_diagram(
    scores: Tensor,
    labels: Tensor,
    *,
    from_logits: bool,
    bins: int = 15,
    ignore_index: int | None = -100,
    path: str | Path | None = None,
    title: str | None = None,
) -> Figure:
    """Accuracy against confidence in bins of equal width, and below how many entries each bin holds (Fig. V-2).

    A bar is the accuracy of a bin; the gap between it and the mean confidence of the bin is hatched, so that the ECE is
    the mean of the hatched heights, weighted by the histogram below. Vertical lines there are the accuracy and the mean
    confidence of all entries. The ECE of these bins stands in the title, after ``title`` if given. ``scores``,
    ``labels`` and what is raised are as in
    :func:`~constropt.problems.calibration.metrics.expected_calibration_error`; the figure is written to ``path`` if
    given, in the format of its suffix. Raises :class:`~constropt.checks.MissingExtra` without matplotlib.
    """
    check_bins(bins)
    statistics = summed(partial(Entries.top_bins, bins=bins), scores, labels, from_logits, ignore_index)
    require_entries(statistics.count.sum())
    figure = figure_of(4.6, 5.9)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_gaps(upper, statistics)
    _draw_histogram(lower, statistics)
    # beside the axes, as any place in them may be a bar's
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    ece = f"ECE {100 * float(statistics.error()):.2f} %"
    upper.set_title(f"{title}: {ece}" if title else ece)
    return _saved(figure, path)


def _saved(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        save_figure(figure, path)
    return figure


def multiplier_curves(
    history: Tensor | np.ndarray,
    *,
    path: str | Path | None = None,
    ece: Mapping[str, Sequence[float]] | Sequence[float] | Tensor | None = None,
    classes: Sequence[str] | None = None,
    count: int = 3,
) -> Figure:
    """The mean multiplier over the epochs beside the validation ECE (Fig. 6.3a), and single classes' ones (Fig. V-1).

    ``history`` ``(epochs, K)`` are the multipliers after each epoch. Of single classes the ``count`` are shown whose
    multiplier is the highest on average (solid) and as many of the lowest (dashed), or all where there are fewer.
    ``ece`` are fractions after each epoch, ``(epochs,)``, or several such by the name of the method. ``classes`` names
    the classes. The figure is written to ``path`` if given, in the format of its suffix. Raises ``ValueError`` for
    other shapes and numbers that are not finite, :class:`~constropt.checks.MissingExtra` without matplotlib.
    """
    values = _numbers("history", history)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"history: takes (epochs, K) multipliers, at least one epoch, got shape {values.shape}")
    epochs, number = values.shape
    if classes is not None and len(classes) != number:
        raise ValueError(f"classes: takes {number} names, one per column of the history, got {len(classes)}")
    require_whole(count=count)
    given: Mapping[str, Any] = {} if ece is None else ece if isinstance(ece, Mapping) else {"ECE": ece}
    errors = {name: _numbers("ece", curve) for name, curve in given.items()}
    for name, curve in errors.items():
        if curve.shape != (epochs,):
            raise ValueError(f"ece: takes {epochs} numbers, one per epoch of the history, got {curve.shape} of {name}")
    epoch = np.arange(1, epochs + 1)
    figure = figure_of(9.6, 4.2)
    mean, single = figure.subplots(1, 2)
    _draw_mean(mean, epoch, values.mean(1), errors)
    _draw_classes(single, epoch, values, classes, count)
    for axes in (mean, single):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.margins(x=0.02)
    return _saved(figure, path)


def _draw_gaps(axes: Any, statistics: BinStatistics) -> None:
    filled = (statistics.count > 0).cpu()
    accuracy = statistics.accuracy().cpu()[filled].numpy()
    confidence = statistics.mean_confidence().cpu()[filled].numpy()
    left, bins = np.arange(len(filled))[filled.numpy()] / len(filled), len(filled)
    bars = {"width": 1 / bins, "align": "edge"}
    whole = {"color": _ACCURACY, "alpha": 0.6, "linewidth": 0.5, "edgecolor": "white"}
    axes.bar(left, accuracy, **bars, **whole, label="accuracy in the bin")
    hatched = {"facecolor": (0.84, 0.15, 0.16, 0.15), "edgecolor": _GAP, "hatch": "////", "linewidth": 0.8}
    gap = confidence - accuracy
    axes.bar(left, gap, bottom=accuracy, **bars, **hatched, label="gap to its mean confidence")
    axes.plot([0, 1], [0, 1], linestyle="--", color="0.3", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", axisbelow=True)
    axes.grid(alpha=0.3)


def _draw_histogram(axes: Any, statistics: BinStatistics) -> None:
    count = statistics.count.cpu().numpy()
    total, bins = count.sum(), len(count)
    left, style = np.arange(bins) / bins, {"color": "0.6", "edgecolor": "white", "linewidth": 0.5}
    axes.bar(left, count / total, 1 / bins, align="edge", **style)
    accuracy, confidence = float(statistics.hits.sum()) / total, float(statistics.confidence.sum()) / total
    axes.axvline(accuracy, color=_ACCURACY, linewidth=1.5, label=f"accuracy {accuracy:.3f}")
    axes.axvline(confidence, color=_GAP, linestyle="--", linewidth=1.5, label=f"mean confidence {confidence:.3f}")
    axes.set(ylim=(0, 1.1 * (count / total).max()), xlabel="confidence", ylabel="share of entries", axisbelow=True)
    axes.grid(alpha=0.3)


def _draw_mean(axes: Any, epoch: np.ndarray, mean: np.ndarray, errors: Mapping[str, np.ndarray]) -> None:
    (line,) = axes.plot(epoch, mean, color="black", label="mean multiplier")
    axes.set(ylabel="multiplier", title="mean over classes")
    lines = [line]
    if errors:
        right = axes.twinx()
        for number, (name, curve) in enumerate(errors.items()):
            style = ("--", "-.", ":")[number % 3]
            lines += right.plot(epoch, 100 * curve, color=f"C{number}", linestyle=style, label=name)
        right.set_ylabel("ECE on validation data (%)")
        right.set_ylim(bottom=0)
    _legend_below(axes, lines)


def _draw_classes(axes: Any, epoch: np.ndarray, values: np.ndarray, classes: Sequence[str] | None, count: int) -> None:
    order = np.argsort(-values.mean(0), kind="stable")
    count = min(count, -(-len(order) // 2))
    names = [f"class {number}" for number in range(len(order))] if classes is None else classes
    for position, number in enumerate(order[:count]):
        axes.plot(epoch, values[:, number], color=f"C{position}", label=names[number])
    for position, number in enumerate(order[count:][-count:]):
        axes.plot(epoch, values[:, number], color=f"C{count + position}", linestyle="--", label=names[number])
    axes.set(ylabel="multiplier", title="classes highest and lowest on average")
    _legend_below(axes, axes.get_lines())


def _legend_below(axes: Any, lines: Sequence[Any]) -> None:
    """Beside the axes, since curves go anywhere in them; a single epoch is a point."""
    if len(lines[0].get_xdata()) == 1:
        for line in lines:
            line.set_marker("o")
    axes.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=8)


def _numbers(name: str, values: Any) -> np.ndarray:
    """``values`` as float64, which must be finite."""
    array = values.detach().double().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: takes finite numbers, got {array[~np.isfinite(array)][0]}")
    return array
