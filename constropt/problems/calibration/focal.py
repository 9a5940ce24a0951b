"""The focal loss and its variant whose exponent depends on the sample (Mukhoti et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from constropt.checks import require_number
from constropt.problems.calibration.reduction import EntrywiseLoss, of_label


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

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}"


class FLSD(EntrywiseLoss):
    """Focal loss with a sample-dependent gamma (Mukhoti et al. 2020, "FLSD-53"; thesis, Eq. 1.23).

    The exponent is ``low`` where the label's probability ``s_y`` is under ``threshold`` and ``high`` elsewhere; it is a
    constant for the gradient.

    Raises ``ValueError`` unless ``low >= 0``, ``high >= 0`` and ``0 <= threshold < 1``, and as :class:`EntrywiseLoss`.

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

    def extra_repr(self) -> str:
        return f"low={self.low:g}, high={self.high:g}, threshold={self.threshold:g}"
