"""Figures as files: robust accuracy curves and grids of adversarial images. They need the extra ``plot``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from constropt.evaluation.data import MissingExtra
from constropt.evaluation.files import replacing
from constropt.evaluation.report import AttackReport


def plot_curve(reports: Sequence[AttackReport], path: str | Path) -> None:
    """Write the robust accuracy of every recipe against the size of the perturbation allowed, as one figure.

    The curve is exact: it drops at each distance found, and says only that no *smaller* perturbation was found. Where
    it crosses one half is the median distance. Raises ``ValueError`` for no reports, or reports on several distances
    or of both targeted and untargeted runs, which no axis can hold; :class:`MissingExtra` without matplotlib.
    """
    kinds = {(report.distance_name, report.targeted) for report in reports}
    if len(kinds) != 1:
        raise ValueError(f"reports: takes reports that share a distance and a goal, got {sorted(kinds) or 'none'}")
    ((distance, targeted),) = kinds
    figure = _figure(6.0, 4.0)
    axes = figure.add_subplot()
    curves = [report.robust_accuracy() for report in reports]
    end = max([radii[-1] for radii, _ in curves] + [0.0]) * 1.05 or 1.0
    for number, (report, (radii, accuracy)) in enumerate(zip(reports, curves)):
        x, y = np.append(radii, end), np.append(accuracy, accuracy[-1])
        # dashes as well as colors: good recipes lie on top of each other
        axes.step(x, y, where="post", label=report.name, linestyle=("-", "--", "-.", ":")[number % 4])
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"size of the perturbation ({distance})")
    axes.set_ylabel("fraction that does not reach the target" if targeted else "robust accuracy")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def plot_grid(inputs: Tensor, report: AttackReport, path: str | Path, *, samples: int = 8) -> None:
    """Write the first ``samples`` as columns of original, adversarial and amplified perturbation, with labels.

    ``inputs`` ``(samples, channels, height, width)`` in [0, 1] are those of the evaluation. Each perturbation is
    scaled so that its largest entry reaches black or white around gray; the factor stands above it. Samples that the
    model classifies correctly come first, since there the attack had work to do. Raises ``ValueError`` for inputs of
    another shape than the report's images or that are no images, :class:`MissingExtra` without matplotlib.
    """
    if inputs.shape != report.adversarial.shape or inputs.dim() != 4 or inputs.shape[1] not in (1, 3):
        raise ValueError(
            f"inputs: takes the (N, 1 or 3, H, W) images of the report, {tuple(report.adversarial.shape)}, "
            f"got {tuple(inputs.shape)}"
        )
    columns = report.columns
    shown = np.argsort(~columns["clean_correct"], kind="stable")[:samples]
    figure = _figure(1.7 * max(len(shown), 1), 5.7)
    grid = figure.subplots(3, len(shown), squeeze=False)
    for column, sample in zip(grid.T, shown):
        original, adversarial = _image(inputs[sample]), _image(report.adversarial[sample])
        delta = adversarial - original
        largest = float(np.abs(delta).max())
        factor = 0.5 / largest if largest > 0 else 1.0
        outcome = "" if columns["success"][sample] else ", failed"
        titles = (
            f"label {columns['label'][sample]}, predicted {columns['clean_prediction'][sample]}",
            f"predicted {columns['prediction'][sample]}{outcome}",
            f"{report.distance_name} {columns['distance'][sample]:.3g}, shown × {factor:.3g}",
        )
        for axes, image, title in zip(column, (original, adversarial, 0.5 + factor * delta), titles):
            axes.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(title, fontsize=7)
            axes.axis("off")
    _save(figure, path)


def _image(image: Tensor) -> np.ndarray:
    """``(height, width)`` or ``(height, width, 3)``, as matplotlib takes it."""
    return image.detach().cpu().float().permute(1, 2, 0).squeeze(2).numpy()


def require_matplotlib() -> None:
    """Raise :class:`MissingExtra` if figures cannot be drawn: better before a long run than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra("figures need matplotlib: pip install constropt[plot]") from None


def _figure(width: float, height: float) -> Any:
    """A figure drawn by Agg: no window, no display, and no global state as pyplot has."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | Path) -> None:
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=120)
