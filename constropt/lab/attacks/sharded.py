"""Run recipes on models over a data set into a folder: batch by batch, resumable, by several processes at once."""

import hashlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from constropt.checks import got, require_whole
from constropt.lab.attacks import results as outcome
from constropt.lab.attacks.cells import Cell, left_out, plan, require_cells
from constropt.lab.attacks.examine import signs_after, signs_before
from constropt.lab.attacks.run import checked_bounds, classes_of, device_of, run_batch
from constropt.lab.attacks.signs import Model, Sign, left_in_training_mode
from constropt.lab.runs import folder
from constropt.lab.runs.specs import RecipeSpec, parse_recipe
from constropt.modes import evaluating

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AttackEvaluation:
    """What a run found, or, where batches are still missing, how far it is.

    ``results`` hold the samples of every recipe, model and distance, the worst case over recipes among them; ``rows``
    their figures, and ``means`` those of the geometric means over models. ``notes`` say what was left out and why,
    ``signs`` what a reader of the figures must know. ``done`` of ``total`` batches are there.
    """

    out: Path
    settings: dict[str, Any] = field(repr=False)
    done: int
    total: int
    results: list[outcome.CellResult] = field(default_factory=list, repr=False)
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    means: list[dict[str, Any]] = field(default_factory=list, repr=False)
    notes: list[str] = field(default_factory=list)
    signs: list[Sign] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.done == self.total


@dataclass(frozen=True)
class RunSettings:
    """How a run is made; all but how it is shared and looked at is part of what its folder is recognised by.

    ``options`` go to every recipe that takes them. ``targets``: ``None``, a kind that
    :func:`~constropt.lab.attacks.targets.choose_targets` takes, or "all": every other class, reported as the average
    and the least likely class. ``radii``: where to report the robust accuracy. ``batch_size`` samples are solved
    together. Of ``shards`` processes that share the folder, the one with number ``shard`` computes every ``shards``-th
    batch. ``fresh`` removes the run that is there. ``about`` is anything that describes models and data. ``transfer``:
    inputs made on other models, by origin, to be tried on these, if ``look_for_signs``.
    """

    distances: Sequence[str] = ("l2",)
    targets: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 500
    seed: int = 0
    radii: Sequence[float] = ()
    shard: int = 0
    shards: int = 1
    fresh: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    transfer: Mapping[str, Tensor] = field(default_factory=dict)
    look_for_signs: bool = True


DEFAULTS = RunSettings()


class _Task(NamedTuple):
    """One batch of one cell on one model."""

    model: str
    cell: Cell
    number: int
    rows: tuple[int, int]
    path: Path


def run_evaluation(
    recipes: Sequence[str | RecipeSpec], models: Mapping[str, Model], inputs: Tensor, labels: Tensor, *,
    out: str | Path, settings: RunSettings = DEFAULTS, warn: Callable[[Sign], None] | None = None,
    progress: Progress | None = None,
) -> AttackEvaluation:  # fmt: skip
    """Run every recipe on every model at each of the distances of ``settings``; summarise once all batches are there.
    ``recipes`` are names, "module:function", either with options (``"fmn[steps=50]"``), or specs. ``models`` are
    callables from ``inputs`` ``(samples, *event)`` to logits, by names that serve as file names.

    Each batch is one file below ``out/shards``, written whole or not at all; a batch that is there is not computed
    again, so that the same call after a kill continues. A folder that was made with other settings (data, models,
    recipes, options, seed, batch size, ...) is refused. First every recipe is run on its first batch: one that turns
    out not to take a distance, or to lack a package, is left out with a note. ``warn`` gets each sign as it is seen,
    ``progress(what, done, total)`` is called after each batch. Batches draw from seeds of their own; the global random
    state stays as it is. Raises ``ValueError``/``TypeError`` for what does not fit, before the first model call.
    """
    out = Path(out)
    _check(models, inputs, labels, settings)
    bounds = checked_bounds(settings.options.get("bounds", (0.0, 1.0)))
    signs: list[Sign] = []

    def seen(found: Sequence[Sign | None]) -> None:
        for sign in found:
            if sign is not None and sign not in signs:
                signs.append(sign)
                if warn is not None:
                    warn(sign)

    with ExitStack() as stack:
        for name, model in models.items():
            seen([left_in_training_mode(model, name)])
            stack.enter_context(evaluating(model))
        devices = {device_of(model, inputs) for model in models.values()}
        cuda = [device.index or 0 for device in devices if device.type == "cuda"]
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        torch.manual_seed(settings.seed)
        if settings.look_for_signs:
            seen(signs_before(models, inputs, labels, bounds))
        classes = {name: classes_of(model, inputs) for name, model in models.items()}
        others = [f"+{k}" for k in range(1, min(classes.values()))]
        goals = others if settings.targets == "all" else [settings.targets]
        specs = [parse_recipe(recipe) if isinstance(recipe, str) else recipe for recipe in recipes]
        cells, notes = plan(specs, settings.distances, goals, settings.options, settings.seed)
        described = {
            **settings.about, "inputs": folder.fingerprint(inputs, labels), "samples": len(inputs),
            "batch_size": settings.batch_size, "seed": settings.seed, "distances": list(settings.distances),
            "models": {name: folder.model_fingerprint(model) for name, model in models.items()},
            "recipes": [cell.settings() for cell in cells],
        }  # fmt: skip
        run = folder.open_run(out, described, fresh=settings.fresh)
        batches = folder.batch_rows(len(inputs), settings.batch_size)
        tasks = [
            _Task(model, cell, number, rows, folder.shard_path(out, model, cell.key, number))
            for model, cell, (number, rows) in itertools.product(models, cells, enumerate(batches))
        ]
        gone: set[str] = set()  # the keys of cells that refused
        # the first batch of every cell first: what does not fit is known before hours of work
        for place, task in enumerate(sorted(tasks, key=lambda task: task.number > 0)):
            own = task.number % settings.shards == settings.shard and task.cell.key not in gone
            if own and not folder.is_complete(task.path, run, task.rows):
                try:
                    _compute(task, models[task.model], inputs, labels, classes[task.model], settings.seed, run)
                except (ValueError, TypeError, ImportError) as error:
                    note = None if task.path.parent.is_dir() else left_out(task.cell, error)
                    if note is None:
                        raise
                    gone.add(task.cell.key)
                    notes += [note] if note not in notes else []
                    if len(gone) == len(cells):
                        (out / folder.FILE).unlink()  # nothing was computed: the folder is free for another run
                    require_cells([cell for cell in cells if cell.key not in gone], notes)
            if progress is not None:
                progress(f"{task.model}: {task.cell.spec.label}", place + 1, len(tasks))
        tasks = [task for task in tasks if task.cell.key not in gone]
        done = sum(folder.is_complete(task.path, run, task.rows) for task in tasks)
        if done < len(tasks):
            return AttackEvaluation(out, described, done, len(tasks), notes=notes, signs=signs)
        files: dict[tuple[str, str], tuple[Cell, list[Path]]] = {}
        for task in tasks:
            files.setdefault((task.model, task.cell.key), (task.cell, []))[1].append(task.path)
        found, collected = _collect(files, settings.distances, notes)
        if settings.look_for_signs:
            torch.manual_seed(settings.seed)
            seen(signs_after(
                models, inputs, labels, found, lambda model, cell: folder.read_adversarial(files[model, cell.key][1]),
                settings.transfer, bounds, settings.seed,
            ))  # fmt: skip
    rows = [result.row(settings.radii) for result in collected]
    means = outcome.geometric_means(rows)
    return AttackEvaluation(out, described, done, len(tasks), collected, rows, means, notes, signs)


