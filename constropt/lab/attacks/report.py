"""What an evaluation found: one row per sample, the figures that papers quote with their conventions stated, side by
side in a terminal, and on disk: per-sample tables as Parquet, perturbed inputs as safetensors, summaries as JSON.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from constropt.files import finite, replacing
from constropt.lab.writing import write_json, write_parquet

RESULT_CONVENTIONS = (
    "success: the returned input, sent through the model once more, gets another label (the target, if targeted) and "
    "lies within the bounds. median: a failure counts as infinitely far. mean: over successes only. "
    "fwd / bwd: forwards and backwards, counted at the model, per sample."
)
CONVENTIONS = (
    f"{RESULT_CONVENTIONS} time/model: wall time over steps x (one forward + one backward of the model on the same"
    " batch, timed in the same run); 1: only the model costs time."
)
DENSE_CONVENTIONS = (
    "a label per pixel: success means that the fraction nu of the labelled pixels reaches the goal; APSR is that "
    "fraction, averaged over images; mIoU is over all pixels, before > after."
)


def failed_as_infinite(columns: Mapping[str, np.ndarray], suffix: str = "") -> np.ndarray:
    """``(samples,)``: the distance of each sample, infinity where the attack failed or its distance is unknown;
    ``suffix`` "_8bit": after rounding.
    """
    distances = np.where(columns[f"success{suffix}"], columns[f"distance{suffix}"], np.inf)
    return np.where(np.isnan(distances), np.inf, distances)


def robust_accuracy(distances: np.ndarray, clean_correct: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Radii, ascending from 0, and the fraction of samples that no perturbation found within each radius changes.

    ``distances`` ``(samples,)`` are infinite where the attack failed. A sample that the model gets wrong unperturbed
    counts at radius 0, whatever the recipe returned, so that the curve starts at the clean accuracy;
    ``clean_correct=None`` for targeted attacks, where the fraction is of samples that do not reach the target.

    >>> [values.tolist() for values in robust_accuracy(np.array([0.2, np.inf, 0.1, 0.3]), np.array([1, 1, 0, 1]) > 0)]
    [[0.0, 0.2, 0.3], [0.75, 0.5, 0.25]]
    """
    if clean_correct is not None:
        distances = np.where(clean_correct, distances, 0.0)
    radii, counts = np.unique(distances[np.isfinite(distances)], return_counts=True)
    accuracy = 1.0 - np.cumsum(counts) / len(distances)
    if not len(radii) or radii[0] > 0:
        radii, accuracy = np.concatenate([[0.0], radii]), np.concatenate([[1.0], accuracy])
    return radii, accuracy


def figures_of(columns: Mapping[str, np.ndarray], forwards: int, backwards: int | None) -> dict[str, Any]:
    """The figures of samples as plain numbers; the passes are those of all of them, ``None`` if not counted."""
    success, samples = columns["success"], len(columns["success"])
    return {
        "clean_accuracy": float(columns["clean_correct"].mean()), "success_rate": float(success.mean()),
        "median_distance": float(np.median(failed_as_infinite(columns))),
        "mean_distance": float(columns["distance"][success].mean()) if success.any() else float("nan"),
        "forwards": forwards / samples, "backwards": None if backwards is None else backwards / samples,
        "success_rate_8bit": float(columns["success_8bit"].mean()),
        "median_distance_8bit": float(np.median(failed_as_infinite(columns, "_8bit"))),
        "unreproduced": int((columns["claimed"] & ~success).sum()),
        "reported_forwards": float(columns["forwards"].mean()),
        "reported_backwards": float(columns["backwards"].mean()),
    }  # fmt: skip


