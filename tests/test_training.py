"""ConstrainedLoss: its value against formulas written out, its dual passes, and what a training loop does to it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from constropt import AugmentedLagrangian, ConstantRho, Constraint, MultiplierUpdate, ProgressRho
from constropt.penalties import get
from constropt.training import ConstrainedLoss, TrainingConstraint, on_average, samplewise
from constropt.training.batches import means_of, objective_part

EXACT = AugmentedLagrangian("PHR", MultiplierUpdate(), ConstantRho(), mu=0.5, rho=2.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def below(output, target):
    return output - 0.25


def squares(output, target):
    return (output - target[..., None]).square().mean(-1)


def criterion_of(*constraints: TrainingConstraint, **options) -> ConstrainedLoss:
    return ConstrainedLoss(squares, list(constraints), **{"lagrangian": EXACT, **options})


def saved(module: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit, NaN included."""
    return one.keys() == other.keys() and all(torch.equal(one[n].nan_to_num(9), other[n].nan_to_num(9)) for n in one)


@pytest.fixture
def batch():
    draws = torch.randn(12, 3, generator=generator(), dtype=torch.float64)
    return draws, torch.randn(12, generator=generator(1), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------ value


def test_what_counts_is_the_mask_among_the_counted_samples():
    plain = samplewise(below, shape=(2,))
    masked = samplewise(below, shape=(2,), mask=lambda output, target: target > 0)
    output, target = torch.zeros(3, 2), torch.tensor([1, 1, -1])
    counted = torch.tensor([True, False, True])
    y = plain.value_of(plain.value, output, target)
    found = [c.mask_of(y, output, target, k) for c in (plain, masked) for k in (None, counted)]
    rows = [None if mask is None else mask.tolist() for mask in found]
    assert rows[0] is None
    assert rows[1:] == [
        [[k, k] for k in kept] for kept in ([True, False, True], [True, True, False], [True, False, False])
    ]
    assert plain.count_of(found[1], counted).item() == 2
    assert masked.count_of(found[3], counted).tolist() == [1, 1]
    assert plain.sample_dims(y) == (0,) and plain.samples_of(y) == 3


def test_the_part_of_a_loss_is_a_sum_and_its_number_of_terms():
    losses, counted = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True])
    assert objective_part(losses, None) == (7, 3)
    assert objective_part(losses, counted) == (5, 2)
    mean = losses.mean()
    assert objective_part(mean, counted) == (mean, None)
    assert [value.item() for value in means_of([objective_part(losses, counted), (mean, None)])] == [2.5, mean]


def test_samplewise_term_is_the_mean_penalty(batch):
    output, target = batch
    P = get("PHR")(output - 0.25, 2.0, 0.5)
    loss = criterion_of(samplewise(below, shape=(3,)))(output, target)
    torch.testing.assert_close(loss, squares(output, target).mean() + P.mean(0).sum())
    averaged = criterion_of(samplewise(below, shape=(3,)), reduction="mean")(output, target)
    torch.testing.assert_close(averaged, squares(output, target).mean() + P.mean())


def test_average_term_is_the_penalty_of_the_mean(batch):
    output, target = batch
    P = get("PHR")((output - 0.25).mean(0), 2.0, 0.5)
    loss = criterion_of(on_average(below, shape=(3,)))(output, target)
    torch.testing.assert_close(loss, squares(output, target).mean() + P.sum())


@pytest.mark.parametrize("make", [samplewise, on_average])
def test_mask_counts_only_its_samples(batch, make):
    output, target = batch
    chosen = target > 0
    masked = criterion_of(make(below, shape=(3,), mask=lambda output, target: target > 0))
    alone = criterion_of(make(below, shape=(3,)))
    extra = masked(output, target) - squares(output, target).mean()
    torch.testing.assert_close(
        extra, alone(output[chosen], target[chosen]) - squares(output[chosen], target[chosen]).mean()
    )


