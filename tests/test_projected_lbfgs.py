"""The default solver: optima, honest statuses, rows that do not notice each other, other penalties and domains."""

from __future__ import annotations

import pytest
import torch
from hock_schittkowski import PROBLEMS, SPECIALS
from hs import EXPECTED, declare, run
from torch import Tensor

from constropt import (
    AugmentedLagrangian,
    Box,
    ConstantRho,
    ConstrainedProblem,
    L2Ball,
    ProgressRho,
    Reals,
    Simplex,
    Solution,
    Status,
    equality,
    inequality,
    solve,
)
from constropt.solvers import ProjectedLBFGS

F64 = torch.float64
# one of every kind: bounds only, equalities, inequalities, both, exact and curved, 2 to 10 variables
QUICK = [
    1,
    3,
    5,
    6,
    7,
    8,
    12,
    14,
    18,
    22,
    26,
    28,
    30,
    31,
    35,
    38,
    39,
    43,
    48,
    50,
    51,
    60,
    63,
    65,
    66,
    71,
    76,
    77,
    79,
    113,
]


def ball(a: Tensor, domain=None) -> ConstrainedProblem:
    """Project ``a`` onto the unit l2 ball inside a domain."""
    return ConstrainedProblem(
        forward=lambda x: None,
        objective=lambda x, _: (x - a).square().flatten(1).sum(1),
        constraints=[inequality(lambda x, _: x.flatten(1).norm(dim=1) - 1.0, name="ball")],
        domain=Reals() if domain is None else domain,
    )


def points(batch: int, *event: int, dtype=F64, seed: int = 0) -> Tensor:
    return torch.randn(batch, *event, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_projection_on_the_ball_in_a_box(dtype):
    a = points(32, 5, dtype=dtype) * torch.linspace(0.05, 2, 32, dtype=dtype).unsqueeze(1)
    problem = ball(a, Box(0.0, 1.0))
    solution = solve(problem, AugmentedLagrangian(penalty="PHR"), torch.full_like(a, 0.5), steps=500)
    positive = a.clamp(0, 1)
    assert solution.feasible.all() and solution.kkt().stationarity.max() < 1e-3
    assert (solution.status == Status.CONVERGED).all()
    assert solution.violation.max() <= (1e-6 if dtype == F64 else 1e-4)
    inside = positive.norm(dim=1) < 1
    assert inside.any() and (~inside).any()
    torch.testing.assert_close(solution.x[inside], positive[inside], atol=1e-4, rtol=0)


def test_event_dimensions_do_not_matter():
    a = 2 * points(3, 2, 3)
    flat = solve(ball(a.flatten(1), Box(-1, 1)), None, torch.zeros(3, 6, dtype=F64), steps=200)
    shaped = solve(ball(a, Box(-1, 1)), None, torch.zeros(3, 2, 3, dtype=F64), steps=200)
    assert shaped.x.shape == (3, 2, 3)
    torch.testing.assert_close(shaped.x.flatten(1), flat.x)


@pytest.mark.parametrize("number", QUICK)
def test_hock_schittkowski(number):
    problem = PROBLEMS[number]
    solution = run(problem, 400)
    assert Status(int(solution.status)) is Status.CONVERGED
    assert abs(float(solution.objective) - problem.optimum) <= 1e-5 * max(1, abs(problem.optimum))
    assert float(solution.violation) <= 1e-6
    assert int(solution.backwards) <= 400


@pytest.mark.parametrize("name", list(SPECIALS))
def test_the_outcome_of_special_problems_is_recognised(name):
    problem = SPECIALS[name]
    solution = run(problem, 1000)
    assert Status(int(solution.status)) is EXPECTED[problem.expected]
    if problem.expected == "converged":
        assert problem.optimum is not None
        assert abs(float(solution.objective) - problem.optimum) <= 1e-5 * max(1, abs(problem.optimum))


def test_a_row_is_the_same_in_every_batch():
    for number in (26, 43, 71):
        declared, x0 = declare(PROBLEMS[number])
        recorded = []
        for batch in (1, 64, 1024):
            starts = x0 + 0.1 * points(batch, x0.shape[1]) * (torch.arange(batch) > 0).unsqueeze(1)
            iterates: list[Tensor] = []
            solve(declared, None, starts, steps=30, callback=lambda _, p, __, to=iterates: to.append(p.x[0].detach()))
            recorded.append(torch.stack(iterates))
        for other in recorded[1:]:
            torch.testing.assert_close(other[: len(recorded[0])], recorded[0], rtol=1e-12, atol=1e-12)


def test_a_trial_point_outside_of_the_objective_is_a_rejection():
    # the full first step goes to negative x, where the logarithm is NaN
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - 5 * x.log()).sum(1), constraints=[inequality(lambda x, _: x[:, 0] - 4.0)]
    )
    solution = solve(problem, None, torch.tensor([[40.0, 0.01]], dtype=F64), steps=300)
    assert Status(int(solution.status)) is Status.CONVERGED
    torch.testing.assert_close(solution.x, torch.tensor([[4.0, 5.0]], dtype=F64), atol=1e-4, rtol=0)


