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
    are no others, and so are batches that chance has given one class only, in which there is nothing to part.

    Raises ``ValueError`` unless a batch has room for two classes, and for labels of one class.

    >>> labels = torch.arange(6).repeat_interleave(5)
    >>> batches = class_batches(labels, batch_size=8, per_class=4)
    >>> {len(rows) for rows in batches}, len(labels[batches[0]].unique()) <= 2
    ({8}, True)
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
    if len(sizes) < 2:
        raise ValueError(f"labels: take at least two classes, got {len(sizes)}; a loss that needs pairs has no others")
    groups = -(-sizes // per_class)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(groups)
    first = torch.arange(int(groups.sum())) - (groups.cumsum(0) - groups).repeat_interleave(groups)
    # places in the class, from the start again behind its end
    places = (first * per_class)[:, None] + torch.arange(per_class)
    rows = order[starts[:, None] + places % sizes.repeat_interleave(groups)[:, None]]
    rows = rows[torch.randperm(len(rows))]
    whole = max(len(rows) - len(rows) % groups_each, min(len(rows), groups_each))
    batches = [part for part in rows[:whole].split(groups_each) if bool((labels[part] != labels[part[0, 0]]).any())]
    return [part.flatten() for part in batches] or [_one_of_each(labels, rows, groups_each).flatten()]


def _one_of_each(labels: Tensor, rows: Tensor, count: int) -> Tensor:
    """The first group of each class, at most ``count`` of them."""
    ordered = labels[rows[:, 0]].argsort(stable=True)
    classes = labels[rows[ordered, 0]]
    return rows[ordered[classes != classes.roll(1)]][:count]