@pytest.mark.parametrize("make", [samplewise, on_average])
def test_a_mask_of_entries_is_taken_entry_by_entry(batch, make):
    output, target = batch
    criterion = criterion_of(make(below, shape=(3,), mask=lambda output, target: output > 0))
    form, y = get("PHR"), output - 0.25
    expected = 0
    for k in range(3):
        column = y[output[:, k] > 0, k]
        expected += form(column.mean(), 2.0, 0.5) if make is on_average else form(column, 2.0, 0.5).mean()
    torch.testing.assert_close(criterion(output, target), squares(output, target).mean() + expected)


@pytest.mark.parametrize("make", [samplewise, on_average])
def test_what_does_not_count_may_be_anything(batch, make):
    output, target = batch
    chosen = target > 0
    criterion = criterion_of(make(below, shape=(3,)), counted=lambda output, target: target > 0)
    spoiled = torch.where(chosen[:, None], output, torch.nan)
    alone = criterion_of(make(below, shape=(3,)))(output[chosen], target[chosen])
    torch.testing.assert_close(criterion(spoiled, target), alone)
    criterion.observe(spoiled, target)
    criterion.step()
    assert criterion.multipliers.isfinite().all()


def test_nothing_counted_is_zero_with_a_zero_gradient(batch):
    output, target = batch
    output = output.requires_grad_()
    criterion = criterion_of(
        on_average(below, shape=(3,)), counted=lambda output, target: torch.zeros_like(target, dtype=torch.bool)
    )
    loss = criterion(output, target)
    loss.backward()
    assert loss == 0 and (output.grad == 0).all()


def test_an_equality_takes_the_equality_form(batch):
    output, target = batch
    criterion = criterion_of(on_average(below, shape=(3,), equality=True))
    y = (output - 0.25).mean(0)
    torch.testing.assert_close(criterion(output, target) - squares(output, target).mean(), (0.5 * y + y.square()).sum())
    with pytest.raises(ValueError, match="no form for equality"):
        criterion_of(on_average(below, equality=True), lagrangian=AugmentedLagrangian("P2"))


def test_the_surrogate_is_differentiated_and_the_value_decides():
    score = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    rate = on_average(
        lambda score, target: (score > 0).float() - 0.1, surrogate=lambda score, target: score.sigmoid() - 0.1
    )
    criterion = ConstrainedLoss(lambda score, target: score.square().sum() * 0, [rate], lagrangian=EXACT)
    criterion(score, None).backward()
    y = (score.detach().sigmoid() - 0.1).mean()
    slope = 0.5 + 2 * y
    torch.testing.assert_close(score.grad, slope * score.detach().sigmoid() * (1 - score.detach().sigmoid()) / 3)
    criterion.observe(score)
    criterion.step()
    torch.testing.assert_close(criterion.multipliers, torch.tensor(0.5 + 2 * (2 / 3 - 0.1)))


def test_several_outputs_and_constraints():
    """Any module output can be constrained: here a dictionary, its features and its logits apart."""
    constraints = [
        on_average(lambda out, y: out["features"].square().sum(1) - 1, name="energy"),
        samplewise(lambda out, y: out["logits"] - 5, shape=(4,), name="logits"),
    ]
    criterion = ConstrainedLoss(
        lambda out, y: functional.cross_entropy(out["logits"], y), constraints, lagrangian=EXACT
    )
    out = {"features": torch.randn(6, 2, generator=generator()), "logits": torch.randn(6, 4, generator=generator())}
    labels = torch.arange(6) % 4
    form = get("PHR")
    expected = (
        functional.cross_entropy(out["logits"], labels)
        + form((out["features"].square().sum(1) - 1).mean(), 2.0, 0.5)
        + form(out["logits"] - 5, 2.0, 0.5).mean(0).sum()
    )
    torch.testing.assert_close(criterion(out, labels), expected)
    assert {name: tuple(mu.shape) for name, mu in criterion.multipliers.items()} == {"energy": (), "logits": (4,)}


# ------------------------------------------------------------------------------------------------------- dual steps


