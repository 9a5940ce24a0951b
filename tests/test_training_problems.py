"""Neyman-Pearson, equal rates and region sizes: known optima on linear models, real data end to end, bad input."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from constropt.penalties import get
from constropt.problems.objectives import (
    DemographicParity,
    EqualOpportunity,
    NeymanPearson,
    RegionSize,
    binary_scores,
    size_bounds,
    straight_through,
)
from constropt.training import TRAINING, ConstrainedLoss
from constropt.training.loss import predict_pair


def fit(
    model: nn.Module, criterion: ConstrainedLoss, train, held_out, *, epochs: int, steps: int = 20, lr: float = 0.05
):
    """Full-batch Adam on ``train``, a dual update on ``held_out`` after every ``steps``."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for _ in range(steps):
            optimizer.zero_grad()
            criterion(model(train[0]), train[1]).backward()
            optimizer.step()
        criterion.update_duals(model, [held_out])
    return model


def identity(x: Tensor) -> Tensor:
    return x


def rate(decisions: Tensor, where: Tensor) -> float:
    return decisions[where].double().mean().item()


# ------------------------------------------------------------------------------------------------ what they share


def test_scores_of_one_and_of_two_columns_agree():
    score = torch.tensor([-1.0, 0.5])
    logits = torch.stack([torch.ones(2), 1 + score], 1)
    for output in (score, score[:, None], logits):
        torch.testing.assert_close(binary_scores(output), score)
    assert binary_scores(score.half()).dtype == torch.float32 and binary_scores(score.double()).dtype == torch.float64


def test_straight_through_has_one_value_and_the_other_gradient():
    x = torch.tensor([0.3, -2.0], requires_grad=True)
    y = straight_through(x.sign(), x.square())
    assert torch.equal(y.detach(), x.detach().sign())
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], 2 * x.detach())


# -------------------------------------------------------------------------------------------------- Neyman-Pearson


def gaussians(count: int, distance: float) -> tuple[Tensor, Tensor]:
    """Quantiles of N(0, 1), the negatives, and of N(distance, 1): scores without sampling noise."""
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(count) + 0.5) / count)
    return torch.cat([quantiles, quantiles + distance])[:, None], torch.arange(2 * count) // count


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_optimum_of_two_gaussians_is_the_lemma_of_neyman_and_pearson(alpha):
    normal, distance = torch.distributions.Normal(0.0, 1.0), 2.0
    data = gaussians(1000, distance)
    torch.manual_seed(0)
    model, criterion = nn.Linear(1, 1), NeymanPearson(alpha)
    fit(model, criterion, data, data, epochs=30, lr=0.1)
    alarm = model(data[0]).squeeze(1) > 0
    threshold = normal.icdf(torch.tensor(1 - alpha))
    assert rate(alarm, data[1] == 0) == pytest.approx(alpha, rel=0.03)
    assert 1 - rate(alarm, data[1] == 1) == pytest.approx(normal.cdf(threshold - distance).item(), abs=0.01)
    ratio = (normal.log_prob(threshold - distance) - normal.log_prob(threshold)).exp().item()
    assert criterion.weight().item() == pytest.approx(ratio, rel=0.15)  # rates move in steps of 1/1000
    slope, bias = model.weight.item(), model.bias.item()  # the log-likelihood ratio minus log(weight)
    assert slope == pytest.approx(distance, rel=0.1)
    assert bias == pytest.approx(-(distance**2) / 2 - torch.tensor(ratio).log().item(), abs=0.2)


