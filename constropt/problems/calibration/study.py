"""A study of calibration: methods x seeds on one data set, each run in a folder of its own, and what they found."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor, nn

from constropt.evaluation.counting import logits_of
from constropt.evaluation.files import finite, replacing
from constropt.evaluation.manifest import open_run
from constropt.evaluation.model import load_weights, save_weights
from constropt.evaluation.specs import RecipeSpec
from constropt.problems.calibration.methods import build_loss, parse_method
from constropt.problems.calibration.metrics import (
    accuracy,
    adaptive_calibration_error,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    mean_iou,
    negative_log_likelihood,
)
from constropt.problems.calibration.scaling import TemperatureScaling
from constropt.problems.calibration.shift import GAUSSIAN_NOISE, calibration_under_noise
from constropt.problems.calibration.study_data import (
    DataSettings,
    StudyData,
    build_network,
    describe_network,
    study_data,
)
from constropt.problems.calibration.training import FIGURES, History, TrainingSettings, predict, train

RUNS, RESULT, WEIGHTS, HISTORY, CHECKPOINT = (
    "runs",
    "result.json",
    "model.safetensors",
    "history.parquet",
    "checkpoint.pt",
)
SCALINGS = ("nll", "ece")  # the temperature of least NLL, and of least ECE (the thesis), both on held-out data


@dataclass(frozen=True)
class Study:
    """The finished runs of a folder: ``results[method][seed]``, methods by their canonical text."""

    out: Path
    settings: dict[str, Any]
    results: dict[str, dict[int, dict[str, Any]]]

    def weights(self, method: str, seed: int) -> Path:
        """The weights of a run, safetensors."""
        return run_folder(self.out, parse_method(method), seed) / WEIGHTS


def run_study(
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    out: str | Path,
    data: DataSettings,
    training: TrainingSettings,
    model: str | None = None,
    device: torch.device | str = "cpu",
    fresh: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Study:
    """Train ``model`` on ``data`` with each of the ``methods`` (see :func:`parse_method`) from each of the ``seeds``.

    The seed draws the split into training and held-out part, the initial weights and the order of the batches: all
    methods have the same. Each run leaves its weights, the history of its epochs and its figures in ``out``; a run that
    is there is not repeated, and one that was killed continues after its last epoch. ``progress(run, done, total)`` is
    called after each epoch. Returns all finished runs of the folder, those of earlier calls too.

    Raises ``ValueError`` for unknown methods, before anything is trained, for no methods or seeds, for a folder of a
    study with other settings (``fresh`` removes it), and as :func:`study_data` and :func:`train`.
    """
    specs = list(dict.fromkeys(parse_method(text) for text in methods))
    chosen = list(dict.fromkeys(seeds))
    if not specs or not chosen:
        raise ValueError(f"methods and seeds: take at least one each, got {len(specs)} and {len(chosen)}")
    if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in chosen):
        raise ValueError(f"seeds: take whole numbers >= 0, got {chosen}")
    out = Path(out)
    first = study_data(data, seed=chosen[0])
    for spec in specs:  # what can't be built is said before hours of training
        build_loss(spec, first.classes, text=first.kind == "text", ignore_index=first.ignore_index)
    build_network(model, first, seed=0)
    settings = {
        "data": asdict(data) | {"kind": first.kind, "classes": first.classes},
        "model": describe_network(model, first.kind),
        "training": asdict(training),
    }
    if fresh:
        shutil.rmtree(out / RUNS, ignore_errors=True)
    open_run(out, settings, fresh=fresh)
    for seed in chosen:
        missing = [spec for spec in specs if not (run_folder(out, spec, seed) / RESULT).is_file()]
        if not missing:
            continue
        split = first if seed == chosen[0] else study_data(data, seed=seed)
        for spec in missing:
            name = f"{spec.label}, seed {seed}"
            report = None if progress is None else lambda done, total, name=name: progress(name, done, total)
            _run(spec, seed, split, model, training, run_folder(out, spec, seed), device, report)
    return read_study(out)


def run_folder(out: Path, spec: RecipeSpec, seed: int) -> Path:
    """The folder of a run below that of its study."""
    return out / RUNS / f"{re.sub(r'[^][A-Za-z0-9_.,=-]', '_', str(spec))}-{seed}"


def read_study(out: str | Path) -> Study:
    """The finished runs of the folder ``out``. Raises ``ValueError`` for a folder without a study."""
    out = Path(out)
    manifest = out / "manifest.json"
    if not manifest.is_file():
        raise ValueError(f"out: {out} holds no study ({manifest.name} is missing)")
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(out.glob(f"{RUNS}/*/{RESULT}")):
        found = json.loads(path.read_text(encoding="utf-8"))
        results.setdefault(found["method"], {})[found["seed"]] = found
    return Study(out, json.loads(manifest.read_text(encoding="utf-8")), results)


def _run(
    spec: RecipeSpec,
    seed: int,
    data: StudyData,
    model: str | None,
    training: TrainingSettings,
    folder: Path,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Train, unless the weights are there, and measure."""
    network = build_network(model, data, seed=seed).to(device)
    if not (folder / WEIGHTS).is_file():
        loss = build_loss(spec, data.classes, text=data.kind == "text", ignore_index=data.ignore_index)
        history = train(
            network,
            loss,
            data.train,
            data.held_out,
            training,
            seed=seed,
            ignore_index=data.ignore_index,
            checkpoint=folder / CHECKPOINT,
            progress=progress,
        )
        _write_history(history, folder / HISTORY)
        save_weights(network, folder / WEIGHTS)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    network.load_state_dict(load_weights(folder / WEIGHTS))
    network.eval()
    result = {"method": str(spec), "seed": seed, "data": data.fingerprint(), **measured(network, data)}
    with replacing(folder / RESULT) as unfinished:
        unfinished.write_text(json.dumps(finite(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def measured(network: nn.Module, data: StudyData) -> dict[str, Any]:
    """All figures of a trained network in eval mode: on the test part as it is ("before") and with the temperatures of
    :data:`SCALINGS`; for images with a label each also the ECE under noise of each severity ("shift").
    """
    held_out, test = (predict(network, part.inputs) for part in (data.held_out, data.test))
    found: dict[str, Any] = {"before": figures(test, data.test.labels, data), "temperature": {}}
    for method in SCALINGS:
        scaling = TemperatureScaling(method, ignore_index=data.ignore_index).fit(held_out, data.held_out.labels)
        found["temperature"][method] = scaling.temperature.item()
        found[f"after-{method}"] = figures(scaling(test), data.test.labels, data)
    if data.kind == "image":
        device = next(network.parameters()).device
        errors = calibration_under_noise(
            lambda images: logits_of(network(images.to(device))).cpu(),
            data.test.inputs,
            data.test.labels,
            severities=tuple(GAUSSIAN_NOISE),
        )
        found["shift"] = {str(severity): error for severity, error in zip(GAUSSIAN_NOISE, errors.tolist())}
    return found


def figures(logits: Tensor, labels: Tensor, data: StudyData) -> dict[str, float]:
    """The figures of tables, as fractions."""
    measures = {
        "accuracy": accuracy,
        "ece": expected_calibration_error,
        "aece": adaptive_calibration_error,
        "cwce": classwise_calibration_error,
        "brier": brier_score,
        "nll": negative_log_likelihood,
        **({"miou": mean_iou} if data.kind == "dense" else {}),
    }
    return {
        name: measure(logits, labels, from_logits=True, ignore_index=data.ignore_index).item()
        for name, measure in measures.items()
    }


def _write_history(history: History, path: Path) -> None:
    columns: dict[str, Any] = {"epoch": list(range(1, len(history) + 1))}
    columns |= {name: history.figures[name] for name in FIGURES}
    if history.multipliers:
        columns |= {"multipliers": [mu.tolist() for mu in history.multipliers]}
        columns |= {"rho": [rho.tolist() for rho in history.rho]}
    with replacing(path) as unfinished:
        pyarrow.parquet.write_table(pyarrow.table(columns), unfinished)


def read_history(study: Study, method: str, seed: int) -> dict[str, Tensor]:
    """The columns of a run's history: ``(epochs,)``, and ``(epochs, K)`` for ``multipliers`` and ``rho``."""
    table = pyarrow.parquet.read_table(run_folder(study.out, parse_method(method), seed) / HISTORY)
    return {name: torch.tensor(table.column(name).to_pylist(), dtype=torch.float64) for name in table.column_names}