@pytest.mark.parametrize("make", [samplewise, on_average])
def test_ragged_batches_equal_one(batch, make):
    output, target = batch
    whole, parts = (criterion_of(make(below, shape=(3,), mask=lambda o, t: t > 0)) for _ in range(2))
    whole.observe(output, target)
    for rows in (slice(0, 1), slice(1, 8), slice(8, 12)):
        parts.observe(output[rows], target[rows])
    whole.step(), parts.step()
    torch.testing.assert_close(whole.multipliers, parts.multipliers)
    torch.testing.assert_close(whole.levels, (output - 0.25)[target > 0].mean(0).float())


def test_the_multiplier_is_the_mean_candidate(batch):
    output, target = batch
    criterion = criterion_of(samplewise(below, shape=(3,)))
    criterion.update_duals(lambda x: x, [(output, target)])
    expected = get("PHR").derivative(output - 0.25, 2.0, 0.5).mean(0)
    torch.testing.assert_close(criterion.multipliers, expected.float())


def test_absent_entries_keep_their_multiplier(batch):
    output, target = batch
    criterion = criterion_of(
        samplewise(below, shape=(3,), mask=lambda o, t: torch.tensor([True, False, True]).expand(len(t), 3))
    )
    criterion.update_duals(lambda x: x, [(output, target)])
    assert criterion.multipliers[1] == 0.5 and (criterion.multipliers[::2] != 0.5).all()
    assert criterion.levels[1].isnan() and criterion.levels[::2].isfinite().all()


def test_a_dual_pass_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.Dropout())
    model[2].eval()
    before = saved(model)
    criterion = criterion_of(samplewise(below, shape=(3,)))
    rng = torch.get_rng_state()
    criterion.update_duals(model, [(torch.randn(5, 3, generator=generator()), torch.zeros(5))])
    assert [module.training for module in model] == [True, True, False, True]
    assert same(before, saved(model))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(rng, torch.get_rng_state())


def test_modes_are_restored_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    with pytest.raises(RuntimeError):
        criterion_of(samplewise(below, shape=(2,))).update_duals(model, [(torch.ones(2, 3), torch.zeros(2))])
    assert model[0].training


def test_other_batches_through_predict():
    criterion = criterion_of(samplewise(below, shape=(3,)))
    loader = [{"x": torch.ones(2, 3), "y": torch.zeros(2)}]
    with pytest.raises(TypeError, match="pairs .inputs, target."):
        criterion.update_duals(nn.Identity(), loader)
    criterion.update_duals(nn.Identity(), loader, predict=lambda model, b: (model(b["x"]), b["y"]))
    torch.testing.assert_close(criterion.multipliers, torch.full((3,), 0.5 + 2 * 0.75))


def test_a_batch_that_is_not_finite_is_refused_and_named(batch):
    output, target = batch
    criterion = criterion_of(samplewise(below, shape=(3,)))
    bad = output.clone()
    bad[3, 1] = torch.nan
    before = saved(criterion)
    with pytest.raises(ValueError, match=r"batch 1 \(counted from 0\).*not finite"):
        criterion.update_duals(lambda x: x, [(output, target), (bad, target), (bad, target)])
    assert all(
        torch.equal(before[name], value) for name, value in criterion.state_dict().items() if "level" not in name
    )
    criterion.update_duals(lambda x: x, [(output, target)])
    assert criterion.multipliers.isfinite().all()


def test_unchecked_steps_change_nothing_for_such_a_batch(batch):
    output, target = batch
    criterion = criterion_of(samplewise(below, shape=(3,)))
    criterion.observe(output * torch.nan, target)
    criterion.step(check=False)
    assert (criterion.multipliers == 0.5).all()
    criterion.step(check=False)  # nothing observed
    assert (criterion.multipliers == 0.5).all()


def test_an_empty_loader_is_an_error():
    criterion = criterion_of(samplewise(below, shape=(3,)))
    with pytest.raises(ValueError, match="validation loader is empty"):
        criterion.update_duals(nn.Identity(), [])


def test_sums_left_over_do_not_mix_into_a_pass(batch):
    output, target = batch
    one, other = (criterion_of(samplewise(below, shape=(3,))) for _ in range(2))
    one.observe(output * 100, target)
    for criterion in (one, other):
        criterion.update_duals(lambda x: x, [(output, target)])
    assert torch.equal(one.multipliers, other.multipliers)


