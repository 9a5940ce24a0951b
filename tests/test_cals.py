"""MbLS, CALS-ALM and CALS-HR against their formulas and algorithms written out in plain Python."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from constropt.penalties import get
from constropt.problems.calibration.margin import CALS, CALSHR, MbLS, logit_distance


def draw(*shape: int, seed: int = 0, scale: float = 6.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def labels_of(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000), st.integers(2, 6), st.floats(0.5, 12))
@settings(max_examples=30, deadline=None)
def test_the_losses_are_their_formulas(seed, classes, margin):
    logits, labels = draw(7, classes, seed=seed), labels_of(7, classes, seed)
    entropy = functional.cross_entropy(logits, labels)
    d = logits.amax(1, keepdim=True) - logits
    torch.testing.assert_close(logit_distance(logits), d)
    hinge = (d - margin).clamp_min(0)
    torch.testing.assert_close(MbLS(classes, margin)(logits, labels), entropy + 0.1 * hinge.sum(1).mean())
    torch.testing.assert_close(MbLS(classes, margin, preset="official")(logits, labels), entropy + 0.1 * hinge.mean())
    relative = (d / margin - 1).clamp_min(0)
    torch.testing.assert_close(CALSHR(classes, margin)(logits, labels), entropy + 0.1 * relative.mean())
    torch.testing.assert_close(CALSHR(classes, margin, preset="official")(logits, labels), entropy + 0.1 * hinge.mean())
    for penalty in ("PHR", "P2", "P3"):
        expected = entropy + get(penalty)(d / margin - 1, 1.5, 0.3).mean()
        torch.testing.assert_close(CALS(classes, margin, penalty=penalty, mu=0.3, rho=1.5)(logits, labels), expected)


def held_out(epoch: int) -> torch.Tensor:
    """Logits whose spread changes from epoch to epoch, not in one direction."""
    return draw(40, 3, seed=epoch) * torch.tensor([1.0, 0.6, 1.4]) * (1 + (epoch * 7 % 5) / 3)


def cals_by_hand(epochs: int, official: bool) -> list[tuple[list[float], list[float]]]:
    """Alg. 6.2, with rho looked at every 10th epoch, number by number."""
    margin, gamma, tau, every = 4.0, 1.2, 0.9, 10
    mu, rho, previous, seen = [1e-6] * 3, [1.0] * 3, None, []
    for epoch in range(epochs):
        rows = held_out(epoch).tolist()
        mean = []
        for k in range(3):
            y = [(max(row) - row[k]) / margin - 1 for row in rows]
            mean.append(sum(y) / len(y))
            mu[k] = min(max(sum(max(0.0, mu[k] + rho[k] * v) for v in y) / len(y), 1e-6), 1e6)
        checks = (epoch + 1) % every == 0
        if checks and previous is not None:
            for k in range(3):
                if mean[k] > tau * max(0.0, previous[k]):
                    rho[k] = min(rho[k] * gamma, 10.0 if official else 1e12)
        if previous is None or checks or official:
            previous = mean
        seen.append((list(mu), list(rho)))
    return seen


@pytest.mark.parametrize("preset", ["text", "official"])
def test_cals_follows_its_algorithm(preset):
    criterion = CALS(3, margin=4.0, preset=preset)
    expected = cals_by_hand(120, preset == "official")
    for epoch in range(120):
        labels = torch.zeros(40, dtype=torch.int64)
        criterion.update_duals(nn.Identity(), [(held_out(epoch), labels)])
        mu, rho = expected[epoch]
        torch.testing.assert_close(criterion.multipliers, torch.tensor(mu), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(criterion.rho, torch.tensor(rho), rtol=1e-5, atol=0)
    assert criterion.rho.max() > 1


def test_the_official_rho_stops_at_ten():
    schedules = {preset: CALS(2, margin=1.0, gamma=3.0, rho_every=1, preset=preset) for preset in ("text", "official")}
    for criterion in schedules.values():
        for epoch in range(6):
            logits = torch.tensor([[0.0, 5.0 + 5 * epoch]])
            criterion.update_duals(nn.Identity(), [(logits, torch.zeros(1, dtype=torch.int64))])
    assert schedules["official"].rho[0] == 10 and schedules["text"].rho[0] == 3**5
    assert CALS(2, preset="official", rho_max=20.0).lagrangian.schedule.maximum == 20


@pytest.mark.parametrize("weighted", [False, True])
def test_cals_hr_follows_its_rule(weighted):
    criterion = CALSHR(3, margin=4.0, weighted=weighted)
    mu, previous = [0.1] * 3, None
    for epoch in range(30):
        logits = held_out(epoch)
        criterion.update_duals(nn.Identity(), [(logits, torch.zeros(40, dtype=torch.int64))])
        hinge = (logit_distance(logits) / 4 - 1).clamp_min(0).mean(0).tolist()
        P = [m * h for m, h in zip(mu, hinge)] if weighted else hinge
        if previous is not None:
            mu = [m * 1.1 if p > 1.1 * q else m / 1.1 if q > 1.1 * p else m for m, p, q in zip(mu, P, previous)]
        previous = P
        torch.testing.assert_close(criterion.multipliers, torch.tensor(mu), rtol=1e-4, atol=0)
    assert criterion.multipliers.unique().numel() == 3


def test_mbls_has_no_duals_to_update():
    criterion = MbLS(3, margin=1.0, weight=0.2)
    criterion.update_duals(nn.Identity(), [(draw(5, 3), labels_of(5, 3))])
    assert (criterion.multipliers == torch.tensor(0.2)).all()


@pytest.mark.parametrize("make", [MbLS, CALS, CALSHR])
def test_dense_predictions_are_their_pixels(make):
    logits, labels = draw(2, 3, 4, 5), labels_of(40, 3).view(2, 4, 5)
    labels[0, 0] = 255
    flat, flat_labels = logits.movedim(1, -1).reshape(-1, 3), labels.flatten()
    kept = flat_labels != 255
    dense, rows = make(3, margin=2.0, ignore_index=255), make(3, margin=2.0)
    torch.testing.assert_close(dense(logits, labels), rows(flat[kept], flat_labels[kept]))
    dense.update_duals(nn.Identity(), [(logits, labels)])
    rows.update_duals(nn.Identity(), [(flat[kept], flat_labels[kept])])
    torch.testing.assert_close(dense.multipliers, rows.multipliers)


def test_gradients_are_those_of_autograd():
    logits, labels = draw(4, 3).requires_grad_(), labels_of(4, 3)
    criterion = CALS(3, margin=2.0, mu=0.5, penalty="P3")
    assert torch.autograd.gradcheck(lambda z: criterion(z, labels), logits)


@pytest.mark.parametrize("make", [MbLS, CALS, CALSHR])
def test_extreme_and_half_logits(make):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        logits = torch.tensor([[3e4, 0.0, -3e4]], dtype=dtype, requires_grad=True)
        loss = make(3)(logits, torch.tensor([1]))
        loss.backward()
        assert loss.isfinite() and logits.grad.isfinite().all(), dtype


def test_copies_pickles_and_checkpoints():
    criterion = CALS(3, margin=2.0, rho_every=1)
    batch = (draw(9, 3), labels_of(9, 3))
    for _ in range(3):
        criterion.update_duals(nn.Identity(), [batch])
    resumed = CALS(3, margin=2.0, rho_every=1)
    resumed.load_state_dict(criterion.state_dict())
    twins = [copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion)), resumed]
    for twin in [*twins, criterion]:
        twin.update_duals(nn.Identity(), [batch])
    for twin in twins:
        assert torch.equal(twin.multipliers, criterion.multipliers) and torch.equal(twin.rho, criterion.rho)
    assert criterion.multipliers.shape == criterion.rho.shape == (3,)


def test_compiles_without_a_break():
    criterion = CALS(3, margin=2.0)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    logits, labels = draw(6, 3), labels_of(6, 3)
    torch.testing.assert_close(compiled(logits, labels), criterion(logits, labels))
    torch._dynamo.reset()


def test_a_class_that_is_absent_from_the_labels_still_has_its_constraint():
    """The margin is on every logit, whoever is the label: nothing divides by the number of samples of a class."""
    criterion = CALS(3, margin=2.0)
    criterion.update_duals(nn.Identity(), [(draw(9, 3), torch.zeros(9, dtype=torch.int64))])
    assert criterion.multipliers.isfinite().all() and (criterion.multipliers > 1e-3).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"margin: must be > 0.*got 0"):
        CALS(3, margin=0)
    with pytest.raises(ValueError, match="num_classes: takes a whole number >= 2"):
        MbLS(1)
    with pytest.raises(ValueError, match="preset: takes one of text, official, got 'paper'"):
        CALSHR(3, preset="paper")
    with pytest.raises(ValueError, match="factor: must be > 1"):
        CALSHR(3, factor=1.0)
    with pytest.raises(ValueError, match="weight: takes a number > 0"):
        MbLS(3, weight=-1)
    with pytest.raises(ValueError, match=r"labels: takes classes from 0 to 2 or ignore_index, -100, got \[-1, 3\]"):
        CALS(3)(draw(3, 3), torch.tensor([0, 3, -1]))
    with pytest.raises(ValueError, match=r"num_classes = 4, got \(3, 3\)"):
        CALS(4)(draw(3, 3), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="validation loader is empty"):
        CALS(3).update_duals(nn.Identity(), [])
    with pytest.raises(ValueError, match="labels: takes classes from 0 to 2"):
        CALS(3).update_duals(nn.Identity(), [(draw(1, 3), torch.tensor([7]))])


def test_nan_logits_in_a_dual_pass_are_refused():
    criterion = CALS(3, margin=2.0)
    good = (draw(4, 3), labels_of(4, 3))
    bad = (good[0] * torch.nan, good[1])
    with pytest.raises(ValueError, match=r"batch 2 \(counted from 0\)"):
        criterion.update_duals(nn.Identity(), [good, good, bad])
    assert (criterion.multipliers == 1e-6).all() and (criterion.rho == 1).all()
