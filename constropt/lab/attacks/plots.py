"""Figures as files: curves of robustness, grids of adversarial images and label maps. They need the extra ``plot``."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from constropt.checks import got
from constropt.lab.attacks.report import AttackReport, Judged
from constropt.plotting import figure_of, require_matplotlib, save_figure

_DASHES = ("-", "--", "-.", ":")  # as well as colors: good recipes lie on top of each other
_LINEAR_UNTIL = 2 / 255  # of the axis of failures: attacks on dense predictions differ below it


def plot_curve(reports: Sequence[Judged], path: str | Path) -> None:
    """Write the robust accuracy of every recipe against the size of the perturbation allowed, as one figure.

    The curve is exact: it drops at each distance found, and says only that no *smaller* perturbation was found. Where
    it crosses one half is the median distance. Raises ``ValueError`` for no reports, and for several distances or both
    targeted and untargeted runs, which no axis can hold; :class:`MissingExtra` without matplotlib.
    """
    kinds = {(report.distance_name, report.targeted) for report in reports}
    if len(kinds) != 1:
        raise ValueError(f"reports: takes reports that share a distance and a goal, got {sorted(kinds) or 'none'}")
    ((distance, targeted),) = kinds
    figure = figure_of(6.0, 4.0)
    axes = figure.add_subplot()
    curves = [report.robust_accuracy() for report in reports]
    end = max(radii[-1] for radii, _ in curves) * 1.05 or 1.0
    for number, (report, (radii, accuracy)) in enumerate(zip(reports, curves)):
        x, y = np.append(radii, end), np.append(accuracy, accuracy[-1])
        axes.step(x, y, where="post", label=report.name, linestyle=_DASHES[number % 4])
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"size of the perturbation ({distance})")
    axes.set_ylabel("fraction that does not reach the target" if targeted else "robust accuracy")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def plot_grid(inputs: Tensor, report: AttackReport, path: str | Path, *, samples: int = 8) -> None:
    """Write the first ``samples`` as columns of original, adversarial and amplified perturbation, with labels.

    ``inputs`` ``(samples, channels, height, width)`` in [0, 1] are those of the evaluation. Each perturbation is scaled
    so that its largest entry reaches black or white around gray; the factor stands above it. Samples that the model
    classifies correctly come first, since there the attack had work to do. Raises ``ValueError`` for inputs of another
    shape than the report's images or that are no images, :class:`MissingExtra` without matplotlib.
    """
    shape = tuple(report.adversarial.shape)
    if inputs.shape != shape or len(shape) != 4 or shape[1] not in (1, 3):
        raise ValueError(f"inputs: takes the (N, 1 or 3, H, W) images of the report, {shape}, got {got(inputs)}")
    columns = report.columns
    drawn = np.argsort(~columns["clean_correct"], kind="stable")[:samples]
    figure = figure_of(1.7 * max(len(drawn), 1), 5.7)
    for column, sample in zip(figure.subplots(3, len(drawn), squeeze=False).T, drawn):
        image, adversarial = _image(inputs[sample]), _image(report.adversarial[sample])
        picture, factor, _ = _amplified(adversarial - image)
        outcome = "" if columns["success"][sample] else ", failed"
        shown = {
            f"label {columns['label'][sample]}, predicted {columns['clean_prediction'][sample]}": image,
            f"predicted {columns['prediction'][sample]}{outcome}": adversarial,
            f"{report.distance_name} {columns['distance'][sample]:.3g}, shown × {factor:.3g}": picture,
        }
        _show(column, shown, fontsize=7)
    save_figure(figure, path)


def failure_rate(norms: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radii, ascending from 0, and the fraction of images whose norm exceeds each: its steps, exactly. ``norms``
    ``(images,)`` holds the smallest norm at which each image was fooled, infinite where the attack failed. Raises
    ``ValueError`` for another shape, no image, and negative or NaN norms.

    >>> failure_rate(torch.tensor([0.2, 0.1, torch.inf, 0.2]))[1].tolist()
    [1.0, 0.75, 0.25]
    """
    values = norms.detach().double().cpu().numpy() if isinstance(norms, Tensor) else np.asarray(norms, dtype=float)
    if values.ndim != 1 or not len(values) or not (values >= 0).all():  # written so that NaN fails too
        raise ValueError(f"norms: takes (images,) numbers >= 0, at least one, got shape {values.shape}, {values[:3]}")
    radii = np.unique(np.append(values[np.isfinite(values)], 0.0))
    return radii, (values[None] > radii[:, None]).mean(1)


