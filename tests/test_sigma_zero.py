"""sigma-zero: one step by hand, the exact optimum of linear models, contracts, bad input."""

from __future__ import annotations

import pytest
import torch
from linear import classifier
from test_fmn import exact_l0
from torch import Tensor, nn

from constropt import Box, ConstrainedProblem, Status, equality, inequality, solve
from constropt.problems.attacks.level_sets import sigma_zero
from constropt.solvers.level_sets.smoothed_l0 import SmoothedL0


@pytest.fixture(scope="module")
def linear():
    weight, bias, x = classifier(0, d=64, rows=32)
    labels = (x @ weight.T + bias).argmax(1)

    def model(t: Tensor) -> Tensor:
        return t @ weight.T.to(t) + bias.to(t)

    return model, x, labels, exact_l0(weight, bias, x, labels)


def test_the_first_steps_by_hand():
    # h falls by 4, 1 and 0 per unit: the first Adam step has the length 1 in every entry with a gradient
    weight = torch.tensor([4.0, 1.0, 0.0])
    problem = ConstrainedProblem(
        objective=lambda x, _: (x != 0.2).sum(1).to(x),
        constraints=[inequality(lambda x, _: 9.0 - x @ weight)],
        domain=Box(0.0, 10.0),
    )
    seen: list[tuple[Tensor, Tensor]] = []
    solver = SmoothedL0(size=1.0, threshold=0.3, rate=0.01)
    solve(
        problem, solver, torch.full((1, 3), 0.2), steps=4,
        callback=lambda step, point, proposal: seen.append((proposal.x, proposal.state.threshold)),
    )  # fmt: skip
    torch.testing.assert_close(seen[0][0], torch.tensor([[1.2, 1.2, 0.2]]))
    # not feasible: the threshold falls by rate times the step
    torch.testing.assert_close(seen[0][1], torch.tensor([0.29]))
    assert seen[1][1] < seen[0][1] and (seen[1][0] > seen[0][0])[0, :2].all()


def test_entries_below_the_threshold_are_pruned_and_it_grows_where_the_row_is_feasible():
    problem = ConstrainedProblem(
        objective=lambda x, _: (x != 0).sum(1).to(x), constraints=[inequality(lambda x, _: -1 + 0 * x.sum(1))]
    )
    seen: list[tuple[Tensor, Tensor]] = []
    solver = SmoothedL0(size=0.2, final=1.0, threshold=0.3, rate=0.5)
    solution = solve(
        problem, solver, torch.zeros(1, 3), steps=3,
        callback=lambda step, point, proposal: seen.append((proposal.x, proposal.state.threshold)),
    )  # fmt: skip
    assert torch.cat([threshold for _, threshold in seen]).tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert (solution.objective == 0).all() and all((x == 0).all() for x, _ in seen)


def test_near_the_exact_optimum_of_linear_classifiers(linear):
    model, x, labels, exact = linear
    solution = sigma_zero(model, x, labels, steps=300)
    excess = solution.objective - exact
    assert solution.feasible.all() and (model(solution.x).argmax(1) != labels).all()
    assert excess.min() >= 0 and excess.median() <= 1 and excess.max() <= 4
    assert torch.equal(solution.objective, (solution.x != x).sum(1).float())
    assert (solution.x >= 0).all() and (solution.x <= 1).all()


def test_targets_are_reached(linear):
    model, x, labels, _ = linear
    targets = (labels + 1) % 10
    solution = sigma_zero(model, x, labels, targets=targets, steps=100)
    assert solution.feasible.all() and torch.equal(model(solution.x).argmax(1), targets)


def test_other_bounds_scale_everything(linear):
    model, x, labels, _ = linear
    plain = sigma_zero(model, x.double(), labels, steps=50)
    wide = sigma_zero(lambda t: model((t + 4) / 8), 8 * x.double() - 4, labels, steps=50, bounds=(-4.0, 4.0))
    assert torch.equal(plain.objective, wide.objective)
    torch.testing.assert_close((wide.x + 4) / 8, plain.x)


def test_rows_are_independent_and_passes_counted(linear):
    model, x, labels, _ = linear
    state = torch.get_rng_state()
    whole = sigma_zero(model, x, labels, steps=25)
    single = sigma_zero(model, x[5:6], labels[5:6], steps=25)
    assert torch.equal(single.x[0], whole.x[5]) and torch.equal(torch.get_rng_state(), state)
    assert (whole.forwards == 27).all() and (whole.backwards == 25).all()


def test_misclassified_rows_stay_and_modes_are_kept():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 4)).train()
    x = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = (net.eval()(x).argmax(1) + 1) % 4
    net.train()
    solution = sigma_zero(net, x, labels, steps=10)
    assert solution.feasible.all() and (solution.objective == 0).all() and torch.equal(solution.x, x)
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(linear, dtype):
    model, x, labels, _ = linear
    x = x[:8].to(dtype)
    labels = model(x).argmax(1)
    solution = sigma_zero(model, x, labels, steps=50)
    assert solution.x.dtype == dtype and solution.feasible.all()


def test_no_gradient_and_nan():
    def flat(t: Tensor) -> Tensor:
        return torch.stack([1 + 0 * t.sum(1), 0 * t.sum(1)], 1)

    x, labels = torch.full((2, 4), 0.5), torch.zeros(2, dtype=torch.long)
    solution = sigma_zero(flat, x, labels, steps=10)
    assert not solution.feasible.any() and torch.equal(solution.x, x)

    def broken(t: Tensor) -> Tensor:
        score = torch.stack([3 - t[:, 0] - t[:, 1], t[:, 0] + t[:, 1]], 1)
        return score + torch.where(t[:, 2:3] > 0.9, torch.nan, 0.0)

    x[1, 2] = 1.0
    solution = sigma_zero(broken, x, labels, steps=20)
    assert solution.x.isfinite().all() and solution.feasible.tolist() == [True, False]
    assert solution.status[1] == Status.DIVERGED


def test_wrong_arguments_are_named(linear):
    model, x, labels, _ = linear
    with pytest.raises(ValueError, match="distance: takes one of .*'l0'.*got 'l2'"):
        sigma_zero(model, x, labels, distance="l2")
    for name, value in (("size", 0.0), ("sigma", -1.0), ("rate", 0.0), ("threshold", 2.0)):
        with pytest.raises(ValueError, match=name):
            sigma_zero(model, x, labels, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="betas"):
        SmoothedL0(betas=(0.9, 1.0))
    problem = ConstrainedProblem(objective=lambda t, _: t.sum(1), constraints=[equality(lambda t, _: t.sum(1))])
    with pytest.raises(ValueError, match="constraints: SmoothedL0 takes exactly one inequality"):
        solve(problem, SmoothedL0(), torch.zeros(1, 2), steps=1)
