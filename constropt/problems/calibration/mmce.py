"""Maximum mean calibration error: a kernel statistic of confidence against correctness, beside the cross-entropy."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_number, require_one_of
from constropt.problems.calibration.entrywise import checked_batch, mean_counted, of_label

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
    takes O(m log m) (:func:`laplacian_form`): no matrix of pairs is made, so that label maps need no sampling.

    Called as :class:`~constropt.problems.calibration.entrywise.EntrywiseLoss` is. Raises ``ValueError`` unless
    ``weight >= 0``, ``width >= 0.01`` and ``form`` is one of the two.

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
