"""Losses that hold back confidence on every entry: smoothed labels, and a reward for the entropy of the prediction."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from constropt.checks import require_number
from constropt.problems.calibration.reduction import EntrywiseLoss, of_label

_CONVENTIONS = ("thesis", "torch")


class LabelSmoothing(EntrywiseLoss):
    """Cross-entropy with smoothed labels (Szegedy et al. 2016; thesis, Eq. 1.19).

    ``convention`` says where the mass ``alpha`` goes that the label gives up: ``"thesis"`` spreads it over the
    ``K - 1`` other classes, so that the label keeps ``1 - alpha``; ``"torch"``, as ``label_smoothing`` of
    ``torch.nn.functional.cross_entropy``, over all ``K``, so that the label keeps ``1 - alpha + alpha / K``. The
    loss of the first at ``alpha`` is that of the second at ``alpha K / (K - 1)``.

    Raises ``ValueError`` unless ``0 <= alpha < 1`` and ``convention`` is one of the two, and as :class:`EntrywiseLoss`.

    >>> import torch
    >>> logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
    >>> [round(LabelSmoothing(0.3, convention).forward(logits, labels).item(), 4) for convention in ("thesis", "torch")]
    [0.8395, 0.6395]
    """

    def __init__(self, alpha: float = 0.05, convention: str = "thesis", *, ignore_index: int = -100) -> None:
        super().__init__(ignore_index=ignore_index)
        require_number(0, 1, alpha=alpha)
        if convention not in _CONVENTIONS:
            raise ValueError(f"convention: takes one of {', '.join(_CONVENTIONS)}, got {convention!r}")
        self.alpha, self.convention = alpha, convention

    def entrywise(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_s = functional.log_softmax(logits, 1)
        off = self.alpha / (logits.shape[1] - (self.convention == "thesis"))
        of_true = of_label(log_s, labels)
        if self.convention == "thesis":
            return -(1 - self.alpha) * of_true - off * (log_s.sum(1) - of_true)
        return -(1 - self.alpha) * of_true - off * log_s.sum(1)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, convention={self.convention!r}"


class ECP(EntrywiseLoss):
    """Explicit confidence penalty (Pereyra et al. 2017; thesis, Eq. 1.21): ``-log s_y - weight * H(s)``.

    ``H(s) = -sum_k s_k log s_k`` is the entropy, in nats, of the softmax ``s``; it is rewarded (the sign printed in
    the thesis is the opposite). Label smoothing is the same with the Kullback-Leibler divergence to the uniform
    distribution taken the other way round.

    Raises ``ValueError`` unless ``weight >= 0``, and as :class:`EntrywiseLoss`.

    >>> import torch
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

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"
