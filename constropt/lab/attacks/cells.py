"""What a run consists of: each recipe on each model, at each distance that it supports, towards each goal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from constropt.lab.attacks.columns import NORMS, Measure
from constropt.lab.attacks.run import check_options, device_of, measure_of, takes
from constropt.lab.attacks.targets import choose_targets
from constropt.lab.runs.specs import RecipeSpec
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
            "recipe": self.spec.reference,
            "distance": self.distance,
            "targets": self.goal,
            "options": dict(sorted(self.options.items())),
        }

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
    specs: Sequence[RecipeSpec],
    distances: Sequence[str],
    goals: Sequence[str | None],
    common: Mapping[str, Any],
    seed: int,
    model: Callable[[Tensor], Any],
    inputs: Tensor,
    labels: Tensor,
) -> tuple[list[Cell], list[str]]:
    """The cells of a run, without doubles, and a note for every combination that is left out.

    ``common`` options go to every recipe that takes them, and a recipe's own replace them. Whether a recipe supports a
    distance is asked by calling it with one sample: attacks check their arguments before they call the model.

    Raises ``ValueError`` for a common option that no recipe takes, an option that its recipe does not take, whatever
    else a recipe raises before its first model call, and if nothing is left to run.
    """
    functions = {spec: spec.load() for spec in dict.fromkeys(specs)}
    for option in common:
        if not any(takes(function, option) for function in functions.values()):
            raise ValueError(f"option {option!r}: none of {', '.join(spec.label for spec in functions)} takes it")
    cells: dict[str, Cell] = {}
    notes: list[str] = []
    for spec, function in functions.items():
        for distance, options in _variants(spec, function, distances, common, seed):
            refusal = None if distance is None else _refusal(function, spec, options, model, inputs, labels)
            if refusal:
                notes.append(f"{spec.label} is left out at distance {distance}: {refusal}")
                continue
            for goal in goals:
                if goal is not None and not takes(function, "targets"):
                    notes.append(f"{spec.label} is left out at targets {goal}: it takes no targets")
                    continue
                cell = Cell(spec, distance, goal, options, function)
                cells.setdefault(cell.key, cell)
    if not cells:
        raise ValueError(f"recipes: nothing to run; {'; '.join(notes) or 'no recipe is given'}")
    return list(cells.values()), notes


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


class _Reached(BaseException):
    """The recipe has called the model: no ``Exception``, so that no recipe handles it."""


def _refusal(
    function: Callable[..., Any],
    spec: RecipeSpec,
    options: Mapping[str, Any],
    model: Callable[[Tensor], Any],
    inputs: Tensor,
    labels: Tensor,
) -> str | None:
    """Why ``function`` does not take the distance in its ``options``; ``None`` if it does."""

    def stop(*_: Any) -> Any:
        raise _Reached

    device = device_of(model, inputs)
    watched: Any = model
    handle = model.register_forward_pre_hook(stop) if isinstance(model, nn.Module) else None
    if handle is None:
        watched = stop
    try:
        with torch.random.fork_rng(devices=[]):
            function(watched, inputs[:1].to(device), labels[:1].to(device), **options)
    except _Reached:
        return None
    except (ValueError, TypeError, ImportError) as error:
        # a distance that is no norm may need files or images of another size, and says so in words of its own
        about_distance = str(error).startswith("distance") or options["distance"] not in NORMS
        if about_distance or isinstance(error, ImportError):
            return " ".join(str(error).split())
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"recipe {spec.label!r}: {error}") from error
    finally:
        if handle is not None:
            handle.remove()
    return None
