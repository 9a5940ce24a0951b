"""The center loss (Wen, Zhang, Li & Qiao 2016; Eq. 1.5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from constropt.problems.metric_learning.base import SplitLoss, class_labels, positive_number
from constropt.problems.metric_learning.cross_entropy import CrossEntropy, check_classes
from constropt.problems.metric_learning.pairs import class_sizes, class_sums


class Center(SplitLoss):
    """``(w/2) sum_i ||z_i - c_{y_i}||^2 - (1/n) sum_i log p_{i y_i}`` (Table 2.2).

    The first term, a *sum*, is the tightness; the second, the cross-entropy of the classifier ``cross_entropy``, the
    contrastive part (it is zero at first, see :class:`CrossEntropy`). ``weight`` is w; Eq. 1.5, averaged over the n
    samples, is ``weight = lambda / n``. c is the mean of the batch's samples of each class, which the gradient passes
    through; with ``learned=True`` a parameter ``centers`` of one prototype a class. Raises ``ValueError`` for labels
    outside ``[0, num_classes)``.

    >>> loss = Center(num_classes=2, dimension=1)
    >>> float(loss.tightness(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1])))
    1.0
    """

    def __init__(
        self, num_classes: int, dimension: int, weight: float = 1.0, *, learned: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        positive_number(weight=weight)
        self.weight = weight
        self.cross_entropy = CrossEntropy(num_classes, dimension, bias=bias)
        self.centers = nn.Parameter(torch.randn(num_classes, dimension)) if learned else None

    def split(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        check_classes(class_labels(labels, self), embeddings, self.cross_entropy.classifier.weight)
        labels = labels.long()
        if self.centers is None:
            count = self.cross_entropy.classifier.out_features
            centers = class_sums(embeddings, labels, count) / class_sizes(labels, count).clamp_min(1)[:, None]
        else:
            centers = self.centers.to(embeddings.dtype)
        tightness = self.weight / 2 * (embeddings - centers[labels]).square().sum()
        return tightness, self.cross_entropy(embeddings, labels)
