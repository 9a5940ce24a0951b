"""Train a network on tensors in memory with a calibration loss and dual steps on held-out data; resumable."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from constropt.lab.studies.epochs import AUGMENTATIONS, TRAIN_LOSS, History, TrainingSettings, run_epochs, shuffled
from constropt.modes import evaluating
from constropt.problems.calibration.metrics import accuracy, expected_calibration_error, negative_log_likelihood
from constropt.problems.model_calls import logits_of
from constropt.training import ConstrainedLoss

Pair = tuple[Tensor, Tensor]  # inputs (samples, *event) and labels (samples, *dims)

_MEASURES = {"ece": expected_calibration_error, "accuracy": accuracy, "nll": negative_log_likelihood}
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
    parameter = next(model.parameters(), inputs)
    with evaluating(model):
        return torch.cat([logits_of(model(part.to(parameter.device))).cpu() for part in inputs.split(batch_size)])


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
