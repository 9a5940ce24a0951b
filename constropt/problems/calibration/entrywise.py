"""Losses that are a mean over labelled entries, what is checked of these, focal losses, smoothed labels, entropy."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_number, require_one_of
from constropt.precision import at_least_float32
from constropt.problems.model_calls import of_label


class Batch(NamedTuple):
    """``logits`` ``(batch, K, *dims)`` in float32 at least, int64 ``labels`` and bool ``counted`` ``(batch, *dims)``.

    An entry that does not count has logits and label 0: nothing in it, NaN included, reaches a loss or a gradient.
    """

    logits: Tensor
    labels: Tensor
    counted: Tensor


def counted_labels(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Which labels count, ``(batch, *dims)``; first of all, the checks of :func:`checked_batch`.

    >>> counted_labels(torch.zeros(2, 3), torch.tensor([1, -100]), -100)
    tensor([ True, False])
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits: takes a floating point tensor, got {logits.dtype}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: takes class numbers of dtype int64, got {labels.dtype}; use labels.long()")
    if logits.dim() < 2 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"logits and labels: take (batch, K, *dims) and (batch, *dims), got {shapes}")
    if (classes := logits.shape[1]) < 2:
        raise ValueError(f"logits: takes at least 2 classes in dimension 1, got {classes}; a binary problem has 2")
    counted = labels != ignore_index
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = labels[counted & ((labels < 0) | (labels >= classes))]
        if wrong.numel():
            takes = f"classes from 0 to {classes - 1} or ignore_index, {ignore_index}"
            found = f"{wrong.unique()[:5].tolist()} in {wrong.numel()} of {labels.numel()} entries"
            raise ValueError(f"labels: takes {takes}, got {found}")
    return counted


def checked_batch(logits: Tensor, labels: Tensor, ignore_index: int) -> Batch:
    """``logits`` ``(batch, K, *dims)`` and int64 ``labels`` ``(batch, *dims)``, checked, as a :class:`Batch`.

    Raises ``TypeError`` for logits that are not floating point or labels that are not int64; ``ValueError`` for shapes
    that do not match, fewer than two classes and, on the CPU, where looking costs no synchronisation, other labels.

    >>> found = checked_batch(torch.zeros(2, 3), torch.tensor([1, -100]), -100)
    >>> found.labels.tolist(), found.counted.tolist()
    ([1, 0], [True, False])
    """
    counted = counted_labels(logits, labels, ignore_index)
    return Batch(at_least_float32(logits).masked_fill(~counted.unsqueeze(1), 0), labels.where(counted, 0), counted)


def mean_counted(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of ``values`` over the entries that count; a differentiable 0 where none does.

    >>> mean_counted(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
    tensor(1.5000)
    """
    return values.where(counted, 0).sum() / counted.sum().clamp_min(1)