def test_without_overlap_the_multiplier_vanishes():
    x = torch.cat([torch.linspace(-3, -1, 50), torch.linspace(1, 3, 50)])[:, None]
    data = (x, torch.arange(100) // 50)
    torch.manual_seed(0)
    model, criterion = nn.Linear(1, 1), NeymanPearson(0.05)
    fit(model, criterion, data, data, epochs=20)
    assert criterion.levels == -1 and criterion.multipliers <= 1e-6
    assert ((model(x).squeeze(1) > 0).long() == data[1]).all()


@given(st.integers(0, 1000), st.floats(0.01, 0.9))
@settings(max_examples=20, deadline=None)
def test_the_loss_and_its_gradient_are_their_formulas(seed, alpha):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(30, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 2, (30,), generator=generator)
    labels[:2] = torch.tensor([0, 1])
    criterion = NeymanPearson(alpha)
    level = (score[labels == 0] > 0).double().mean() / alpha - 1
    loss = criterion(score, labels)
    expected = functional.softplus(-score[labels == 1]).mean()
    torch.testing.assert_close(loss, expected + get("PHR")(level, torch.tensor(0.1), torch.tensor(0.1)))
    (slope,) = torch.autograd.grad(loss, score)
    weight = (0.1 + 0.1 * level).clamp_min(0) / alpha  # of a cross-entropy
    weighted = expected + weight * functional.softplus(score[labels == 0]).mean()
    torch.testing.assert_close(slope, torch.autograd.grad(weighted, score)[0])


def test_batches_without_one_of_the_classes():
    criterion = NeymanPearson(0.1)
    score = torch.tensor([1.0, -1.0], requires_grad=True)
    positives = criterion(score, torch.tensor([1, 1]))
    torch.testing.assert_close(positives, functional.softplus(-score).mean())
    negatives = criterion(score, torch.tensor([0, 0]))
    assert negatives.isfinite() and torch.autograd.grad(negatives, score)[0].isfinite().all()
    criterion.update_duals(identity, [(score, torch.tensor([1, 1]))])
    assert criterion.multipliers == 0.1 and criterion.levels.isnan()


# ----------------------------------------------------------------------------------------------------- equal rates


@given(st.integers(0, 1000), st.integers(2, 4), st.sampled_from([DemographicParity, EqualOpportunity]))
@settings(max_examples=30, deadline=None)
def test_levels_are_differences_of_rates(seed, groups, kind):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(40, generator=generator)
    labels = torch.randint(0, 2, (40,), generator=generator)
    group = torch.randint(0, groups, (40,), generator=generator)
    criterion = kind(groups, 0.1)
    criterion.update_duals(identity, [(score, (labels, group))])
    for a, b in itertools.product(range(groups), repeat=2):
        in_a, in_b = group == a, group == b
        if kind is EqualOpportunity:
            in_a, in_b = in_a & (labels == 1), in_b & (labels == 1)
        level = criterion.levels[a, b].item()
        if a == b or not in_a.any() or not in_b.any():
            assert level != level
        else:
            assert level == pytest.approx(rate(score > 0, in_a) - rate(score > 0, in_b) - 0.1, abs=1e-6)


def test_over_all_batches_of_a_set_the_level_is_that_of_the_set():
    """No bias from comparing within batches: exact in the mean over every batch of 3 out of 7."""
    score = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, -1.0, 1.0])
    group = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    labels = torch.zeros(7, dtype=torch.long)
    criterion = DemographicParity(2, 0.0)
    rows = [list(r) for r in itertools.combinations(range(7), 3)]
    criterion.update_duals(identity, [(score[r], (labels[r], group[r])) for r in rows])
    assert criterion.levels[0, 1].item() == pytest.approx(2 / 3 - 1 / 4, abs=1e-6)
    assert criterion.levels[1, 0].item() == pytest.approx(1 / 4 - 2 / 3, abs=1e-6)