def test_measure_violation_counts_what_is_met_as_nothing(batch):
    output, target = batch
    criterion = criterion_of(samplewise(below, shape=(3,)), measure="violation")
    criterion.update_duals(lambda x: x, [(output, target)])
    torch.testing.assert_close(criterion.levels, (output - 0.25).clamp_min(0).mean(0).float())


@pytest.mark.parametrize("from_update", [False, True])
def test_rho_is_checked_at_its_period(from_update):
    schedule = ProgressRho(factor=2.0, ratio=0.9, every=3, from_update=from_update)
    lagrangian = AugmentedLagrangian("PHR", MultiplierUpdate(), schedule, mu=1.0, rho=1.0)
    criterion = criterion_of(on_average(lambda o, t: o), lagrangian=lagrangian)
    levels, seen = [1.0, 5.0, 0.95, 3.0, 0.5, 0.49, 0.1, 0.1, 0.4], []
    for level in levels:
        criterion.update_duals(lambda x: x, [(torch.tensor([level]), torch.zeros(1))])
        seen.append(criterion.rho.item())
    # checks at the 3rd, 6th and 9th; against the check before: 0.95 vs 1, 0.49 vs 0.95, 0.4 vs 0.49 -> grow, -, -
    # against the update before: 0.95 vs 5, 0.49 vs 0.5, 0.4 vs 0.1 -> -, grow, grow
    assert seen == ([1, 1, 1, 1, 1, 2, 2, 2, 4] if from_update else [1, 1, 2, 2, 2, 2, 2, 2, 2])


