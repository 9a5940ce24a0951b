"""Calibration losses against formulas written out in float64, and what all of them promise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from constropt.problems.calibration.entrywise import ECP, FLSD, FocalLoss, LabelSmoothing
from constropt.problems.calibration.pairwise import CPC, MMCE, laplacian_form

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "label smoothing": LabelSmoothing,
    "label smoothing as torch": lambda **more: LabelSmoothing(0.1, "torch", **more),
    "entropy": ECP,
    "focal": FocalLoss,
    "focal 0.5": lambda **more: FocalLoss(0.5, **more),
    "focal 0": lambda **more: FocalLoss(0.0, **more),
    "flsd": FLSD,
    "mmce": MMCE,
    "mmce root": lambda **more: MMCE(form="kumar", **more),
    "mmce weighted": lambda **more: MMCE(weighted=True, **more),
    "mmce weighted root": lambda **more: MMCE(form="kumar", weighted=True, **more),
    "cpc": CPC,
}
ALL = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES.keys())


def problem(batch: int = 12, classes: int = 5, *dims: int, seed: int = 0, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *dims, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(classes, (batch, *dims), generator=generator)


# The definitions, one sample, class and pair at a time.


def smoothed(z: list[float], y: int, alpha: float, convention: str) -> float:
    s, k = softmax(z), len(z)
    if convention == "thesis":
        target = [1 - alpha if j == y else alpha / (k - 1) for j in range(k)]
    else:
        target = [(1 - alpha) * (j == y) + alpha / k for j in range(k)]
    return -sum(t * math.log(p) for t, p in zip(target, s))


def softmax(z: list[float]) -> list[float]:
    powers = [math.exp(v - max(z)) for v in z]
    return [p / sum(powers) for p in powers]


def focal(z: list[float], y: int, gamma: float | None) -> float:
    p = softmax(z)[y]
    gamma = (5.0 if p < 0.2 else 3.0) if gamma is None else gamma
    return -((1 - p) ** gamma) * math.log(p)


def penalized(z: list[float], y: int, weight: float) -> float:
    s = softmax(z)
    return -math.log(s[y]) - weight * -sum(p * math.log(p) for p in s)


def pairwise(z: list[float], y: int, discrimination: float, exclusion: float) -> float:
    s = softmax(z)
    others = [j for j in range(len(z)) if j != y]
    first = [-math.log(s[y] / (s[y] + s[j])) for j in others]
    second = [
        -(math.log(s[i] / (s[i] + s[j])) + math.log(s[j] / (s[i] + s[j]))) / 2 for i in others for j in others if i < j
    ]
    return (
        -math.log(s[y])
        + discrimination * sum(first) / len(first)
        + exclusion * (sum(second) / len(second) if second else 0.0)
    )


def calibration_error(logits: Tensor, labels: Tensor, *, weighted: bool = False, width: float = 0.4) -> float:
    r, predicted = logits.softmax(1).max(1)
    c = (predicted == labels).double().tolist()
    size = [c.count(v) if weighted else len(c) for v in c]
    r = r.tolist()
    return sum(
        (c[i] - r[i]) / size[i] * (c[j] - r[j]) / size[j] * math.exp(-abs(r[i] - r[j]) / width)
        for i in range(len(c))
        for j in range(len(c))
    )


ENTRYWISE = {
    "smoothing": (LabelSmoothing(), lambda z, y: smoothed(z, y, 0.05, "thesis")),
    "smoothing 0.3": (LabelSmoothing(0.3), lambda z, y: smoothed(z, y, 0.3, "thesis")),
    "torch": (LabelSmoothing(0.3, "torch"), lambda z, y: smoothed(z, y, 0.3, "torch")),
    "entropy": (ECP(), lambda z, y: penalized(z, y, 0.1)),
    "entropy 0.7": (ECP(0.7), lambda z, y: penalized(z, y, 0.7)),
    "focal": (FocalLoss(), lambda z, y: focal(z, y, 3.0)),
    "focal 0.5": (FocalLoss(0.5), lambda z, y: focal(z, y, 0.5)),
    "flsd": (FLSD(), lambda z, y: focal(z, y, None)),
    "cpc": (CPC(), lambda z, y: pairwise(z, y, 10.0, 1.0)),
    "cpc 0.5, 2": (CPC(0.5, 2.0), lambda z, y: pairwise(z, y, 0.5, 2.0)),
}


@pytest.mark.parametrize(("loss", "definition"), ENTRYWISE.values(), ids=ENTRYWISE.keys())
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_definition(loss, definition, classes):
    logits, labels = problem(9, classes, seed=classes)
    expected = [definition(z, y) for z, y in zip(logits.tolist(), labels.tolist())]
    assert loss(logits, labels).item() == pytest.approx(sum(expected) / len(expected), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_definition_of_mmce(weighted):
    logits, labels = problem(17, 4)
    expected = calibration_error(logits, labels, weighted=weighted)
    cross_entropy = functional.cross_entropy(logits, labels)
    assert (MMCE(1.0, weighted=weighted)(logits, labels) - cross_entropy).item() == pytest.approx(expected, rel=1e-10)
    root = MMCE(1.0, "kumar", weighted=weighted)(logits, labels) - cross_entropy
    assert root.item() == pytest.approx(math.sqrt(expected), rel=1e-10)
    narrow = MMCE(0.1, weighted=weighted, width=0.05)(logits, labels) - cross_entropy
    expected = calibration_error(logits, labels, weighted=weighted, width=0.05)
    assert narrow.item() == pytest.approx(0.1 * expected, rel=1e-9)


def test_mmce_where_one_kind_is_absent():
    logits, _ = problem(8, 4)
    for labels in (logits.argmax(1), logits.argmin(1)):
        for form in ("thesis", "kumar"):
            plain, weighted = (MMCE(1.0, form, weighted=flag)(logits, labels).item() for flag in (False, True))
            assert weighted == pytest.approx(plain, rel=1e-12)  # the number of the other kind is all


def test_mmce_of_a_calibrated_batch_is_zero_and_so_is_its_slope():
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)  # confidence one half, one of two correct
    labels = torch.tensor([0, 1])
    for form in ("thesis", "kumar"):
        error = MMCE(1.0, form)(logits, labels) - functional.cross_entropy(logits, labels)
        assert error.item() == 0
        (slope,) = torch.autograd.grad(error, logits)
        assert (slope == 0).all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.3000001, 0.9, 1.0]), min_size=1, max_size=12), st.integers(0, 99))
def test_the_sorted_sum_is_the_sum_over_pairs(places, seed):
    positions = torch.tensor(places, dtype=torch.float64, requires_grad=True)
    values = torch.randn(len(places), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values.requires_grad_()
    kernel = (-(positions[:, None] - positions).abs() / 0.4).exp()
    expected = values @ kernel @ values
    found = laplacian_form(values, positions, 0.4)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(found, (values, positions)), torch.autograd.grad(expected, (values, positions))
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_mmce_of_a_large_batch_keeps_its_digits():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3000, 3, generator=generator)
    labels = torch.randint(3, (3000,), generator=generator)
    r, predicted = logits.softmax(1).max(1)
    errors = (predicted == labels).double() - r.double()
    expected = errors @ (-(r[:, None] - r).double().abs() / 0.4).exp() @ errors / 3000**2
    found = MMCE(1.0)(logits, labels) - functional.cross_entropy(logits, labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)  # float32 around a loss of 1.4
    dense = MMCE()(torch.randn(2, 3, 200, 200), torch.zeros(2, 200, 200, dtype=torch.int64))  # 6e9 pairs
    assert dense.isfinite()


@ALL
def test_gradients(make):
    logits, labels = problem(7, 5)
    labels[2] = -100
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: make()(z, labels), (logits,))


@ALL
def test_second_derivatives(make):
    logits, labels = problem(5, 4, seed=3)
    logits.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: make()(z, labels), (logits,))


def test_label_smoothing_as_torch():
    logits, labels = problem(10, 6, 3)
    labels[0, 0] = labels[4, 2] = 255
    for alpha in (0.0, 0.05, 0.5):
        expected = functional.cross_entropy(logits, labels, label_smoothing=alpha, ignore_index=255)
        assert LabelSmoothing(alpha, "torch", ignore_index=255)(logits, labels).item() == pytest.approx(expected.item())
        thesis = LabelSmoothing(alpha * 5 / 6, ignore_index=255)(logits, labels)  # torch's label keeps alpha / K
        assert thesis.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_best_logits_under_label_smoothing():
    """Eq. 1.20: at ``log((K - 1)(1 - xi) / xi)`` above the others the slope is 0."""
    logits = torch.zeros(1, 7, dtype=torch.float64)
    logits[0, 3] = math.log(6 * 0.95 / 0.05)
    logits.requires_grad_()
    LabelSmoothing(0.05)(logits, torch.tensor([3])).backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-15


@pytest.mark.parametrize("loss", [LabelSmoothing(0), ECP(0), FocalLoss(0), FLSD(0, 0), MMCE(0), CPC(0, 0)], ids=str)
def test_without_weight_it_is_cross_entropy(loss):
    logits, labels = problem(10, 6, 3)
    expected = functional.cross_entropy(logits, labels)
    assert loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-12)


def test_flsd_chooses_by_the_probability_of_the_label():
    probabilities = torch.tensor([0.1, 0.19999, 0.20001, 0.9], dtype=torch.float64)
    logits = torch.stack([probabilities.log(), (1 - probabilities).log()], 1)
    for row, gamma in zip(logits.split(1), (5.0, 5.0, 3.0, 3.0)):
        expected = FocalLoss(gamma)(row, torch.tensor([0])).item()
        assert FLSD()(row, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-12)


@ALL
def test_ignored_entries_are_as_dropped(make):
    logits, labels = problem(12, 5)
    keep = torch.tensor([True, False, True, True, False, True, True, True, False, True, True, True])
    for ignore_index in (-100, 255, 0):
        chosen = labels.clamp_min(1) if ignore_index == 0 else labels
        ignored = chosen.where(keep, ignore_index)
        loss = make(ignore_index=ignore_index)
        found, expected = logits.clone().requires_grad_(), logits[keep].requires_grad_()
        loss(found, ignored).backward()
        loss(expected, chosen[keep]).backward()
        torch.testing.assert_close(loss(found, ignored), loss(expected, chosen[keep]))
        assert found.grad is not None and expected.grad is not None
        torch.testing.assert_close(found.grad[keep], expected.grad)
        assert (found.grad[~keep] == 0).all()


@ALL
def test_nan_and_infinity_in_ignored_entries_stay_there(make):
    logits, labels = problem(6, 4)
    logits[1], logits[4] = math.nan, math.inf
    labels[1] = labels[4] = -100
    logits.requires_grad_()
    loss = make()(logits, labels)
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


@ALL
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (2, 4, 3, 3)])
def test_nothing_to_count_is_a_differentiable_zero(make, shape):
    logits = torch.randn(shape, requires_grad=True)
    loss = make()(logits, torch.full((shape[0], *shape[2:]), -100))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and (logits.grad == 0).all()


@ALL
def test_label_maps_are_as_flattened(make):
    logits, labels = problem(2, 5, 3, 4)
    labels[0, 1, 2] = -100
    dense, flat = logits.clone().requires_grad_(), logits.movedim(1, -1).reshape(-1, 5).clone().requires_grad_()
    loss, expected = make()(dense, labels), make()(flat, labels.flatten())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    assert dense.grad is not None and flat.grad is not None
    torch.testing.assert_close(dense.grad.movedim(1, -1).reshape(-1, 5), flat.grad)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("size", [20.0, 1e4])
def test_extreme_logits(make, dtype, size):
    logits = size * torch.tensor([[1, 0, -1], [1, 0, -1], [1, 0, -1], [1, 1, -1], [0, 0, 0.0]], dtype=dtype)
    labels = torch.tensor([0, 1, 2, 0, 1])
    for rows in (slice(None), slice(0, 1), slice(2, 3), slice(4, 5)):
        z = logits[rows].clone().requires_grad_()
        loss = make()(z, labels[rows])
        loss.backward()
        assert loss.isfinite() and z.grad is not None and z.grad.isfinite().all()


def test_a_class_ruled_out():
    """Minus infinity as a logit, as masked classes have."""
    logits = torch.tensor([[1.0, 0.5, -math.inf]], requires_grad=True)
    two = torch.tensor([[1.0, 0.5]])
    labels = torch.tensor([0])
    for loss in (ECP(), FocalLoss(), FLSD(), MMCE()):
        (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
        assert gradient.isfinite().all() and gradient[0, 2] == 0
        assert loss(logits, labels).item() == pytest.approx(loss(two, labels).item())


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 3.0])
def test_the_focal_slope_vanishes_at_certainty(gamma):
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)  # s_y is 1 in float32
    FocalLoss(gamma)(logits, torch.tensor([0])).backward()
    assert logits.grad is not None and (logits.grad == 0).all()
    nearly = torch.tensor([[14.0, 0.0]], requires_grad=True)  # 1 - s_y = 8e-7: 14 steps from 1 in float32
    FocalLoss(gamma)(nearly, torch.tensor([0])).backward()
    exact = torch.tensor([[14.0, 0.0]], dtype=torch.float64, requires_grad=True)
    FocalLoss(gamma)(exact, torch.tensor([0])).backward()
    assert nearly.grad is not None and exact.grad is not None
    torch.testing.assert_close(nearly.grad.double(), exact.grad, rtol=0.1, atol=0)


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(make, dtype):
    logits, labels = problem(12, 5, dtype=dtype)
    expected = make()(logits.float(), labels)
    z = logits.clone().requires_grad_()
    loss = make()(z, labels)
    assert loss.dtype == torch.float32 and loss.item() == expected.item()
    loss.backward()
    assert z.grad is not None and z.grad.dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert make()(logits, labels).item() == expected.item()
        assert make()(logits.double(), labels).dtype == torch.float64


@ALL
def test_inputs_are_left_as_they_were(make):
    logits, labels = problem(6, 4)
    labels[0] = -100
    before = logits.clone(), labels.clone()
    make()(logits, labels)
    assert (logits == before[0]).all() and (labels == before[1]).all()


@ALL
def test_modules_copy_and_print(make):
    loss = make(ignore_index=7)
    assert not list(loss.parameters()) and not loss.state_dict()
    logits, labels = problem(6, 4)
    labels[0] = 7
    assert copy.deepcopy(loss)(logits, labels) == loss(logits, labels)
    assert "=" in repr(loss)


def test_cpc_in_parts():
    """Blocks of classes and of rows, against all pairs at once."""
    logits, labels = problem(1200, 1100, seed=1, dtype=torch.float32)
    logits, labels = logits[:3].requires_grad_(), labels[:3]
    loss = CPC(0, 1)(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    wide = logits.detach().double().requires_grad_()
    others = torch.ones_like(wide, dtype=torch.bool).scatter_(1, labels[:, None], False)
    rest = wide[others].view(3, -1)
    difference = rest[:, :, None] - rest[:, None, :]
    upper = torch.ones(1099, 1099, dtype=torch.bool).triu(1)
    pairs = (functional.softplus(difference) + functional.softplus(-difference))[:, upper].mean() / 2
    expected = functional.cross_entropy(wide, labels) + pairs
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (slope,) = torch.autograd.grad(expected, wide)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-8)


def test_cpc_of_many_rows(monkeypatch):
    from constropt.problems.calibration import pairwise as module

    logits, labels = problem(23, 6)
    logits.requires_grad_()
    whole = torch.autograd.grad(CPC()(logits, labels), logits)[0]
    monkeypatch.setattr(module, "_BLOCK", 17)  # blocks of 3 rows and one class
    torch.testing.assert_close(torch.autograd.grad(CPC()(logits, labels), logits)[0], whole)
    monkeypatch.setattr(module, "_BLOCK", 1)
    torch.testing.assert_close(torch.autograd.grad(CPC()(logits, labels), logits)[0], whole)
    with torch.no_grad():
        assert CPC()(logits, labels).isfinite()


def test_memory_of_cpc_at_a_thousand_classes():
    """All pairs of (128, 1000) would be 512 MB in float32, several times over."""
    logits = torch.randn(128, 1000, requires_grad=True)
    labels = torch.zeros(128, dtype=torch.int64)
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                sizes.append(out.numel() * out.element_size())
            return out

    with Watch():
        CPC()(logits, labels).backward()
    assert 0 < max(sizes) <= 4 * 2**20


@ALL
def test_bad_labels_and_logits(make):
    loss = make()
    logits, labels = problem(4, 3)
    for wrong, message in (
        (torch.tensor([0, 1, 3, 7]), r"classes from 0 to 2 or ignore_index, -100, got \[3, 7\] in 2 of 4"),
        (torch.tensor([0, -1, 2, 2]), r"got \[-1\]"),
        (labels[:3], r"\(4, 3\) and \(3,\)"),
        (labels[:, None], r"\(4, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(logits, wrong)
    with pytest.raises(TypeError, match="labels: .*int64, got torch.int32"):
        loss(logits, labels.int())
    with pytest.raises(TypeError, match="logits: .*floating point"):
        loss(logits.long(), labels)
    with pytest.raises(ValueError, match="at least 2 classes"):
        loss(logits[:, :1], labels.clamp_max(0))
    with pytest.raises(ValueError, match="logits and labels"):
        loss(logits[:, 0], labels)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: LabelSmoothing(1.0), "alpha"),
        (lambda: LabelSmoothing(-0.1), "alpha"),
        (lambda: LabelSmoothing(math.nan), "alpha"),
        (lambda: LabelSmoothing(0.1, "other"), "convention: takes one of thesis, torch"),
        (lambda: ECP(-1), "weight"),
        (lambda: ECP(True), "weight"),
        (lambda: FocalLoss(-1.0), "gamma"),
        (lambda: FocalLoss(math.inf), "gamma"),
        (lambda: FLSD(threshold=1.0), "threshold"),
        (lambda: FLSD(low=-1.0), "low"),
        (lambda: MMCE(-1.0), "weight"),
        (lambda: MMCE(width=0.0), "width"),
        (lambda: MMCE(form="root"), "form: takes one of thesis, kumar"),
        (lambda: CPC(-1.0), "discrimination"),
        (lambda: CPC(exclusion=-1.0), "exclusion"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        make()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@ALL
def test_on_a_gpu(make):
    logits, labels = problem(3, 5, 4, 4, dtype=torch.float32)
    labels[0, 0] = -100
    here = logits.requires_grad_()
    there, labels_there = logits.detach().cuda().requires_grad_(), labels.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = make()(there, labels_there)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = make()(here, labels)
    expected.backward()
    torch.testing.assert_close(loss.cpu(), expected)
    assert here.grad is not None and there.grad is not None
    torch.testing.assert_close(there.grad.cpu(), here.grad)
    with torch.autocast("cuda", dtype=torch.float16):
        assert make()(there.half(), labels_there).dtype == torch.float32
