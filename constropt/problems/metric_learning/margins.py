"""The margins of metric learning as constraints with multipliers, in place of hinges with a fixed weight.

    minimise   (1/n) sum over positive pairs of D_ij^2  +  (1/2) ||z - a||^2
    subject to m - D_ij <= 0 for all negative pairs,   or   D_ap^2 - D_an^2 + m <= 0 for given triplets

The unknowns are the embeddings themselves, ``(batch, n, d)``: every row of the batch is one set of n embeddings.
"""

import torch
from torch import Tensor

from constropt.checks import got, require_below, require_positive
from constropt.constraint import Constraint, inequality
from constropt.domain import Domain, Reals
from constropt.problem import ConstrainedProblem
from constropt.problems.metric_learning.pairs import Relations, root, squared_distances

Given = Tensor | None


def contrastive_margins(
    labels: Tensor, margin: float = 1.0, *, anchor: Given = None, domain: Domain | None = None
) -> ConstrainedProblem[Tensor]:
    """The contrastive loss, its hinge a constraint: least tightness (Eq. 2.2), negative pairs ``margin`` apart or more.

    ``labels`` are int64 ``(n,)``, or a boolean ``(n, n)`` matrix of positive pairs. ``anchor``, ``(n, d)`` or ``(batch,
    n, d)``, adds ``(1/2) ||z - a||^2``: how the given embeddings have to move. The constraint ``"margin"`` is
    ``m - D_ij``, ``(batch, n, n)`` with i < j of the negative pairs counted, so ``solution.multipliers[0][b, i, j]``
    is what a wider margin of that pair would cost. Start where no two embeddings of a negative pair coincide: such a
    pair has no direction to part in. Raises ``ValueError`` for labels of one class, where there is no negative pair.

    >>> from constropt import AugmentedLagrangian, solve
    >>> z = torch.tensor([[[0.0], [0.5]]], dtype=torch.float64)
    >>> problem = contrastive_margins(torch.tensor([0, 1]), margin=1.0, anchor=z)
    >>> solution = solve(problem, AugmentedLagrangian(penalty="PHR"), z, steps=200)
    >>> solution.x.flatten().round(decimals=3), solution.multipliers[0][0, 0, 1].round(decimals=3)
    (tensor([-0.2500,  0.7500], dtype=torch.float64), tensor(0.2500, dtype=torch.float64))
    """
    require_positive(margin=margin)
    n = len(labels)
    positive, negative = Relations.within(labels, n).block(0, n)
    constraint = inequality(lambda z, squares: margin - root(squares), name="margin", mask=negative.triu(1))
    return _problem(positive, anchor, constraint, domain)


def triplet_margins(
    labels: Tensor, margin: float = 0.2, *, triplets: Given = None, anchor: Given = None, domain: Domain | None = None
) -> ConstrainedProblem[Tensor]:
    """The triplet loss, its hinge a constraint: least tightness, every triplet's ``D_ap^2 - D_an^2 + m <= 0``.

    ``triplets`` is int64 ``(T, 3)``, rows (a, p, n); :func:`all_triplets` of the labels by default, which are many. The
    constraint ``"margin"`` is ``(batch, T)``. The rest is as for :func:`contrastive_margins`.

    >>> triplet_margins(torch.tensor([0, 0, 1])).constraints[0].name
    'margin'
    """
    require_positive(margin=margin)
    n = len(labels)
    positive, _ = Relations.within(labels, n).block(0, n)
    triplets = all_triplets(labels) if triplets is None else triplets
    if triplets.dim() != 2 or triplets.shape[1] != 3 or not len(triplets) or triplets.is_floating_point():
        takes = "whole numbers (anchor, positive, negative), shape (T, 3) with T >= 1"
        cure = "a class of two samples and a second class give some"
        raise ValueError(f"triplets: takes {takes}, got {got(triplets)}; {cure}")
    require_below(n, triplets, "triplets: of the embeddings takes positions")
    a, p, other = triplets.unbind(1)
    constraint = inequality(lambda z, squares: squares[:, a, p] - squares[:, a, other] + margin, name="margin")
    return _problem(positive, anchor, constraint, domain)


def _problem(
    positive: Tensor, anchor: Given, constraint: Constraint[Tensor], domain: Domain | None
) -> ConstrainedProblem[Tensor]:
    """What both share: one pass for all distances, ``(1/n) sum over positive pairs of D_ij^2``, ``(batch,)``, and half
    the squared distance to an anchor.
    """
    count = len(positive)

    def forward(z: Tensor) -> Tensor:
        if z.dim() != 3 or z.shape[1] != count:
            takes = f"embeddings of shape (batch, n, d) with n = {count} as many as labels"
            raise ValueError(f"x: takes {takes}, got {tuple(z.shape)}; add the batch dimension with x[None]")
        return squared_distances(z, z)

    def tightness(z: Tensor, squares: Tensor) -> Tensor:
        value = torch.where(positive, squares, 0).sum((1, 2)) / count
        return value if anchor is None else value + (z - anchor).square().sum((1, 2)) / 2

    return ConstrainedProblem(tightness, [constraint], forward, domain or Reals())


def all_triplets(labels: Tensor) -> Tensor:
    """All (anchor, positive, negative) of ``labels`` (classes or a pair matrix), int64 ``(T, 3)``.

    T grows with the cube of n: for small problems. :class:`Triplet` has its sums without listing them.

    >>> all_triplets(torch.tensor([0, 0, 1])).tolist()
    [[0, 1, 2], [1, 0, 2]]
    """
    n = len(labels)
    positive, negative = Relations.within(labels, n).block(0, n)
    pairs = positive.nonzero()
    pair, other = negative[pairs[:, 0]].nonzero().unbind(1)
    return torch.cat([pairs[pair], other[:, None]], dim=1)
