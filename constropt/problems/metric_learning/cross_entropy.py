"""Cross-entropy with its classifier, split in the two functions of Eq. 2.13."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_number, require_whole
from constropt.problems.metric_learning.base import SplitLoss, class_labels
from constropt.problems.metric_learning.pairs import check_labels


def check_classes(labels: Tensor, embeddings: Tensor, weight: Tensor) -> None:
    """``ValueError``/``TypeError`` unless labels are classes of the ``(K, d)`` weight and the embeddings have d
    features.
    """
    check_labels(labels, len(embeddings))
    classes, dimension = weight.shape
    if embeddings.shape[1] != dimension:
        raise ValueError(
            f"embeddings: takes {dimension} features, what the loss was built for, got {embeddings.shape[1]}; build it"
            f" with dimension={embeddings.shape[1]}"
        )
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels: takes classes 0 to {classes - 1}, got {low} to {high}; number the classes of the training set"
            " from 0, or build the loss with more classes"
        )


class CrossEntropy(SplitLoss):
    """The cross-entropy of a linear classifier on the embeddings, which is all that Sec. 2.5 trains with.

    Its parts are those of Eq. 2.13: the tightness ``-(1/n) sum_i theta_{y_i}^T z_i + (lambda/2) ||theta||^2`` and the
    contrastive ``(1/n) sum_i log sum_k exp(theta_k^T z_i) - (lambda/2) ||theta||^2``, with ``lam`` 0 unless given (the
    sum does not depend on it). The classifier ``classifier`` is an ``nn.Linear``, zero at first as in Sec. 2.5.3.4.

    ``label_smoothing`` is xi with the off-class mass ``xi/(K-1)``, the text's convention (torch's spreads xi/K over
    all classes); ``dropout`` acts on the embeddings in training mode, where the two parts asked for one by one draw
    anew (:meth:`parts` draws once). No pairs, so a batch of one class is fine. Raises ``ValueError`` for labels outside
    ``[0, num_classes)``.

    >>> loss = CrossEntropy(num_classes=4, dimension=8)
    >>> loss(torch.randn(5, 8), torch.tensor([0, 1, 2, 3, 0])).detach()      # log 4: the classifier is zero
    tensor(1.3863)
    """

    def __init__(
        self,
        num_classes: int,
        dimension: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        lam: float = 0.0,
    ) -> None:
        super().__init__()
        require_whole(2, num_classes=num_classes)
        require_whole(dimension=dimension)
        require_number(0, 1, dropout=dropout, label_smoothing=label_smoothing)
        self.dropout, self.label_smoothing, self.lam = dropout, label_smoothing, lam
        self.classifier = nn.Linear(dimension, num_classes, bias=bias)
        for parameter in self.classifier.parameters():
            nn.init.zeros_(parameter)

    def logits(self, embeddings: Tensor) -> Tensor:
        """``theta^T z`` (plus the bias), ``(n, K)``, in the embeddings' precision."""
        weight, bias = self.classifier.weight, self.classifier.bias
        dropped = functional.dropout(embeddings, self.dropout, self.training)
        return functional.linear(dropped, weight.to(dropped.dtype), None if bias is None else bias.to(dropped.dtype))

    def split(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        check_classes(class_labels(labels, self), embeddings, self.classifier.weight)
        logits = self.logits(embeddings)
        target = logits.gather(1, labels.long()[:, None])[:, 0]
        if self.label_smoothing:
            off = (logits.sum(1) - target) / (logits.shape[1] - 1)
            target = torch.lerp(target, off, self.label_smoothing)
        quadratic = self.lam / 2 * self.classifier.weight.to(logits.dtype).square().sum()
        return quadratic - target.mean(), logits.logsumexp(1).mean() - quadratic
