"""What a study of calibration trains and measures: one split, network and training for all methods of a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from constropt.lab.runs.specs import RecipeSpec
from constropt.lab.studies.calibration.methods import build_loss
from constropt.lab.studies.calibration.study_data import (
    DataSettings,
    StudyData,
    build_network,
    describe_network,
    load_pools,
)
from constropt.lab.studies.calibration.training import predict, train
from constropt.lab.studies.epochs import History
from constropt.lab.studies.kind import Setup
from constropt.lab.studies.study import Run
from constropt.problems.calibration import metrics
from constropt.problems.calibration.samples import GAUSSIAN_NOISE, calibration_under_noise
from constropt.problems.calibration.scaling import TemperatureScaling
from constropt.problems.model_calls import logits_of

SCALINGS = ("nll", "ece")  # the temperature of least NLL, and of least ECE (the thesis), both on held-out data


@dataclass(frozen=True, kw_only=True)
class CalibrationSetup(Setup[StudyData, nn.Module]):
    """``data`` with a held-out part for multipliers and temperatures, and what is trained on it.

    ``model`` as :func:`build_network` takes it. Raises what :func:`study_data` and :func:`train` raise.
    """

    data: DataSettings

    def splits(self) -> Callable[[int], StudyData]:
        return load_pools(self.data).split

    def network(self, split: StudyData, seed: int) -> nn.Module:
        return build_network(self.model, split, seed=seed)

    def loss(self, spec: RecipeSpec, split: StudyData, network: nn.Module) -> nn.Module:
        return build_loss(spec, split.classes, text=split.kind == "text", ignore_index=split.ignore_index)

    def train(self, network: nn.Module, loss: nn.Module, split: StudyData, run: Run, checkpoint: Path) -> History:
        return train(
            network, loss, split.train, split.held_out, self.training, seed=run.seed, ignore_index=split.ignore_index,
            checkpoint=checkpoint, progress=run.progress,
        )  # fmt: skip

    def measured(self, network: nn.Module, split: StudyData) -> dict[str, Any]:
        return {"data": split.fingerprint(), **measured(network, split)}

    def settings(self, split: StudyData, network: nn.Module) -> dict[str, Any]:
        return {
            "data": asdict(self.data) | {"kind": split.kind, "classes": split.classes},
            "model": describe_network(self.model, split.kind),
            "training": asdict(self.training),
        }

    def located(self, root: Path) -> CalibrationSetup:
        test = None if self.data.test is None else self.data.test.format(root)
        return replace(self, data=replace(self.data, data=self.data.data.format(root), test=test))


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
            lambda images: logits_of(network(images.to(device))).cpu(), data.test.inputs, data.test.labels,
            severities=tuple(GAUSSIAN_NOISE),
        )  # fmt: skip
        found["shift"] = {str(severity): error for severity, error in zip(GAUSSIAN_NOISE, errors.tolist())}
    return found


def figures(logits: Tensor, labels: Tensor, data: StudyData) -> dict[str, float]:
    """The figures of tables, as fractions."""
    measures = {
        "accuracy": metrics.accuracy, "ece": metrics.expected_calibration_error,
        "aece": metrics.adaptive_calibration_error, "cwce": metrics.classwise_calibration_error,
        "brier": metrics.brier_score, "nll": metrics.negative_log_likelihood,
        **({"miou": metrics.mean_iou} if data.kind == "dense" else {}),
    }  # fmt: skip
    return {
        name: measure(logits, labels, from_logits=True, ignore_index=data.ignore_index).item()
        for name, measure in measures.items()
    }
