"""The quantile mask, the constraint scale, and what a fraction of constraints to be met means for feasibility."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from constropt import AugmentedLagrangian, Box, ConstrainedProblem, inequality, solve
from constropt.duals import PeriodicRho
from constropt.masking import ConstraintScale, QuantileMask, row_quantile
from constropt.solvers.first_order import FirstOrder
from constropt.steps import Gradient


def reference_quantile(row: list[float], fraction: float) -> float:
    """The least entry that at least ``fraction`` of the entries do not exceed, by counting."""
    return min(v for v in row if sum(w <= v for w in row) >= fraction * len(row) - 1e-6)


@given(
    rows=st.lists(st.lists(st.integers(-5, 5), min_size=7, max_size=7), min_size=1, max_size=4),
    counted=st.lists(st.booleans(), min_size=7, max_size=7),
    percent=st.integers(1, 100),
)
def test_the_quantile_of_the_counted_entries_is_found_by_counting(rows, counted, percent):
    fraction = percent / 100
    y, mask = torch.tensor(rows, dtype=torch.float32), torch.tensor(counted).expand(len(rows), 7)
    found = row_quantile(y, mask, fraction, fraction)
    for row, value in zip(rows, found.tolist()):
        kept = [float(v) for v, c in zip(row, counted) if c]
        assert value == (reference_quantile(kept, fraction) if kept else -torch.inf)


@given(st.integers(1, 300), st.sampled_from([0.5, 0.9, 0.99, 1.0]), st.floats(0, 1))
def test_the_mask_keeps_at_least_nu_and_drops_only_the_largest(entries, nu, progress):
    y = torch.randn(2, entries, generator=torch.Generator().manual_seed(entries))
    counted = torch.rand(2, entries, generator=torch.Generator().manual_seed(1)) < 0.8
    counted[:, 0] = True
    kept = QuantileMask()(y, counted, nu, progress)
    assert kept is not None and not bool((kept & ~counted).any())
    share = kept.sum(1) / counted.sum(1)
    assert bool((share >= 1 - (1 - nu) * progress - 1e-6).all())
    for row in range(2):
        dropped = counted[row] & ~kept[row]
        if bool(dropped.any()):
            assert y[row][dropped].min() > y[row][kept[row]].max()


def test_the_mask_decays_linearly_from_everything_to_nu():
    y = torch.arange(200.0)[None]
    for t in range(1, 11):
        kept = QuantileMask()(y, None, 0.9, t / 10)
        assert kept is not None and int(kept.sum()) == 200 - 2 * t
    fixed = QuantileMask(decaying=False)(y, None, 0.9, 0.0)
    assert fixed is not None and int(fixed.sum()) == 180
    assert QuantileMask()(y, None, 0.9, 0.0) is None


def test_the_scale_follows_success_and_stays_in_its_interval():
    scale, w = ConstraintScale(rate=0.02, minimum=0.1, maximum=1.0), torch.ones(2)
    for _ in range(200):
        w = scale(w, torch.tensor([True, False]))
    assert w.tolist() == pytest.approx([0.1, 1.0])
    both = scale(scale(torch.tensor([0.5]), torch.tensor([True])), torch.tensor([False]))
    assert both.item() == pytest.approx(0.5 / (1 - 0.02**2))  # two opposite updates leave it slightly larger
    for wrong in ({"rate": 1.0}, {"minimum": 0.0}, {"initial": 2.0}):
        with pytest.raises(ValueError, match="rate|minimum"):
            ConstraintScale(**wrong)


def quarter(fraction: float, mask: Tensor | None = None) -> ConstrainedProblem:
    """min ||x||^2 s.t. at least ``fraction`` of x_i >= b_i: the cheapest are the smallest b."""
    b = torch.tensor([[0.1, 0.2, 0.3, 5.0]])
    return ConstrainedProblem(
        objective=lambda x, _: x.square().sum(1),
        constraints=[inequality(lambda x, _: b - x, name="above", fraction=fraction, mask=mask)],
        domain=Box(-10.0, 10.0),
    )


def test_a_row_is_feasible_when_the_fraction_is_met():
    point = quarter(0.75).evaluate(torch.tensor([[0.1, 0.2, 0.3, 0.0], [0.1, 0.2, 0.0, 0.0], [0.0, 0.2, 0.25, 6.0]]))
    assert point.violation().tolist() == pytest.approx([0.0, 0.3, 0.05])
    assert quarter(1.0).evaluate(torch.tensor([[0.1, 0.2, 0.3, 0.0]])).violation().tolist() == [5.0]
    masked = quarter(0.6, torch.tensor([[True, True, False, True]]))  # 2 of 3 counted entries
    assert masked.evaluate(torch.tensor([[0.1, 0.2, -9.0, 0.0]])).violation().tolist() == [0.0]
    lost = quarter(0.75).evaluate(torch.tensor([[0.1, 0.2, 0.3, torch.nan]]))
    assert bool(lost.violation().isnan().all())


def test_masking_lets_the_hopeless_constraint_go():
    solver = FirstOrder(
        lagrangian=AugmentedLagrangian(penalty="PHR", schedule=PeriodicRho(every=5, factor=2.0), rho=2.0),
        primal=Gradient(),
        masking=QuantileMask(decaying=False),
        scaling=ConstraintScale(),
    )
    solution = solve(quarter(0.75), solver, torch.zeros(1, 4), steps=2000)
    assert bool(solution.feasible.all())
    torch.testing.assert_close(solution.x, torch.tensor([[0.1, 0.2, 0.3, 0.0]]), atol=0.02, rtol=0)
    assert solution.objective.item() == pytest.approx(0.14, rel=0.1)
    all_of_them = solve(quarter(1.0), None, torch.zeros(1, 4), steps=200)
    assert all_of_them.objective.item() == pytest.approx(25.14, rel=1e-3)


def test_fractions_are_checked_and_refused_where_they_mean_nothing():
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="fraction"):
            inequality(lambda x, _: x, fraction=wrong)
    with pytest.raises(ValueError, match="fraction=0.75, but ProjectedLBFGS"):
        solve(quarter(0.75), None, torch.zeros(1, 4), steps=5)
