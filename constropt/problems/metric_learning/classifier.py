"""Cross-entropy with its classifier, split in two (Eq. 2.13), and the center loss (Wen, Zhang, Li & Qiao; Eq. 1.5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_below, require_number, require_positive, require_whole
from constropt.problems.metric_learning.pairs import SplitLoss, check_labels, class_labels, class_sizes, class_sums


def check_classes(labels: Tensor, embeddings: Tensor, weight: Tensor) -> None:
    """``ValueError``/``TypeError`` unless labels are classes of the ``(K, d)`` weight, embeddings of d features."""
    check_labels(labels, len(embeddings))
    classes, dimension = weight.shape
    if (found := embeddings.shape[1]) != dimension:
        takes = f"{dimension} features, what the loss was built for"
        raise ValueError(f"embeddings: takes {takes}, got {found}; build it with dimension={found}")
    cure = "; number the classes of the training set from 0, or build the loss with more classes"
    require_below(classes, labels, "labels: takes classes", cure)


def linear_in(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in the precision of ``x``."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return functional.linear(x, layer.weight.to(x.dtype), bias)


class CrossEntropy(SplitLoss):
    """The cross-entropy of a linear classifier on the embeddings, which is all that Sec. 2.5 trains with.

    Its parts are those of Eq. 2.13: the tightness ``-(1/n) sum_i theta_{y_i}^T z_i + (lambda/2) ||theta||^2`` and the
    contrastive ``(1/n) sum_i log sum_k exp(theta_k^T z_i) - (lambda/2) ||theta||^2``, with ``lam`` 0 unless given (the
    sum does not depend on it). The classifier ``classifier`` is an ``nn.Linear``, zero at first as in Sec. 2.5.3.4.

    ``label_smoothing`` is xi with the off-class mass ``xi/(K-1)``, the text's convention (torch's spreads xi/K over all
    classes); ``dropout`` acts on the embeddings in training mode, where the two parts asked for one by one draw anew
    (:meth:`parts` draws once). A batch of one class is fine. ``ValueError`` for labels outside ``[0, num_classes)``.

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
        return linear_in(self.classifier, functional.dropout(embeddings, self.dropout, self.training))

    def split(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        check_classes(class_labels(labels, self), embeddings, self.classifier.weight)
        logits = self.logits(embeddings)
        target = logits.gather(1, labels.long()[:, None])[:, 0]
        if self.label_smoothing:
            off = (logits.sum(1) - target) / (logits.shape[1] - 1)
            target = torch.lerp(target, off, self.label_smoothing)
        quadratic = self.lam / 2 * self.classifier.weight.to(logits.dtype).square().sum()
        return quadratic - target.mean(), logits.logsumexp(1).mean() - quadratic


class Center(SplitLoss):
    """``(w/2) sum_i ||z_i - c_{y_i}||^2 - (1/n) sum_i log p_{i y_i}`` (Table 2.2).

    The first term, a *sum*, is the tightness; the second, the cross-entropy of the classifier ``cross_entropy``, the
    contrastive part. ``weight`` is w; Eq. 1.5, averaged over the n samples, is ``weight = lambda / n``. c is the mean
    of the batch's samples of each class, which the gradient passes through; with ``learned=True`` a parameter
    ``centers`` of one prototype a class. Raises ``ValueError`` for labels outside ``[0, num_classes)``.

    >>> loss = Center(num_classes=2, dimension=1)
    >>> float(loss.tightness(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1])))
    1.0
    """

    def __init__(
        self, num_classes: int, dimension: int, weight: float = 1.0, *, learned: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        require_positive(weight=weight)
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
