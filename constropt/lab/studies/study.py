"""A study's folder: methods x seeds, a folder for each run, what is finished is not repeated."""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet
import torch
from torch import Tensor, nn

from constropt.lab.models.weights import save_weights
from constropt.lab.runs.folder import FILE, open_run
from constropt.lab.runs.specs import RecipeSpec, parse_recipe
from constropt.lab.studies.epochs import History
from constropt.lab.writing import write_json, write_parquet
from constropt.weights import load_weights

RUNS, RESULT, WEIGHTS = "runs", "result.json", "model.safetensors"
HISTORY, CHECKPOINT = "history.parquet", "checkpoint.pt"
Data = TypeVar("Data")


@dataclass(frozen=True)
class Study:
    """The finished runs of a folder: ``results[method][seed]``, methods by their canonical text."""

    out: Path
    settings: dict[str, Any]
    results: dict[str, dict[int, dict[str, Any]]]

    def folder(self, method: str, seed: int) -> Path:
        """The folder of a run."""
        return run_folder(self.out, parse_recipe(method), seed)

    def weights(self, method: str, seed: int) -> Path:
        """The weights of a run, safetensors."""
        return self.folder(method, seed) / WEIGHTS


@dataclass(frozen=True)
class Run:
    """One run of a study: its method and seed, its folder, and what reports its epochs."""

    spec: RecipeSpec
    seed: int
    folder: Path
    progress: Callable[[int, int], None] | None


def trained(run: Run, network: nn.Module, train: Callable[[Path], History]) -> None:
    """Give ``network`` the weights of ``run``, in eval mode: those in its folder, or what ``train(checkpoint)`` makes
    of it, leaving them and the history of its epochs there; a killed one continues from the file ``checkpoint``.
    """
    weights, checkpoint = run.folder / WEIGHTS, run.folder / CHECKPOINT
    if not weights.is_file():
        write_history(train(checkpoint), run.folder / HISTORY)
        save_weights(network, weights)
        checkpoint.unlink(missing_ok=True)
    network.load_state_dict(load_weights(weights))
    network.eval()


def outdated(picture: Path, weights: Iterable[Path]) -> bool:
    """Whether a ``picture`` is missing, or one of the ``weights`` that it shows is as new as it is."""
    return not picture.is_file() or picture.stat().st_mtime <= max(path.stat().st_mtime for path in weights)


def distinct(specs: Sequence[RecipeSpec], seeds: Sequence[int]) -> tuple[list[RecipeSpec], list[int]]:
    """Both without repetitions; ``ValueError`` for none, and for seeds that are none."""
    specs, seeds = list(dict.fromkeys(specs)), list(dict.fromkeys(seeds))
    if not specs or not seeds:
        raise ValueError(f"methods and seeds: take at least one each, got {len(specs)} and {len(seeds)}")
    if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise ValueError(f"seeds: take whole numbers >= 0, got {seeds}")
    return specs, seeds


def complete(
    specs: Sequence[RecipeSpec], seeds: Sequence[int], *, out: Path, settings: Mapping[str, Any],
    data: Callable[[int], Data], run: Callable[[Run, Data], Mapping[str, Any]], fresh: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Study:  # fmt: skip
    """Make ``run(run, data(seed))`` for all methods and seeds that have no result in ``out`` yet, and write what it
    returns there; returns all finished runs of the folder, those of earlier calls too. ``progress(run, done, total)``
    is called after each epoch. ``ValueError`` for a folder of other ``settings``, which ``fresh`` removes.
    """
    if fresh:
        shutil.rmtree(out / RUNS, ignore_errors=True)
    open_run(out, settings, fresh=fresh)
    for seed in seeds:
        missing = [spec for spec in specs if not (run_folder(out, spec, seed) / RESULT).is_file()]
        split = data(seed) if missing else None
        for spec in missing:
            name = f"{spec.label}, seed {seed}"
            report = None if progress is None else lambda done, total, name=name: progress(name, done, total)
            folder = run_folder(out, spec, seed)
            assert split is not None
            found = run(Run(spec, seed, folder, report), split)
            write_json(folder / RESULT, {"method": str(spec), "seed": seed, **found})
    return read_study(out)


def run_folder(out: Path, spec: RecipeSpec, seed: int) -> Path:
    """The folder of a run below that of its study."""
    return out / RUNS / f"{re.sub(r'[^][A-Za-z0-9_.,=-]', '_', str(spec))}-{seed}"


def read_study(out: str | Path) -> Study:
    """The finished runs of the folder ``out``. Raises ``ValueError`` for a folder without a study."""
    out = Path(out)
    manifest = out / FILE
    if not manifest.is_file():
        raise ValueError(f"out: {out} holds no study ({manifest.name} is missing)")
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(out.glob(f"{RUNS}/*/{RESULT}")):
        found = json.loads(path.read_text(encoding="utf-8"))
        results.setdefault(found["method"], {})[found["seed"]] = found
    return Study(out, json.loads(manifest.read_text(encoding="utf-8")), results)


def write_history(history: History, path: Path) -> None:
    """The figures of the epochs, multipliers and penalty parameters too, as Parquet."""
    columns: dict[str, Any] = {"epoch": list(range(1, len(history) + 1)), **history.figures}
    if history.multipliers:
        parts = {"multipliers": history.multipliers, "rho": history.rho}
        columns |= {name: [values.tolist() for values in part] for name, part in parts.items()}
    write_parquet(path, columns)


def read_history(study: Study, method: str, seed: int) -> dict[str, Tensor]:
    """The columns of a run's history: ``(epochs,)``, and ``(epochs, K)`` for ``multipliers`` and ``rho``."""
    table = pyarrow.parquet.read_table(study.folder(method, seed) / HISTORY)
    return {name: torch.tensor(table.column(name).to_pylist(), dtype=torch.float64) for name in table.column_names}
