"""What is made of a batch: a dual pass' output, means over all processes, and what is said of missing gradients."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from constropt.training.constraints import TrainingConstraint

Predict = Callable[[Any, Any], tuple[Any, Any]]


def predict_pair(model: Any, batch: Any) -> tuple[Any, Any]:
    """Output and target of a batch that is a pair ``(inputs, target)``, on the model's device."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        length = f" of length {len(batch)}" if hasattr(batch, "__len__") else ""
        cure = "pass predict=lambda model, batch: (output, target) for others"
        raise TypeError(f"loader: batches must be pairs (inputs, target), got {type(batch).__name__}{length}; {cure}")
    inputs, target = batch
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if parameter is not None:
        inputs, target = moved(inputs, parameter.device), moved(target, parameter.device)
    return model(inputs), target


def moved(value: Any, device: torch.device) -> Any:
    """The tensors of a value on ``device``, those in tuples, lists and dictionaries too."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(part, device) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [moved(part, device) for part in value]
    return value


# a sum and the number of its terms; None marks what is a mean already
Part = tuple[Tensor, Tensor | int | None]


def processes() -> int:
    """How many processes take part; 1 outside a distributed run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor summed over all processes, by one message in float64; all must be on one device."""
    if processes() == 1:
        return list(tensors)
    packed = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    distributed.all_reduce(packed)
    parts = packed.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]


def means_of(parts: Sequence[Part]) -> list[Tensor]:
    """Sums over counts, 0 where nothing counts.

    In a distributed run the value is that over all processes, and the gradient that of this process' share times the
    number of processes: averaged over them, as ``DistributedDataParallel`` does, it is the gradient of the value.
    """
    if processes() == 1:
        return [total if count is None else total / _positive(count) for total, count in parts]
    counts = [
        count if isinstance(count, Tensor) else total.new_full(total.shape, 1 if count is None else count)
        for total, count in parts
    ]
    everything = summed([*(total for total, _ in parts), *counts])
    means = []
    for (total, _), value, count in zip(parts, everything, everything[len(parts) :]):
        share = total * (processes() / count.clamp_min(1)).to(total.dtype)
        means.append(share + ((value / count.clamp_min(1)).to(total.dtype) - share).detach())
    return means


def objective_part(loss: Tensor, counted: Tensor | None) -> Part:
    """What is summed for a loss of each sample, ``(*samples,)``, and over how many; a scalar is a mean already."""
    if loss.dim() == 0:
        return loss, None
    if counted is None:
        return loss.sum(), loss.numel()
    return torch.where(counted, loss, 0).sum(), counted.sum()


def _positive(count: Tensor | int) -> Tensor | int:
    return count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1)


CAUSES = (
    "usual causes: a value that is detached or computed with numpy, by argmax or by a comparison (give a count or a"
    " rate a surrogate=...), a model that ran under no_grad"
)
_CALL = 6  # frames between a warning and the call of the loss, which nn.Module passes on twice


def requires_gradient(value: Any) -> bool:
    """Whether a tensor of a network's output requires a gradient, those in tuples, lists and dictionaries too."""
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return False
    return any(requires_gradient(part) for part in value)


@torch.no_grad()
def is_violated(constraint: TrainingConstraint, output: Any, target: Any, counted: Tensor | None) -> bool:
    """Whether a batch violates a constraint: by its mean, or by any sample that counts. Waits for the device."""
    y = constraint.value_of(constraint.value, output, target)
    mask = constraint.mask_of(y, output, target, counted)
    y = y if mask is None else torch.where(mask, y, 0)
    if constraint.average:
        y = y.sum(constraint.sample_dims(y))  # of the sign of the mean
    return bool((y != 0).any() if constraint.equality else (y > 0).any())


def warn_of_constraint(constraint: TrainingConstraint) -> None:
    """Say that a violated constraint does not train the network."""
    part = "value" if constraint.surrogate is None else "surrogate"
    warnings.warn(
        f"constraint {constraint.name!r} is violated, but its {part} gives no gradient: training ignores it while its"
        f" multiplier grows; {CAUSES}",
        stacklevel=_CALL,
    )


def warn_of_objective() -> None:
    """Say that the objective does not train the network."""
    warnings.warn(
        "objective: it gives no gradient although the output or a constraint requires one, so that training ignores it;"
        f" {CAUSES}. An objective of zeros, of a feasibility problem, is not warned of",
        stacklevel=_CALL,
    )