class Judged:
    """Samples of a recipe judged by one distance: what can be drawn as a curve of robust accuracy."""

    name: str
    distance_name: str
    targeted: bool
    columns: dict[str, np.ndarray]

    def distances(self) -> np.ndarray:
        """``(samples,)``: the distance of each sample, infinity where the attack failed."""
        return failed_as_infinite(self.columns)

    def robust_accuracy(self) -> tuple[np.ndarray, np.ndarray]:
        """:func:`robust_accuracy` of these samples."""
        return robust_accuracy(self.distances(), None if self.targeted else self.columns["clean_correct"])


@dataclass(frozen=True)
class AttackReport(Judged):
    """The result of one recipe on one data set.

    ``columns`` holds one numpy array ``(samples,)`` per name: ``index, label, prediction`` (of the perturbed input),
    ``clean_prediction, clean_correct, success`` (re-verified, see :data:`CONVENTIONS`), ``claimed`` (the recipe's own
    word), ``distance`` (in the units of ``distance_name``), ``l0`` (entries that changed), ``l1, l2, linf`` of the
    perturbation in input units, success and distances again with ``_8bit`` for both images rounded to 8 bits,
    ``status`` (in words), ``forwards, backwards, first_feasible`` (the recipe's own), and ``target`` where the attack
    was targeted. ``adversarial`` holds the perturbed inputs ``(samples, *event)`` on the CPU. ``counted_forwards`` and
    ``counted_backwards`` are rows that went through the model, counted outside the recipe (``None``: could not be).
    ``wall_time`` is that of the recipe alone, ``model_time`` what its ``steps`` would take if only the model's passes
    cost anything, both in seconds.

    Dense predictions have no ``label``, ``prediction`` and ``clean_prediction`` column, but ``apsr`` and
    ``clean_apsr``, the fraction of counted pixels where the attack's goal is reached on the perturbed and the
    unperturbed input (``clean_correct``: the latter is below nu), and ``figures`` over all pixels: ``clean_accuracy,
    clean_miou, miou``. ``labels`` are those of the evaluation, ``(samples,)`` or ``(samples, *pixels)``.
    """

    name: str
    distance_name: str
    targeted: bool
    steps: int
    columns: dict[str, np.ndarray] = field(repr=False)
    adversarial: Tensor = field(repr=False)
    counted_forwards: int
    counted_backwards: int | None
    wall_time: float
    model_time: float
    labels: Tensor | None = field(default=None, repr=False)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def dense(self) -> bool:
        """Whether predictions are dense: a label per pixel."""
        return "apsr" in self.columns

    @property
    def samples(self) -> int:
        """How many samples were evaluated."""
        return len(self.columns["index"])

    @property
    def time_over_model_time(self) -> float:
        """Wall time over model time: 1 means that everything but the model's passes is free."""
        return self.wall_time / self.model_time if self.model_time > 0 else float("nan")

    def tensor(self, column: str) -> Tensor:
        """A column as a tensor ``(samples,)``."""
        return torch.from_numpy(np.ascontiguousarray(self.columns[column]))

    def summary(self) -> dict[str, Any]:
        """The figures of a results table as plain numbers; :data:`CONVENTIONS` says how each is meant. ``unreproduced``
        counts samples that the recipe called solved and the clean forward pass did not confirm.
        """
        dense = {"mean_apsr": float(self.columns["apsr"].mean()), **self.figures} if self.dense else {}
        return {
            "distance": self.distance_name, "targeted": self.targeted, "samples": self.samples, "steps": self.steps,
            **figures_of(self.columns, self.counted_forwards, self.counted_backwards),
            "status": dict(Counter(self.columns["status"].tolist())), "wall_time": self.wall_time,
            "model_time": self.model_time, "time_over_model_time": self.time_over_model_time, **dense,
        }  # fmt: skip


