"""Means over the samples that count, and sums over the processes of a distributed run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

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
