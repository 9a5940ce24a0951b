"""Multiplier updates, rho schedules and shared multipliers, as numbers; nothing non-finite gets in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from constropt import AugmentedLagrangian, ConstantRho, Duals, MultiplierUpdate, PeriodicRho, ProgressRho
from constropt.penalties import get, names

INF, NAN = float("inf"), float("nan")


def lagrangian(**keywords) -> AugmentedLagrangian:
    return AugmentedLagrangian(**{"mu": 1.0, "rho": 2.0, "schedule": ConstantRho(), **keywords})


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------------- init


def test_initial_duals():
    duals = lagrangian().init(row(1.0, -1.0))
    assert duals.mu.tolist() == [[1.0, 1.0]] and duals.rho.tolist() == [[2.0, 2.0]]
    assert duals.violation.isinf().all() and not duals.met.any() and duals.updates == 0
    equal = AugmentedLagrangian().init(row(1.0), equality=True)
    assert equal.mu.item() == 0.0 and equal.rho.item() == 1.0 and equal.equality


@pytest.mark.parametrize(
    ("shape", "shared", "expected"),
    [
        ((5, 3), (), (5, 3)),
        ((5, 3), (0,), (1, 3)),  # class-wise over samples
        ((5, 3), (1,), (5, 1)),
        ((5, 3), (0, 1), (1, 1)),
        ((5, 3), (-1,), (5, 1)),
        ((5,), (0,), (1,)),
    ],
)
def test_shared_dimensions_have_one_multiplier(shape, shared, expected):
    solver = lagrangian()
    y = torch.rand(shape, dtype=torch.float64)
    duals = solver.init(y, shared=shared)
    assert duals.mu.shape == duals.rho.shape == duals.violation.shape == duals.met.shape == expected
    assert solver.update(y, duals).mu.shape == expected
    assert solver.term(y, duals).shape == solver.candidate(y, duals).shape == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_duals_of_half_precision_values_are_kept_in_float32(dtype):
    solver = lagrangian(multiplier=MultiplierUpdate(ema=0.999), schedule=ProgressRho(maximum=1e12))
    y = torch.ones(1, 2, dtype=dtype)
    duals = solver.init(y)
    for _ in range(30):
        duals = solver.update(y, duals)
    assert duals.mu.dtype == duals.rho.dtype == torch.float32
    assert duals.mu.min() > 1.0  # steps below the resolution of half precision are not lost
    assert duals.rho.isfinite().all() and duals.mu.isfinite().all()
    assert solver.term(y, duals).dtype == dtype


# ---------------------------------------------------------------------------------------------------- multiplier update


def test_the_exact_update_takes_the_candidate():
    solver = lagrangian()
    y = row(0.5, -0.25, -2.0)
    duals = solver.init(y)
    assert solver.candidate(y, duals).tolist() == [[2.0, 0.5, 0.0]]
    assert solver.update(y, duals).mu.tolist() == [[2.0, 0.5, 1e-6]]  # the safeguard keeps it positive


def test_an_average_moves_a_part_of_the_way():
    solver = lagrangian(multiplier=MultiplierUpdate(ema=0.75))
    y = row(0.5, -2.0)
    assert solver.update(y, solver.init(y)).mu.tolist() == [[1.25, 0.75]]


@pytest.mark.parametrize("penalty", names())
def test_the_candidate_is_the_derivative_of_the_term(penalty):
    solver = AugmentedLagrangian(penalty, mu=0.7, rho=1.5)
    y = torch.linspace(-1, 0.9, 39, dtype=torch.float64).view(3, 13).requires_grad_()  # no junction of a formula
    duals = solver.init(y.detach())
    (slope,) = torch.autograd.grad(solver.term(y, duals).sum(), y)
    assert torch.allclose(solver.candidate(y, duals), slope, rtol=1e-8, atol=1e-10)


def test_safeguards():
    solver = lagrangian(multiplier=MultiplierUpdate(minimum=0.1, maximum=3.0))
    y = row(100.0, -100.0)
    assert solver.update(y, solver.init(y)).mu.tolist() == [[3.0, 0.1]]
    duals = solver.init(y, equality=True)
    assert solver.update(y, duals).mu.tolist() == [[3.0, -3.0]]  # either sign


@pytest.mark.parametrize(("ema", "name"), [(1.0, "ema"), (-0.1, "ema"), (NAN, "ema")])
def test_bad_averages(ema, name):
    with pytest.raises(ValueError, match=rf"{name}: must lie in \[0, 1\)"):
        MultiplierUpdate(ema=ema)


@pytest.mark.parametrize("keywords", [{"minimum": -1.0}, {"minimum": 2.0, "maximum": 1.0}, {"maximum": NAN}])
def test_bad_safeguards(keywords):
    with pytest.raises(ValueError, match="need 0 <= minimum <= maximum"):
        MultiplierUpdate(**keywords)


# -------------------------------------------------------------------------------------------------------- rho schedules


def history(solver: AugmentedLagrangian, *values: float, equality: bool = False) -> list[float]:
    """rho after each of the values of a constraint of one entry."""
    duals = solver.init(row(values[0]), equality=equality)
    found = []
    for value in values:
        duals = solver.update(row(value), duals)
        found.append(duals.rho.item())
    return found


def test_progress_rho_grows_where_the_violation_did_not_halve():
    solver = lagrangian(rho=1.0, schedule=ProgressRho(factor=10.0, ratio=0.5))
    #                      first  0.4 <= half  0.3 is not  met   violated again, after 0   worse
    assert history(solver, 1.0, 0.4, 0.3, -1.0, 0.2, 0.3) == [1.0, 1.0, 10.0, 10.0, 100.0, 1000.0]


def test_progress_rho_of_equalities_sees_either_sign():
    solver = lagrangian(rho=1.0, schedule=ProgressRho())
    assert history(solver, 1.0, -0.9, 0.1, -0.01, equality=True) == [1.0, 10.0, 10.0, 10.0]


def test_progress_rho_keeps_rho_within_the_tolerance_and_below_the_maximum():
    solver = lagrangian(rho=1.0, schedule=ProgressRho(tolerance=0.5, maximum=50.0))
    assert history(solver, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6) == [1.0, 1.0, 10.0, 50.0, 50.0, 50.0]


def test_rho_grows_entry_by_entry():
    solver = lagrangian(rho=1.0, schedule=ProgressRho())
    duals = solver.init(row(1.0, 1.0))
    for y in (row(1.0, 1.0), row(0.1, 0.9)):
        duals = solver.update(y, duals)
    assert duals.rho.tolist() == [[1.0, 10.0]]


def test_periodic_rho_looks_every_m_updates():
    solver = lagrangian(rho=1.0, schedule=PeriodicRho(every=5, factor=2.0, ratio=0.95))
    growth = torch.tensor([1.0, *history(solver, *[1.0] * 32)]).log2().diff()
    assert set(growth.tolist()) == {0.0, 1.0} and growth[0] == 0  # nothing to compare the first with
    assert (growth.nonzero().flatten().diff() == 5).all() and growth.sum() >= 6


def test_periodic_rho_is_content_with_progress():
    solver = lagrangian(rho=1.0, schedule=PeriodicRho(every=1, factor=2.0, ratio=0.95))
    assert history(solver, 1.0, 0.94, 0.90, 0.5, 0.6) == [1.0, 1.0, 2.0, 2.0, 4.0]


def test_periodic_rho_leaves_entries_that_were_ever_met():
    solver = lagrangian(rho=1.0, schedule=PeriodicRho(every=1, factor=2.0, maximum=6.0))
    assert history(solver, 1.0, 1.0, -0.1, 1.0, 1.0) == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert history(solver, 1.0, 1.0, 1.0, 1.0, 1.0) == [1.0, 2.0, 4.0, 6.0, 6.0]


def test_constant_rho():
    assert history(lagrangian(), 1.0, 2.0, 3.0) == [2.0, 2.0, 2.0]


# -------------------------------------------------------------------------------------------- masks, shared, non-finite


def test_entries_that_do_not_count_keep_all_of_their_state():
    solver = lagrangian(rho=1.0, schedule=ProgressRho())
    duals = solver.update(row(1.0, 1.0), solver.init(row(1.0, 1.0)))
    mask = torch.tensor([[True, False]])
    after = solver.update(row(1.0, 1.0), duals, mask)
    assert after.mu[0, 1] == duals.mu[0, 1] and after.mu[0, 0] != duals.mu[0, 0]
    assert after.rho.tolist() == [[10.0, 1.0]]
    assert after.violation[0, 1] == duals.violation[0, 1]
    other = solver.update(row(1.0, 1e6), duals, mask)
    for name in ("mu", "rho", "violation", "met"):
        assert torch.equal(getattr(other, name), getattr(after, name)), name


def test_class_wise_multipliers_take_the_mean_over_counted_samples():
    solver = lagrangian(multiplier=MultiplierUpdate(ema=0.5))
    y = torch.tensor([[1.0, -0.25], [0.0, 1e9], [2.0, 0.25]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    duals = solver.update(y, solver.init(y, shared=(0,)), mask)
    # candidates 1 + 2y: (3, 1, 5), mean 3; (0.5, 1.5), mean 1; then half of the way from 1
    assert duals.mu.tolist() == [[2.0, 1.0]]
    assert duals.met.tolist() == [[False, True]]


def test_class_wise_rho_sees_the_mean_over_counted_samples():
    solver = lagrangian(rho=1.0, schedule=ProgressRho())
    y = torch.tensor([[1.0, -0.25], [0.0, 1e9], [2.0, 0.25]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    duals = solver.update(y, solver.init(y, shared=(0,)), mask)
    assert duals.violation.tolist() == [[1.0, 0.0]]
    assert solver.update(y * 0.6, duals, mask).rho.tolist() == [[10.0, 1.0]]


def test_a_class_that_is_absent_keeps_its_multiplier():
    solver = lagrangian(rho=1.0, schedule=ProgressRho())
    y = torch.ones(4, 3, dtype=torch.float64)
    first = solver.update(y, solver.init(y, shared=(0,)))
    mask = torch.tensor([True, False, True]).expand(4, 3)
    second = solver.update(y, first, mask)
    assert second.mu[0, 1] == first.mu[0, 1] and second.mu[0, 0] != first.mu[0, 0]
    assert second.rho.tolist() == [[10.0, 1.0, 10.0]]
    assert second.violation[0, 1] == first.violation[0, 1]
    nothing = solver.update(y, first, torch.zeros(4, 3, dtype=torch.bool))
    assert torch.equal(nothing.mu, first.mu) and torch.equal(nothing.rho, first.rho)


@pytest.mark.parametrize("equality", [False, True])
@pytest.mark.parametrize("penalty", names())
def test_an_entry_that_is_nan_keeps_its_state(penalty, equality):
    if equality and get(penalty).equality is None:
        return
    solver = AugmentedLagrangian(penalty, mu=1.0, rho=2.0, schedule=ProgressRho())
    y = row(0.5, 0.5)
    duals = solver.update(y, solver.init(y, equality=equality))
    after = solver.update(row(NAN, 0.25), duals)
    for name in ("mu", "rho", "violation", "met"):
        assert getattr(after, name)[0, 0] == getattr(duals, name)[0, 0], name
    assert after.violation[0, 1] == 0.25


@pytest.mark.parametrize("bad", [INF, -INF])
@pytest.mark.parametrize("penalty", names())
def test_infinite_values_leave_multipliers_and_rho_finite(penalty, bad):
    solver = AugmentedLagrangian(penalty, mu=1.0, rho=2.0, schedule=ProgressRho())
    duals = solver.init(row(0.5, 0.5))
    for _ in range(20):
        duals = solver.update(row(bad, 0.25), duals)
    assert duals.mu.isfinite().all() and duals.rho.isfinite().all() and not duals.violation.isnan().any()


def test_a_sample_that_is_nan_is_left_out_of_the_mean():
    solver = lagrangian(schedule=ProgressRho())
    y = torch.tensor([[0.5], [NAN], [1.5]], dtype=torch.float64)
    duals = solver.update(y, solver.init(y, shared=(0,)))
    assert duals.mu.item() == 3.0 and duals.violation.item() == 1.0


def test_updates_are_pure_and_detached():
    solver = lagrangian()
    y = row(0.5).requires_grad_()
    duals = solver.init(y.detach())
    before = replace(duals, mu=duals.mu.clone(), rho=duals.rho.clone())
    after = solver.update(y * 1.0, duals)
    assert torch.equal(duals.mu, before.mu) and torch.equal(duals.rho, before.rho) and duals.updates == 0
    assert after.updates == 1 and not after.mu.requires_grad and not solver.candidate(y * 1.0, duals).requires_grad
    assert isinstance(after, Duals)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("penalty", [name for name in names() if get(name).equality is None])
def test_a_penalty_without_equality_form_says_what_to_do(penalty):
    solver = AugmentedLagrangian(penalty)
    with pytest.raises(ValueError, match=f"penalty: '{penalty}' has no form for equality .* use 'PHR', or write e = 0"):
        solver.init(row(1.0), equality=True)
    assert solver.form(False).name == penalty


@pytest.mark.parametrize("keywords", [{"mu": 0.0}, {"rho": -1.0}, {"mu": NAN}, {"rho": 0.0}])
def test_initial_values_must_be_positive(keywords):
    with pytest.raises(ValueError, match=f"{next(iter(keywords))}: takes an initial value > 0"):
        AugmentedLagrangian(**keywords)


def test_unknown_penalties():
    with pytest.raises(ValueError, match="penalty: no penalty is named 'PHRR'; did you mean PHR"):
        AugmentedLagrangian("PHRR")
    with pytest.raises(TypeError, match="penalty: takes a name, a Penalty or a function .* got int"):
        AugmentedLagrangian(3)  # type: ignore[arg-type]
