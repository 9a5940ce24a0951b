"""A study of calibration: methods x seeds on one data set, each run in a folder of its own, and what they found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from constropt.lab.studies.calibration.methods import build_loss, parse_method
from constropt.lab.studies.calibration.study_data import (
    DataSettings,
    StudyData,
    build_network,
    describe_network,
    load_pools,
)
from constropt.lab.studies.calibration.training import predict, train
from constropt.lab.studies.epochs import TrainingSettings
from constropt.lab.studies.study import Run, Study, complete, distinct, trained
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
from constropt.problems.model_calls import logits_of

SCALINGS = ("nll", "ece")  # the temperature of least NLL, and of least ECE (the thesis), both on held-out data


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
    specs, chosen = distinct([parse_method(text) for text in methods], seeds)
    pools = load_pools(data)
    first = pools.split(chosen[0])
    for spec in specs:  # what can't be built is said before hours of training
        build_loss(spec, pools.classes, text=pools.kind == "text", ignore_index=pools.ignore_index)
    build_network(model, first, seed=0)
    settings = {
        "data": asdict(data) | {"kind": pools.kind, "classes": pools.classes},
        "model": describe_network(model, pools.kind),
        "training": asdict(training),
    }
    return complete(
        specs,
        chosen,
        out=Path(out),
        settings=settings,
        data=lambda seed: first if seed == chosen[0] else pools.split(seed),
        run=lambda run, split: _run(run, split, model, training, device),
        fresh=fresh,
        progress=progress,
    )


def _run(
    run: Run, data: StudyData, model: str | None, training: TrainingSettings, device: torch.device | str
) -> dict[str, Any]:
    """Train, unless the weights are there, and measure."""
    network = build_network(model, data, seed=run.seed).to(device)
    loss = build_loss(run.spec, data.classes, text=data.kind == "text", ignore_index=data.ignore_index)
    trained(
        run,
        network,
        lambda checkpoint: train(
            network,
            loss,
            data.train,
            data.held_out,
            training,
            seed=run.seed,
            ignore_index=data.ignore_index,
            checkpoint=checkpoint,
            progress=run.progress,
        ),
    )
    return {"data": data.fingerprint(), **measured(network, data)}


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
