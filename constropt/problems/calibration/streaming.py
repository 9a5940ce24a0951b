"""The metrics of calibration as ``torchmetrics`` classes, for data in batches and on several processes.

Each is called as any ``torchmetrics.Metric``: ``update(scores, labels)``, ``compute()``, ``reset()``, in a
``MetricCollection`` too. The state of all but the AECE are float64 sums, O(bins) or O(K bins) whatever the amount of
data, and processes add theirs: the result is that of all data in one call of the function of
:mod:`~constropt.problems.calibration.metrics`, however unequal batches and shards are. Where no entry counted, the
result is NaN. Needs the extra ``metrics``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from constropt.checks import MissingExtra, require_whole
from constropt.problems.calibration import metrics
from constropt.problems.calibration.entries import BinStatistics, Entries, check_bins, equal_count, summed

try:
    from torchmetrics import Metric
except ImportError:
    raise MissingExtra("metrics as classes need torchmetrics: pip install 'constropt[metrics]'") from None


class _Scored(Metric):
    """What all have in common: how scores and labels are read. ``options`` are those of ``torchmetrics.Metric``."""

    is_differentiable = False
    full_state_update = False
    higher_is_better = False

    def __init__(self, *, from_logits: bool, ignore_index: int | None = -100, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(from_logits, bool):
            raise TypeError(f"from_logits: takes True for logits and False for probabilities, got {from_logits!r}")
        self.from_logits, self.ignore_index = from_logits, ignore_index

    def _sum_state(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        # names differ between metrics: a MetricCollection lets metrics share states of equal name and content
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def _summed(self, measure: Any, scores: Tensor, labels: Tensor) -> Any:
        return summed(measure, scores, labels, self.from_logits, self.ignore_index)


class _Binned(_Scored):
    """With the number of bins, and the norm of the error."""

    def __init__(
        self, *, from_logits: bool, bins: int = 15, norm: str = "l1", ignore_index: int | None = -100, **options: Any
    ) -> None:
        super().__init__(from_logits=from_logits, ignore_index=ignore_index, **options)
        check_bins(bins, norm)
        self.bins, self.norm = bins, norm
        self._add_states()

    def _add_states(self) -> None:
        self._sum_state("top_bins", 3, self.bins)


class ExpectedCalibrationError(_Binned):
    """:func:`~constropt.problems.calibration.metrics.expected_calibration_error` over batches.

    >>> metric = ExpectedCalibrationError(from_logits=False)
    >>> metric.update(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
    >>> metric.update(torch.tensor([[0.7, 0.3]]), torch.tensor([1]))
    >>> metric.compute()
    tensor(0.4000, dtype=torch.float64)
    """

    top_bins: Tensor

    def update(self, scores: Tensor, labels: Tensor) -> None:
        self.top_bins = self.top_bins + self._summed(partial(Entries.top_bins, bins=self.bins), scores, labels).sums

    def compute(self) -> Tensor:
        return BinStatistics(self.top_bins).error(self.norm)


class AdaptiveCalibrationError(_Binned):
    """:func:`~constropt.problems.calibration.metrics.adaptive_calibration_error` over batches.

    Bins of exactly equal counts need all confidences: the state grows by 8 bytes an entry, and processes gather it.

    >>> metric = AdaptiveCalibrationError(from_logits=False, bins=2)
    >>> metric.update(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
    >>> metric.update(torch.tensor([[0.7, 0.3]]), torch.tensor([1]))
    >>> metric.compute()
    tensor(0.4000, dtype=torch.float64)
    """

    signed_confidence: list[Tensor] | Tensor

    def _add_states(self) -> None:
        # positive for a hit, negative for a miss: a confidence is never 0, and one list is gathered in one go
        self.add_state("signed_confidence", [], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)  # of what a process without data contributes

    def update(self, scores: Tensor, labels: Tensor) -> None:
        confidence, hits = metrics.outcomes(scores, labels, self.from_logits, self.ignore_index)
        assert isinstance(self.signed_confidence, list)
        self.signed_confidence.append(torch.where(hits, confidence, -confidence).double())

    def compute(self) -> Tensor:
        parts = self.signed_confidence
        parts = [parts] if isinstance(parts, Tensor) else parts  # one tensor once processes have gathered it
        signed = torch.cat([torch.zeros(0, dtype=torch.float64, device=self.device), *parts])
        return equal_count(signed.abs(), signed > 0, self.bins).error(self.norm)


class ClasswiseCalibrationError(_Scored):
    """:func:`~constropt.problems.calibration.metrics.classwise_calibration_error` over batches.

    >>> metric = ClasswiseCalibrationError(2, from_logits=False)
    >>> metric.update(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
    >>> metric.update(torch.tensor([[0.7, 0.3]]), torch.tensor([1]))
    >>> metric.compute()
    tensor(0.4000, dtype=torch.float64)
    """

    class_bins: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        from_logits: bool,
        bins: int = 15,
        reduction: str = "mean",
        ignore_index: int | None = -100,
        **options: Any,
    ) -> None:
        super().__init__(from_logits=from_logits, ignore_index=ignore_index, **options)
        check_bins(bins)
        metrics.check_reduction(reduction)
        require_whole(2, num_classes=num_classes)
        self.num_classes, self.bins, self.reduction = num_classes, bins, reduction
        self._sum_state("class_bins", 3, num_classes, bins)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        _check_classes(scores, self.num_classes)
        added = self._summed(partial(Entries.class_bins, bins=self.bins), scores, labels)
        self.class_bins = self.class_bins + added.sums

    def compute(self) -> Tensor:
        return metrics.reduced(BinStatistics(self.class_bins).error(), self.reduction)


class _Mean(_Scored):
    """The mean over entries of what ``total`` adds up and counts; the state is called as that function is."""

    total: Callable[[Entries], Tensor]

    def __init__(self, *, from_logits: bool, ignore_index: int | None = -100, **options: Any) -> None:
        super().__init__(from_logits=from_logits, ignore_index=ignore_index, **options)
        self._state = self.total.__name__
        self._sum_state(self._state, 2)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        setattr(self, self._state, getattr(self, self._state) + self._summed(self.total, scores, labels))

    def compute(self) -> Tensor:
        value, count = getattr(self, self._state)
        return value / count


class BrierScore(_Mean):
    """:func:`~constropt.problems.calibration.metrics.brier_score` over batches.

    >>> metric = BrierScore(from_logits=False)
    >>> metric.update(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
    >>> metric.compute()
    tensor(0.5000, dtype=torch.float64)
    """

    brier_total: Tensor
    total = staticmethod(Entries.brier_total)


class NegativeLogLikelihood(_Mean):
    """:func:`~constropt.problems.calibration.metrics.negative_log_likelihood` over batches.

    >>> metric = NegativeLogLikelihood(from_logits=True)
    >>> metric.update(torch.zeros(1, 2), torch.tensor([1]))
    >>> metric.compute()
    tensor(0.6931, dtype=torch.float64)
    """

    log_total: Tensor
    total = staticmethod(Entries.log_total)


class Accuracy(_Mean):
    """:func:`~constropt.problems.calibration.metrics.accuracy` over batches.

    >>> metric = Accuracy(from_logits=True)
    >>> metric.update(torch.eye(2), torch.tensor([0, 0]))
    >>> metric.compute()
    tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True
    hit_total: Tensor
    total = staticmethod(Entries.hit_total)


class MeanIoU(_Scored):
    """:func:`~constropt.problems.calibration.metrics.mean_iou` over batches; its state are ``(K, K)`` counts.

    >>> metric = MeanIoU(3, from_logits=True)
    >>> metric.update(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 0, 1]))
    >>> metric.compute()
    tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True
    confusion: Tensor

    def __init__(self, num_classes: int, *, from_logits: bool, ignore_index: int | None = -100, **options: Any) -> None:
        super().__init__(from_logits=from_logits, ignore_index=ignore_index, **options)
        require_whole(2, num_classes=num_classes)
        self.num_classes = num_classes
        self._sum_state("confusion", num_classes, num_classes, dtype=torch.int64)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        _check_classes(scores, self.num_classes)
        self.confusion = self.confusion + self._summed(Entries.confusion_counts, scores, labels)

    def compute(self) -> Tensor:
        return metrics.iou(self.confusion)


def _check_classes(scores: Tensor, num_classes: int) -> None:
    if scores.dim() < 2 or scores.shape[1] != num_classes:
        raise ValueError(f"scores: takes (batch, {num_classes}, *dims), got {tuple(scores.shape)}")