class EntrywiseLoss(nn.Module):
    """A loss that is the mean over the counted entries of a value per entry, which a subclass gives in ``entrywise``.

    Called as ``loss(logits, labels)``: ``logits`` ``(batch, K)`` or ``(batch, K, *dims)``, ``labels`` int64 ``(batch,
    *dims)`` where ``ignore_index`` does not count. Computed in float32 at least, under autocast and for half precision
    logits too. Raises what :func:`checked_batch` raises.
    """

    def __init__(self, *, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def entrywise(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The value ``(batch, *dims)`` of each entry; ``labels`` all are classes."""
        raise NotImplementedError

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the counted entries, a scalar."""
        logits, labels, counted = checked_batch(logits, labels, self.ignore_index)
        return mean_counted(self.entrywise(logits, labels), counted)

    def extra_repr(self) -> str:
        own = {k: v for k, v in vars(self).items() if k[0] != "_" and k not in ("training", "ignore_index")}
        return ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v!r}" for k, v in own.items())


def _focal(log_s: Tensor, gamma: float | Tensor) -> Tensor:
    """``-(1 - s)^gamma log s`` from ``log s``, with a finite derivative wherever ``log s`` is.

    ``1 - s`` is taken as ``-expm1(log s)``, exact where ``s`` rounds to 1. At ``s = 1`` the factor ``(1 - s)^(gamma -
    1)`` of the derivative is infinite for ``gamma < 1`` and would meet ``log s = 0``; the bound makes it finite.
    """
    rest = (-torch.expm1(log_s)).clamp_min(torch.finfo(log_s.dtype).tiny)
    return -rest.pow(gamma) * log_s


class FocalLoss(EntrywiseLoss):
    """Focal loss ``-(1 - s_y)^gamma log s_y`` (Lin et al. 2017; thesis, Eq. 1.22); ``s_y``: probability of the label.

    ``gamma = 0`` is the cross-entropy; the larger it is, the less an entry that is classified with confidence counts.
    Raises ``ValueError`` unless ``gamma >= 0``, and as :class:`EntrywiseLoss`.

    >>> round(FocalLoss(2.0)(torch.zeros(1, 2), torch.tensor([0])).item(), 4)  # log(2) / 4
    0.1733
    """

    def __init__(self, gamma: float = 3.0, *, ignore_index: int = -100) -> None:
        super().__init__(ignore_index=ignore_index)
        require_number(0, gamma=gamma)
        self.gamma = gamma

    def entrywise(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _focal(of_label(functional.log_softmax(logits, 1), labels), self.gamma)


class FLSD(EntrywiseLoss):
    """Focal loss with a sample-dependent gamma (Mukhoti et al. 2020, "FLSD-53"; thesis, Eq. 1.23).

    The exponent is ``low`` where the label's probability ``s_y`` is under ``threshold`` and ``high`` elsewhere; it is a
    constant for the gradient. Raises ``ValueError`` unless ``low >= 0``, ``high >= 0`` and ``0 <= threshold < 1``.

    >>> logits, labels = torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 0])  # s_y = 0.12 and 0.88
    >>> expected = (FocalLoss(5.0)(logits[:1], labels[:1]) + FocalLoss(3.0)(logits[1:], labels[1:])) / 2
    >>> bool(FLSD()(logits, labels) == expected)
    True
    """

    def __init__(
        self, low: float = 5.0, high: float = 3.0, threshold: float = 0.2, *, ignore_index: int = -100
    ) -> None:
        super().__init__(ignore_index=ignore_index)
        require_number(0, low=low, high=high)
        require_number(0, 1, threshold=threshold)
        self.low, self.high, self.threshold = low, high, threshold

    def entrywise(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_s = of_label(functional.log_softmax(logits, 1), labels)
        unlikely = log_s.detach().exp() < self.threshold
        return _focal(log_s, self.high + (self.low - self.high) * unlikely.to(log_s.dtype))


class LabelSmoothing(EntrywiseLoss):
    """Cross-entropy with smoothed labels (Szegedy et al. 2016; thesis, Eq. 1.19).

    ``convention`` says where the mass ``alpha`` goes that the label gives up: ``"thesis"`` spreads it over the
    ``K - 1`` other classes, so that the label keeps ``1 - alpha``; ``"torch"``, as ``label_smoothing`` of
    ``torch.nn.functional.cross_entropy``, over all ``K``, so that the label keeps ``1 - alpha + alpha / K``. The
    loss of the first at ``alpha`` is that of the second at ``alpha K / (K - 1)``. Raises ``ValueError`` unless ``0 <=
    alpha < 1`` and ``convention`` is one of the two.

    >>> logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
    >>> [round(LabelSmoothing(0.3, convention).forward(logits, labels).item(), 4) for convention in ("thesis", "torch")]
    [0.8395, 0.6395]
    """

    def __init__(self, alpha: float = 0.05, convention: str = "thesis", *, ignore_index: int = -100) -> None:
        super().__init__(ignore_index=ignore_index)
        require_number(0, 1, alpha=alpha)
        require_one_of("convention", convention, ("thesis", "torch"))
        self.alpha, self.convention = alpha, convention

    def entrywise(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_s = functional.log_softmax(logits, 1)
        off = self.alpha / (logits.shape[1] - (self.convention == "thesis"))
        of_true = of_label(log_s, labels)
        smoothed = log_s.sum(1) - of_true if self.convention == "thesis" else log_s.sum(1)
        return -(1 - self.alpha) * of_true - off * smoothed


class ECP(EntrywiseLoss):
    """Explicit confidence penalty (Pereyra et al. 2017; thesis, Eq. 1.21): ``-log s_y - weight * H(s)``.

    ``H(s) = -sum_k s_k log s_k`` is the entropy, in nats, of the softmax ``s``; it is rewarded (the sign printed in the
    thesis is the opposite). Label smoothing takes the Kullback-Leibler divergence to the uniform distribution the other
    way round. Raises ``ValueError`` unless ``weight >= 0``, and as :class:`EntrywiseLoss`.

    >>> uniform, labels = torch.zeros(1, 4), torch.tensor([2])  # log 4 - 0.1 log 4
    >>> round(ECP()(uniform, labels).item(), 4)
    1.2477
    """

    def __init__(self, weight: float = 0.1, *, ignore_index: int = -100) -> None:
        super().__init__(ignore_index=ignore_index)
        require_number(0, weight=weight)
        self.weight = weight

    def entrywise(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_s = functional.log_softmax(logits, 1)
        # a logit of -inf, a class ruled out, has s log s = 0: without the bound it would be 0 * inf
        entropy = -(log_s.exp() * log_s.clamp_min(-1e30)).sum(1)
        return -of_label(log_s, labels) - self.weight * entropy