def plot_failures(norms: Mapping[str, Tensor | np.ndarray], path: str | Path, *, title: str | None = None) -> None:
    """Write the failure rate of several attacks against the l-infinity norm of their perturbations (Fig. 5.3).

    ``norms`` names the attacks and holds, per attack, ``(images,)`` l-infinity norms for images in [0, 1], infinite
    where it failed. Towards the lower left is the stronger attack. The axis is linear up to 2/255 and logarithmic from
    there to 1. Raises as :func:`failure_rate`, ``ValueError`` for no attack, :class:`MissingExtra` without matplotlib.
    """
    if not norms:
        raise ValueError("norms: takes at least one attack")
    curves = {name: failure_rate(values) for name, values in norms.items()}
    figure = figure_of(6.4, 4.0)
    axes = figure.add_subplot()
    for number, (name, (radii, rates)) in enumerate(curves.items()):
        x, y = np.append(radii, 1.0), 100 * np.append(rates, rates[-1])
        x, y = np.insert(x, 0, 0.0), np.insert(y, 0, 100.0)  # images fooled as they are: a drop at 0
        axes.step(x, y, where="post", label=name, linestyle=_DASHES[number % 4])
    # the linear part takes as much room as one and a half decades: about 2 of 5 parts of the axis
    axes.set_xscale("symlog", linthresh=_LINEAR_UNTIL, linscale=1.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(-1, 102)
    ticks = (0, 0.5, 1, 1.5, 2, 4, 8, 16, 32, 64, 128, 255)
    axes.set_xticks([tick / 255 for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.axvline(_LINEAR_UNTIL, color="gray", linewidth=0.8, alpha=0.6)
    axes.set_xlabel("l-infinity norm of the perturbation × 255 (linear up to 2, then logarithmic)")
    axes.set_ylabel("unsuccessful attacks (% of images)")
    axes.grid(alpha=0.3)
    axes.legend()
    if title:
        axes.set_title(title)
    save_figure(figure, path)


def plot_label_maps(
    inputs: Tensor, predictions: Tensor, adversarial: Tensor, adversarial_predictions: Tensor, path: str | Path, *,
    classes: Sequence[str] | int | None = None, ignore_index: int = 255, samples: int = 4,
) -> None:  # fmt: skip
    """Write the first ``samples`` as rows: image, its prediction, the amplified perturbation, the prediction it causes.

    ``inputs`` and ``adversarial`` are ``(samples, 1 or 3, height, width)`` in [0, 1], both predictions label maps
    ``(samples, height, width)``, on which ``ignore_index`` is black; a label map is as good as a prediction, to show a
    target. Each perturbation is scaled so that its largest entry reaches black or white around gray; its norm and the
    factor stand above it. ``classes``, names or their number (default: the labels seen), fixes the colors, so that
    figures compare; names make a legend of those that are shown. Raises ``ValueError`` for shapes that do not belong
    together and labels that have no class, :class:`MissingExtra` without matplotlib.
    """
    if inputs.dim() != 4 or inputs.shape[1] not in (1, 3) or adversarial.shape != inputs.shape:
        raise ValueError(f"inputs and adversarial: take (N, 1 or 3, H, W), got {got(inputs)} and {got(adversarial)}")
    maps = [value[:samples].cpu() for value in (predictions, adversarial_predictions)]
    shape = (min(samples, len(inputs)), *inputs.shape[2:])
    for name, value in zip(("predictions", "adversarial_predictions"), maps):
        if value.shape != shape:
            raise ValueError(f"{name}: takes a label map of {shape[1:]} per image, got {tuple(value.shape)}")
    labels = torch.cat(maps)
    seen = [label for label in labels.unique().tolist() if label != ignore_index]
    names = classes if not isinstance(classes, int) and classes is not None else None
    count = len(names) if names else classes if isinstance(classes, int) else max([*seen, 0]) + 1
    if seen and not 0 <= min(seen) <= max(seen) < count:
        raise ValueError(f"predictions: hold labels {min(seen)} to {max(seen)} for {count} classes")
    colors = class_colors(count)
    height = 2.6 * shape[1] / shape[2]
    figure = figure_of(10.4, shape[0] * (height + 0.25) + (0.5 if names else 0.1))
    for row, axes in enumerate(figure.subplots(shape[0], 4, squeeze=False)):
        image = _image(inputs[row])
        picture, factor, largest = _amplified(_image(adversarial[row]) - image)
        shown = {
            "image": image,
            "prediction": _colored(maps[0][row], colors, ignore_index),
            f"perturbation × {factor:.3g}, l-infinity {255 * largest:.3g}/255": picture,
            "prediction with it": _colored(maps[1][row], colors, ignore_index),
        }
        _show(axes, shown, fontsize=8)
    if names and seen:
        from matplotlib.patches import Patch

        rows = -(-len(seen) // 8)
        patches = [Patch(facecolor=tuple(colors[label]), label=names[label]) for label in seen]
        figure.legend(handles=patches, loc="outside lower center", ncols=-(-len(patches) // rows), fontsize=8)
    save_figure(figure, path)


def class_colors(classes: int) -> np.ndarray:
    """``(classes, 3)`` colors in [0, 1] that tell classes apart; the first ones are the same for every number.

    >>> class_colors(30).shape
    (30, 3)
    """
    require_matplotlib()
    from matplotlib import colormaps
    from matplotlib.colors import hsv_to_rgb

    strong = colormaps["tab20"](np.arange(20))[:, :3]
    first = np.concatenate([strong[::2], strong[1::2]])[:classes]  # the saturated of each pair before the pale ones
    number = np.arange(20, max(classes, 20))
    more = np.stack([number * 0.618034 % 1, 0.55 + 0.15 * (number % 4), 0.5 + 0.15 * (number // 4 % 4)], axis=1)
    return np.concatenate([first, hsv_to_rgb(more).reshape(-1, 3)])


def _amplified(delta: np.ndarray) -> tuple[np.ndarray, float, float]:
    """A perturbation around gray, scaled so that its largest entry is black or white; the factor, and that entry."""
    largest = float(np.abs(delta).max())
    factor = 0.5 / largest if largest > 0 else 1.0
    return 0.5 + factor * delta, factor, largest


def _show(panels: Iterable[Any], pictures: Mapping[str, np.ndarray], *, fontsize: float) -> None:
    """A picture under its title in each of the panels."""
    for panel, (title, picture) in zip(panels, pictures.items()):
        panel.imshow(np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(title, fontsize=fontsize)
        panel.axis("off")


def _colored(labels: Tensor, colors: np.ndarray, ignore_index: int) -> np.ndarray:
    """``(height, width, 3)``: the color of each pixel's class, black where it is ignored."""
    ignored = (labels == ignore_index).numpy()
    return np.where(ignored[..., None], 0.0, colors[np.where(ignored, 0, labels.numpy())])


def _image(image: Tensor) -> np.ndarray:
    """``(height, width)`` or ``(height, width, 3)``, as matplotlib takes it."""
    return image.detach().cpu().float().permute(1, 2, 0).squeeze(2).numpy()