def test_a_row_of_nan_disturbs_no_other():
    a = 2 * points(4, 3)
    broken = a.clone()
    broken[2] = torch.nan
    x0 = torch.zeros(4, 3, dtype=F64)
    clean, dirty = solve(ball(a), None, x0, steps=200), solve(ball(broken), None, x0, steps=200)
    keep = torch.tensor([0, 1, 3])
    assert torch.equal(clean.x[keep], dirty.x[keep]) and (dirty.status[keep] == Status.CONVERGED).all()
    assert int(dirty.status[2]) == Status.DIVERGED and torch.equal(dirty.x[2], x0[2])
    assert all(d.mu.isfinite().all() and d.rho.isfinite().all() for d in dirty.duals)


def test_a_warm_start_is_faster():
    problem, x0 = declare(PROBLEMS[43])
    cold = solve(problem, None, x0, steps=400)
    warm = solve(problem, None, cold.x, steps=400, duals=cold.duals)
    assert int(warm.status) == Status.CONVERGED
    assert int(warm.backwards) < int(cold.backwards) / 4
    with pytest.raises(ValueError, match="duals"):
        solve(problem, None, x0, steps=10, duals=())


def quadratic() -> tuple[ConstrainedProblem, Tensor]:
    """A convex quadratic programme, two of whose three inequalities are active at its solution (1, 1)."""
    target = torch.tensor([3.0, 3.0], dtype=F64)
    matrix = torch.tensor([[1.0, 0.0], [0.5, 1.0], [-1.0, -1.0]], dtype=F64)
    limit = torch.tensor([1.0, 1.5, 1.0], dtype=F64)
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - target).square().sum(1),
        constraints=[inequality(lambda x, _: (x.unsqueeze(1) * matrix).sum(2) - limit, name="planes")],
    )
    return problem, torch.tensor([[1.0, 1.0]], dtype=F64)


@pytest.mark.parametrize("penalty", ["PHR", "P1", "P2", "P3"])
def test_other_penalties(penalty):
    problem, optimum = quadratic()
    solution = solve(problem, AugmentedLagrangian(penalty=penalty), torch.zeros(1, 2, dtype=F64), steps=500)
    assert int(solution.status) == Status.CONVERGED
    torch.testing.assert_close(solution.x, optimum, atol=1e-5, rtol=0)
    # (4, 4) = mu_1 (1, 0) + mu_2 (0.5, 1)
    torch.testing.assert_close(solution.multipliers[0], torch.tensor([[2.0, 4.0, 0.0]], dtype=F64), atol=1e-4, rtol=0)
    assert max(float(r.max()) for r in solution.kkt()) < 1e-4


def test_initial_values_and_schedules_of_the_lagrangian_are_used():
    problem, optimum = quadratic()
    x0 = torch.zeros(1, 2, dtype=F64)
    states = []
    lagrangian = AugmentedLagrangian(mu=3.0, rho=7.0, schedule=ConstantRho())
    solution = solve(problem, lagrangian, x0, steps=300, callback=lambda *args: states.append(args[2].state))
    torch.testing.assert_close(solution.x, optimum, atol=1e-5, rtol=0)
    first = ProjectedLBFGS(lagrangian).duals(states[0])[0]
    torch.testing.assert_close(first.mu, torch.full((1, 3), 3.0, dtype=F64))
    assert all(torch.equal(state.rho, states[0].rho) for state in states)
    growing = AugmentedLagrangian(rho=1e-3, schedule=ProgressRho(factor=3.0, maximum=0.1))
    solution = solve(problem, growing, x0, steps=60, callback=lambda *args: states.append(args[2].state))
    assert float(states[-1].rho) <= 0.1