def test_training_finds_the_known_optimum():
    """min (w - 2)^2 + (v - 1)^2 subject to w <= 1: w = 1, v = 1, multiplier 2."""
    model = nn.Linear(2, 1, bias=False)

    def objective(output, target):
        return (model.weight[0, 0] - 2).square() + (model.weight[0, 1] - 1).square()

    criterion = ConstrainedLoss(
        objective, [on_average(lambda output, target: output - 1)], lagrangian=AugmentedLagrangian(mu=1e-6, rho=1.0)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = (torch.tensor([[1.0, 0.0]]), torch.zeros(1, 1))
    network = nn.Sequential(model, nn.Flatten(0))
    for _ in range(60):
        for _ in range(10):
            optimizer.zero_grad()
            criterion(network(data[0]), data[1]).backward()
            optimizer.step()
        criterion.update_duals(network, [data])
    torch.testing.assert_close(model.weight, torch.tensor([[1.0, 1.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(criterion.multipliers, torch.tensor(2.0), atol=1e-2, rtol=0)


# ------------------------------------------------------------------------------------------- a gradient that is missing


def detached(output, target):
    return output.detach() - 0.25


def count(output, target):
    return (output > 0).double() - 0.1


@pytest.mark.parametrize("make", [samplewise, on_average])
@pytest.mark.parametrize("value", [detached, count, lambda o, t: torch.from_numpy(o.detach().numpy()) - 0.25])
def test_a_violated_constraint_without_a_gradient_is_warned_of_once(batch, make, value):
    output, target = batch
    output = (output.abs() + 1).requires_grad_()
    criterion = criterion_of(make(value, shape=(3,), name="lost"), make(below, shape=(3,), name="kept"))
    with pytest.warns(UserWarning, match=r"constraint 'lost' is violated, but its value gives no gradient.*surrogate"):
        loss = criterion(output, target)
    torch.testing.assert_close(criterion(output, target), loss)  # again: no warning, which would be an error here
    copy.deepcopy(criterion)(output, target)


def test_a_detached_surrogate_is_warned_of_by_that_name():
    score = torch.ones(3, requires_grad=True)
    rate = on_average(count, surrogate=lambda score, target: score.detach().sigmoid(), name="rate")
    with pytest.warns(UserWarning, match="constraint 'rate'.*its surrogate gives no gradient"):
        ConstrainedLoss(lambda score, target: score.square(), [rate], lagrangian=EXACT)(score)


def test_a_violation_that_is_masked_or_met_or_not_in_training_is_not_warned_of(batch):
    output, target = batch
    output = output.abs() + 1
    leaf = output.clone().requires_grad_()
    nobody = {"mask": lambda output, target: torch.zeros_like(target, dtype=torch.bool)}
    for make in (samplewise, on_average):
        criterion_of(make(detached, shape=(3,), **nobody))(leaf, target)
        criterion_of(make(lambda o, t: -detached(o, t), shape=(3,)))(leaf, target)
        criterion_of(make(lambda o, t: 0 * detached(o, t), shape=(3,), equality=True))(leaf, target)
        criterion = criterion_of(make(detached, shape=(3,)))
        criterion(output, target)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                criterion(leaf, target)
        with pytest.warns(UserWarning, match="is violated"):
            criterion(leaf, target)


def test_an_average_is_judged_by_its_mean():
    output = torch.tensor([2.0, -5.0], requires_grad=True)
    one, each = (make(lambda o, t: o.detach()) for make in (on_average, samplewise))
    ConstrainedLoss(lambda o, t: o.square(), [one])(output)
    with pytest.warns(UserWarning, match="is violated"):
        ConstrainedLoss(lambda o, t: o.square(), [each])(output)
    with pytest.warns(UserWarning, match="is violated"):
        ConstrainedLoss(lambda o, t: o.square(), [on_average(lambda o, t: o.detach(), equality=True)])(output)


def test_an_objective_without_a_gradient_is_warned_of_unless_it_is_zero(batch):
    output, target = batch
    outputs = {"logits": [output.clone().requires_grad_()]}
    for objective, warned in ((lambda o, t: o["logits"][0].detach().square(), True), (lambda o, t: torch.zeros(()), 0)):
        criterion = ConstrainedLoss(objective, [on_average(lambda o, t: o["logits"][0], shape=(3,))])
        if warned:
            with pytest.warns(UserWarning, match="objective: it gives no gradient"):
                criterion(outputs, target)
        criterion(outputs, target)


# ------------------------------------------------------------------------------------------ the grad mode of the caller

MODES = {"plain": contextlib.nullcontext, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("penalty", ["PHR", "P2", lambda y, rho, mu: mu / rho * torch.expm1(rho * y)])
@pytest.mark.parametrize("inputs", ["plain", "leaf", "inference"])
@pytest.mark.parametrize("mode", MODES)
def test_dual_passes_are_the_same_in_every_grad_mode(mode, inputs, penalty):
    def passed(mode, inputs):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        x, target = torch.randn(8, 3), torch.zeros(8)
        given = {"plain": x, "leaf": x.clone().requires_grad_()}.get(inputs)
        if given is None:
            with torch.inference_mode():
                given = x.clone()
        constraints = [samplewise(below, shape=(3,), name="each"), on_average(below, shape=(3,), name="mean")]
        lagrangian = AugmentedLagrangian(penalty, mu=0.5, rho=1.0)
        criterion = criterion_of(*constraints, lagrangian=lagrangian)
        with MODES[mode]():
            criterion.update_duals(model, [(given, target)])
            value = criterion(x, target)
            criterion.observe(given, target)
            criterion.step()
        assert not any(buffer.is_inference() for buffer in [*criterion.buffers(), *model.buffers()])
        assert not any(buffer.requires_grad for buffer in criterion.buffers())
        loss = criterion(model(x), target)
        loss.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        return *criterion.multipliers.values(), value.detach().clone(), gradient

    for found, expected in zip(passed(mode, inputs), passed("plain", "plain")):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_leaves_normal_buffers_in_every_grad_mode(batch, mode):
    criterion = criterion_of(samplewise(below, shape=(3,)))
    criterion.update_duals(nn.Identity(), [batch])
    with MODES[mode]():
        criterion.reset()
    assert (criterion.multipliers == 0.5).all() and not criterion.multipliers.is_inference()


# -------------------------------------------------------------------------------------------- life in a training loop


def test_checkpoints_resume_bit_for_bit(batch, tmp_path):
    output, target = batch
    lagrangian = AugmentedLagrangian("P3", MultiplierUpdate(0.5), ProgressRho(1.5, 0.9, every=2), mu=0.1, rho=3.0)

    def fresh():
        return criterion_of(samplewise(below, shape=(3,)), lagrangian=lagrangian)

    straight, stopped = fresh(), fresh()
    for criterion in (straight, stopped):
        for step in range(3):
            criterion.observe(output * (1 + step), target)
            criterion.step()
        criterion.observe(output, target)  # a pass is under way
    torch.save(stopped.state_dict(), tmp_path / "criterion.pt")
    resumed = criterion_of(samplewise(below, shape=(3,)), lagrangian=AugmentedLagrangian("P3", *_rest(lagrangian)))
    resumed.load_state_dict(torch.load(tmp_path / "criterion.pt", weights_only=True))
    for criterion in (straight, resumed):
        criterion.observe(output.flip(0).abs() * 9, target)
        criterion.step()
        criterion.update_duals(lambda x: x, [(output.abs() * 9, target)])
    assert straight.rho.max() > 3
    assert same(saved(straight), saved(resumed))
    resumed.reset()
    assert (resumed.rho == 3).all() and (resumed.multipliers == torch.tensor(0.1)).all()


def _rest(lagrangian: AugmentedLagrangian):
    """Multiplier and schedule, without the initial values: those come from the checkpoint."""
    return lagrangian.multiplier, lagrangian.schedule


def test_a_resumed_pass_knows_that_it_has_observed(batch):
    output, target = batch
    one, other = (criterion_of(samplewise(below, shape=(3,))) for _ in range(2))
    one.observe(output, target)
    other.load_state_dict(one.state_dict())
    one.step(), other.step()
    assert torch.equal(one.multipliers, other.multipliers) and (one.multipliers != 0.5).all()


@pytest.mark.parametrize("penalty", ["PHR", "P2", "P5-LogQuad1"])
def test_deepcopy_and_pickle(batch, penalty):
    output, target = batch
    criterion = criterion_of(samplewise(below, shape=(3,)), lagrangian=AugmentedLagrangian(penalty, mu=0.3))
    criterion.update_duals(nn.Identity(), [(output, target)])
    for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert torch.equal(twin(output, target), criterion(output, target))
        twin.update_duals(nn.Identity(), [(output * 2, target)])
        assert not torch.equal(twin.multipliers, criterion.multipliers)


def test_gradient_accumulation_equals_one_batch(batch):
    output, target = batch
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    criterion = criterion_of(samplewise(below, shape=(3,)))
    (whole,) = torch.autograd.grad(criterion(output * weight, target), weight)
    for rows in (slice(0, 6), slice(6, 12)):
        (criterion(output[rows] * weight, target[rows]) / 2).backward()
    torch.testing.assert_close(weight.grad, whole)


def test_lbfgs_closures_see_one_function():
    weight = nn.Parameter(torch.tensor([3.0, 3.0]))
    criterion = ConstrainedLoss(
        lambda w, t: (w - 2).square().sum(), [samplewise(lambda w, t: w[None] - 1, shape=(2,))], lagrangian=EXACT
    )
    optimizer = torch.optim.LBFGS([weight], max_iter=20, line_search_fn="strong_wolfe")
    before = saved(criterion)

    def closure():
        optimizer.zero_grad()
        loss = criterion(weight, None)
        loss.backward()
        return loss

    optimizer.step(closure)
    # 2 (w - 2) + 0.5 + 2 (w - 1) = 0
    torch.testing.assert_close(weight.detach(), torch.full((2,), 5.5 / 4), atol=1e-4, rtol=0)
    assert all(
        torch.equal(before[name], value) for name, value in criterion.state_dict().items() if "level" not in name
    )


def test_compiles_without_a_break(batch):
    output, target = batch
    criterion = criterion_of(samplewise(below, shape=(3,)), on_average(below, shape=(3,), name="mean"))
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for step in range(3):  # new duals need no new graph
        leaf = output.clone().requires_grad_()
        loss = compiled(leaf, target)
        loss.backward()
        torch.testing.assert_close(loss.detach(), criterion(output, target))
        criterion.update_duals(nn.Identity(), [(output * (step + 1), target)])
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs(batch, dtype):
    output, target = (part.to(dtype) for part in batch)
    criterion = criterion_of(samplewise(below, shape=(3,)))
    leaf = output.clone().requires_grad_()
    loss = criterion(leaf, target)
    loss.backward()
    assert leaf.grad.isfinite().all() and loss.isfinite()
    criterion.update_duals(nn.Identity(), [(output, target)])
    expected = get("PHR").derivative(output.float() - 0.25, 2.0, 0.5).mean(0)
    torch.testing.assert_close(criterion.multipliers, expected, rtol=2e-2, atol=2e-2)


def test_autocast():
    model, labels = nn.Linear(4, 3), torch.arange(8) % 3
    criterion = ConstrainedLoss(
        lambda z, y: functional.cross_entropy(z, y, reduction="none"),
        [samplewise(lambda z, y: z.abs() - 1, shape=(3,))],
        lagrangian=EXACT,
    )
    x = torch.randn(8, 4, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(model(x), labels)
    loss.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        criterion.update_duals(model, [(x, labels)])
    assert loss.dtype == torch.float32 and model.weight.grad.isfinite().all()
    assert criterion.multipliers.dtype == torch.float32


def test_the_state_moves_and_is_readable(batch):
    criterion = criterion_of(samplewise(below, shape=(3,), name="margin"))
    names = dict(criterion.named_buffers())
    assert names["duals.margin.mu"] is criterion.multipliers and names["duals.margin.rho"] is criterion.rho
    assert not list(criterion.parameters())
    assert "margin[3]" in repr(criterion)
    buffer = io.BytesIO()
    torch.save(criterion.state_dict(), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True).keys() == criterion.state_dict().keys()


# -------------------------------------------------------------------------------------------------------- bad input


def test_a_training_constraint_is_no_problem_constraint():
    """Its value is of (output, target), and it has no field of a problem's constraint that it would ignore."""
    assert not issubclass(TrainingConstraint, Constraint)
    fields = [field.name for field in dataclasses.fields(TrainingConstraint)]
    assert fields == ["value", "name", "mask", "equality", "surrogate", "shape", "average"]


def test_a_mask_may_be_a_tensor(batch):
    output, target = batch
    kept = torch.arange(12) % 2 == 0
    given, called = (criterion_of(samplewise(below, shape=(3,), mask=m)) for m in (kept, lambda o, t: kept))
    torch.testing.assert_close(given(output, target), called(output, target))


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="objective: takes a callable"):
        ConstrainedLoss(3, [])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="samplewise.*on_average"):
        criterion_of(below)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names must differ"):
        criterion_of(samplewise(below), samplewise(below))
    with pytest.raises(ValueError, match="without dots"):
        criterion_of(samplewise(below, name="a.b"))
    with pytest.raises(TypeError, match="constraint 'c': value must be a callable of .output, target., got int"):
        samplewise(3, name="c")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="constraint 'c': mask must be a tensor or a callable.*got str"):
        on_average(below, mask="all", name="c")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="constraint 'c': surrogate must be a callable.*got Tensor"):
        on_average(below, surrogate=torch.ones(3), name="c")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name: .*string, got int"):
        on_average(below, name=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"constraint 'c': shape\[0\]: takes a whole number"):
        on_average(below, shape=(-1,), name="c")
    with pytest.raises(ValueError, match="reduction: takes one of sum, mean"):
        criterion_of(reduction="max")
    with pytest.raises(ValueError, match="measure: takes"):
        criterion_of(measure="max")


def test_bad_shapes_are_named(batch):
    output, target = batch
    with pytest.raises(ValueError, match=r"constraint 'margin'.*shape = \(4,\), got .*\(12, 3\)"):
        criterion_of(samplewise(below, shape=(4,), name="margin"))(output, target)
    with pytest.raises(ValueError, match="floating point"):
        criterion_of(samplewise(lambda o, t: o > 0, shape=(3,)))(output, target)
    with pytest.raises(ValueError, match=r"mask must be of the shape of the samples, \(12,\)"):
        criterion_of(samplewise(below, shape=(3,), mask=lambda o, t: torch.ones(5)))(output, target)
