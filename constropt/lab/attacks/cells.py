"""What a run consists of: each recipe on each model, at each distance that it supports, towards each goal."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from constropt.lab.attacks.columns import NORMS, Measure
from constropt.lab.attacks.run import check_options, measure_of, refusal, takes
from constropt.lab.attacks.targets import choose_targets
from constropt.lab.runs.specs import RecipeSpec
from constropt.problems.distances import UnsupportedDistance
from constropt.solution import Solution


@dataclass(frozen=True)
class Cell:
    """One recipe at one distance and goal: what is computed for every model and batch.

    ``distance`` is ``None`` for a recipe that takes none: it minimises its own, and runs once whatever was asked for.
    ``goal`` is a kind of target (:func:`~constropt.lab.attacks.targets.choose_targets`), ``None`` if untargeted.
    ``options`` are all that the recipe is called with but the targets.
    """

    spec: RecipeSpec
    distance: str | None
    goal: str | None
    options: Mapping[str, Any]
    recipe: Callable[..., Solution] = field(repr=False, compare=False)

    def settings(self) -> dict[str, Any]:
        """All that decides the results of the cell, for the manifest."""
        return {
            "recipe": self.spec.reference, "distance": self.distance, "targets": self.goal,
            "options": dict(sorted(self.options.items())),
        }  # fmt: skip

    @property
    def key(self) -> str:
        """A name for its folder: readable, and different for different settings."""
        text = json.dumps(self.settings(), sort_keys=True)
        parts = [self.spec.reference.rpartition(":")[2], self.distance, self.goal]
        name = "-".join("".join(c if c.isalnum() or c in "_" else "" for c in part) for part in parts if part)
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def measure(self) -> Measure:
        """How its results are judged."""
        return measure_of(self.recipe, self.options)

    def targets(self, labels: Tensor, classes: int, seed: int) -> Tensor | None:
        """The targets of all samples; those of a batch are a part of them, so that batches do not matter."""
        return None if self.goal is None else choose_targets(self.goal, labels, classes, seed=seed)


def plan(
    specs: Sequence[RecipeSpec], distances: Sequence[str], goals: Sequence[str | None], common: Mapping[str, Any],
    seed: int,
) -> tuple[list[Cell], list[str]]:  # fmt: skip
    """The cells of a run, without doubles, and a note for every combination that is left out.

    ``common`` options go to every recipe that takes them, and a recipe's own replace them. A recipe that declares its
    distances is left out at the others; one that does not may still refuse when it is first run (:func:`left_out`).
    Raises ``ValueError`` for a common option that no recipe takes, a recipe's own that it does not, and no cell at all.
    """
    functions = {spec: spec.load() for spec in dict.fromkeys(specs)}
    for option in common:
        if not any(takes(function, option) for function in functions.values()):
            raise ValueError(f"option {option!r}: none of {', '.join(spec.label for spec in functions)} takes it")
    cells: dict[str, Cell] = {}
    notes: list[str] = []
    for spec, function in functions.items():
        for distance, options in _variants(spec, function, distances, common, seed):
            if distance is not None and (reason := refusal(function, distance)):
                notes.append(_note(spec, distance, reason))
                continue
            for goal in goals:
                if goal is not None and not takes(function, "targets"):
                    notes.append(f"{spec.label} is left out at targets {goal}: it takes no targets")
                    continue
                cell = Cell(spec, distance, goal, options, function)
                cells.setdefault(cell.key, cell)
    require_cells(cells, notes)
    return list(cells.values()), notes


def require_cells(cells: Collection[Any], notes: Sequence[str]) -> None:
    """``ValueError`` where no cell is left to run, with the reasons."""
    if not cells:
        raise ValueError(f"recipes: nothing to run; {'; '.join(notes) or 'no recipe is given'}")


def left_out(cell: Cell, error: Exception) -> str | None:
    """The note for a cell whose first batch failed since it does not fit the recipe or lacks a package, else ``None``.
    A distance that is no norm may need files or images of another size, and says so in errors of its own.
    """
    own = cell.distance is not None and cell.distance not in NORMS and isinstance(error, (ValueError, TypeError))
    unfit = own or isinstance(error, (UnsupportedDistance, ImportError))
    return _note(cell.spec, cell.distance, str(error)) if unfit else None


def _note(spec: RecipeSpec, distance: str | None, reason: str) -> str:
    place = "" if distance is None else f" at distance {distance}"
    return f"{spec.label} is left out{place}: {' '.join(reason.split())}"


def _variants(
    spec: RecipeSpec, function: Callable[..., Any], distances: Sequence[str], common: Mapping[str, Any], seed: int
) -> list[tuple[str | None, dict[str, Any]]]:
    """The distances of a recipe and the options at each."""
    options = {key: value for key, value in common.items() if takes(function, key)} | dict(spec.options)
    if takes(function, "seed", by_name=True):
        options.setdefault("seed", seed)
    check_options(function, spec.label, options)
    if not takes(function, "distance"):
        return [(None, options)]
    asked = [options["distance"]] if "distance" in options else distances
    return [(distance, {**options, "distance": distance}) for distance in dict.fromkeys(asked)]
