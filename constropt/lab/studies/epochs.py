"""The epochs of a training: one loop over batches, seeded anew each time so that a killed run continues bit for bit."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_number, require_whole
from constropt.files import replacing
from constropt.lab.runs.specs import known


def shift(images: Tensor) -> Tensor:
    """Each of ``images`` ``(batch, channels, height, width)`` moved by up to an eighth of its size, what comes in 0.

    >>> shift(torch.ones(2, 3, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """
    batch, _, height, width = images.shape
    reach = max(1, height // 8), max(1, width // 8)
    padded = functional.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    down, right = (torch.randint(0, 2 * r + 1, (batch, 1), device=images.device) for r in reach)
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    picked = torch.arange(batch, device=images.device)[:, None, None]
    # indices around a slice put its dimension last
    return padded[picked, :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def shift_and_mirror(images: Tensor) -> Tensor:
    """:func:`shift`, and every other image, by chance, mirrored left to right.

    >>> shift_and_mirror(torch.ones(2, 3, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return shift(torch.where(mirrored, images.flip(3), images))


AUGMENTATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images, "shift": shift, "shift-mirror": shift_and_mirror,
}  # fmt: skip
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW,
}  # fmt: skip
DEFAULTS: dict[str, dict[str, float]] = {  # rates of the thesis (appendix V-2), decay as usual for each
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
TRAIN_LOSS = "train_loss"  # the figure that every epoch leaves


@dataclass(frozen=True)
class TrainingSettings:
    """How long and by which optimizer. ``lr`` and ``weight_decay`` ``None`` are those usual for the optimizer;
    ``augment`` changes images at random (:mod:`~constropt.lab.studies.epochs`). Raises ``ValueError`` for an unknown
    optimizer, schedule or augmentation, naming near ones, and for bad numbers.
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
        if self.weight_decay is not None:
            require_number(weight_decay=self.weight_decay)

    def options(self) -> dict[str, float]:
        """What the optimizer is built with."""
        given = {"lr": self.lr, "weight_decay": self.weight_decay}
        return DEFAULTS[self.optimizer] | {name: value for name, value in given.items() if value is not None}

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the parameters of ``model``."""
        return OPTIMIZERS[self.optimizer](model.parameters(), **self.options())


@dataclass
class History:
    """What every epoch left: ``figures[name]``, a number each; multipliers and rho ``(K,)`` of losses with them."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    multipliers: list[Tensor] = field(default_factory=list)
    rho: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.figures.get(TRAIN_LOSS, ()))

    def add(self, **figures: float) -> None:
        """Append the figures of an epoch."""
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)


def run_epochs(
    parts: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, settings: TrainingSettings, *,
    batches: Callable[[], Sequence[Tensor]], loss_of: Callable[[Tensor], Tensor], look: Callable[[History], None],
    stepped: Callable[[], None] | None = None, seed: int = 0, checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> History:  # fmt: skip
    """Minimise ``loss_of(rows)`` over the batches of every epoch; ``parts`` are the modules that learn or have state.

    ``batches()`` draws the rows of an epoch's batches from the global generator, which each epoch seeds anew by
    ``seed`` (dropout's draws too) and leaves as it was. ``stepped()`` is called after each step of the optimizer, and
    ``look(history)`` after an epoch, to add its figures. With ``checkpoint``, a file that is replaced after every
    epoch, a run that was killed continues there and ends as an uninterrupted one, bit for bit. Raises ``ValueError``
    for a checkpoint of another training and for a loss that stops being finite.
    """
    device = next(parameter for part in parts.values() for parameter in part.parameters()).device
    rates = [group["lr"] for group in optimizer.param_groups]
    history = _resumed(checkpoint, parts, optimizer, seed)
    cuda = [device.index or 0] if device.type == "cuda" else []
    for epoch in range(len(history), settings.epochs):
        factor = SCHEDULES[settings.schedule](epoch / settings.epochs)
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * factor
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            torch.manual_seed((seed * 1_000_003 + epoch) % 2**63)  # different for all epochs under a million
            for part in parts.values():
                part.train()
            total, count = torch.zeros((), dtype=torch.float64, device=device), 0
            for rows in batches():
                loss = loss_of(rows)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if stepped is not None:
                    stepped()
                total += loss.detach() * len(rows)
                count += len(rows)
        mean = total.item() / count
        if not math.isfinite(mean):
            raise ValueError(f"the loss is not finite in epoch {epoch + 1} (lr {rates[0]:g}): a smaller lr may help")
        history.add(**{TRAIN_LOSS: mean})
        look(history)
        if checkpoint is not None:
            _save(checkpoint, parts, optimizer, seed, history)
        if progress is not None:
            progress(epoch + 1, settings.epochs)
    optimizer.zero_grad(set_to_none=True)
    return history


def shuffled(count: int, batch_size: int, device: torch.device | None = None) -> Sequence[Tensor]:
    """All rows in a random order, in batches whose sizes differ by one at most.

    >>> [len(rows) for rows in shuffled(10, 4)]
    [4, 3, 3]
    """
    return torch.randperm(count).to(device).tensor_split(-(-count // batch_size))


def _save(
    path: Path, parts: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, seed: int, history: History
) -> None:
    states = {name: part.state_dict() for name, part in parts.items()} | {"optimizer": optimizer.state_dict()}
    with replacing(path) as unfinished:
        torch.save(states | {"seed": seed, "history": vars(history)}, unfinished)


def _resumed(path: Path | None, parts: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, seed: int) -> History:
    """The history so far, and everything else put back as the checkpoint has it; nothing where there is none."""
    if path is None or not path.is_file():
        return History()
    wrong = f"checkpoint: {path} is not one of this training"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(content[name])
        optimizer.load_state_dict(content["optimizer"])
        history = History(**content["history"])
    except Exception as error:  # unpickling raises a dozen kinds
        raise ValueError(f"{wrong} ({str(error).strip().splitlines()[0]}); remove it to begin anew") from None
    if content["seed"] != seed:
        raise ValueError(f"{wrong}: its seed is {content['seed']}, not {seed}")
    return history
