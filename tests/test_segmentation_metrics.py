"""APSR, confusion counts, mIoU and pixel accuracy against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constropt.problems.dense_metrics import apsr, confusion, mean_iou, mean_iou_of, pixel_accuracy


def maps(seed: int, classes: int = 4, shape: tuple[int, ...] = (3, 5, 6)):
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randint(classes, shape, generator=generator)
    labels = torch.randint(classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.2] = 255
    return predictions, labels


def brute_force_iou(predictions, labels, classes):
    ratios = []
    pairs = [(p, y) for p, y in zip(predictions.flatten().tolist(), labels.flatten().tolist()) if y != 255]
    for k in range(classes):
        union = sum(p == k or y == k for p, y in pairs)
        if union:
            ratios.append(sum(p == k and y == k for p, y in pairs) / union)
    return sum(ratios) / len(ratios)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(0, 3))
def test_mean_iou_is_the_sum_written_out(seed, classes, unused):
    predictions, labels = maps(seed, classes)
    expected = brute_force_iou(predictions, labels, classes + unused)
    assert mean_iou(predictions, labels, classes + unused) == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow  # its import alone takes seconds
def test_mean_iou_agrees_with_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    predictions, labels = maps(0)
    theirs = classification.multiclass_jaccard_index(predictions, labels, 4, ignore_index=255)
    assert mean_iou(predictions, labels, 4) == pytest.approx(theirs.item(), abs=1e-6)


def test_counts_of_batches_add_up():
    predictions, labels = maps(1)
    parts = [confusion(p, y, 4) for p, y in zip(predictions, labels)]
    assert torch.equal(sum(parts[1:], parts[0]), confusion(predictions, labels, 4))
    assert mean_iou_of(sum(parts[1:], parts[0])) == mean_iou(predictions, labels, 4)
    assert int(confusion(predictions, labels, 4).sum()) == int((labels != 255).sum())
    assert confusion(predictions, predictions, 4, ignore_index=None).diagonal().sum() == predictions.numel()


def test_nothing_counted_is_nan():
    labels = torch.full((2, 3), 255)
    predictions = torch.zeros(2, 3, dtype=torch.long)
    assert math.isnan(mean_iou(predictions, labels, 3)) and math.isnan(pixel_accuracy(predictions, labels))
    assert apsr(predictions, labels, mask=labels != 255).isnan().all()


def test_apsr_of_both_goals_by_image():
    labels = torch.tensor([[[0, 1], [2, 255]], [[1, 1], [1, 1]]])
    predictions = torch.tensor([[[1, 1], [2, 0]], [[1, 0], [0, 0]]])
    counted = labels != 255
    assert apsr(predictions, labels, mask=counted).tolist() == [pytest.approx(1 / 3), 0.75]
    assert apsr(predictions, labels).tolist() == [0.5, 0.75]
    targets = torch.zeros_like(labels)
    assert apsr(predictions, labels, targets=targets, mask=counted.float()).tolist() == [0.0, 0.75]
    assert apsr(predictions, labels, targets=targets).dtype == torch.float64


def test_apsr_counts_whole_pixels_of_large_images():
    labels = torch.zeros(1, 5000, 4000, dtype=torch.uint8)  # 2e7 pixels: float32 sums would lose single ones
    predictions = torch.ones_like(labels)
    predictions[0, 0, 0] = 0
    assert apsr(predictions, labels).item() == 1 - 1 / 2e7


def test_accuracy_leaves_out_the_ignored():
    predictions, labels = maps(2)
    counted = labels != 255
    assert pixel_accuracy(predictions, labels) == (predictions == labels)[counted].double().mean().item()
    assert pixel_accuracy(labels, labels, ignore_index=None) == 1.0


@pytest.mark.parametrize("measure", [apsr, pixel_accuracy, lambda p, y: confusion(p, y, 4)])
def test_shapes_must_agree(measure):
    predictions, labels = maps(3)
    with pytest.raises(ValueError, match=r"labels: takes shape \(3, 5, 6\), got \(2, 5, 6\)"):
        measure(predictions, labels[:2])


def test_bad_masks_and_classes():
    predictions, labels = maps(4)
    with pytest.raises(ValueError, match=r"mask: takes shape"):
        apsr(predictions, labels, mask=torch.ones(3, 5))
    with pytest.raises(ValueError, match="mask: takes booleans, or 0 and 1"):
        apsr(predictions, labels, mask=torch.full((3, 5, 6), 0.5))
    with pytest.raises(ValueError, match="labels: take 0 to 3, got 0 to 255"):
        confusion(predictions, labels, 4, ignore_index=None)
    with pytest.raises(ValueError, match="predictions: take 0 to 2, got 0 to 3"):
        confusion(predictions, labels, 3)