def results_table(reports: Sequence[AttackReport], *, title: str | None = None) -> Table:
    """One line per recipe: success, median and mean distance, model passes per sample, time, time over model time. The
    caption states the conventions, and names what does not add up: successes that did not reproduce, and recipes whose
    own count of passes differs from the one taken at the model. Raises ``ValueError`` for no reports.
    """
    if not reports:
        raise ValueError("reports: takes at least one report")
    dense = any(report.dense for report in reports)
    conventions = [CONVENTIONS, DENSE_CONVENTIONS] if dense else [CONVENTIONS]
    table = Table(title=title, caption="\n".join([*conventions, *_remarks(reports)]), caption_justify="left")
    table.add_column("recipe")
    distances = list(dict.fromkeys(report.distance_name for report in reports))
    unit = f" {distances[0]}" if len(distances) == 1 else ""
    found = ("APSR", "mIoU") if dense else ()
    for header in ("success", f"median{unit}", f"mean{unit}", *found, "fwd / bwd", "time", "time/model"):
        table.add_column(header, justify="right")
    for report in reports:
        summary = report.summary()
        apsr, before, after = (percent(summary.get(figure)) for figure in ("mean_apsr", "clean_miou", "miou"))
        table.add_row(
            report.name if unit else f"{report.name} ({report.distance_name})", f"{summary['success_rate']:.1%}",
            number(summary["median_distance"]), number(summary["mean_distance"]),
            *([apsr, f"{before} > {after}"] if dense else []),
            f"{number(summary['forwards'])} / {number(summary['backwards'])}", f"{summary['wall_time']:.2f} s",
            f"{summary['time_over_model_time']:.2f}",
        )  # fmt: skip
    return table


def percent(value: float | None) -> str:
    """A fraction in percent, a dash for what is unknown.

    >>> percent(0.5), percent(None)
    ('50.0%', '-')
    """
    return "-" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    """Four significant digits; a dash for what is unknown.

    >>> number(0.123456), number(float("inf")), number(None)
    ('0.1235', 'inf', '-')
    """
    return "-" if value is None or value != value else f"{value:.4g}"


def _remarks(reports: Sequence[AttackReport]) -> list[str]:
    remarks: list[str] = []
    for report in reports:
        summary: dict[str, Any] = report.summary()
        if summary["unreproduced"]:
            remarks.append(f"{report.name}: {summary['unreproduced']} claimed successes did not reproduce.")
        own = [summary["reported_forwards"], summary["reported_backwards"]]
        if own != [summary["forwards"], summary["backwards"]]:
            remarks.append(f"{report.name} itself reports {number(own[0])} forwards and {number(own[1])} backwards.")
    return remarks


def write_results(report: AttackReport, path: str | Path) -> None:
    """The per-sample columns of ``report`` as Parquet; its summary goes into the file's metadata as JSON."""
    table = pyarrow.table({name: pyarrow.array(column) for name, column in report.columns.items()})
    note = json.dumps(finite(report.summary()), allow_nan=False)
    write_parquet(path, table.replace_schema_metadata({"constropt.recipe": report.name, "constropt.summary": note}))


def read_results(path: str | Path) -> dict[str, Any]:
    """The columns that :func:`write_results` wrote, as numpy arrays by name."""
    table = pyarrow.parquet.read_table(path)
    return {name: table.column(name).to_numpy() for name in table.column_names}


def write_adversarial(report: AttackReport, path: str | Path) -> None:
    """The perturbed inputs of ``report`` as safetensors: ``inputs`` ``(samples, *event)``, ``labels``, ``success``; the
    file can be evaluated again as the data set ``safetensors:FILE``.
    """
    labels = report.tensor("label") if report.labels is None else report.labels.contiguous()
    inputs = report.adversarial.detach().cpu().contiguous()
    tensors = {"inputs": inputs, "labels": labels, "success": report.tensor("success")}
    with replacing(path) as unfinished:
        save_file(tensors, unfinished, metadata={"recipe": report.name})


def write_summary(reports: Sequence[AttackReport], path: str | Path, **context: Any) -> None:
    """The summaries of ``reports`` by recipe, with the ``context`` of the run, as strict JSON (null: not finite)."""
    write_json(path, {**context, "recipes": {report.name: report.summary() for report in reports}})
