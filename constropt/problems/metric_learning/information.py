"""The two views of the mutual information of embeddings and labels (Eq. 2.1), and the entropies they are made of.

All in nats. Differential entropies may be negative. Pairs are visited a block of rows at a time.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from constropt.checks import require_whole
from constropt.precision import at_least_float32
from constropt.problems.metric_learning.pairs import (
    Relations,
    check_embeddings,
    check_labels,
    class_sizes,
    over_rows,
    squared_distances,
)


def label_entropy(labels: Tensor) -> Tensor:
    """H(Y) of int64 labels ``(n,)`` by their frequencies, a scalar.

    >>> round(float(label_entropy(torch.tensor([0, 0, 1, 1]))), 4)
    0.6931
    """
    check_labels(labels, len(labels))
    sizes = labels.unique(return_counts=True)[1].double()
    shares = sizes / sizes.sum()
    return -(shares * shares.log()).sum()


def pairwise_entropy(embeddings: Tensor, labels: Tensor | None = None, *, floor: float = 1e-12) -> Tensor:
    """``(d/(n(n-1))) sum_{i != j} log D_ij^2`` (Eq. 2.6), a differentiable scalar: large where embeddings spread.

    With ``labels`` the sums run within each class and are averaged over samples: its form of H(Z|Y). It is *twice* a
    differential entropy but for a constant (scaling the embeddings by a adds 2 d log a): the sum over ordered pairs
    counts each pair twice. A squared distance below ``floor`` (coincident points) counts as ``floor``. Raises
    ``ValueError`` where a class has only one sample.

    >>> z = torch.tensor([[0.0], [1.0], [2.0]])
    >>> round(float(pairwise_entropy(z)), 4)                 # (1/6) (4 log 1 + 2 log 4)
    0.4621
    """
    if not floor > 0:
        raise ValueError(f"floor: takes a squared distance > 0, got {floor!r}")
    compared, relations, sizes = _prepared(embeddings, labels, least=2)

    def rows(queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        logarithms = squared_distances(queries, gallery).clamp_min(floor).log()
        return (torch.where(positive, logarithms, 0).sum(1),)

    (sums,) = over_rows(rows, compared, compared, relations)
    return compared.shape[1] * (sums / (sizes - 1)).mean()


def nearest_neighbour_entropy(embeddings: Tensor, labels: Tensor | None = None, *, neighbours: int = 3) -> Tensor:
    """H(Z), or with ``labels`` H(Z|Y), a scalar: ``psi(n) - psi(k) + log V_d + (d/n) sum_i log e_i`` (Kozachenko &
    Leonenko 1987; Kraskov et al. 2004, Eq. 20).

    ``neighbours`` is k, e_i the l2 distance of sample i to its k-th nearest (of its class), V_d the volume of the unit
    ball. It is consistent for samples of a density; its bias grows with d. Duplicates make it minus infinity. Raises
    ``ValueError`` where a class has no more than ``neighbours`` samples.

    >>> z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> abs(float(nearest_neighbour_entropy(z)) - math.log(2 * math.pi * math.e)) < 0.05
    True
    """
    require_whole(neighbours=neighbours)
    compared, relations, sizes = _prepared(embeddings, labels, least=neighbours + 1)
    dimension = compared.shape[1]

    def rows(queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        squares = squared_distances(queries, gallery).masked_fill(~positive, torch.inf)
        return (squares.topk(neighbours, dim=1, largest=False).values[:, -1],)

    (squares,) = over_rows(rows, compared, compared, relations)
    volume = dimension / 2 * math.log(math.pi) - math.lgamma(dimension / 2 + 1)
    return (sizes.digamma() - _digamma(neighbours) + volume + dimension / 2 * squares.log()).mean()


def nearest_neighbour_information(embeddings: Tensor, labels: Tensor, *, neighbours: int = 3) -> Tensor:
    """I(Z; Y) by nearest neighbours, as Kraskov et al. 2004 for a continuous Z and a discrete Y (Ross 2014), a scalar:
    ``psi(n) + psi(k) - mean psi(n_{y_i}) - mean psi(m_i)``.

    m_i counts the samples that are nearer to i than its k-th nearest of its own class, i among them. Unlike the
    difference of two entropies, whose errors differ, each term is measured at the same scale. Raises ``ValueError``
    where a class has no more than ``neighbours`` samples.

    >>> z = torch.arange(8.0)[:, None] + torch.tensor([0.0, 100.0]).repeat_interleave(4)[:, None]
    >>> round(float(nearest_neighbour_information(z, torch.arange(8) // 4)), 2)       # apart: near H(Y) = 0.69
    0.76
    """
    require_whole(neighbours=neighbours)
    compared, relations, sizes = _prepared(embeddings, labels, least=neighbours + 1)

    def rows(queries: Tensor, gallery: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        squares = squared_distances(queries, gallery)
        own = squares.masked_fill(~positive, torch.inf)
        reach = own.topk(neighbours, dim=1, largest=False).values[:, -1:]
        return (((squares < reach) & (positive | negative)).sum(1) + 1,)

    (nearer,) = over_rows(rows, compared, compared, relations)
    constant = _digamma(len(compared)) + _digamma(neighbours)
    return constant - sizes.digamma().mean() - nearer.double().digamma().mean()


@dataclass(frozen=True)
class MutualInformation:
    """I(Z; Y) from both sides of Eq. 2.1, their entropies, and :func:`nearest_neighbour_information` as a check."""

    labels: float
    labels_given_embeddings: float | None
    embeddings: float
    embeddings_given_labels: float
    nearest_neighbour: float

    @property
    def discriminative(self) -> float | None:
        """H(Y) - H(Y|Z), its second term from above by a classifier's cross-entropy, so a lower bound (A I-20)."""
        return None if self.labels_given_embeddings is None else self.labels - self.labels_given_embeddings

    @property
    def generative(self) -> float:
        """H(Z) - H(Z|Y), both by nearest neighbours."""
        return self.embeddings - self.embeddings_given_labels

    def __str__(self) -> str:
        terms = f"{self.embeddings:.4f} - {self.embeddings_given_labels:.4f} = {self.generative:.4f}"
        text = f"generative     I(Z;Y) = H(Z) - H(Z|Y) = {terms}\n"
        text += f"neighbours     I(Z;Y) = {self.nearest_neighbour:.4f}\n"
        if self.labels_given_embeddings is not None:
            terms = f"{self.labels:.4f} - {self.labels_given_embeddings:.4f} = {self.discriminative:.4f}"
            text += f"discriminative I(Z;Y) >= H(Y) - H(Y;Y'|Z) = {terms}\n"
        return text + "(nats)"


@torch.no_grad()
def mutual_information(
    embeddings: Tensor, labels: Tensor, *, logits: Tensor | None = None, neighbours: int = 3
) -> MutualInformation:
    """Both views of I(Z; Y) for embeddings ``(n, d)`` with int64 labels ``(n,)``.

    The generative view takes :func:`nearest_neighbour_entropy` twice. The discriminative one needs the ``(n, K)``
    ``logits`` of a classifier on the embeddings, best on samples it was not trained on: its cross-entropy is at least
    H(Y|Z) (Eq. A I-20), so that view is a lower bound in expectation; None without.

    >>> generator = torch.Generator().manual_seed(0)
    >>> y = torch.arange(2000) % 2
    >>> z = torch.randn(2000, 1, generator=generator) + 20 * y[:, None]          # far apart: I = H(Y) = log 2
    >>> abs(mutual_information(z, y).generative - math.log(2)) < 0.05
    True
    """
    check_embeddings(embeddings)
    check_labels(labels, len(embeddings))
    given = None
    if logits is not None:
        check_embeddings(logits, "logits")
        if len(logits) != len(embeddings) or not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
            takes = f"shape (n, K) = ({len(embeddings)}, more than the largest label {int(labels.max())})"
            raise ValueError(f"logits: takes {takes}, got {tuple(logits.shape)}")
        given = float(functional.cross_entropy(at_least_float32(logits), labels.long()))
    whole = float(nearest_neighbour_entropy(embeddings, neighbours=neighbours))
    within = float(nearest_neighbour_entropy(embeddings, labels, neighbours=neighbours))
    near = float(nearest_neighbour_information(embeddings, labels, neighbours=neighbours))
    return MutualInformation(float(label_entropy(labels)), given, whole, within, near)


def _prepared(embeddings: Tensor, labels: Tensor | None, least: int) -> tuple[Tensor, Relations, Tensor]:
    """Embeddings in float64, the pairs that count as positive, and the size of every sample's class in float64."""
    check_embeddings(embeddings)
    n = len(embeddings)
    if labels is None:
        labels = torch.zeros(n, dtype=torch.int64, device=embeddings.device)
    check_labels(labels, n)
    classes, own = labels.unique(return_inverse=True)
    sizes = class_sizes(own, len(classes))
    if (smallest := int(sizes.min())) < least:
        takes = f"at least {least} samples a class here, got a class of {smallest}"
        raise ValueError(f"embeddings: takes {takes}; leave small classes out")
    # logarithms of small distances: what a float32 product rounds away would count
    return embeddings.double(), Relations.within(labels, n, negatives=False), sizes[own].double()


def _digamma(value: float) -> float:
    return float(torch.tensor(float(value), dtype=torch.float64).digamma())