def two_groups() -> tuple[Tensor, Tensor]:
    """One feature beside an indicator of the group, labels that follow both: the base rates are 1/4 and 3/4."""
    feature = torch.linspace(-2, 2, 200)
    x = torch.stack([feature.repeat(2), torch.arange(400) // 200], 1)
    labels = torch.cat([feature > 1, feature > -1]).long()
    return x, torch.stack([labels, torch.arange(400) // 200], 1)


@pytest.mark.parametrize("eps", [0.1, 0.7])
def test_parity_holds_with_equality_and_is_stationary_or_is_free(eps):
    x, target = two_groups()
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    criterion = DemographicParity(2, eps)
    fit(model, criterion, (x, target), (x, target), epochs=40, steps=10, lr=0.1)
    score = model(x).squeeze(1)
    zero, one = target[:, 1] == 0, target[:, 1] == 1
    gap = rate(score > 0, one) - rate(score > 0, zero)
    multiplier = criterion.multipliers
    assert multiplier[0, 1] <= 1e-6  # that rate is the smaller one
    if eps == 0.7:  # more than the base rates differ by
        assert gap < eps and multiplier[1, 0] <= 1e-6
        return
    assert gap == pytest.approx(eps, abs=0.02) and multiplier[1, 0] > 0.1
    soft = score.sigmoid()
    loss = functional.binary_cross_entropy_with_logits(score, target[:, 0].float())
    lagrangian = loss + multiplier[1, 0] * (soft[one].mean() - soft[zero].mean())
    alone, together = (torch.autograd.grad(t, model.bias, retain_graph=True)[0] for t in (loss, lagrangian))
    slope = torch.autograd.grad(lagrangian, model.weight)[0]
    assert together.abs() < 0.02 and slope.abs().max() < 0.02 and alone.isfinite().all()


# ---------------------------------------------------------------------------------------------------- region sizes


@pytest.mark.parametrize(("least", "active"), [(0.5, True), (0.1, False)])
def test_one_image_has_the_optimum_of_its_closed_form(least, active):
    """A softmax p that is the same at all pixels, a quarter of the labels being class 1: p = max(1/4, least), and by
    the KKT conditions mu = (3/4) / (1 - p) - (1/4) / p.
    """
    labels = torch.tensor([[[0, 0, 0, 1], [-100, -100, -100, -100]]])
    bias = nn.Parameter(torch.zeros(2))
    criterion, optimizer = RegionSize(2, lower=[0.0, least]), torch.optim.SGD([bias], lr=0.5)
    model = nn.ParameterList([bias])

    def predict(module, batch):
        return bias[None, :, None, None].expand(1, 2, 2, 4), labels

    for _ in range(40):
        for _ in range(20):
            optimizer.zero_grad()
            criterion(*predict(model, None)).backward()
            optimizer.step()
        criterion.update_duals(model, [None], predict=predict)
    size = bias.softmax(0)[1].item()
    assert size == pytest.approx(0.5 if active else 0.25, abs=2e-3)
    multiplier = criterion.multipliers[1, 0].item()
    assert multiplier == pytest.approx(0.75 / 0.5 - 0.25 / 0.5 if active else 1e-6, abs=0.02)
    assert criterion.multipliers[0].max() <= 1e-6 and criterion.multipliers[1, 1] <= 1e-6


def test_sizes_of_each_image_against_its_own_bounds():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (3, 5, 6), generator=generator)
    bounds = size_bounds(labels, 4, tolerance=0.2, slack=0.0)
    share = functional.one_hot(labels, 4).double().mean((1, 2))
    torch.testing.assert_close(bounds.double(), torch.stack([0.8 * share, 1.2 * share], 2), atol=1e-6, rtol=0)
    sparse = torch.where(torch.rand(3, 5, 6, generator=generator) < 0.1, labels, 255)
    criterion = RegionSize(4, ignore_index=255)
    size = logits.softmax(1).mean((2, 3))
    y = torch.stack([bounds[..., 0] - size, size - bounds[..., 1]], 2)
    penalty = get("PHR")(y, torch.tensor(1.0), torch.tensor(1e-6)).sum((1, 2)).mean()
    torch.testing.assert_close(
        criterion(logits, (sparse, bounds)), functional.cross_entropy(logits, sparse, ignore_index=255) + penalty
    )
    criterion.update_duals(identity, [(logits[:1], (sparse[:1], bounds[:1])), (logits[1:], (sparse[1:], bounds[1:]))])
    torch.testing.assert_close(criterion.levels.double(), y.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(criterion.multipliers.double(), (1e-6 + y).clamp_min(0).mean(0).clamp_min(1e-6))


def test_an_image_without_a_labelled_pixel_has_its_sizes_still():
    logits = torch.zeros(1, 2, 3, 3, requires_grad=True)
    loss = RegionSize(2, lower=[0.0, 0.8])(logits, torch.full((1, 3, 3), -100))
    assert loss.item() == pytest.approx(0.3**2 / 2, abs=1e-5)
    (slope,) = torch.autograd.grad(loss, logits)
    assert (slope[:, 1] < 0).all() and (slope[:, 0] > 0).all()


# ------------------------------------------------------------------------------------------------ real data, end to end


def test_false_alarms_of_breast_cancer_stay_below_the_bound_on_unseen_data():
    data = pytest.importorskip("sklearn.datasets").load_breast_cancer()
    order = torch.randperm(569, generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.data, dtype=torch.float32)[order]
    malignant = torch.tensor(1 - data.target)[order]
    train, held_out, test = slice(0, 230), slice(230, 400), slice(400, None)
    # five of the features, so that the classes overlap
    x = ((x - x[train].mean(0)) / x[train].std(0))[:, :5]
    sets = [(x[s], malignant[s]) for s in (train, held_out, test)]

    def outcome(criterion, epochs=25):
        torch.manual_seed(0)
        model = fit(nn.Linear(5, 1), criterion, sets[0], sets[1], epochs=epochs)
        alarm = model(sets[2][0]).squeeze(1) > 0
        return rate(alarm, sets[2][1] == 0), 1 - rate(alarm, sets[2][1] == 1)

    plain = ConstrainedLoss(lambda s, y: functional.binary_cross_entropy_with_logits(s.squeeze(1), y.float()), [])
    alarms, misses = outcome(NeymanPearson(0.2))
    plain_alarms, plain_misses = outcome(plain)
    deviation = (0.2 * 0.8 / (sets[2][1] == 0).sum().item()) ** 0.5
    assert alarms <= 0.2 + 2 * deviation
    assert misses < plain_misses and plain_alarms < 0.2  # cross-entropy leaves the allowance unused
    strict_alarms, _ = outcome(NeymanPearson(0.01))
    assert strict_alarms <= 0.01 + 2 * (0.01 * 0.99 / (sets[2][1] == 0).sum().item()) ** 0.5 < plain_alarms + 0.05


def test_parity_on_the_diabetes_data_carries_over_to_unseen_data():
    data = pytest.importorskip("sklearn.datasets").load_diabetes(scaled=False)
    x = torch.tensor(data.data, dtype=torch.float32)
    high = torch.tensor(data.target > 140).long()
    group = (x[:, 1] - 1).long()
    x = torch.cat([x[:, :1], x[:, 2:]], 1)  # blind to the group
    folds = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)) % 3
    gaps = {}
    for name, criterion in (("parity", DemographicParity(2, 0.05)), ("free", DemographicParity(2, 0.99))):
        decided = torch.zeros(len(x), dtype=torch.bool)
        for fold in range(3):
            train, test = folds != fold, folds == fold
            z = (x - x[train].mean(0)) / x[train].std(0)
            criterion.reset()
            torch.manual_seed(0)
            known = (z[train], (high[train], group[train]))
            model = fit(nn.Linear(9, 1), criterion, known, known, epochs=20, steps=10, lr=0.05)
            decided[test] = model(z[test]).squeeze(1) > 0
        gaps[name] = abs(rate(decided, group == 0) - rate(decided, group == 1))
        assert rate(decided == high.bool(), high >= 0) > 0.68
    deviation = (0.25 / (group == 0).sum() + 0.25 / (group == 1).sum()) ** 0.5
    assert gaps["parity"] <= 0.05 + 2 * deviation and gaps["parity"] < gaps["free"] - 0.05


# ----------------------------------------------------------------------------------------------- state and bad input


def examples() -> dict[str, tuple[ConstrainedLoss, tuple]]:
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(20, generator=generator)
    labels, group = (torch.randint(0, 2, (20,), generator=generator) for _ in range(2))
    logits, maps = torch.randn(2, 3, 4, 4, generator=generator), torch.randint(0, 3, (2, 4, 4), generator=generator)
    return {
        "neyman-pearson": (NeymanPearson(0.1), (score, labels)),
        "parity": (DemographicParity(2, 0.05), (score, (labels, group))),
        "opportunity": (EqualOpportunity(2, 0.05), (score, torch.stack([labels, group], 1))),
        "sizes": (RegionSize(3), (logits, (maps, size_bounds(maps, 3)))),
        "same sizes": (RegionSize(3, lower=0.2, upper=[0.3, 1.0, 1.0]), (logits, maps)),
    }


@pytest.mark.parametrize("name", examples())
def test_state_copies_and_half_precision(name):
    criterion, (output, target) = examples()[name]
    for _ in range(3):
        criterion.update_duals(identity, [(output, target)])
    fresh, _ = examples()[name]
    fresh.load_state_dict(criterion.state_dict())
    copies = [fresh, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))]
    for other in (criterion, *copies):
        for _ in range(12):  # past a check of rho
            other.update_duals(identity, [(output, target)])
    for other in copies:
        for one, two in zip(criterion.state_dict().values(), other.state_dict().values()):
            assert torch.equal(one.nan_to_num(), two.nan_to_num())
        assert torch.equal(criterion(output, target), other(output, target))
    half = criterion(output.bfloat16(), target)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, criterion(output, target), rtol=0.2, atol=0.2)
    with pytest.raises(ValueError, match="batch 1"):
        before = copy.deepcopy(criterion.state_dict())
        criterion.update_duals(identity, [(output, target), (output * torch.nan, target)])
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before.values(), criterion.state_dict().values())
    )


