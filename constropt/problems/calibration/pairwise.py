"""Calibration losses over pairs of entries (MMCE) or of classes (CPC), exact, in memory that pairs do not grow."""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_number, require_one_of
from constropt.problems.calibration.entrywise import EntrywiseLoss, checked_batch, mean_counted, of_label

_NOTHING = 1e-14  # rounding of the statistic: its root has no direction below


def laplacian_form(values: Tensor, positions: Tensor, width: float) -> Tensor:
    """``sum_ij values_i values_j exp(-abs(positions_i - positions_j) / width)``, exact, in O(n log n), memory O(n).

    ``values`` and ``positions`` are ``(n,)``, positions from 0 to 1, ``width >= 0.01``. Sorted by position, the kernel
    is a product, ``exp(-p_i / width) exp(p_j / width)`` for ``p_j < p_i``, so that the sums over ``j`` are entries of
    one running sum; equal positions are summed apart, with derivative 0 as for the absolute value at 0. Running sums
    are in float64, and so is the result. Differentiable twice in both arguments.

    >>> laplacian_form(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.1]), 0.4).item()  # 1 + 4 + 4 / e
    6.471517...
    """
    positions, order = positions.double().sort()
    values = values.double()[order]
    places = positions.detach()
    first, last = torch.searchsorted(places, places), torch.searchsorted(places, places, right=True)
    start = values.new_zeros(1)
    below = torch.cat([start, (values * (positions / width).exp()).cumsum(0)])[first]
    sums = torch.cat([start, values.cumsum(0)])
    return (values * (2 * (-positions / width).exp() * below + sums[last] - sums[first])).sum()


class MMCE(nn.Module):
    """Cross-entropy plus ``weight`` times the maximum mean calibration error of the batch (Kumar et al. 2018).

    With the confidence ``r_i = max_k s_k`` of entry ``i``, ``c_i`` 1 where its prediction is correct, else 0, and the
    kernel ``k(r, r') = exp(-abs(r - r') / width)``, over the ``m`` entries that count (thesis, Eq. 1.18)::

        MMCE^2 = (1 / m^2) sum_ij (c_i - r_i) (c_j - r_j) k(r_i, r_j)

    ``form="thesis"`` adds this square, ``form="kumar"`` its root, as in the objective of Kumar et al.; the gradient of
    the root does not fade as the statistic goes to 0, where it is taken as 0. With ``weighted``, each ``c_i - r_i`` is
    divided by the number of entries that are correct, or not, as it is itself, in place of ``m``, so that few mistakes
    weigh as much as many hits; the terms of a kind that is absent are 0.

    Only ``r`` is differentiable, in the errors and in the kernel; ``c`` is a constant. The sum over pairs is exact and
    takes O(m log m) (:func:`laplacian_form`), so that label maps need no sampling. Called as :class:`EntrywiseLoss` is.
    Raises ``ValueError`` unless ``weight >= 0``, ``width >= 0.01`` and ``form`` is one of the two.

    >>> logits, labels = torch.tensor([[3.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 1])
    >>> cross_entropy = functional.cross_entropy(logits, labels)
    >>> error = MMCE(1.0)(logits, labels) - cross_entropy   # equal confidences: ((1 - r) - r)^2 / 4
    >>> bool((error - (0.5 - logits.softmax(1)[0, 0]) ** 2).abs() < 1e-6)
    True
    """

    def __init__(
        self,
        weight: float = 0.1,
        form: str = "thesis",
        *,
        weighted: bool = False,
        width: float = 0.4,
        ignore_index: int = -100,
    ) -> None:
        super().__init__()
        require_number(0, weight=weight)
        require_number(0.01, width=width)
        require_one_of("form", form, ("thesis", "kumar"))
        self.weight, self.form, self.weighted, self.width = weight, form, weighted, width
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy over the counted entries plus the weighted error, a scalar."""
        logits, labels, counted = checked_batch(logits, labels, self.ignore_index)
        log_s = functional.log_softmax(logits, 1)
        cross_entropy = mean_counted(-of_label(log_s, labels), counted)
        confidence, predicted = log_s.max(1)
        square = self._square(confidence.exp(), predicted == labels, counted)
        if self.form == "kumar":
            nothing = square <= _NOTHING
            square = square.masked_fill(nothing, 1).sqrt().masked_fill(nothing, 0)
        return cross_entropy + self.weight * square.to(cross_entropy.dtype)

    def _square(self, r: Tensor, correct: Tensor, counted: Tensor) -> Tensor:
        """MMCE^2 in float64 of confidences ``r``, all arguments of one shape."""
        r, correct, counted = r.flatten().double(), correct.flatten(), counted.flatten()
        hits, total = (correct & counted).sum(), counted.sum()
        size = torch.where(correct, hits, total - hits) if self.weighted else total
        errors = ((correct.double() - r) / size.clamp_min(1)).masked_fill(~counted, 0)
        return laplacian_form(errors, r, self.width)

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}, form={self.form!r}, weighted={self.weighted}, width={self.width:g}"


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
    constant: its gradients are those of half the weight ``exclusion`` here. Time is O(K^2) per entry, memory O(K) and
    some 20 MB for the work in hand. Raises ``ValueError`` unless both are ``>= 0``, and as :class:`EntrywiseLoss`.

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
