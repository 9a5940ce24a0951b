"""The calibration metrics against definitions in plain Python, as functions, over batches and on two processes."""

from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constropt.lab import MissingExtra
from constropt.problems.calibration.metrics import (
    accuracy,
    adaptive_calibration_error,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    mean_iou,
    negative_log_likelihood,
)
from constropt.problems.calibration.samples import GAUSSIAN_NOISE, calibration_under_noise, gaussian_noise

torchmetrics = pytest.importorskip("torchmetrics")
streaming = pytest.importorskip("constropt.problems.calibration.streaming")

FUNCTIONS = (
    expected_calibration_error,
    adaptive_calibration_error,
    classwise_calibration_error,
    brier_score,
    negative_log_likelihood,
    accuracy,
    mean_iou,
)


def gaps(pairs, bins, edges):
    """Per bin ``(edge, edge]`` with 0 in the first: number of (confidence, hit) pairs and the gap of their means."""
    found = []
    for m in range(bins):
        inside = [(c, h) for c, h in pairs if (edges[m] < c or m == 0) and (c <= edges[m + 1] or m == bins - 1)]
        if inside:
            found.append((len(inside), abs(sum(h for _, h in inside) - sum(c for c, _ in inside)) / len(inside)))
    return found


def by_norm(found, total, norm):
    if norm == "l1":
        return sum(n * gap for n, gap in found) / total
    if norm == "l2":
        return math.sqrt(sum(n * gap**2 for n, gap in found) / total)
    return max(gap for _, gap in found)


def edges_of(probabilities, bins):
    return torch.tensor([m / bins for m in range(bins + 1)], dtype=torch.float64).to(probabilities.dtype).tolist()


def top_pairs(probabilities, labels):
    rows = probabilities.tolist()
    return [(max(row), float(row.index(max(row)) == label)) for row, label in zip(rows, labels.tolist())]


def plain_ece(probabilities, labels, bins, norm="l1"):
    return by_norm(gaps(top_pairs(probabilities, labels), bins, edges_of(probabilities, bins)), len(labels), norm)


def plain_aece(probabilities, labels, bins, norm="l1"):
    pairs = top_pairs(probabilities, labels)
    mean = {c: float(np.mean([h for d, h in pairs if d == c])) for c, _ in pairs}
    chunks = np.array_split(sorted(c for c, _ in pairs), bins)
    found = [(len(part), abs(float(np.mean([mean[c] - c for c in part])))) for part in chunks if len(part)]
    return by_norm(found, len(pairs), norm)


def plain_cwce(probabilities, labels, bins):
    errors = []
    for k in range(probabilities.shape[1]):
        pairs = [(row[k], float(label == k)) for row, label in zip(probabilities.tolist(), labels.tolist())]
        errors.append(by_norm(gaps(pairs, bins, edges_of(probabilities, bins)), len(pairs), "l1"))
    return errors


