"""The signs of :mod:`~constropt.lab.attacks.signs` looked for before a run, in what it found, by another's inputs."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from constropt.lab.attacks import signs as look
from constropt.lab.attacks.cells import Cell
from constropt.lab.attacks.results import CellResult
from constropt.lab.attacks.run import device_of
from constropt.lab.attacks.signs import Model, Sign
from constropt.lab.data.load import load_data
from constropt.lab.runs.folder import FILE, SHARDS, fingerprint, read_adversarial
from constropt.problems.attacks import pgd


def load_transfer(source: str | Path, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The perturbed inputs in ``source`` by where they come from, for the clean ``inputs`` and their ``labels``.
    ``source`` is the folder of a complete run, where every recipe on every model counts, or a safetensors file as
    ``constropt solve --out`` writes them. Raises ``ValueError`` for anything else, and for one of other samples.
    """
    source = Path(source)
    if not source.is_dir():
        data, count = load_data(f"safetensors:{source}"), len(labels)
        if len(data.labels) < count or not torch.equal(data.labels[:count], labels.cpu()):
            raise ValueError(f"transfer-from: {source} holds other samples than these {count}: their labels differ")
        return {source.stem: data.inputs[:count]}
    manifest = source / FILE
    if not manifest.is_file():
        raise ValueError(f"transfer-from: {source} has no {FILE}: it is no folder of `constropt evaluate`")
    if json.loads(manifest.read_text(encoding="utf-8")).get("inputs") != fingerprint(inputs, labels):
        raise ValueError(f"transfer-from: {source} was made on other samples than these {len(inputs)}")
    found: dict[str, Tensor] = {}
    for folder in sorted(path for path in (source / SHARDS).glob("*/*") if path.is_dir()):
        images = read_adversarial(sorted(folder.glob("[!.]*.safetensors")))
        if len(images) != len(inputs):
            raise ValueError(f"transfer-from: {source} is not complete: {folder.name} lacks batches; run it to its end")
        found[f"{folder.parent.name} by {folder.name.rpartition('-')[0]}"] = images
    if not found:
        raise ValueError(f"transfer-from: {source} holds no batches yet")
    return found


SAMPLES = 100  # looked at where a sign costs passes of its own
_NOISE = ("l1", "l2", "linf")


def signs_before(
    models: Mapping[str, Model], inputs: Tensor, labels: Tensor, bounds: tuple[float, float]
) -> list[Sign]:
    """What can be seen of the models and the clean inputs alone; the models are in evaluation mode."""
    signs = [look.outside_bounds(inputs, bounds)]
    for name, model in models.items():
        device = device_of(model, inputs)
        x, y = inputs[:SAMPLES].to(device), labels[:SAMPLES].to(device)
        signs += [look.stochastic(model, x, name), look.probabilities(model, x, name)]
        if labels.dim() == 1:
            signs.append(look.zero_gradients(model, x, y, name))
    return [sign for sign in signs if sign is not None]


def signs_after(
    models: Mapping[str, Model], inputs: Tensor, labels: Tensor,
    found: Mapping[str, Mapping[str, Sequence[tuple[Cell, CellResult]]]], adversarial: Callable[[str, Cell], Tensor],
    transfer: Mapping[str, Tensor], bounds: tuple[float, float], seed: int,
) -> list[Sign]:  # fmt: skip
    """What the results say: ``found`` are those of untargeted cells by model and distance name. ``adversarial(model,
    cell)`` reads the perturbed inputs of a cell, which are tried on the other models of the run as well; ``transfer``
    holds those of models outside it, by origin.
    """
    signs: list[Sign | None] = []
    for name, by_distance in found.items():
        model, device = models[name], device_of(models[name], inputs)
        x, y = inputs[:SAMPLES].to(device), labels[:SAMPLES].to(device)
        for distance, cells in by_distance.items():
            rates = (float(result.columns["success"].mean()) for _, result in cells)
            runs = [(cell.spec.label.partition("[")[0], cell.options, rate) for (cell, _), rate in zip(cells, rates)]
            signs += look.success_falls(runs, name)
            if labels.dim() > 1 or distance not in (*_NOISE, "l0"):
                continue
            own = white_box(cells)
            if distance in _NOISE:
                noise = look.noise_beats(model, x, y, own[:SAMPLES], distance, bounds=bounds, seed=seed, name=name)
                signs.append(noise)
            others = dict(transfer)
            for other, theirs in found.items():
                if other != name and distance in theirs:
                    others[other] = _nearest(theirs[distance], lambda cell, other=other: adversarial(other, cell))
            for origin, images in others.items():
                clean, truth, foreign = inputs.to(device), labels.to(device), images.to(device)
                signs.append(look.transfer_beats(model, clean, truth, foreign, own, distance, origin=origin, name=name))
        if labels.dim() == 1:
            within = partial(pgd, bounds=bounds)
            signs.append(look.fails_unbounded(within, model, x, y, bounds=bounds, name=name))
    return [sign for sign in signs if sign is not None]


def white_box(cells: Sequence[tuple[Cell, CellResult]]) -> np.ndarray:
    """``(samples,)``: the distance that a black-box perturbation has to beat: that of the minimal recipes, infinite
    where all failed; where every recipe had a budget, 0 for samples that one of them changed, else the largest budget.
    """
    minimal = [result.distances() for cell, result in cells if not _budget(cell)]
    if minimal:
        return np.min(minimal, axis=0)
    changed = np.any([result.columns["success"] for _, result in cells], axis=0)
    return np.where(changed, 0.0, max(_budget(cell) or 0.0 for cell, _ in cells))


def _budget(cell: Cell) -> float | None:
    eps = cell.options.get("eps")
    return float(eps) if isinstance(eps, (int, float)) else None


def _nearest(cells: Sequence[tuple[Cell, CellResult]], adversarial: Callable[[Cell], Tensor]) -> Tensor:
    """Per sample the perturbed input of the recipe that came closest."""
    nearest = torch.from_numpy(np.argmin([result.distances() for _, result in cells], axis=0))
    best = adversarial(cells[0][0])
    for place, (cell, _) in enumerate(cells[1:], 1):
        best[nearest == place] = adversarial(cell)[nearest == place]
    return best
