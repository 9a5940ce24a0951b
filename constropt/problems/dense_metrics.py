"""What is measured on predicted label maps: the attack's success over pixels, confusion counts, mIoU, accuracy."""

import torch
from torch import Tensor

from constropt.checks import require_below


def apsr(predictions: Tensor, labels: Tensor, *, targets: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Attack pixel success rate ``(batch,)`` in [0, 1] of every image (Eq. 5.19), float64.

    The fraction of the pixels counted by ``mask`` whose ``predictions`` differ from ``labels`` or, given ``targets``,
    equal them; all are ``(batch, *pixels)``. ``mask`` is boolean, or 0 and 1; without one every pixel counts, ignored
    labels included, so give ``mask=labels != ignore_index`` where there are any. An image with no counted pixel is NaN:
    nothing was asked of it. Raises ``ValueError`` for shapes that differ and a mask with other values.

    >>> labels = torch.tensor([[0, 0, 1, 255]])
    >>> apsr(torch.tensor([[1, 0, 0, 0]]), labels, mask=labels != 255)
    tensor([0.6667], dtype=torch.float64)
    """
    for name, value in (("labels", labels), ("targets", targets), ("mask", mask)):
        if value is not None and value.shape != predictions.shape:
            raise ValueError(f"{name}: takes shape {tuple(predictions.shape)}, got {tuple(value.shape)}")
    hits = predictions != labels if targets is None else predictions == targets
    if mask is None:
        counted = torch.ones_like(hits)
    else:
        counted = mask.bool()
        if not torch.equal(counted.to(mask.dtype), mask):
            raise ValueError("mask: takes booleans, or 0 and 1")
    return (hits & counted).flatten(1).sum(1).double() / counted.flatten(1).sum(1)


def confusion(predictions: Tensor, labels: Tensor, classes: int, *, ignore_index: int | None = 255) -> Tensor:
    """Counts ``(classes, classes)``, int64: entry ``[i, j]`` is the number of pixels of label i predicted as j.

    ``predictions`` and ``labels`` have one shape; pixels labelled ``ignore_index`` are left out. Counts of several
    batches add up to those of all. Raises ``ValueError`` for shapes that differ, and what counts outside the classes.

    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), 2)
    tensor([[1, 1],
            [0, 0]])
    """
    if predictions.shape != labels.shape:
        raise ValueError(f"labels: takes shape {tuple(predictions.shape)}, got {tuple(labels.shape)}")
    if ignore_index is not None:
        counted = labels != ignore_index
        predictions, labels = predictions[counted], labels[counted]
    require_below(classes, predictions, "predictions: take")
    require_below(classes, labels, "labels: take")
    pairs = labels.flatten().long() * classes + predictions.flatten().long()
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mean_iou(predictions: Tensor, labels: Tensor, classes: int, *, ignore_index: int | None = 255) -> float:
    """Mean over classes of intersection over union, all pixels of all images pooled, in [0, 1].

    A class that is neither a label nor a prediction anywhere is left out of the mean; one that is predicted only counts
    as 0. NaN if no pixel counts. Raises as :func:`confusion`.

    >>> mean_iou(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]), 3)
    0.5833333333333333
    """
    return mean_iou_of(confusion(predictions, labels, classes, ignore_index=ignore_index))


def mean_iou_of(counts: Tensor) -> float:
    """:func:`mean_iou` from the counts ``(classes, classes)`` of :func:`confusion`, for batches counted in turn.

    >>> mean_iou_of(torch.tensor([[1, 1], [0, 2]]))
    0.5833333333333333
    """
    intersection = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - intersection
    return (intersection / union)[union > 0].mean().item()


def pixel_accuracy(predictions: Tensor, labels: Tensor, *, ignore_index: int | None = 255) -> float:
    """Fraction of the pixels not labelled ``ignore_index`` whose prediction is their label; NaN if there is none.

    Raises ``ValueError`` for shapes that differ.

    >>> pixel_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]))
    0.5
    """
    if predictions.shape != labels.shape:
        raise ValueError(f"labels: takes shape {tuple(predictions.shape)}, got {tuple(labels.shape)}")
    hits = predictions == labels
    if ignore_index is not None:
        hits = hits[labels != ignore_index]
    return hits.double().mean().item()
