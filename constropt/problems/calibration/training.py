"""Train a network on tensors in memory with a calibration loss and dual steps on held-out data; resumable."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from constropt.checks import require_whole
from constropt.evaluation.counting import logits_of
from constropt.evaluation.files import replacing
from constropt.modes import evaluating
from constropt.problems.calibration.augment import AUGMENTATIONS
from constropt.problems.calibration.metrics import accuracy, expected_calibration_error, negative_log_likelihood
from constropt.training import ConstrainedLoss

Pair = tuple[Tensor, Tensor]  # inputs (samples, *event) and labels (samples, *dims)

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
_DEFAULTS: dict[str, dict[str, float]] = {  # rates of the thesis (appendix V-2), decay as usual for each
    "sgd": {"lr": 0.1, "weight_decay": 5e-4, "momentum": 0.9},
    "adam": {"lr": 1e-3, "weight_decay": 0.0},
    "adamw": {"lr": 1e-3, "weight_decay": 1e-2},
}
SCHEDULES: dict[str, Callable[[float], float]] = {  # the factor of the step size from the fraction of epochs done
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),  # ImageNet and segmentation
    "half": lambda done: 1.0 if done < 0.5 else 0.1,  # 20 Newsgroups
    "steps": lambda done: 1.0 if done < 0.4 else 0.1 if done < 0.6 else 0.01,  # Tiny-ImageNet
}
FIGURES = ("train_loss", "ece", "accuracy", "nll")  # what each epoch leaves; all but the first on held-out data


@dataclass(frozen=True)
class TrainingSettings:
    """How long and by which optimizer. ``lr`` and ``weight_decay`` ``None`` are those usual for the optimizer;
    ``augment`` changes images at random (:mod:`~constropt.problems.calibration.augment`).

    Raises ``ValueError`` for an unknown optimizer, schedule or augmentation, naming near ones, and for numbers that
    make no training.
    """

    epochs: int = 40
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float | None = None
    weight_decay: float | None = None
    schedule: str = "cosine"
    augment: str = "none"

    def __post_init__(self) -> None:
        known("optimizer", self.optimizer, OPTIMIZERS)
        known("schedule", self.schedule, SCHEDULES)
        known("augment", self.augment, AUGMENTATIONS)
        require_whole(epochs=self.epochs, batch_size=self.batch_size)
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ValueError(f"lr: takes a number > 0, got {self.lr!r}")
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: takes a number >= 0, got {self.weight_decay!r}")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the parameters of ``model``."""
        given = {"lr": self.lr, "weight_decay": self.weight_decay}
        options = _DEFAULTS[self.optimizer] | {name: value for name, value in given.items() if value is not None}
        return OPTIMIZERS[self.optimizer](model.parameters(), **options)


@dataclass
class History:
    """What every epoch left: ``figures[name]`` for each of :data:`FIGURES`, multipliers and penalty parameters
    ``(K,)`` of losses that have them.
    """

    figures: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in FIGURES})
    multipliers: list[Tensor] = field(default_factory=list)
    rho: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.figures[FIGURES[0]])

    def state(self) -> dict[str, Any]:
        """As numbers and tensors, for a checkpoint."""
        return {"figures": self.figures, "multipliers": self.multipliers, "rho": self.rho}