def test_domains_that_are_no_box():
    a = points(8, 4)
    start = torch.full((8, 4), 0.25, dtype=F64)
    problem = ConstrainedProblem(objective=lambda x, _: (x - a).square().sum(1), domain=Simplex())
    solution = solve(problem, None, start, steps=300)
    assert (solution.status == Status.CONVERGED).all()
    torch.testing.assert_close(solution.x, Simplex().project(a), atol=1e-5, rtol=0)

    plane = inequality(lambda x, _: x.sum(1) + 0.5, name="plane")
    problem = ConstrainedProblem(lambda x, _: (x - a).square().sum(1), [plane], domain=L2Ball(radius=1.0))
    solution = solve(problem, None, torch.zeros(8, 4, dtype=F64), steps=1000)
    assert solution.feasible.all() and (solution.status == Status.CONVERGED).all()
    assert (solution.x.norm(dim=1) <= 1 + 1e-9).all() and solution.kkt().stationarity.max() < 1e-4


def test_entries_that_a_mask_leaves_out_count_for_nothing():
    a = torch.tensor([[2.0, 2.0], [2.0, 2.0]], dtype=F64)
    mask = torch.tensor([[True, False], [False, True]])
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - a).square().sum(1), constraints=[inequality(lambda x, _: x - 1.0, mask=mask)]
    )
    solution = solve(problem, None, torch.zeros(2, 2, dtype=F64), steps=200)
    torch.testing.assert_close(solution.x, torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=F64), atol=1e-6, rtol=0)
    assert (solution.status == Status.CONVERGED).all() and (solution.multipliers[0][~mask] == 0).all()


def test_a_model_in_half_precision_and_many_constraints():
    a = points(4, 3, dtype=torch.float32).bfloat16()
    solution = solve(ball(2 * a), None, torch.zeros(4, 3, dtype=torch.bfloat16), steps=100)
    assert solution.x.dtype == torch.bfloat16 and solution.x.isfinite().all() and solution.feasible.all()

    # more entries than get a gradient of their own for the scaling
    many = ConstrainedProblem(
        objective=lambda x, _: x.sum(1), constraints=[inequality(lambda x, _: -100 * x - 50, name="lower")]
    )
    solution = solve(many, None, torch.zeros(2, 100, dtype=F64), steps=200)
    assert (solution.status == Status.CONVERGED).all()
    torch.testing.assert_close(solution.x, torch.full((2, 100), -0.5, dtype=F64), atol=1e-6, rtol=0)


def test_what_cannot_be_solved_is_refused_before_the_first_evaluation():
    def never(x: Tensor, _: None) -> Tensor:
        raise AssertionError("the problem was evaluated")

    x0 = torch.zeros(1, 2, dtype=F64)

    class Absolute:
        def __call__(self, x: Tensor) -> Tensor:
            return x.abs().sum(1)

        def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor:
            return x

    with pytest.raises(ValueError, match="proximal solver; these take it: .*FirstOrder"):
        solve(ConstrainedProblem(never, nonsmooth=Absolute()), None, x0, steps=5)
    with pytest.raises(ValueError, match="independent"):
        solve(ConstrainedProblem(never, independent=False), None, x0, steps=5)
    with pytest.raises(ValueError, match="equality"):
        solve(ConstrainedProblem(never, [equality(never)]), AugmentedLagrangian(penalty="P2"), x0, steps=5)
    with pytest.raises(ValueError, match="shares multipliers"):
        solve(ConstrainedProblem(never, [inequality(never, shared=(0,))]), None, x0, steps=5)
    with pytest.raises(ValueError, match="memory"):
        ProjectedLBFGS(memory=-1)
    with pytest.raises(ValueError, match="kkt_tolerance"):
        ProjectedLBFGS(kkt_tolerance=0.0)


def test_steps_bound_the_work_and_the_status_says_so():
    solution: Solution = run(PROBLEMS[43], 5)
    assert int(solution.backwards) == 5 and int(solution.status) == Status.BUDGET_SPENT
