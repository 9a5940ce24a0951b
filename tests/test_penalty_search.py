"""Penalties of searched weight: known optima, the rules' own arithmetic, rows that do not wait for each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from constropt import Box, ConstrainedProblem, Status, equality, inequality, solve
from constropt.prox import NormAround, Scaled
from constropt.solvers.penalized.penalty_search import PenaltySearch, square_root, squared_distance
from constropt.solvers.penalized.penalty_steps import Adam, ShrinkageThresholding, Tanh
from constropt.solvers.penalized.weight_search import Bisection, Growth, ShrinkingSupport, ShrinkingTolerance, Trial
from constropt.steps import Gradient, RMSPropMomentum, TorchOptimizer, VariableMetric


def half_space(rows: int = 4, d: int = 16, **options: Any) -> tuple[ConstrainedProblem, Tensor, Tensor]:
    """min ||x - a||^2 in the unit box s.t. w x >= b, not binding the box: (b - w a)^2 / ||w||^2. In float64."""
    generator = torch.Generator().manual_seed(1)
    a = 0.4 + 0.2 * torch.rand(rows, d, generator=generator, dtype=torch.float64)
    w = torch.randn(d, generator=generator, dtype=torch.float64)
    b = a @ w + torch.linspace(0.2, 0.5, rows, dtype=torch.float64)
    problem = ConstrainedProblem(
        objective=lambda x, _: squared_distance(x, a[: len(x)]),
        constraints=[inequality(lambda x, _: b[: len(x)] - x @ w)],
        domain=Box(0.0, 1.0),
        **options,
    )
    return problem, a, (b - a @ w).square() / w.square().sum()


@pytest.mark.parametrize("tanh", [True, False])
@pytest.mark.parametrize("penalty", [None, "PHR"])
def test_half_spaces(tanh: bool, penalty: str | None):
    problem, a, exact = half_space()
    solution = solve(problem, PenaltySearch(tanh=tanh, penalty=penalty), a, steps=900)
    assert bool(solution.feasible.all())
    ratio = (solution.objective / exact).sqrt()
    assert ratio.min() > 1 - 1e-9 and ratio.max() < 1.02
    # a search that stalls ends early: no row needs more than its budget
    assert bool((solution.backwards <= 900).all())


def test_every_step_is_one_pass_without_aborts():
    problem, a, _ = half_space()
    solution = solve(problem, PenaltySearch(abort=None), a, steps=90)
    assert bool((solution.backwards == 90).all()) and bool((solution.forwards == 91).all())
    # what does not divide is not spent
    assert bool((solve(problem, PenaltySearch(abort=None), a, steps=95).backwards == 90).all())


STEPS = {
    "gradient": Gradient(),
    "rmsprop": RMSPropMomentum(),
    "metric": VariableMetric(),
    "torch": TorchOptimizer(lambda parameters: torch.optim.Adam(parameters, lr=1.0)),
    "ista": ShrinkageThresholding(accelerated=False),
    "fista": ShrinkageThresholding(),
    "adam": Adam(),
}


@pytest.mark.parametrize("name", STEPS)
def test_any_step_serves_inside(name: str):
    problem, a, exact = half_space()
    solution = solve(problem, PenaltySearch(primal=STEPS[name], decay=square_root, abort=None), a, steps=360)
    assert bool(solution.feasible.all())
    assert (solution.objective / exact).sqrt().max() < 1.1


def test_adam_is_the_optimizer_of_torch():
    problem, a, _ = half_space()
    ours = solve(problem, PenaltySearch(size=0.02, abort=None), a, steps=90)
    step = TorchOptimizer(lambda parameters: torch.optim.Adam(parameters, lr=0.02))
    torch.testing.assert_close(solve(problem, PenaltySearch(primal=step, size=1.0, abort=None), a, steps=90).x, ours.x)


def test_rows_restart_alone_only_where_the_step_can():
    problem, a, _ = half_space()
    for primal in (STEPS["torch"], STEPS["metric"]):
        with pytest.raises(ValueError, match="primal: the state of .* is not one row per row.*abort=None"):
            solve(problem, PenaltySearch(primal=primal), a, steps=9)


@pytest.mark.parametrize(
    "solver",
    [
        PenaltySearch(),
        PenaltySearch(abort=None, tanh=True),
        PenaltySearch(rule=Growth(), primal=ShrinkageThresholding()),
    ],
    ids=["abort", "tanh", "growth"],
)
def test_rows_do_not_depend_on_each_other(solver: PenaltySearch):
    problem, a, _ = half_space()
    together = solve(problem, solver, a, steps=180)
    alone = solve(half_space()[0], solver, a[:1], steps=180)
    assert torch.equal(alone.x, together.x[:1])
    assert torch.equal(alone.backwards, together.backwards[:1])


def test_a_surrogate_and_a_nonsmooth_term_stand_for_the_objective():
    # min ||x||_1 s.t. 2 x_0 + x_1 >= 1: at (1/2, 0), found by a smooth part that is 0 and the prox of the norm
    x0 = torch.full((1, 2), 0.0, dtype=torch.float64)
    problem = ConstrainedProblem(
        objective=lambda x, _: x.abs().sum(1),
        constraints=[inequality(lambda x, _: 1 - 2 * x[:, 0] - x[:, 1])],
        domain=Box(-1.0, 1.0),
    )
    solver = PenaltySearch(
        primal=ShrinkageThresholding(accelerated=False),
        decay=square_root,
        surrogate=lambda x, start: 0 * x.sum(1),
        nonsmooth=Scaled(NormAround("l1", x0, -1.0, 1.0), 1.0),
        abort=None,
    )
    solution = solve(problem, solver, x0, steps=900)
    assert solution.feasible.item() and solution.objective.item() == pytest.approx(0.5, abs=0.02)
    assert solution.x[0, 1].abs().item() < 0.01
    own = replace(problem, objective=lambda x, _: 0 * x.sum(1), nonsmooth=NormAround("l1", x0, -1.0, 1.0))
    first, second = (
        solve(p, s, x0, steps=90)
        for p, s in ((problem, solver), (own, replace(solver, surrogate=None, nonsmooth=None)))
    )
    torch.testing.assert_close(first.x, second.x)


def test_equalities_and_masks():
    x0 = torch.zeros(1, 2, dtype=torch.float64)
    problem = ConstrainedProblem(
        objective=lambda x, _: x.square().sum(1),
        constraints=[
            equality(lambda x, _: x.sum(1) - 1, name="sum"),
            inequality(lambda x, _: 5 - x, name="ignored", mask=torch.zeros(1, 2, dtype=torch.bool)),
        ],
    )
    solution = solve(problem, PenaltySearch(size=0.01, decay=square_root), x0, steps=720, tolerance=1e-2)
    assert solution.feasible.item() and solution.objective.item() == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="penalty: .*no form for equality"):
        solve(problem, PenaltySearch(penalty="P2"), x0, steps=9)


# --------------------------------------------------------------------------------------------------------------- rules


def trial(found: list[bool], point: Tensor, slope: Tensor | None = None) -> Trial:
    flags = torch.tensor(found)
    value = torch.where(flags, point.flatten(1).abs().amax(1), torch.inf)
    return Trial(flags, value, point, ~flags, torch.ones_like(point) if slope is None else slope)


def test_bisection_brackets_each_row():
    rule, x0 = Bisection(weight=1.0, factor=10.0), torch.zeros(2, 3)
    state = rule.init(x0)
    seen = [state.weight.tolist()]
    for found in ([True, False], [False, False], [True, True]):
        state, finished = rule.update(state, trial(found, x0), x0)
        assert finished is None
        seen.append(state.weight.tolist())
    assert seen == [[1, 1], [0.5, 10], [0.75, 100], [0.625, 55]]


def test_growth_looks_at_the_last_point():
    rule, x0 = Growth(weight=0.01, factor=10.0), torch.zeros(2, 3)
    state, _ = rule.update(rule.init(x0), trial([True, False], x0), x0)
    torch.testing.assert_close(state.weight, torch.tensor([0.01, 0.1]))


def test_the_tolerance_follows_the_largest_change():
    rule, x0 = ShrinkingTolerance(weight=1.0, largest=3.0, least=0.05), torch.zeros(3, 2)
    point = torch.tensor([[0.5, -0.2], [0.5, 0.1], [0.05, 0.0]])
    state, finished = rule.update(rule.init(x0), trial([True, False, True], point), x0)
    torch.testing.assert_close(state.tau, torch.tensor([0.45, 1.0, 0.045]))
    assert state.weight.tolist() == [1, 2, 1] and finished.tolist() == [False, False, True]
    assert rule.update(state, trial([False] * 3, point), x0)[1].tolist() == [False, True, True]
    smooth = rule.smooth(state, torch.tensor([[0.65, -0.55], [2.0, 0.0], [0.0, 0.0]]), x0)
    torch.testing.assert_close(smooth, torch.tensor([0.3, 1.0, 0.0]))


def test_the_support_loses_what_matters_least():
    rule, x0 = ShrinkingSupport(share=0.3), torch.zeros(1, 6)
    point = torch.tensor([[0.5, 1e-5, 0.4, 0.0, 0.1, 0.3]])
    slope = torch.tensor([[0.1, 9.0, 1.0, 1.0, 1.0, 1.0]])
    state, finished = rule.update(rule.init(x0), trial([True], point, slope), x0)
    # negligible: 1 and 3; of the others the least |slope change|: 0
    assert state.allowed.tolist() == [[False, False, True, False, True, True]] and not finished.item()
    assert rule.restrict(state, point, x0)[0].tolist() == pytest.approx([0, 0, 0.4, 0, 0.1, 0.3])
    for _ in range(3):
        state, finished = rule.update(state, trial([True], point, slope), x0)
    assert finished.item() and not state.allowed.any()


@pytest.mark.parametrize("rule", [Bisection, Growth, ShrinkingTolerance, ShrinkingSupport])
def test_rules_refuse_what_makes_no_sense(rule: Any):
    with pytest.raises(ValueError, match="weight: must be > 0, got 0"):
        rule(weight=0.0)
    with pytest.raises(ValueError, match="factor: must be > 1, got 1"):
        rule(factor=1.0)


# -------------------------------------------------------------------------------------------------- change of variables


def test_the_change_of_variables_goes_there_and_back():
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64) * 3 - 1
    x[0], x[1] = -1.0, 2.0
    change = Tanh.on(Box(-1.0, 2.0), x)
    w = change.w(x).requires_grad_()
    back = change.middle + change.half * w.tanh()
    torch.testing.assert_close(back, x, atol=2e-6, rtol=0)
    (expected,) = torch.autograd.grad(back.square().sum(), w)
    torch.testing.assert_close(change.pull_back(2 * back.detach(), w.detach()), expected)
    point = Box(torch.zeros(2), torch.tensor([0.0, 1.0]))
    assert Tanh.on(point, torch.zeros(1, 2)).w(torch.zeros(1, 2))[0, 0] == 0
    half = torch.tensor([[0.0, 1.0]], dtype=torch.float16)
    assert bool(Tanh.on(Box(), half).w(half).isfinite().all())


def test_bad_arguments():
    problem, a, _ = half_space()
    for options, message in (
        ({"searches": 0}, "searches: takes a whole number >= 1, got 0"),
        ({"size": 0.0}, "size: takes a step > 0, got 0"),
        ({"abort": 1.0}, "abort: takes a fraction"),
    ):
        with pytest.raises(ValueError, match=message):
            PenaltySearch(**options)
    unbounded = ConstrainedProblem(objective=problem.objective, constraints=problem.constraints)
    with pytest.raises(ValueError, match="tanh: needs a finite Box"):
        solve(unbounded, PenaltySearch(tanh=True), a, steps=9)
    with pytest.raises(ValueError, match="tanh: a nonsmooth term has no prox"):
        solve(problem, PenaltySearch(tanh=True, nonsmooth=NormAround("l1", a, 0.0, 1.0)), a, steps=9)
    with pytest.raises(TypeError, match="primal: a step that evaluates elsewhere"):
        step = TorchOptimizer(lambda parameters: torch.optim.LBFGS(parameters))
        solve(problem, PenaltySearch(primal=step, abort=None), a, steps=9)


def test_a_lost_row_leaves_the_others_alone():
    problem, a, exact = half_space()
    lost = torch.tensor([0.0, 0.0, torch.nan, 0.0], dtype=torch.float64)

    def objective(x: Tensor, _: Any) -> Tensor:
        return squared_distance(x, a) * (1 + lost)

    solution = solve(replace(problem, objective=objective), PenaltySearch(), a, steps=450)
    assert solution.feasible.tolist() == [True, True, False, True]
    assert solution.status[2] == Status.DIVERGED and bool(solution.x.isfinite().all())
    kept = torch.tensor([0, 1, 3])
    assert (solution.objective / exact)[kept].max() < 1.08
