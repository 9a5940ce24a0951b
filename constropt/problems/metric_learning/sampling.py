"""Batches for pairwise losses: some classes, and as many samples of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from constropt.checks import require_whole


def class_batches(labels: Tensor, batch_size: int, per_class: int) -> Sequence[Tensor]:
    """Rows of about ``len(labels) / batch_size`` batches of ``batch_size // per_class`` classes, ``per_class`` samples
    each, drawn from the global generator.

    The samples of each class are shuffled and cut into groups of ``per_class``, a last one that is short filled up from
    the class; the groups are shuffled and dealt to batches. So nearly every sample comes once in an epoch, as by plain
    shuffling, and a batch may hold a class twice. Groups left over, fewer than a batch takes, are dropped unless there
    are no others.

    Raises ``ValueError`` unless a batch has room for two classes.

    >>> labels = torch.arange(6).repeat_interleave(5)
    >>> batches = class_batches(labels, batch_size=8, per_class=4)
    >>> [len(rows) for rows in batches], len(labels[batches[0]].unique()) <= 2
    ([8, 8, 8, 8, 8, 8], True)
    """
    require_whole(batch_size=batch_size, per_class=per_class)
    groups_each = batch_size // per_class
    if groups_each < 2:
        raise ValueError(
            f"per_class: a batch takes at least two classes, got {per_class} samples a class of batches of {batch_size}"
        )
    labels = labels.cpu()
    order = torch.randperm(len(labels))
    order = order[labels[order].argsort(stable=True)]  # shuffled within each class
    sizes = labels.bincount()
    sizes = sizes[sizes > 0]
    groups = -(-sizes // per_class)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(groups)
    first = torch.arange(int(groups.sum())) - (groups.cumsum(0) - groups).repeat_interleave(groups)
    # places in the class, from the start again behind its end
    places = (first * per_class)[:, None] + torch.arange(per_class)
    rows = order[starts[:, None] + places % sizes.repeat_interleave(groups)[:, None]]
    rows = rows[torch.randperm(len(rows))]
    whole = max(len(rows) - len(rows) % groups_each, min(len(rows), groups_each))
    return [part.flatten() for part in rows[:whole].split(groups_each)]
