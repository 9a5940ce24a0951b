"""Attack constraints on logits: met iff <= 0, which means that the model is fooled, with a margin beyond rounding.

Logits are ``(batch, K)`` of a classifier or ``(batch, K, *pixels)`` of a dense prediction, values ``(batch, *pixels)``.
"""

import torch
from torch import Tensor

from constropt.problems.attacks.aim import NU as NU
from constropt.problems.model_calls import of_label

# The constraints demand this much beyond a tie, as a fraction of the spread of the logits: a tie is no success, and a
# success must survive the rounding of another batch size. Solvers count what is violated by no more as met in float32.
MARGIN = 1e-4


def margin_for(dtype: torch.dtype, margin: float = MARGIN) -> float:
    """The margin in a dtype of logits: at least a few units of its rounding."""
    return max(margin, 2 * torch.finfo(dtype).eps)


def best_other(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest logit of a class other than the label: ``(batch, K, *pixels) -> (batch, *pixels)``."""
    return logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def logit_difference(logits: Tensor, labels: Tensor, *, confidence: float = 0.0) -> Tensor:
    """``z_y - max_{k != y} z_k + confidence`` (Carlini & Wagner, 2017), ``(batch,)``: negative iff misclassified.

    >>> logit_difference(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    tensor([2.])
    """
    return of_label(logits, labels) - best_other(logits, labels) + confidence


def dlr(logits: Tensor, labels: Tensor, *, margin: float = MARGIN) -> Tensor:
    """DLR+ (Eq. 4.4): ``(z_y - max_{k != y} z_k) / (z_pi1 - z_pi3)``, invariant to the logits' scale and shift.

    Negative iff misclassified. Without a third logit the difference itself is returned, which is not scale-invariant.

    >>> dlr(torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([0]))
    tensor([0.5001])
    """
    label, rival, top = _leading(logits, labels, 3)
    return _ratio(label - rival, top, margin)


def targeted_dlr(logits: Tensor, targets: Tensor, *, margin: float = MARGIN) -> Tensor:
    """tDLR+ (Eq. A III-8): ``(max_{k != t} z_k - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2)``; negative iff classified as t.

    With three classes the denominator is ``z_pi1 - z_pi3``, with two it is 1.
    """
    target, rival, top = _leading(logits, targets, 4)
    return _ratio(rival - target, top, margin)


def class_dlr(logits: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """``(z_y - z_c) / (z_pi1 - (z_pi3 + z_pi4) / 2)`` for one class c per label: targeted DLR (Croce & Hein, 2020).

    Negative iff c is before y. With three classes or two the denominator is that of :func:`targeted_dlr`.

    >>> class_dlr(torch.tensor([[3.0, 1.0, -1.0, -1.0]]), torch.tensor([0]), torch.tensor([1]))
    tensor([0.5001])
    """
    label, _, top = _leading(logits, labels, 4)
    return _ratio(label - of_label(logits, classes), top)


def below_largest(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """``(z_y - z_[k]) / (z_pi1 - mean(z_pi3, ..., z_pik+2))``, z_[k] the k-th largest logit of the other classes.

    Negative iff y is not among the k largest; :func:`dlr` for k = 1. The denominator is a constant for gradients:
    else raising the largest logit would do in place of lowering y. ``ValueError`` where there are no k other classes.

    >>> below_largest(torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([0]), 2)
    tensor([1.0001])
    """
    if not k < logits.shape[1]:
        raise ValueError(f"k: takes less than the number of classes, {logits.shape[1]}, got {k}")
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).topk(k, dim=1).values[:, -1]
    return _ratio(of_label(logits, labels) - others, logits.detach().topk(min(k + 2, logits.shape[1]), dim=1).values)


def class_gaps(logits: Tensor, labels: Tensor, *, margin: float = MARGIN) -> Tensor:
    """``z_y - z_c`` for the other classes c, in their order, ``(batch, K - 1)``: :func:`dlr` is met iff one of them is.

    The margin of :func:`dlr` is added in the logits' units, so that <= 0 means the same for both.

    >>> class_gaps(torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([0])).round(decimals=2)
    tensor([[2., 4.]])
    """
    labels = labels.unsqueeze(1)
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= labels).long()
    return logits.gather(1, labels) - logits.gather(1, others) + tie_margin(logits, 3, margin)


def target_gap(logits: Tensor, targets: Tensor, *, margin: float = MARGIN) -> Tensor:
    """``max_{k != t} z_k - z_t``, ``(batch, 1)``, with the margin of :func:`targeted_dlr` in the logits' units."""
    return tie_margin(logits, 4, margin) - logit_difference(logits, targets).unsqueeze(1)


def _leading(logits: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """``z_y``, ``max_{k != y} z_k`` and the largest ``count`` logits, ``(batch, count, *pixels)``."""
    # all are picked by one gather: the backward pass fills the shape of the logits once, which is what costs memory
    count = min(count, logits.shape[1])
    order = logits.detach().topk(count, dim=1).indices
    picked = logits.gather(1, torch.cat([labels.unsqueeze(1), order], 1))
    rival = torch.where(order[:, 0] == labels, picked[:, 2], picked[:, 1])
    return picked[:, 0], rival, picked[:, 1:]


def _spread(top: Tensor) -> Tensor | None:
    """The denominator of the ratio: the first of the leading logits less the mean from the third on; None with two."""
    if top.shape[1] < 3:
        return None
    # all leading logits equal: a tie, with no scale to measure it by
    return (top[:, 0] - top[:, 2:].mean(1)).clamp_min(torch.finfo(top.dtype).tiny * 1e3)


def _ratio(difference: Tensor, top: Tensor, margin: float = MARGIN) -> Tensor:
    spread = _spread(top)
    return (difference if spread is None else difference / spread) + margin_for(top.dtype, margin)


def tie_margin(logits: Tensor, count: int, margin: float = MARGIN) -> Tensor:
    """The margin of the ratio in the logits' units, ``(batch, 1, *pixels)``; a constant for gradients."""
    spread = _spread(logits.detach().topk(min(count, logits.shape[1]), dim=1).values)
    unit = torch.ones_like(logits[:, 0]) if spread is None else spread
    return margin_for(logits.dtype, margin) * unit.unsqueeze(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``-log softmax(z)_y``, ``(batch, *pixels)``: what DDN and PGD ascend (untargeted) or descend (targeted)."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")
