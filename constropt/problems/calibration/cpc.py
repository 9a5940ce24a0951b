"""Calibration by pairwise constraints (Cheng & Vasconcelos 2022), in memory that does not grow with pairs."""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from constropt.checks import require_number
from constropt.problems.calibration.entrywise import EntrywiseLoss, of_label

_BLOCK = 2**20  # pairs that are worked on at once


class _MeanExclusion(torch.autograd.Function):
    """The mean of ``f(z_i - z_j)`` over the pairs of columns ``i < j``; ``f(d) = -log(sigmoid(d) sigmoid(-d)) / 2``.

    ``f(d) = abs(d) / 2 + log(1 + exp(-abs(d)))``, of derivative ``tanh(d / 2) / 2``, does not separate into terms of
    ``i`` and of ``j``, so that all pairs have to be looked at. But value and gradient are both sums over them: they are
    taken block by block in one pass, and only the gradient ``(n, C)`` is kept.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        classes = logits.shape[1]
        value = logits.new_zeros(logits.shape[0])
        gradient = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        for rows, a, b in _blocks(logits):
            difference = logits[rows, a:b, None] - logits[rows, None, a:]  # to itself and all later ones
            distance = difference.abs()
            pairs = (-distance).exp_().log1p_().add_(distance, alpha=0.5)
            # pairs inside the block come twice, and a class with itself, f(0) = log 2, once
            inside = pairs[:, :, : b - a].sum((1, 2)) - (b - a) * math.log(2)
            value[rows] += inside / 2 + pairs[:, :, b - a :].sum((1, 2))
            if gradient is not None:
                slope = difference.div_(2).tanh_()
                gradient[rows, a:b] += slope.sum(2)
                gradient[rows, b:] -= slope[:, :, b - a :].sum(1)
        if gradient is not None:
            ctx.save_for_backward(logits, gradient.div_(classes * (classes - 1)))
        return value.mul_(2 / (classes * (classes - 1)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].unsqueeze(1) * cast(Tensor, _Slope.apply(*ctx.saved_tensors))


class _Slope(torch.autograd.Function):
    """``gradient`` as the function of ``logits`` that it is, so that it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (logits,), (direction,) = ctx.saved_tensors, grads
        classes = logits.shape[1]
        product = torch.zeros_like(logits)
        for rows, a, b in _blocks(logits):
            share = (logits[rows, a:b, None] - logits[rows, None]).sigmoid()
            change = direction[rows, a:b, None] - direction[rows, None]
            product[rows, a:b] = (share * (1 - share) * change).sum(2)
        return product * (2 / (classes * (classes - 1))), None


def _blocks(logits: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Rows and columns ``a`` to ``b`` whose pairs with all columns are some :data:`_BLOCK`."""
    samples, classes = logits.shape
    rows = max(1, min(samples, _BLOCK // classes))
    columns = max(1, _BLOCK // (rows * classes))
    for first in range(0, samples, rows):
        for a in range(0, classes, columns):
            yield slice(first, first + rows), a, min(a + columns, classes)


class CPC(EntrywiseLoss):
    """Cross-entropy with pairwise constraints on the logits (Cheng & Vasconcelos 2022, Eqs. 15 and 16).

    A classifier over ``K`` classes contains one for each pair of them, ``q_ij = sigmoid(z_i - z_j) = s_i / (s_i +
    s_j)``. To ``-log s_y`` are added

    - ``discrimination`` times the mean of ``-log q_yj`` over the ``K - 1`` classes ``j`` other than the label ``y``,
    - ``exclusion`` times the mean of ``-(log q_ij + log q_ji) / 2``, the cross-entropy to one half and so ``log 2`` at
      best, over the pairs ``i < j`` of these classes (none, and 0, for two classes).

    The weights are those of the thesis (appendix V-6). The code of its authors halves the second mean, and adds a
    constant: its gradients are those of half the weight ``exclusion`` here.

    Time is O(K^2) per entry, memory O(K) per entry and some 20 MB for the work in hand. Raises ``ValueError`` unless
    both weights are ``>= 0``, and as :class:`EntrywiseLoss`.

    >>> uniform, labels = torch.zeros(1, 5), torch.tensor([3])
    >>> round(CPC()(uniform, labels).item() - math.log(5), 4) == round(11 * math.log(2), 4)
    True
    """

    def __init__(self, discrimination: float = 10.0, exclusion: float = 1.0, *, ignore_index: int = -100) -> None:
        super().__init__(ignore_index=ignore_index)
        require_number(0, discrimination=discrimination, exclusion=exclusion)
        self.discrimination, self.exclusion = discrimination, exclusion

    def entrywise(self, logits: Tensor, labels: Tensor) -> Tensor:
        z, shape, labels = logits.movedim(1, -1).flatten(0, -2), labels.shape, labels.flatten()
        loss = -of_label(functional.log_softmax(z, 1), labels)
        others = torch.arange(z.shape[1] - 1, device=z.device).expand(len(z), -1)
        rest = z.gather(1, others + (others >= labels.unsqueeze(1)))  # the logits but the label's, (n, K - 1)
        loss = loss + self.discrimination * functional.softplus(rest - of_label(z, labels).unsqueeze(1)).mean(1)
        if rest.shape[1] > 1:
            loss = loss + self.exclusion * cast(Tensor, _MeanExclusion.apply(rest))
        return loss.view(shape)

    def extra_repr(self) -> str:
        return f"discrimination={self.discrimination:g}, exclusion={self.exclusion:g}"