@pytest.mark.parametrize("name", examples())
def test_the_gradient_is_finite_and_the_forward_pass_changes_nothing(name):
    criterion, (output, target) = examples()[name]
    before = copy.deepcopy(criterion.state_dict())
    output = output.requires_grad_()
    criterion(output, target).backward()
    assert output.grad.isfinite().all() and output.grad.abs().max() > 0
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before.values(), criterion.state_dict().values())
    )


SCORES, LABELS = torch.zeros(4), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: NeymanPearson(0.0), ValueError, r"alpha: .* in \(0, 1\), got 0"),
        (lambda: NeymanPearson(5), ValueError, "alpha: .* got 5"),
        (lambda: NeymanPearson(0.1)(SCORES, torch.tensor([-1, 1, -1, 1])), ValueError, r"labels: .* got \[-1\]"),
        (lambda: NeymanPearson(0.1)(SCORES, LABELS.float()), TypeError, r"labels: .*\.long\(\)"),
        (lambda: NeymanPearson(0.1)(SCORES, LABELS[:2]), ValueError, r"labels: takes the shape .* got \(2,\)"),
        (lambda: NeymanPearson(0.1)(torch.zeros(4, 3), LABELS), ValueError, r"output: .* got \(4, 3\)"),
        (lambda: NeymanPearson(0.1)(LABELS, LABELS), TypeError, "output: takes a tensor of floating point"),
        (lambda: DemographicParity(1, 0.1), ValueError, "groups: takes a whole number >= 2, got 1"),
        (lambda: EqualOpportunity(2, 1.5), ValueError, r"eps: takes a number >= 0 and < 1, got 1.5"),
        (lambda: DemographicParity(2, 0.1)(SCORES, LABELS), TypeError, r"target: takes a pair \(labels, group\)"),
        (lambda: DemographicParity(2, 0.1)(SCORES, (LABELS, LABELS + 1)), ValueError, r"group: .* got \[2\]"),
        (lambda: RegionSize(1), ValueError, "num_classes: takes a whole number >= 2, got 1"),
        (lambda: RegionSize(3, lower=[0.1, 0.2]), ValueError, r"lower: .* one per class, \(3,\)"),
        (lambda: RegionSize(2, lower=0.5, upper=0.4), ValueError, "lower and upper: need 0 <= lower <= upper <= 1"),
        (lambda: RegionSize(2, upper=40), ValueError, "in fractions of the image's pixels"),
        (lambda: RegionSize(2)(torch.zeros(1, 2, 2, 2), LABELS.view(1, 2, 2)), TypeError, "size_bounds makes bounds"),
        (
            lambda: RegionSize(2)(torch.zeros(1, 2, 2, 2), (LABELS.view(1, 2, 2), torch.zeros(2, 2))),
            ValueError,
            r"bounds: takes a tensor of shape \(batch, K, 2\) = \(1, 2, 2\), got float32 of shape \(2, 2\)",
        ),
        (
            lambda: RegionSize(2, lower=0.1)(torch.zeros(1, 2, 2, 2), LABELS.view(1, 2, 2) + 1),
            ValueError,
            r"labels: takes classes from 0 to 1 .* got \[2\]",
        ),
        (lambda: RegionSize(2, lower=0.1)(torch.zeros(1, 3, 2, 2), LABELS.view(1, 2, 2)), ValueError, "logits: takes"),
        (
            lambda: RegionSize(2, lower=0.1)(torch.zeros(1, 2, 2, 2), LABELS.view(2, 2)),
            ValueError,
            "logits and labels: take",
        ),
        (
            lambda: size_bounds(LABELS.view(1, 4), 2, tolerance=1.0),
            ValueError,
            "tolerance: takes a number >= 0 and < 1",
        ),
        (lambda: size_bounds(LABELS.view(1, 4), 2, slack=-0.1), ValueError, "slack: takes a number >= 0 and < 1"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_targets_of_several_tensors_follow_the_model():
    model, batch = nn.Linear(2, 1, device="meta"), (torch.zeros(3, 2), [torch.zeros(3), {"group": torch.zeros(3)}])
    output, (labels, others) = predict_pair(model, batch)
    assert {output.device.type, labels.device.type, others["group"].device.type} == {"meta"}


def test_the_default_of_parity_and_sizes_is_that_of_the_library():
    assert DemographicParity(2, 0.1).lagrangian is TRAINING and RegionSize(2).lagrangian is TRAINING
