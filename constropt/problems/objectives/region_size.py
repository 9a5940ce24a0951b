"""Region sizes known to within bounds, for segmentation from few labelled pixels.

    minimise  E[cross-entropy of labelled pixels]   subject to   a_k <= size_k(image) <= b_k   for every image and class

with size_k the sum over pixels of the softmax (Kervadec et al., *Constrained-CNN losses for weakly supervised
segmentation*, Medical Image Analysis 2019), who add ``weight max(0, a - size)^2 + weight max(0, size - b)^2``.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from constropt.checks import got, require_number, require_whole
from constropt.lagrangian import AugmentedLagrangian
from constropt.precision import at_least_float32
from constropt.problems.calibration.entrywise import counted_labels
from constropt.training import TRAINING, ConstrainedLoss, samplewise

Bound = float | Sequence[float] | Tensor | None


class RegionSize(ConstrainedLoss):
    """The mean cross-entropy of labelled pixels, subject to bounds on the size of every class in every image.

    ``criterion(logits, (labels, bounds))``: logits ``(batch, K, *dims)``, labels int64 ``(batch, *dims)`` with
    ``ignore_index`` where a pixel has none, and ``bounds`` ``(batch, K, 2)``, least and largest size of each class in
    each image as fractions of its pixels (0 and 1: no bound); :func:`size_bounds` makes them. With ``lower`` and/or
    ``upper``, numbers or one per class, the bounds are the same for all images, and the target is ``labels`` alone.

    Sizes are means of the softmax over *all* pixels of the image, labelled or not. Every image has its constraints; the
    multipliers, ``(K, 2)`` (lower bounds first), are shared by the images. The constraints are on the training images
    themselves, whose bounds are what is known, so ``update_duals`` may well go over these. Further arguments are those
    of :class:`~constropt.training.ConstrainedLoss`: ``rule=keep`` and a mu next to 0 give Kervadec's penalty. Raises
    ``ValueError`` for fewer than two classes, and bounds that cross, leave [0, 1] or have the wrong shape.

    >>> criterion = RegionSize(2, lower=[0.0, 0.5])
    >>> logits = torch.tensor([[[2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]]])  # class 1 has 12 % of the one image
    >>> labels = torch.tensor([[0, -100, -100, -100]])
    >>> criterion.update_duals(lambda x: x, [(logits, labels)])
    >>> criterion.levels[1]  # least size 0.5, largest 1
    tensor([ 0.3808, -0.8808])
    """

    def __init__(
        self,
        num_classes: int,
        *,
        lower: Bound = None,
        upper: Bound = None,
        ignore_index: int = -100,
        lagrangian: AugmentedLagrangian = TRAINING,
        **others: Any,
    ) -> None:
        require_whole(2, num_classes=num_classes)
        fixed = None
        if lower is not None or upper is not None:
            least, largest = _per_class("lower", lower, 0.0, num_classes), _per_class("upper", upper, 1.0, num_classes)
            fixed = torch.stack([least, largest], 1)
            _check_order(fixed, "lower and upper")
        super().__init__(
            partial(_cross_entropy, classes=num_classes, ignore_index=ignore_index, paired=fixed is None),
            [samplewise(partial(_outside, fixed=fixed), shape=(num_classes, 2), name="sizes")],
            lagrangian=lagrangian,
            **others,
        )


def size_bounds(
    labels: Tensor, num_classes: int, *, tolerance: float = 0.1, slack: float = 0.005, ignore_index: int = -100
) -> Tensor:
    """Bounds ``(batch, K, 2)`` around the sizes in complete label maps ``(batch, *dims)``, as fractions of an image.

    A size s, counted among the pixels with a label, gives ``(1 - tolerance) s - slack`` and ``(1 + tolerance) s +
    slack``, cut to [0, 1]. Ten per cent is what Kervadec et al. use as individual bounds. The slack is for classes
    that an image does not have: a softmax is nowhere 0, and the multiplier of a bound of 0 would grow for ever.

    >>> size_bounds(torch.tensor([[0, 0, 0, 1]]), 3, tolerance=0.2, slack=0.01)
    tensor([[[0.5900, 0.9100],
             [0.1900, 0.3100],
             [0.0000, 0.0100]]])
    """
    require_number(0, 1, tolerance=tolerance, slack=slack)
    flat = labels.flatten(1)
    counts = torch.stack([(flat == k).sum(1) for k in range(num_classes)], 1)
    size = counts / (flat != ignore_index).sum(1, keepdim=True).clamp_min(1)
    return torch.stack([(1 - tolerance) * size - slack, (1 + tolerance) * size + slack], 2).clamp(0, 1)


def _cross_entropy(logits: Tensor, target: Any, *, classes: int, ignore_index: int, paired: bool) -> Tensor:
    """The loss of each labelled pixel, and what is wrong with the arguments."""
    labels = target
    if paired:
        if not isinstance(target, (tuple, list)) or len(target) != 2:
            takes = f"a pair (labels, bounds) as neither lower nor upper was given, got {got(target)}"
            raise TypeError(f"target: takes {takes}; size_bounds makes bounds")
        labels = target[0]
    if logits.dim() < 3 or logits.shape[1] != classes:
        takes = f"the shape (batch, K, *dims) with K = num_classes = {classes}"
        raise ValueError(f"logits: takes {takes}, got {tuple(logits.shape)}")
    labelled = counted_labels(logits, labels, ignore_index)
    logits = at_least_float32(logits)
    return functional.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")[labelled]


def _outside(logits: Tensor, target: Any, *, fixed: Tensor | None) -> Tensor:
    """``(batch, K, 2)``: a - size and size - b, in fractions of the image."""
    size = at_least_float32(logits).flatten(2).softmax(1).mean(2)
    bounds = target[1] if fixed is None else fixed
    if fixed is None:
        if not isinstance(bounds, Tensor) or bounds.shape != (*size.shape, 2):
            raise ValueError(f"bounds: takes a tensor of shape (batch, K, 2) = {(*size.shape, 2)}, got {got(bounds)}")
        if bounds.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_order(bounds, "bounds")
    least, largest = bounds.to(size).unbind(-1)
    return torch.stack([least - size, size - largest], -1)


def _per_class(name: str, bound: Bound, default: float, classes: int) -> Tensor:
    value = torch.as_tensor(default if bound is None else bound, dtype=torch.float32)
    if value.shape not in ((), (classes,)):
        raise ValueError(f"{name}: takes a number or one per class, ({classes},), got shape {tuple(value.shape)}")
    return value.expand(classes)


def _check_order(bounds: Tensor, name: str) -> None:
    least, largest = bounds.unbind(-1)
    if not bool(((least >= 0) & (least <= largest) & (largest <= 1)).all()):  # written so that NaN fails
        found = f"lower from {float(least.min()):g} and upper up to {float(largest.max()):g}"
        raise ValueError(f"{name}: need 0 <= lower <= upper <= 1, in fractions of the image's pixels, got {found}")
