"""The figures of a run: per model, distance and recipe, the worst case over recipes, the mean over models."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from constropt.lab.attacks.columns import NORMS
from constropt.lab.attacks.report import RESULT_CONVENTIONS, Judged, failed_as_infinite, figures_of
from constropt.lab.runs.folder import Shard

WORST_CASE = "worst case"
GEOMETRIC_MEAN = "geometric mean"
AVERAGE, LEAST_LIKELY = "average", "least likely"
CONVENTIONS = RESULT_CONVENTIONS + (
    " 8 bits: the same after both images are rounded to multiples of 1/255, as a file holds them. acc at r: the"
    " fraction of samples classified correctly that no perturbation found within r changes. worst case: of each sample,"
    " the smallest distance that any recipe found; its passes are those of all. geometric mean: of each figure over the"
    " models; infinite if a median is, 0 if a rate is."
)
# the figures of a row that have a mean over models
FIGURES = (
    "clean_accuracy", "success_rate", "median_distance", "mean_distance", "forwards", "backwards",
    "success_rate_8bit", "median_distance_8bit",
)  # fmt: skip


@dataclass(frozen=True)
class CellResult(Judged):
    """All samples of one recipe on one model, judged by one distance; ``columns`` are those of an ``AttackReport``.
    ``distance_name`` is the distance that ``columns["distance"]`` holds, ``goal`` the kind of target or ``None``.
    ``forwards`` and ``backwards`` count rows through the model, over all samples.
    """

    model: str
    name: str
    distance_name: str
    goal: str | None
    columns: dict[str, np.ndarray] = field(repr=False)
    forwards: int
    backwards: int | None

    @property
    def targeted(self) -> bool:
        return self.goal is not None

    def accuracy_at(self, radii: Iterable[float]) -> list[float]:
        """The robust accuracy at each of the ``radii``: what its curve, a step function, is there."""
        steps, accuracy = self.robust_accuracy()
        # a perturbation of exactly the radius counts; a projection on it may miss it by rounding
        places = [np.searchsorted(steps, radius * (1 + 1e-6), side="right") - 1 for radius in radii]
        return [float(accuracy[place]) for place in places]

    def row(self, radii: Sequence[float] = ()) -> dict[str, Any]:
        """Its figures as plain numbers (:data:`CONVENTIONS`), ``accuracy_at`` the ``radii`` among them."""
        found = figures_of(self.columns, self.forwards, self.backwards)
        if np.isnan(self.columns["distance_8bit"][self.columns["success_8bit"]]).any():
            found["median_distance_8bit"] = math.nan
        return {
            "model": self.model, "distance": self.distance_name, "targets": self.goal, "recipe": self.name,
            "samples": len(self.columns["success"]), **found,
            "accuracy_at": dict(zip(map(float, radii), self.accuracy_at(radii))),
        }  # fmt: skip


def cell_result(
    model: str, name: str, goal: str | None, given: str | None, distance: str, shards: Sequence[Shard]
) -> CellResult | None:
    """The shards of a cell together, judged by ``distance``; ``None`` if they say nothing of it. ``given`` is the
    distance that the recipe was called with: what is no norm is as the recipe says.
    """
    columns = {key: np.concatenate([shard.columns[key] for shard in shards]) for key in shards[0].columns}
    if distance in NORMS:
        columns["distance"], columns["distance_8bit"] = columns[distance], columns[f"{distance}_8bit"]
    elif distance not in (given, shards[0].own_distance):
        return None
    return CellResult(model, name, distance, goal, columns, *_passes(shards))


def distances_of(own: str | None, fixed: str | None, asked: Sequence[str]) -> list[str]:
    """By which distances a cell is judged: its own if it was given or asked for, else every one that was asked for.

    >>> distances_of("l2", None, ["l0", "l2"]), distances_of("l2", None, ["linf"]), distances_of(None, "l1", ["l2"])
    (['l2'], ['linf'], ['l1'])
    """
    if fixed is not None:
        return [fixed]
    return [own] if own is not None and own in asked else list(asked)


def worst_case(results: Sequence[CellResult]) -> CellResult:
    """Of each sample the result with the smallest distance; the passes of all are added up."""
    return _best(results, WORST_CASE, results[0].goal, farthest=False)


def over_targets(results: Sequence[CellResult]) -> list[CellResult]:
    """One recipe's attacks towards all targets as the two scenarios of Tables 3.2 to 3.4: "average", where every attack
    is a sample, and "least likely", of each sample the target that was the hardest.
    """
    first = results[0]
    keys = [key for key in first.columns if all(key in result.columns for result in results)]
    pooled = {key: np.concatenate([result.columns[key] for result in results]) for key in keys}
    average = CellResult(first.model, first.name, first.distance_name, AVERAGE, pooled, *_passes(results))
    return [average, _best(results, first.name, LEAST_LIKELY, farthest=True)]


def _best(results: Sequence[CellResult], name: str, goal: str | None, *, farthest: bool) -> CellResult:
    """Per sample one of the results: the nearest, or the farthest, where a failure is farther than anything."""
    keys = [key for key in results[0].columns if all(key in result.columns for result in results)]

    def chosen(distances: list[np.ndarray], keys: Iterable[str]) -> dict[str, np.ndarray]:
        place = np.argmax(distances, axis=0) if farthest else np.argmin(distances, axis=0)
        every = np.arange(len(place))
        return {key: np.stack([result.columns[key] for result in results])[place, every] for key in keys}

    columns = chosen([result.distances() for result in results], keys)
    # a smaller perturbation may not survive rounding where a larger one does
    saved = [failed_as_infinite(result.columns, "_8bit") for result in results]
    columns |= chosen(saved, ("success_8bit", "distance_8bit"))
    for own in ("forwards", "backwards"):
        columns[own] = np.sum([result.columns[own] for result in results], axis=0)
    return CellResult(results[0].model, name, results[0].distance_name, goal, columns, *_passes(results))


def _passes(results: Sequence[CellResult | Shard]) -> tuple[int, int | None]:
    backwards = [result.backwards for result in results]
    known = None if None in backwards else sum(count for count in backwards if count is not None)
    return sum(result.forwards for result in results), known


def geometric_means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each recipe, distance and goal that every model has, the geometric mean of its figures over the models."""
    models = dict.fromkeys(row["model"] for row in rows)
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["distance"], row["targets"], row["recipe"]), []).append(row)
    means = []
    for group in grouped.values():
        if len(group) < len(models) or len(group) < 2:
            continue
        mean = {key: group[0][key] for key in ("distance", "targets", "recipe")} | {"model": GEOMETRIC_MEAN}
        mean["samples"] = sum(row["samples"] for row in group)
        mean |= {figure: geometric_mean([row[figure] for row in group]) for figure in FIGURES}
        radii = group[0]["accuracy_at"]
        mean["accuracy_at"] = {r: geometric_mean([row["accuracy_at"][r] for row in group]) for r in radii}
        means.append(mean)
    return means


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """The geometric mean of numbers >= 0: 0 if one is, infinite if one is; ``None`` where one is unknown.

    >>> geometric_mean([1.0, 4.0]), geometric_mean([0.0, 1.0]), geometric_mean([1.0, math.inf]), geometric_mean([None])
    (2.0, 0.0, inf, None)
    """
    known = [value for value in values if value is not None and not math.isnan(value)]
    if len(known) < len(values) or not known:
        return None
    if math.inf in known:
        return math.inf
    if 0.0 in known:
        return 0.0
    return math.exp(math.fsum(math.log(value) for value in known) / len(known))
