"""Sums over the processes of a distributed run; the identity where there is one process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


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