def known(name: str, value: str, choices: Mapping[str, Any]) -> None:
    """``ValueError`` that lists near names unless ``value`` is among ``choices``."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=3, cutoff=0.4)
        hint = f"; near names: {', '.join(near)}" if near else ""
        raise ValueError(f"{name}: unknown name {value!r}{hint}; known are {', '.join(choices)}")


def train(
    model: nn.Module,
    criterion: nn.Module,
    data: Pair,
    held_out: Pair,
    settings: TrainingSettings,
    *,
    seed: int = 0,
    ignore_index: int = -100,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> History:
    """Minimise ``criterion(logits, labels)`` over the parameters of ``model``, in place; the model ends in eval mode.

    After each epoch the network passes once over ``held_out``: for the figures of the history, and for the dual step
    of a :class:`~constropt.training.ConstrainedLoss` (``update_duals``, Alg. 6.2). Batches are drawn by ``seed`` alone,
    of sizes that differ by one at most, on the device of the model. Each epoch seeds the generators anew, dropout's
    too, and leaves the global ones as they were. So a checkpoint needs no state of theirs: with ``checkpoint``, a file
    that is replaced after every epoch, a run that was killed continues there and ends as an uninterrupted one, bit for
    bit.

    Raises ``ValueError`` for empty or mismatched data, augmentation of what is no image with one label, a checkpoint of
    another training, and a loss that stops being finite.

    >>> x = torch.linspace(0, 1, 64)[:, None]
    >>> y, settings = (x[:, 0] > 0.5).long(), TrainingSettings(epochs=2, batch_size=16)
    >>> len(train(nn.Linear(1, 2), nn.CrossEntropyLoss(), (x, y), (x, y), settings))
    2
    """
    for name, (inputs, labels) in (("data", data), ("held_out", held_out)):
        if len(inputs) == 0 or len(inputs) != len(labels):
            raise ValueError(f"{name}: takes labelled samples, got {len(inputs)} inputs and {len(labels)} labels")
    if settings.augment != "none" and (data[0].dim() != 4 or data[1].dim() != 1):
        raise ValueError(
            f"augment: {settings.augment} takes images with one label each; texts and label maps take none"
        )
    device = next(model.parameters()).device
    criterion.to(device)
    optimizer = settings.build(model)
    rates = [group["lr"] for group in optimizer.param_groups]
    history = _resumed(checkpoint, model, criterion, optimizer, seed)
    inputs, labels = (part.to(device) for part in data)
    validation = held_out[0].to(device), held_out[1].to(device)
    batches = -(-len(inputs) // settings.batch_size)
    cuda = [device.index or 0] if device.type == "cuda" else []
    for epoch in range(len(history), settings.epochs):
        factor = SCHEDULES[settings.schedule](epoch / settings.epochs)
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * factor
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            torch.manual_seed(_seed_of(seed, epoch))
            model.train()
            order = torch.randperm(len(inputs)).to(device)
            total = torch.zeros((), dtype=torch.float64, device=device)
            for rows in order.tensor_split(batches):
                loss = criterion(logits_of(model(AUGMENTATIONS[settings.augment](inputs[rows]))), labels[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(rows)
        mean = total.item() / len(inputs)
        if not math.isfinite(mean):
            raise ValueError(f"the loss is not finite in epoch {epoch + 1} (lr {rates[0]:g}): a smaller lr may help")
        _look(model, criterion, validation, settings.batch_size, ignore_index, mean, history)
        if checkpoint is not None:
            _save(checkpoint, model, criterion, optimizer, seed, history)
        if progress is not None:
            progress(epoch + 1, settings.epochs)
    optimizer.zero_grad(set_to_none=True)
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


def _seed_of(seed: int, epoch: int) -> int:
    """One number for both, different for all epochs under a million."""
    return (seed * 1_000_003 + epoch) % 2**63


@torch.no_grad()
def _look(
    model: nn.Module,
    criterion: nn.Module,
    held_out: Pair,
    batch_size: int,
    ignore_index: int,
    loss: float,
    history: History,
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
    found = [
        measure(logits, labels, from_logits=True, ignore_index=ignore_index).item()
        for measure in (expected_calibration_error, accuracy, negative_log_likelihood)
    ]
    for name, value in zip(FIGURES, [loss, *found]):
        history.figures[name].append(value)


def _save(
    path: Path,
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    seed: int,
    history: History,
) -> None:
    parts = {"model": model, "criterion": criterion, "optimizer": optimizer}
    content = {name: part.state_dict() for name, part in parts.items()} | {"seed": seed, "history": history.state()}
    with replacing(path) as unfinished:
        torch.save(content, unfinished)


def _resumed(
    path: Path | None, model: nn.Module, criterion: nn.Module, optimizer: torch.optim.Optimizer, seed: int
) -> History:
    """The history so far, and everything else put back as the checkpoint has it; nothing where there is none."""
    if path is None or not path.is_file():
        return History()
    wrong = f"checkpoint: {path} is not one of this training"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(content["model"])
        criterion.load_state_dict(content["criterion"])
        optimizer.load_state_dict(content["optimizer"])
        history = History(**content["history"])
    except Exception as error:  # unpickling raises a dozen kinds
        raise ValueError(f"{wrong} ({str(error).strip().splitlines()[0]}); remove it to begin anew") from None
    if content["seed"] != seed:
        raise ValueError(f"{wrong}: its seed is {content['seed']}, not {seed}")
    return history