def _compute(task: _Task, model: Model, inputs: Tensor, labels: Tensor, classes: int, seed: int, run: str) -> None:
    """Run one batch and write its shard; what it draws depends on the cell and the batch, not on what ran before."""
    device = device_of(model, inputs)
    rows = slice(*task.rows)
    targets = task.cell.targets(labels, classes, seed)
    text = f"{seed}/{task.model}/{task.cell.key}/{task.number}"
    torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))
    batch = run_batch(
        task.cell.recipe, model, inputs[rows].to(device), labels[rows].to(device),
        None if targets is None else targets[rows].to(device), task.cell.options, task.cell.measure,
        name=task.cell.spec.label,
    )  # fmt: skip
    folder.write_shard(task.path, run, task.rows, batch)


def _collect(
    files: Mapping[tuple[str, str], tuple[Cell, list[Path]]], distances: Sequence[str], notes: list[str]
) -> tuple[dict[str, dict[str, list[tuple[Cell, outcome.CellResult]]]], list[outcome.CellResult]]:
    """The untargeted cells by model and distance, and all results in the order in which they are shown; ``files`` are
    the shards of each cell by model and the cell's key.
    """
    found: dict[str, dict[str, list[tuple[Cell, outcome.CellResult]]]] = {}
    grouped: dict[tuple[str, str, bool], dict[RecipeSpec, list[outcome.CellResult]]] = {}
    for (model, _), (cell, paths) in files.items():
        shards = [folder.read_shard(path) for path in paths]
        for distance in outcome.distances_of(shards[0].own_distance, cell.distance, distances):
            result = outcome.cell_result(model, cell.spec.label, cell.goal, cell.distance, distance, shards)
            if result is None:
                note = f"{cell.spec.label} takes no distance and is not measured in {distance}"
                notes.extend([note] if note not in notes else [])
                continue
            grouped.setdefault((model, distance, result.targeted), {}).setdefault(cell.spec, []).append(result)
            if cell.goal is None:
                found.setdefault(model, {}).setdefault(distance, []).append((cell, result))
    collected: list[outcome.CellResult] = []
    for by_spec in grouped.values():
        shown = [outcome.over_targets(results) if len(results) > 1 else results for results in by_spec.values()]
        collected += [result for results in shown for result in results]
        if len(shown) > 1:
            collected += [outcome.worst_case(scenario) for scenario in zip(*shown)]
    return found, collected


def _check(models: Mapping[str, Model], inputs: Tensor, labels: Tensor, settings: RunSettings) -> None:
    shard, shards = settings.shard, settings.shards
    if not models:
        raise ValueError("models: takes at least one model")
    for name in models:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
            raise ValueError(f"models: takes names of letters, digits and _ . + -, since they name files; got {name!r}")
    if inputs.dim() < 2 or not len(inputs) or labels.shape[:1] != inputs.shape[:1]:
        raise ValueError(f"inputs: takes (samples, *event) with a label each, got {got(inputs)} and {got(labels)}")
    require_whole(batch_size=settings.batch_size, shards=shards)
    if not 0 <= shard < shards:
        raise ValueError(f"shard: of {shards}, takes a number from 0 to {shards - 1}, got {shard}")
    if settings.fresh and shards > 1:
        raise ValueError("fresh: would remove what the other processes write; begin anew with one process, then share")
    if settings.targets is not None and labels.dim() > 1:
        raise ValueError("targets: are for classifiers here; for a label per pixel use `constropt solve --targets`")
    for origin, images in settings.transfer.items():
        if images.shape != inputs.shape:
            raise ValueError(f"transfer: takes inputs as {got(inputs)}, those of {origin} are {got(images)}")
