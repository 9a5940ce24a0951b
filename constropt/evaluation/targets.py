"""Which class a targeted attack should reach, for every sample."""

from __future__ import annotations

import torch
from torch import Tensor


def choose_targets(kind: str, labels: Tensor, num_classes: int, *, seed: int = 0) -> Tensor:
    """Targets ``(samples,)`` that differ from ``labels``: the "next" class, a "random" other one, or one class number.

    Raises ``ValueError`` for another ``kind``, a class that does not exist, or one that is the label of a sample.

    >>> choose_targets("next", torch.tensor([0, 1, 2]), 3)
    tensor([1, 2, 0])
    """
    if num_classes < 2:
        raise ValueError(f"targets: need a model with at least two classes, it has {num_classes}")
    if kind == "next":
        return (labels + 1) % num_classes
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        offsets = torch.randint(1, num_classes, labels.shape, generator=generator)
        return (labels + offsets.to(labels.device)) % num_classes
    if not kind.isdecimal() or int(kind) >= num_classes:
        raise ValueError(f"targets: takes 'next', 'random' or a class from 0 to {num_classes - 1}, got {kind!r}")
    own = int((labels == int(kind)).sum())
    if own:
        raise ValueError(f"targets: {own} of the samples have label {kind} already; take 'next', or data without them")
    return torch.full_like(labels, int(kind))
