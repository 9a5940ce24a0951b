"""What a study of calibration trains and measures: one split, network and training for all methods of a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from constropt.lab.runs.specs import RecipeSpec
from constropt.lab.studies.calibration.methods import build_loss
from constropt.lab.studies.calibration.study_data import DataSettings, StudyData, build_network, load_pools
from constropt.lab.studies.epochs import AUGMENTATIONS, TRAIN_LOSS, History, TrainingSettings, run_epochs, shuffled
from constropt.lab.studies.kind import Setup
from constropt.lab.studies.study import Run
from constropt.modes import evaluating
from constropt.problems.calibration import metrics
from constropt.problems.calibration.samples import GAUSSIAN_NOISE, calibration_under_noise
from constropt.problems.calibration.scaling import TemperatureScaling
from constropt.problems.model_calls import logits_of
from constropt.training import ConstrainedLoss

Pair = tuple[Tensor, Tensor]  # inputs (samples, *event) and labels (samples, *dims)

_MEASURES = {
    "ece": metrics.expected_calibration_error, "accuracy": metrics.accuracy, "nll": metrics.negative_log_likelihood,
}  # fmt: skip
FIGURES = (TRAIN_LOSS, *_MEASURES)  # what each epoch leaves; all but the first on held-out data


def train(
    model: nn.Module, criterion: nn.Module, data: Pair, held_out: Pair, settings: TrainingSettings, *, seed: int = 0,
    ignore_index: int = -100, checkpoint: Path | None = None, progress: Callable[[int, int], None] | None = None,
) -> History:  # fmt: skip
    """Minimise ``criterion(logits, labels)`` over the parameters of ``model``, in place; the model ends in eval mode.

    After each epoch the network passes once over ``held_out``: for the figures of the history, and for the dual step of
    a :class:`~constropt.training.ConstrainedLoss` (``update_duals``, Alg. 6.2). Batches are drawn by ``seed`` alone, of
    sizes that differ by one at most, on the device of the model. Seeds, checkpoints and errors are those of
    :func:`~constropt.lab.studies.epochs.run_epochs`; ``ValueError`` also for empty or mismatched data and augmentation
    of what is no image with one label.

    >>> x = torch.linspace(0, 1, 64)[:, None]
    >>> y, settings = (x[:, 0] > 0.5).long(), TrainingSettings(epochs=2, batch_size=16)
    >>> len(train(nn.Linear(1, 2), nn.CrossEntropyLoss(), (x, y), (x, y), settings))
    2
    """
    for name, (inputs, labels) in (("data", data), ("held_out", held_out)):
        if len(inputs) == 0 or len(inputs) != len(labels):
            raise ValueError(f"{name}: takes labelled samples, got {len(inputs)} inputs and {len(labels)} labels")
    if settings.augment != "none" and (data[0].dim() != 4 or data[1].dim() != 1):
        takes = "takes images with one label each; texts and label maps take none"
        raise ValueError(f"augment: {settings.augment} {takes}")
    device = next(model.parameters()).device
    criterion.to(device)
    inputs, labels = (part.to(device) for part in data)
    validation = held_out[0].to(device), held_out[1].to(device)
    change = AUGMENTATIONS[settings.augment]
    history = run_epochs(
        {"model": model, "criterion": criterion}, settings.build(model), settings,
        batches=lambda: shuffled(len(inputs), settings.batch_size, device),
        loss_of=lambda rows: criterion(logits_of(model(change(inputs[rows]))), labels[rows]),
        look=lambda history: _look(model, criterion, validation, settings.batch_size, ignore_index, history),
        seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    model.eval()
    return history


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor, *, batch_size: int = 256) -> Tensor:
    """Logits of ``inputs`` in eval mode, on the CPU; modes are put back.

    >>> predict(nn.Flatten(), torch.zeros(3, 2, 2), batch_size=2).shape
    torch.Size([3, 4])
    """
    device = next(model.parameters(), inputs).device
    with evaluating(model):
        return torch.cat([logits_of(model(part.to(device))).cpu() for part in inputs.split(batch_size)])


@torch.no_grad()
def _look(
    model: nn.Module, criterion: nn.Module, held_out: Pair, batch_size: int, ignore_index: int, history: History
) -> None:
    """One pass over held-out data: its figures, and the dual step from the same logits."""
    with evaluating(model):
        logits = torch.cat([logits_of(model(part)) for part in held_out[0].split(batch_size)])
    labels = held_out[1]
    if isinstance(criterion, ConstrainedLoss):
        criterion.update_duals(nn.Identity(), zip(logits.split(batch_size), labels.split(batch_size)))
        mu, rho = criterion.multipliers, criterion.rho
        if isinstance(mu, Tensor) and isinstance(rho, Tensor):
            history.multipliers.append(mu.detach().cpu().clone())
            history.rho.append(rho.detach().cpu().clone())
    for name, measure in _MEASURES.items():
        history.add(**{name: measure(logits, labels, from_logits=True, ignore_index=ignore_index).item()})


SCALINGS = ("nll", "ece")  # the temperature of least NLL, and of least ECE (the thesis), both on held-out data


@dataclass(frozen=True, kw_only=True)
class CalibrationSetup(Setup[StudyData, nn.Module]):
    """``data`` with a held-out part for multipliers and temperatures, and what is trained on it; ``model`` as
    :func:`build_network` takes it. Raises what :func:`study_data` and :func:`train` raise.
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
            "model": str(split.network(self.model)),
            "training": asdict(self.training),
        }

    def located(self, root: Path) -> CalibrationSetup:
        test = None if self.data.test is None else self.data.test.format(root)
        return replace(self, data=replace(self.data, data=self.data.data.format(root), test=test))


def measured(network: nn.Module, data: StudyData) -> dict[str, Any]:
    """All figures of a network: on the test part as it is ("before") and with the temperatures of :data:`SCALINGS`; for
    images with a label each also the ECE under noise of each severity ("shift").
    """
    held_out, test = (predict(network, part.inputs) for part in (data.held_out, data.test))
    found: dict[str, Any] = {"before": figures(test, data.test.labels, data), "temperature": {}}
    for method in SCALINGS:
        scaling = TemperatureScaling(method, ignore_index=data.ignore_index).fit(held_out, data.held_out.labels)
        found["temperature"][method] = scaling.temperature.item()
        found[f"after-{method}"] = figures(scaling(test), data.test.labels, data)
    if data.kind == "image":
        errors = calibration_under_noise(
            lambda images: predict(network, images), *data.test, severities=tuple(GAUSSIAN_NOISE)
        )
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
    how: dict[str, Any] = {"from_logits": True, "ignore_index": data.ignore_index}
    return {name: measure(logits, labels, **how).item() for name, measure in measures.items()}
