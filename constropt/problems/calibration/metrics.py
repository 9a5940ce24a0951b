"""How far confidences are from frequencies: ECE, AECE, CWCE; Brier score and NLL; accuracy and mIoU beside them.

All take ``scores`` ``(batch, K)`` or ``(batch, K, *dims)`` and integer ``labels`` ``(batch, *dims)``. ``from_logits``
has no default, since nothing else tells logits from probabilities: True applies the softmax over K, False demands rows
in [0, 1] that sum to 1. Entries labelled ``ignore_index`` do not count; all others do alike, the pixels of all images
pooled. Results are float64 fractions (not per cent) on the device of the scores, without gradients.

All raise ``TypeError``/``ValueError`` for shapes that do not belong together, labels outside ``[0, K)``, scores with
NaN, probabilities that are none, and data in which no entry counts. For data in batches see
:mod:`~constropt.problems.calibration.streaming`.
"""

from functools import partial

import torch
from torch import Tensor

from constropt.checks import require_one_of
from constropt.problems.calibration.entries import BinStatistics, Entries, blocks, check_bins, equal_count, summed
from constropt.problems.dense_metrics import mean_iou_of

Label = int | None  # of entries that do not count


def expected_calibration_error(
    scores: Tensor, labels: Tensor, *, from_logits: bool, bins: int = 15, norm: str = "l1", ignore_index: Label = -100
) -> Tensor:
    """ECE ``()``: the gap between accuracy and mean confidence in bins of equal width (Eq. 6.14; Guo et al., 2017).

    Bin m is ``(m / bins, (m + 1) / bins]``; confidence 1 lies in the last one. ``norm`` is "l1" (the mean gap over
    entries, the ECE of the tables), "l2" (the root of its mean square) or "max" (the largest gap: MCE).

    >>> probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    >>> expected_calibration_error(probabilities, torch.tensor([0, 1]), from_logits=False)
    tensor(0.4000, dtype=torch.float64)
    """
    check_bins(bins, norm)
    return _some(summed(partial(Entries.top_bins, bins=bins), scores, labels, from_logits, ignore_index)).error(norm)


def adaptive_calibration_error(
    scores: Tensor, labels: Tensor, *, from_logits: bool, bins: int = 15, norm: str = "l1", ignore_index: Label = -100
) -> Tensor:
    """AECE ``()``: the ECE over bins that hold as equal a number of entries as can be (Nguyen & O'Connor, 2015).

    Counts are exact, as :func:`~constropt.problems.calibration.entries.equal_count` says; entries of equal confidence
    share their hits: no order of the data or of batches matters.

    >>> halves = torch.full((4, 2), 0.5)
    >>> float(adaptive_calibration_error(halves, torch.tensor([0, 0, 0, 1]), from_logits=False))
    0.25
    """
    check_bins(bins, norm)
    return _some(equal_count(*outcomes(scores, labels, from_logits, ignore_index), bins)).error(norm)


def classwise_calibration_error(
    scores: Tensor,
    labels: Tensor,
    *,
    from_logits: bool,
    bins: int = 15,
    reduction: str = "mean",
    ignore_index: Label = -100,
) -> Tensor:
    """CWCE: the ECE of every class against the rest, over all entries (Kull et al., 2019; Maier-Hein et al., 2022).

    For class k all entries are binned by their k-th probability; the gap in a bin is between its mean and the fraction
    labelled k. ``reduction`` is "mean" over all K classes, those without a label too (Table V-2), "sum", or "none".

    >>> probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.7, 0.3, 0.0]])
    >>> classwise_calibration_error(probabilities, torch.tensor([0, 1]), from_logits=False, reduction="none")
    tensor([0.4000, 0.4000, 0.0000], dtype=torch.float64)
    """
    check_bins(bins)
    check_reduction(reduction)
    statistics = _some(summed(partial(Entries.class_bins, bins=bins), scores, labels, from_logits, ignore_index))
    return reduced(statistics.error(), reduction)


def brier_score(scores: Tensor, labels: Tensor, *, from_logits: bool, ignore_index: Label = -100) -> Tensor:
    """Brier score ``()``: the mean over entries of ``sum_k (p_k - [k = label])^2``, in [0, 2].

    >>> float(brier_score(torch.tensor([[0.5, 0.5]]), torch.tensor([1]), from_logits=False))
    0.5
    """
    return _mean(summed(Entries.brier_total, scores, labels, from_logits, ignore_index))


def negative_log_likelihood(scores: Tensor, labels: Tensor, *, from_logits: bool, ignore_index: Label = -100) -> Tensor:
    """NLL ``()`` in nats: the mean over entries of ``-log p_label``; infinite where a label has probability 0.

    >>> negative_log_likelihood(torch.zeros(1, 2), torch.tensor([1]), from_logits=True)
    tensor(0.6931, dtype=torch.float64)
    """
    return _mean(summed(Entries.log_total, scores, labels, from_logits, ignore_index))


def accuracy(scores: Tensor, labels: Tensor, *, from_logits: bool, ignore_index: Label = -100) -> Tensor:
    """Accuracy ``()``: the fraction of entries whose largest score, the first of equal ones, is the label's.

    >>> float(accuracy(torch.tensor([[2.0, 1.0], [0.0, 0.0]]), torch.tensor([0, 1]), from_logits=True))
    0.5
    """
    return _mean(summed(Entries.hit_total, scores, labels, from_logits, ignore_index))


def mean_iou(scores: Tensor, labels: Tensor, *, from_logits: bool, ignore_index: Label = -100) -> Tensor:
    """mIoU ``()``: the mean over classes of intersection over union, the pixels of all images pooled.

    A class that is neither a label nor a prediction anywhere is left out of the mean.

    >>> float(mean_iou(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 0, 1]), from_logits=False))
    0.5
    """
    counts = summed(Entries.confusion_counts, scores, labels, from_logits, ignore_index)
    require_entries(counts.sum())
    return iou(counts)


def outcomes(scores: Tensor, labels: Tensor, from_logits: bool, ignore_index: Label) -> tuple[Tensor, Tensor]:
    """``(entries,)`` confidences of the predicted class, and whether it is the label: the AECE has no sums."""
    parts = blocks(scores, labels, from_logits=from_logits, ignore_index=ignore_index)
    confidence, hits = zip(*((entries.confidence(), entries.hits()) for entries in parts))
    return torch.cat(confidence), torch.cat(hits)


def iou(counts: Tensor) -> Tensor:
    """mIoU ``()`` from counts ``(K, K)``, NaN where there are none."""
    return torch.tensor(mean_iou_of(counts), dtype=torch.float64, device=counts.device)


def check_reduction(reduction: str) -> None:
    """``ValueError`` for a reduction over classes that there is not."""
    require_one_of("reduction", reduction, ("mean", "sum", "none"))


def reduced(errors: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of ``(K,)`` errors, or themselves."""
    return errors if reduction == "none" else errors.mean() if reduction == "mean" else errors.sum()


def require_entries(count: Tensor | int) -> None:
    """``ValueError`` unless the ``count`` of entries is positive."""
    if not bool(count > 0):
        raise ValueError("labels: no entry counts; give at least one whose label is not ignore_index")


def _some(statistics: BinStatistics) -> BinStatistics:
    require_entries(statistics.count.sum())
    return statistics


def _mean(sums: Tensor) -> Tensor:
    require_entries(sums[1])
    return sums[0] / sums[1]
