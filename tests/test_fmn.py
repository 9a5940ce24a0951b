"""FMN in l0: the projection, the rule of the radius, the exact optimum of linear models, contracts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear import classifier
from torch import Tensor

from constropt import Box, ConstrainedProblem, inequality, solve
from constropt.problems.attacks import fmn
from constropt.prox import project_l0
from constropt.solvers.level_sets.minimum_norm import MinimumNorm


def exact_l0(weight: Tensor, bias: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """The fewest entries to change within [0, 1]: for each class those of the largest gain, until the gap is closed."""
    best = torch.full((len(x),), torch.inf)
    for other in range(len(weight)):
        w = weight[other] - weight[labels]
        missing = -(x * w).sum(1) - (bias[other] - bias[labels])
        gain = torch.where(w > 0, w * (1 - x), -w * x).sort(dim=1, descending=True).values.cumsum(1)
        count = (gain < missing.unsqueeze(1)).sum(1) + 1
        possible = (labels != other) & (gain[:, -1] >= missing)
        best = torch.where(possible, torch.minimum(best, count.float()), best)
    return best


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.lists(st.floats(-4, 4, width=32), min_size=5, max_size=5), min_size=1, max_size=4),
    radius=st.floats(0, 7, width=32),  # as the projection gets it: just under 2 in float64 is 2
)
def test_the_l0_projection_is_the_nearest_point_of_the_ball(rows, radius):
    d = torch.tensor(rows)
    p = project_l0(d, torch.full((len(d),), radius))
    assert (p.count_nonzero(1) <= int(radius)).all()
    assert ((p == d) | (p == 0)).all()
    # what is left out are the smallest entries
    left = d.square().sort(dim=1, descending=True).values[:, int(radius) :].sum(1)
    torch.testing.assert_close((p - d).square().sum(1), left)
    assert torch.equal(project_l0(p, torch.full((len(d),), radius)), p)


def test_ties_do_not_enlarge_the_ball_and_nan_is_not_hidden():
    d = torch.tensor([[1.0, -1.0, 1.0], [2.0, torch.nan, 1.0]]).view(2, 3, 1)
    p = project_l0(d, torch.tensor([2.0, 1.0]))
    assert p.shape == d.shape and p[0].count_nonzero() == 2 and p[1].isnan().any()


def test_the_radius_of_l0_is_a_whole_number_that_changes_by_at_least_one():
    # met iff 7 of the 40 entries are at their upper side
    problem = ConstrainedProblem(
        objective=lambda x, _: (x != 0).sum(1).to(x),
        constraints=[inequality(lambda x, _: 6.5 - x.sum(1))],
        domain=Box(),
    )
    seen: list[float] = []
    solution = solve(
        problem, MinimumNorm(p=0, size=100.0, gamma=0.3, final_gamma=0.3), torch.zeros(1, 40), steps=12,
        callback=lambda step, point, proposal: seen.append(proposal.state.radius.item()),
    )  # fmt: skip
    # 1 -> 2 -> 3 by one each; from 4 on by 30 %, rounded down
    assert seen == [2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5]
    assert solution.feasible.all() and solution.objective.item() == 7


def test_l0_radius_stays_within_what_the_box_lets_move():
    problem = ConstrainedProblem(
        objective=lambda x, _: (x != 0).sum(1).to(x),
        constraints=[inequality(lambda x, _: 9.0 - x.sum(1))],  # out of reach
        domain=Box(0.0, torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])),
    )
    radii: list[Tensor] = []
    solution = solve(
        problem, MinimumNorm(p=0), torch.zeros(2, 5), steps=10,
        callback=lambda step, point, proposal: radii.append(proposal.state.radius),
    )  # fmt: skip
    assert not solution.feasible.any() and torch.stack(radii).max() == 3


def test_the_radius_grows_until_a_row_succeeds_though_the_box_cuts_every_step():
    # most of the gradient points out of the box, so that a clipped step is shorter than the one before it
    x = torch.tensor([[0.0] * 60 + [0.5] * 4])
    weight = torch.stack([torch.ones(64), torch.zeros(64)])
    bias = torch.tensor([0.0, 1.9])
    radii: list[float] = []
    solution = fmn(
        lambda t: t @ weight.T + bias, x, torch.tensor([0]), distance="l2", steps=100,
        callback=lambda step, point, proposal: radii.append(proposal.state.radius.item()),
    )  # fmt: skip
    first = int(solution.first_feasible)
    assert solution.feasible.all() and all(a < b for a, b in zip(radii[:first], radii[1:first]))
    torch.testing.assert_close(solution.objective, torch.tensor([0.05]), rtol=0.02, atol=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_l0_is_near_the_exact_optimum_of_linear_classifiers(seed):
    weight, bias, x = classifier(seed, d=64, rows=48)
    labels = (x @ weight.T + bias).argmax(1)
    solution = fmn(lambda t: t @ weight.T + bias, x, labels, distance="l0", steps=300)
    excess = solution.objective - exact_l0(weight, bias, x, labels)
    assert solution.feasible.all()
    assert excess.min() >= 0 and excess.median() <= 1 and excess.max() <= 6
    assert torch.equal(solution.objective, (solution.x != x).sum(1).float())
    assert (solution.x >= 0).all() and (solution.x <= 1).all()


def test_l0_contracts():
    weight, bias, x = classifier(2, d=32, rows=6)
    model = lambda t: t @ weight.T + bias  # noqa: E731
    labels = model(x).argmax(1)
    whole = fmn(model, x, labels, distance="l0", steps=30)
    single = fmn(model, x[3:4], labels[3:4], distance="l0", steps=30)
    assert torch.equal(single.x[0], whole.x[3])
    assert (whole.forwards == 32).all() and (whole.backwards == 30).all()
    targets = (labels + 1) % 10
    aimed = fmn(model, x, labels, targets=targets, distance="l0", steps=60)
    assert aimed.feasible.all() and torch.equal(model(aimed.x).argmax(1), targets)
    assert (fmn(model, x, targets, distance="l0", steps=10).objective == 0).all()
    wide = fmn(lambda t: model(t / 255), 255 * x, labels, distance="l0", steps=60, bounds=(0.0, 255.0))
    assert wide.feasible.all() and (wide.x != 255 * x).sum(1).float().median() <= whole.objective.median() + 1
    with pytest.raises(ValueError, match="distance: takes one of .*'l0'.*got 'ssim'"):
        fmn(model, x, labels, distance="ssim")


@pytest.mark.parametrize("distance", ["l0", "l1", "l2", "linf"])
def test_rows_without_a_gradient_stay(distance):
    def model(t: Tensor) -> Tensor:
        return torch.stack([1 + 0 * t.sum(1), 0 * t.sum(1)], 1)

    x = torch.full((2, 4), 0.5)
    solution = fmn(model, x, torch.zeros(2, dtype=torch.long), distance=distance, steps=10)
    assert not solution.feasible.any() and torch.equal(solution.x, x)


@pytest.mark.parametrize("distance", ["l0", "l1", "l2", "linf"])
def test_half_precision(distance):
    weight, bias, x = classifier(2, d=32, rows=6)
    model = lambda t: t @ weight.T.to(t) + bias.to(t)  # noqa: E731
    x = x.bfloat16()
    solution = fmn(model, x, model(x).argmax(1), distance=distance, steps=60)
    assert solution.x.dtype == torch.bfloat16 and solution.feasible.float().mean() > 0.5


def test_l0_counts_beyond_the_integers_of_half_precision():
    # 400 of the 600 entries are needed; bfloat16 has no number between 256 and 258
    problem = ConstrainedProblem(
        objective=lambda x, _: (x != 0).float().sum(1),
        constraints=[inequality(lambda x, _: 399.5 - x.float().sum(1))],
        domain=Box(),
    )
    solver = MinimumNorm(p=0, size=100.0)
    solution = solve(problem, solver, torch.zeros(1, 600, dtype=torch.bfloat16), steps=300)
    assert solution.feasible.all() and solution.objective.item() == 400
