"""Means over the samples that count, of all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from constropt.training.ranks import processes, summed


def means_of(parts: Sequence[tuple[Tensor, Tensor | int]]) -> list[Tensor]:
    """Sums over counts, 0 where nothing counts; an integer count of 0 marks what is a mean already.

    In a distributed run the value is that over all processes, and the gradient that of this process' share times the
    number of processes: averaged over them, as ``DistributedDataParallel`` does, it is the gradient of the value.
    """
    if processes() == 1:
        return [total / (count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1)) for total, count in parts]
    counts = [total.new_full(total.shape, count) if isinstance(count, int) else count for total, count in parts]
    everything = summed([*(total for total, _ in parts), *counts])
    world, means = processes(), []
    for (total, count), value, n in zip(parts, everything, everything[len(parts) :]):
        if isinstance(count, int) and count == 0:
            n = torch.full_like(n, world)
        share = total * (world / n.clamp_min(1)).to(total.dtype)
        means.append(share + ((value / n.clamp_min(1)).to(total.dtype) - share).detach())
    return means
