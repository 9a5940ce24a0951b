"""What all losses of metric learning share: two parts whose sum is the loss."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from constropt.precision import at_least_float32
from constropt.problems.metric_learning.pairs import Relations, check_embeddings, is_pair_matrix, over_rows, unit


class SplitLoss(nn.Module):
    """A loss ``loss(embeddings, labels)`` that is the sum of a tightness and a contrastive part (Table 2.2).

    ``embeddings`` is ``(n, d)``, in any floating type, computed in float32 at least; ``labels`` int64 ``(n,)`` or, for
    the pairwise losses, a boolean symmetric ``(n, n)`` matrix of positive pairs (its diagonal does not matter).
    A subclass gives :meth:`split`, and ``needs_pairs`` where a batch should hold several samples of each class.
    Non-finite embeddings and labels of another length raise ``ValueError``.
    """

    needs_pairs = False

    @abstractmethod
    def split(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of embeddings that are checked and in full precision."""

    def parts(self, embeddings: Tensor, labels: Tensor, **context: Any) -> tuple[Tensor, Tensor]:
        """Tightness and contrastive part, scalars, by one computation."""
        check_embeddings(embeddings)
        # pair sums in half precision lose everything: autocast has no say here
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.split(at_least_float32(embeddings), labels, **context)

    def forward(self, embeddings: Tensor, labels: Tensor, **context: Any) -> Tensor:
        tightness, contrastive = self.parts(embeddings, labels, **context)
        return tightness + contrastive

    def tightness(self, embeddings: Tensor, labels: Tensor, **context: Any) -> Tensor:
        """The part that pulls samples of one class together, a scalar."""
        return self.parts(embeddings, labels, **context)[0]

    def contrastive(self, embeddings: Tensor, labels: Tensor, **context: Any) -> Tensor:
        """The part that pushes samples apart, a scalar."""
        return self.parts(embeddings, labels, **context)[1]


class PairwiseLoss(SplitLoss):
    """A loss that is a weighted mean over the rows of a pair matrix; a batch of one class raises ``ValueError``.

    A subclass gives :meth:`rows`, and says with ``normalised`` whether it compares embeddings scaled to norm 1.
    """

    needs_pairs = True
    normalised = False

    @abstractmethod
    def rows(self, queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        """For rows of the pair matrix: the sums of the two parts and the weight of each row, three times ``(rows,)``.

        ``positive`` and ``negative`` say which pairs are what; a sample with itself is neither.
        """

    def split(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        compared = unit(embeddings) if self.normalised else embeddings
        return self.mean(compared, compared, Relations.within(labels, len(embeddings)))

    def mean(self, queries: Tensor, gallery: Tensor, relations: Relations) -> tuple[Tensor, Tensor]:
        """The parts over the mean of the rows' weights; 0, differentiable, where no row has any."""
        tightness, contrastive, weight = over_rows(self.rows, queries, gallery, relations)
        total = weight.sum().clamp_min(1)
        return tightness.sum() / total, contrastive.sum() / total


def positive_number(**values: float) -> None:
    """``ValueError`` unless every named argument is a number > 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: takes a number > 0, got {value!r}")


def class_labels(labels: Tensor, loss: nn.Module) -> Tensor:
    """``labels``, once it is sure that they are classes: ``ValueError`` for a pair matrix, with what takes one."""
    if is_pair_matrix(labels):
        raise ValueError(
            f"labels: {type(loss).__name__} takes one class a sample, shape (n,), got a matrix of positive pairs; use a"
            " pairwise loss or SPCE, which take relative labels"
        )
    return labels
