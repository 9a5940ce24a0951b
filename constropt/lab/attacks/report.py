"""What an evaluation found: one row per sample, and the figures that papers quote, with their conventions stated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

RESULT_CONVENTIONS = (
    "success: the returned input, sent through the model once more, gets another label (the target, if targeted) and "
    "lies within the bounds. median: a failure counts as infinitely far. mean: over successes only. "
    "fwd / bwd: forwards and backwards, counted at the model, per sample."
)
CONVENTIONS = RESULT_CONVENTIONS + (
    " time/model: wall time over steps x (one "
    "forward + one backward of the model on the same batch, timed in the same run); 1: only the model costs time."
)
DENSE_CONVENTIONS = (
    "a label per pixel: success means that the fraction nu of the labelled pixels reaches the goal; APSR is that "
    "fraction, averaged over images; mIoU is over all pixels, before > after."
)


class Curve(Protocol):
    """What can be drawn as a curve of robust accuracy."""

    @property
    def name(self) -> str: ...
    @property
    def distance_name(self) -> str: ...
    @property
    def targeted(self) -> bool: ...
    def robust_accuracy(self) -> tuple[np.ndarray, np.ndarray]: ...


def failed_as_infinite(columns: Mapping[str, np.ndarray], suffix: str = "") -> np.ndarray:
    """``(samples,)``: the distance of each sample, infinity where the attack failed or its distance is unknown.

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
        "clean_accuracy": float(columns["clean_correct"].mean()),
        "success_rate": float(success.mean()),
        "median_distance": float(np.median(failed_as_infinite(columns))),
        "mean_distance": float(columns["distance"][success].mean()) if success.any() else float("nan"),
        "forwards": forwards / samples,
        "backwards": None if backwards is None else backwards / samples,
        "success_rate_8bit": float(columns["success_8bit"].mean()),
        "median_distance_8bit": float(np.median(failed_as_infinite(columns, "_8bit"))),
        "unreproduced": int((columns["claimed"] & ~success).sum()),
        "reported_forwards": float(columns["forwards"].mean()),
        "reported_backwards": float(columns["backwards"].mean()),
    }


@dataclass(frozen=True)
class AttackReport:
    """The result of one recipe on one data set.

    ``columns`` holds one numpy array ``(samples,)`` per name: ``index, label, prediction`` (of the perturbed input),
    ``clean_prediction, clean_correct, success`` (re-verified, see :data:`CONVENTIONS`), ``claimed`` (the recipe's own
    word), ``distance`` (in the units of ``distance_name``), ``l0`` (entries that changed), ``l1, l2, linf`` of the
    perturbation in input units, success and distances again with ``_8bit`` for both images rounded to 8 bits,
    ``status`` (in words), ``forwards, backwards, first_feasible`` (the recipe's own),
    and ``target`` where the attack was targeted. ``adversarial`` holds the perturbed inputs ``(samples, *event)`` on
    the CPU. ``counted_forwards`` and ``counted_backwards`` are rows that went through the model, counted outside the
    recipe (``None``: could not be). ``wall_time`` is that of the recipe alone, ``model_time`` what its ``steps``
    would take if only the model's passes cost anything, both in seconds.

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

    def distances(self) -> np.ndarray:
        """``(samples,)``: the distance of each sample, infinity where the attack failed."""
        return failed_as_infinite(self.columns)

    def robust_accuracy(self) -> tuple[np.ndarray, np.ndarray]:
        """:func:`robust_accuracy` of this recipe's samples."""
        return robust_accuracy(self.distances(), None if self.targeted else self.columns["clean_correct"])

    def summary(self) -> dict[str, Any]:
        """The figures of a results table as plain Python numbers; :data:`CONVENTIONS` says how each is meant.

        ``unreproduced`` counts samples that the recipe called solved and the clean forward pass did not confirm.
        """
        dense = {"mean_apsr": float(self.columns["apsr"].mean()), **self.figures} if self.dense else {}
        return {
            "distance": self.distance_name,
            "targeted": self.targeted,
            "samples": self.samples,
            "steps": self.steps,
            **figures_of(self.columns, self.counted_forwards, self.counted_backwards),
            "status": dict(Counter(self.columns["status"].tolist())),
            "wall_time": self.wall_time,
            "model_time": self.model_time,
            "time_over_model_time": self.time_over_model_time,
            **dense,
        }