@st.composite
def predictions(draw):
    """Probabilities with ties, whole edges of bins, ones and zeros; labels in which classes may be missing."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    classes = draw(st.integers(2, 4))
    bins = draw(st.sampled_from([1, 2, 3, 5, 10, 15]))
    parts = st.lists(st.integers(0, 15), min_size=classes, max_size=classes).filter(any)
    rows = draw(st.lists(parts, min_size=1, max_size=20))
    if draw(st.booleans()):
        rows = rows[:1] * len(rows)
    weights = torch.tensor(rows, dtype=torch.float64)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=len(rows), max_size=len(rows)))
    return (weights / weights.sum(1, keepdim=True)).to(dtype), torch.tensor(labels), bins


@settings(max_examples=150, deadline=None)
@given(predictions(), st.sampled_from(["l1", "l2", "max"]))
def test_binned_errors_are_the_definitions(case, norm):
    probabilities, labels, bins = case
    options = {"from_logits": False, "bins": bins}
    ece = expected_calibration_error(probabilities, labels, norm=norm, **options)
    assert float(ece) == pytest.approx(plain_ece(probabilities, labels, bins, norm), abs=1e-6)
    aece = adaptive_calibration_error(probabilities, labels, norm=norm, **options)
    assert float(aece) == pytest.approx(plain_aece(probabilities, labels, bins, norm), abs=1e-6)
    expected = plain_cwce(probabilities, labels, bins)
    per_class = classwise_calibration_error(probabilities, labels, reduction="none", **options)
    assert per_class.tolist() == pytest.approx(expected, abs=1e-6)
    total = classwise_calibration_error(probabilities, labels, reduction="sum", **options)
    mean = classwise_calibration_error(probabilities, labels, **options)
    assert (float(total), float(mean)) == pytest.approx((sum(expected), sum(expected) / len(expected)), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(predictions())
def test_scores_are_the_definitions(case):
    probabilities, labels, _ = case
    rows, classes = probabilities.tolist(), labels.tolist()
    brier = np.mean([sum((p - (k == y)) ** 2 for k, p in enumerate(row)) for row, y in zip(rows, classes)])
    assert float(brier_score(probabilities, labels, from_logits=False)) == pytest.approx(brier, abs=1e-6)
    nll = np.mean([-math.log(row[y]) if row[y] else math.inf for row, y in zip(rows, classes)])
    assert float(negative_log_likelihood(probabilities, labels, from_logits=False)) == pytest.approx(nll, rel=1e-6)
    hits = np.mean([hit for _, hit in top_pairs(probabilities, labels)])
    assert float(accuracy(probabilities, labels, from_logits=False)) == pytest.approx(hits)


@settings(max_examples=50, deadline=None)
@given(predictions(), st.randoms(use_true_random=False))
def test_the_order_of_entries_does_not_matter(case, random):
    probabilities, labels, bins = case
    order = list(range(len(labels)))
    random.shuffle(order)
    for function in (expected_calibration_error, adaptive_calibration_error, classwise_calibration_error):
        values = [function(probabilities[i], labels[i], from_logits=False, bins=bins) for i in (slice(None), order)]
        assert float(values[0]) == pytest.approx(float(values[1]), abs=1e-12)


def test_constant_confidence_and_confidence_one():
    constant = torch.tensor([[0.7, 0.3]]).repeat(10, 1)
    labels = torch.tensor([0] * 4 + [1] * 6)
    for function in (expected_calibration_error, adaptive_calibration_error):
        assert float(function(constant, labels, from_logits=False)) == pytest.approx(0.3, abs=1e-7)
    halves = torch.full((10, 2), 0.5)  # hits first, misses last: bins of one order would not be calibrated
    assert float(adaptive_calibration_error(halves, torch.arange(10) // 5, from_logits=False)) == 0
    # the last bin holds 0.95 and 1, not 1 alone beyond it
    probabilities = torch.tensor([[0.95, 0.05], [1.0, 0.0]], dtype=torch.float64)
    ece = expected_calibration_error(probabilities, torch.tensor([0, 1]), from_logits=False)
    assert float(ece) == pytest.approx(0.475, abs=1e-12)


def test_half_precision_probabilities_score_as_they_are():
    for dtype in (torch.float16, torch.bfloat16):
        probabilities = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).to(dtype)
        expected = brier_score(probabilities.double(), torch.tensor([0, 0]), from_logits=False)
        assert float(brier_score(probabilities, torch.tensor([0, 0]), from_logits=False)) == pytest.approx(
            float(expected)
        )


def test_bins_are_closed_on_the_right_in_every_dtype():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        edge = torch.tensor([[0.6, 0.4], [0.5, 0.5]], dtype=torch.float64).to(dtype)  # 0.6 = 3/5 ends the third bin
        ece = expected_calibration_error(edge, torch.tensor([1, 0]), from_logits=False, bins=5)
        assert float(ece) == pytest.approx(abs(1 - 1.1) / 2, abs=2e-3), dtype


def test_probabilities_and_logits_agree_and_saturated_logits_keep_their_prediction():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(300, 7, generator=generator) * 3, torch.randint(7, (300,), generator=generator)
    for function in FUNCTIONS:
        from_logits = function(logits, labels, from_logits=True)
        assert from_logits.dtype == torch.float64 and not from_logits.requires_grad
        assert float(from_logits) == pytest.approx(float(function(logits.softmax(1), labels, from_logits=False)))
    tied = torch.tensor([[0.0, 1e-9]])  # one probability in float32, two logits
    assert float(accuracy(tied, torch.tensor([1]), from_logits=True)) == 1


def test_against_torchmetrics_away_from_confidence_one():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.randn(2000, 6, generator=generator).softmax(1)
    labels = torch.randint(6, (2000,), generator=generator)
    for norm in ("l1", "l2", "max"):
        theirs = functional.multiclass_calibration_error(probabilities, labels, 6, n_bins=15, norm=norm)
        ours = expected_calibration_error(probabilities, labels, from_logits=False, norm=norm)
        assert float(ours) == pytest.approx(float(theirs), abs=1e-6)


def test_dense_scores_are_their_flattened_entries():
    generator = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(3, 4, 5, 6, generator=generator), torch.randint(4, (3, 5, 6), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
    logits.permute(0, 2, 3, 1)[labels == 255] = torch.nan
    counted = labels != 255
    for function in FUNCTIONS:
        dense = function(logits, labels, from_logits=True, ignore_index=255)
        flat = function(logits.permute(0, 2, 3, 1)[counted], labels[counted], from_logits=True)
        assert float(dense) == pytest.approx(float(flat), abs=1e-12)
        with pytest.raises(ValueError, match="NaN|nan"):
            function(logits, labels.where(counted, 0), from_logits=True)


def test_many_classes_in_blocks():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(9000, 1000, generator=generator)  # three blocks
    labels = torch.randint(1000, (9000,), generator=generator)
    per_class = classwise_calibration_error(logits, labels, from_logits=True, reduction="none")
    probabilities, index = logits.softmax(1)[:, 7].double(), labels == 7
    bins = [(probabilities > m / 15) & (probabilities <= (m + 1) / 15) for m in range(15)]
    expected = sum(float((index[b].double() - probabilities[b]).sum().abs()) for b in bins) / 9000
    assert per_class.shape == (1000,) and float(per_class[7]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"scores": torch.empty(0, 3), "labels": torch.empty(0, dtype=torch.int64)}, ValueError, "no entry counts"),
        ({"labels": torch.full((2,), -100)}, ValueError, "no entry counts"),
        ({"labels": torch.tensor([0, 3])}, ValueError, "labels: take 0 to 2"),
        ({"labels": torch.tensor([-1, 0])}, ValueError, "got -1 to 0"),
        ({"labels": torch.tensor([0.0, 1.0])}, TypeError, "labels: takes the integers"),
        ({"labels": torch.tensor([0, 1, 1])}, ValueError, r"labels: takes shape \(2,\)"),
        ({"scores": torch.full((2, 1), 1.0)}, ValueError, "K >= 2"),
        ({"scores": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "floating point"),
        ({"scores": torch.tensor([[0.5, torch.nan, 0.5]] * 2)}, ValueError, "nan in entry 0"),
        ({"scores": torch.tensor([[1.2, -0.2, 0.0]] * 2)}, ValueError, r"lie in \[0, 1\], got -0.2"),
        ({"scores": torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])}, ValueError, "sum to 1, got 2 in entry 1"),
        ({"scores": torch.full((2, 3), 5.0)}, ValueError, "from_logits=True takes logits"),
        ({"scores": torch.full((2, 3), torch.inf), "from_logits": True}, ValueError, "finite"),
        ({"from_logits": None}, TypeError, "from_logits: takes True"),
        ({"scores": [[0.5, 0.5]]}, TypeError, "scores: takes a tensor"),
    ],
)
def test_bad_input_is_named(change, kind, message):
    arguments = {"scores": torch.full((2, 3), 1 / 3), "labels": torch.tensor([0, 1]), "from_logits": False, **change}
    for function in FUNCTIONS:
        with pytest.raises(kind, match=message):
            function(**arguments)


def test_bad_options_are_named():
    scores, labels = torch.full((2, 3), 1 / 3), torch.tensor([0, 1])
    for function in FUNCTIONS:
        with pytest.raises(TypeError, match="from_logits"):
            function(scores, labels)
    for bins in (0, 1.5, True):
        with pytest.raises(ValueError, match="bins: takes a whole number"):
            expected_calibration_error(scores, labels, from_logits=False, bins=bins)
    with pytest.raises(ValueError, match="norm: takes one of l1, l2, max"):
        adaptive_calibration_error(scores, labels, from_logits=False, norm="l3")
    with pytest.raises(ValueError, match="reduction: takes one of mean, sum, none"):
        classwise_calibration_error(scores, labels, from_logits=False, reduction="max")


def metric_classes():
    return {
        "ece": (streaming.ExpectedCalibrationError(from_logits=True), expected_calibration_error, {}),
        "ece_max": (
            streaming.ExpectedCalibrationError(from_logits=True, bins=7, norm="max"),
            expected_calibration_error,
            {"bins": 7, "norm": "max"},
        ),
        "aece": (streaming.AdaptiveCalibrationError(from_logits=True), adaptive_calibration_error, {}),
        "cwce": (
            streaming.ClasswiseCalibrationError(5, from_logits=True, reduction="none"),
            classwise_calibration_error,
            {"reduction": "none"},
        ),
        "brier": (streaming.BrierScore(from_logits=True), brier_score, {}),
        "nll": (streaming.NegativeLogLikelihood(from_logits=True), negative_log_likelihood, {}),
        "accuracy": (streaming.Accuracy(from_logits=True), accuracy, {}),
        "miou": (streaming.MeanIoU(5, from_logits=True), mean_iou, {}),
    }


def data(count=500):
    generator = torch.Generator().manual_seed(4)
    logits, labels = torch.randn(count, 5, generator=generator) * 2, torch.randint(5, (count,), generator=generator)
    labels[::9] = -100
    return logits, labels


@pytest.mark.parametrize("name", metric_classes())
def test_streaming_equals_the_function(name):
    metric, function, options = metric_classes()[name]
    logits, labels = data()
    expected = function(logits, labels, from_logits=True, **options)
    metric.update(logits, labels)
    assert torch.equal(metric.compute(), expected)  # one batch: the same sums
    metric.reset()
    for part in torch.arange(500).split([1, 0, 200, 7, 292]):
        metric(logits[part], labels[part])  # forward: update, and the value of the batch
    assert torch.allclose(metric.compute(), expected, atol=1e-12, rtol=0)
    assert all(value.shape[-1:] != (500,) for value in metric.metric_state.values() if isinstance(value, torch.Tensor))


def test_streaming_without_entries_is_nan_and_classes_are_checked():
    for name, (metric, _, _) in metric_classes().items():
        metric.update(torch.zeros(2, 5), torch.tensor([-100, -100]))
        assert metric.compute().isnan().all(), name
    with pytest.raises(ValueError, match=r"takes \(batch, 5"):
        streaming.MeanIoU(5, from_logits=True).update(torch.zeros(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="num_classes"):
        streaming.ClasswiseCalibrationError(1, from_logits=True)
    with pytest.raises(TypeError, match="from_logits"):
        streaming.BrierScore(from_logits=1)


def test_adaptive_error_before_any_batch():
    metric = streaming.AdaptiveCalibrationError(from_logits=True)
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().isnan()


def test_without_torchmetrics_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, streaming.__name__)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MissingExtra, match=r"pip install 'constropt\[metrics\]'"):
        importlib.import_module(streaming.__name__)


def test_in_a_collection_equal_states_are_not_mixed_up():
    metrics = torchmetrics.MetricCollection({name: metric for name, (metric, _, _) in metric_classes().items()})
    certain = torch.tensor([[200.0, 0, 0, 0, 0]]).double()  # Brier score and NLL both are exactly 0
    metrics.update(certain, torch.tensor([0]))
    logits, labels = data()
    metrics.update(logits.double(), labels)
    found = metrics.compute()
    both = torch.cat([certain, logits.double()]), torch.cat([torch.tensor([0]), labels])
    for name, (_, function, options) in metric_classes().items():
        assert torch.allclose(found[name], function(*both, from_logits=True, **options), atol=1e-12), name


def test_states_are_called_differently():
    names = [name for metric, _, _ in metric_classes().values() for name in metric.metric_state]
    assert {"brier_total", "log_total", "hit_total"} <= set(names)
    assert len(set(names)) == len(names) - 1  # the two of one class share theirs


def rank(number: int, folder: str) -> None:
    """One of two processes: shards of unequal size, and once a shard of nothing."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=number, world_size=2)
    logits, labels = data()
    shard = slice(0, 137) if number == 0 else slice(137, 500)
    found = {}
    for name, (metric, _, _) in metric_classes().items():
        metric.update(logits[shard], labels[shard])
        found[name] = metric.compute()
    lonely = streaming.AdaptiveCalibrationError(from_logits=True)
    lonely.update(logits if number else logits[:0], labels if number else labels[:0])
    found["lonely"] = lonely.compute()
    torch.save(found, f"{folder}/{number}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow  # each process imports torchmetrics
def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.spawn(rank, args=(str(tmp_path),), nprocs=2)
    logits, labels = data()
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        for name, (_, function, options) in metric_classes().items():
            expected = function(logits, labels, from_logits=True, **options)
            assert torch.allclose(found[name], expected, atol=1e-9, rtol=0), name
        assert torch.equal(found["lonely"], adaptive_calibration_error(logits, labels, from_logits=True))


def test_gaussian_noise_is_imagenet_c():
    images = torch.full((4, 3, 64, 64), 0.5)
    state = torch.get_rng_state()
    for severity, scale in GAUSSIAN_NOISE.items():
        noisy = gaussian_noise(images, severity)
        assert float(noisy.min()) >= 0 and float(noisy.max()) <= 1
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(noisy, (images + scale * noise).clamp(0, 1))
    assert list(GAUSSIAN_NOISE.values()) == [0.08, 0.12, 0.18, 0.26, 0.38]
    assert torch.equal(torch.get_rng_state(), state) and gaussian_noise(images, 0) is images
    assert not torch.equal(gaussian_noise(images, 3, seed=1), gaussian_noise(images, 3))
    with pytest.raises(ValueError, match="severity: takes 0"):
        gaussian_noise(images, 6)
    with pytest.raises(ValueError, match="inputs: takes"):
        gaussian_noise(3 * images, 1)


def test_calibration_under_noise_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4), torch.nn.Dropout(), torch.nn.BatchNorm1d(4))
    images, labels = torch.rand(70, 1, 8, 8), torch.randint(4, (70,))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    errors = calibration_under_noise(model, images, labels, batch_size=32, bins=10)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.allclose(errors, calibration_under_noise(model, images, labels, batch_size=7, bins=10), atol=1e-6)
    model.eval()
    with torch.no_grad():
        logits = [model(gaussian_noise(images, severity)) for severity in (0, 5)]
    for severity, value in zip((0, 5), logits):
        expected = expected_calibration_error(value, labels, from_logits=True, bins=10)
        assert float(errors[severity]) == pytest.approx(float(expected), abs=1e-6)
    nll = calibration_under_noise(model, images, labels, severities=[5], metric=negative_log_likelihood)
    assert float(nll) == pytest.approx(float(negative_log_likelihood(logits[1], labels, from_logits=True)), rel=1e-6)
    with pytest.raises(ValueError, match="batch_size"):
        calibration_under_noise(model, images, labels, batch_size=0)
