"""The loop: what it counts, records, refuses and promises, on solvers and models of a few lines."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import cooper
import pytest
import torch
from torch import Tensor

from constropt import (
    AugmentedLagrangian,
    Box,
    ConstantRho,
    ConstrainedProblem,
    L2Ball,
    MultiplierUpdate,
    PeriodicRho,
    ProgressRho,
    Solution,
    Status,
    equality,
    inequality,
    solve,
)
from constropt.solvers import ProjectedLBFGS, Proposal, Solver
from constropt.solvers.first_order import FirstOrder
from constropt.solving import default_tolerance
from constropt.steps import RMSPropMomentum, StepSize, TorchOptimizer
from constropt.testing import LawViolation, check_solver, known_problems


class Counting:
    """A model that counts its calls; z is x itself."""

    def __init__(self) -> None:
        self.calls = 0
        self.with_graph = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.with_graph += torch.is_grad_enabled()
        return x * 1.0


def projection(a: Tensor, model=None, **keywords) -> ConstrainedProblem:
    """Project the rows of `a` onto the unit ball, by a smooth constraint."""
    return ConstrainedProblem(
        **{
            "forward": Counting() if model is None else model,
            "objective": lambda x, z: (z - a.to(z)).square().sum(1) / 2,
            "constraints": [inequality(lambda x, z: (z.square().sum(1) - 1) / 2, name="ball")],
            **keywords,
        }
    )


A = torch.tensor([[2.0, 1.0], [0.3, 0.4], [-1.0, 3.0]], dtype=torch.float64)
OPTIMUM = A / A.norm(dim=1, keepdim=True).clamp_min(1)
X0 = torch.zeros_like(A)


def nested(**keywords) -> FirstOrder:
    lagrangian = AugmentedLagrangian(rho=2.0, schedule=ProgressRho(factor=2.0, maximum=4.0))
    return FirstOrder(lagrangian, **{"size": StepSize(0.15), "inner_steps": 10, **keywords})


def joint(**keywords) -> FirstOrder:
    lagrangian = AugmentedLagrangian(rho=2.0, schedule=ConstantRho(), multiplier=MultiplierUpdate(ema=0.7))
    return FirstOrder(lagrangian, **{"size": StepSize(0.2), **keywords})


# -------------------------------------------------------------------------------------------------------- the law suite


@pytest.mark.parametrize(
    ("solver", "dtype"),
    [
        (None, torch.float64),
        (None, torch.float32),
        (AugmentedLagrangian("P2"), torch.float64),
        (nested(kkt_tolerance=1e-6, check_every=10), torch.float64),
        (joint(kkt_tolerance=1e-6, check_every=10), torch.float64),
        (joint(kkt_tolerance=1e-4, check_every=10), torch.float32),
    ],
    ids=["default", "default in float32", "P2", "nested", "joint", "joint in float32"],
)
def test_the_solvers_obey_the_laws(solver, dtype):
    equalities = not (isinstance(solver, AugmentedLagrangian) and solver.form(False).equality is None)
    check_solver(solver, dtype=dtype, equalities=equalities)


class Planted(FirstOrder):
    """The joint loop with one mistake."""

    mistake = ""

    def step(self, run, state, point, index):
        proposal = super().step(run, state, point, index)
        x = proposal.x
        if self.mistake == "stops early" and index > 10:
            x = point.x.detach()
        elif self.mistake == "mixes rows":
            x = x - 0.05 * (x - x.mean(0))
        elif self.mistake == "uses the global generator":
            x = x + 1e-9 * torch.randn_like(x)
        elif self.mistake == "changes x0":
            run.x0.add_(1.0)
        elif self.mistake == "stops all rows at a NaN" and not point.objective.isfinite().all():
            x = point.x.detach()
        elif self.mistake == "depends on the batch":
            x = x - 1e-6 * x.abs().max()
        elif self.mistake == "certifies at once":
            return replace(proposal, certified=torch.ones(len(x), dtype=torch.bool))
        elif self.mistake == "no dual update":
            return replace(proposal, state=replace(proposal.state, duals=state.duals))
        return replace(proposal, x=x)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        ("stops early", "optimum"),
        ("no dual update", "optimum"),
        ("certifies at once", "optimum"),
        ("mixes rows", "optimum"),
        ("changes x0", "inputs"),
        ("uses the global generator", "inputs"),
        ("depends on the batch", "independence of rows"),
        ("stops all rows at a NaN", "a lost row"),
    ],
)
def test_planted_mistakes_are_found(mistake, law):
    solver = Planted(**{name: getattr(joint(), name) for name in ("lagrangian", "size")})
    object.__setattr__(solver, "mistake", mistake)
    with pytest.raises(LawViolation, match=f"violates {law}"):
        check_solver(solver, steps=300, problems=known_problems()[:1])


# ----------------------------------------------------------------------------------------------- counting and recording


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_first_order_spends_one_forward_and_one_backward_a_step(steps):
    model = Counting()
    solution = solve(projection(A, model), nested(), X0, steps=steps)
    assert model.calls == steps + 2  # the last iterate is judged too, and what is returned once more
    assert solution.forwards.tolist() == [steps + 2] * 3
    assert solution.backwards.tolist() == [steps] * 3
    assert model.with_graph == steps


def test_backwards_are_what_autograd_ran(monkeypatch):
    ran, grad = 0, torch.autograd.grad

    def counted(*arguments, **keywords):
        nonlocal ran
        ran += 1
        return grad(*arguments, **keywords)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    solution = solve(projection(A), joint(), X0, steps=9)
    assert ran == 9 and solution.backwards.tolist() == [9] * 3


def test_rows_that_are_finished_are_counted_while_they_are_evaluated():
    model = Counting()
    solution = solve(projection(A, model), joint(kkt_tolerance=1e-6, check_every=5), X0, steps=500)
    assert (solution.status == Status.CONVERGED).all()
    assert solution.forwards.tolist() == [model.calls] * 3  # they are evaluated with the others, and counted
    assert solution.backwards.tolist() == [model.calls - 1] * 3 and model.calls < 500


def test_rows_that_are_finished_are_left_out_where_rows_can_be_evaluated_alone():
    rows = []
    whole = solve(projection(A), joint(kkt_tolerance=1e-6, check_every=5), X0, steps=500)
    problem = projection(A, lambda x: rows.append(len(x)) or x, rowwise=True)
    solution = solve(problem, joint(kkt_tolerance=1e-6, check_every=5), X0, steps=500)
    assert torch.equal(solution.x, whole.x) and torch.equal(solution.status, whole.status)
    assert solution.forwards.sum() == sum(rows) < whole.forwards.sum()
    assert solution.forwards[1] < solution.forwards[0]  # the row inside the ball ends first


def test_the_default_counts_what_it_spends():
    model = Counting()
    solution = solve(projection(A, model), None, X0, steps=100)
    assert (solution.status == Status.CONVERGED).all()
    assert model.calls >= solution.forwards.max()
    assert solution.backwards.max() <= 100


def test_line_searches_elsewhere_are_counted():
    model = Counting()
    step = TorchOptimizer(lambda p: torch.optim.LBFGS(p, max_iter=4, line_search_fn="strong_wolfe"))
    solution = solve(projection(A, model), joint(primal=step, size=StepSize(1.0)), X0, steps=5)
    assert solution.forwards.tolist() == [model.calls] * 3
    assert model.calls > 7


def test_the_trace_is_stacked_and_detached():
    def record(step: int, point) -> dict[str, Tensor]:
        return {"objective": point.objective, "step": torch.tensor(step)}

    solution = solve(projection(A), joint(), X0, steps=6, trace=record)
    assert solution.trace is not None
    assert solution.trace["objective"].shape == (6, 3) and not solution.trace["objective"].requires_grad
    assert solution.trace["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.allclose(solution.trace["objective"][0], A.square().sum(1) / 2)
    assert solve(projection(A), joint(), X0, steps=2).trace is None


def test_the_callback_comes_after_each_step():
    seen = []

    def callback(step: int, point, proposal: Proposal) -> None:
        seen.append((step, point.x.detach().clone(), proposal.x.clone()))

    solve(projection(A), joint(), X0, steps=4, callback=callback)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    for (_, _, proposed), (_, evaluated, _) in zip(seen, seen[1:]):
        assert torch.equal(proposed, evaluated)


def test_the_start_is_projected_on_the_domain():
    seen = []
    problem = projection(A, lambda x: seen.append(x.detach().clone()) or x, domain=Box(0.0, 1.0))
    solve(problem, joint(), X0 - 5.0, steps=1)
    assert all(((x >= 0) & (x <= 1)).all() for x in seen)


# ----------------------------------------------------------------------------------------------------- what is returned


class Recite(Solver[None]):
    """Proposes a list of points, whatever the problem."""

    def __init__(self, *points: list[float], check_every: int = 0, **keywords: list[list]) -> None:
        self.points, self.check_every, self.said = points, check_every, keywords

    def init(self, run, point) -> None:
        return None

    def step(self, run, state, point, index) -> Proposal[None]:
        x = torch.tensor(self.points[index], dtype=point.x.dtype).view_as(point.x)
        said = {name: torch.tensor(values[index]) for name, values in self.said.items()}
        return Proposal(x, None, tuple(torch.zeros_like(v) for v in point.values), **said)


def line(*, h=lambda x: x - 2.0, **keywords) -> ConstrainedProblem:
    """min -x s.t. h(x) <= 0, a row a number."""
    return ConstrainedProblem(
        objective=lambda x, _: -x.sum(1), constraints=[inequality(lambda x, _: h(x), name="h")], **keywords
    )


def test_the_best_feasible_iterate_is_returned_the_last_included():
    solution = solve(line(), Recite([1.0], [3.0], [1.5]), torch.zeros(1, 1), steps=3)
    assert solution.x.item() == 1.5 and solution.objective.item() == -1.5 and solution.feasible.item()
    assert solution.first_feasible.item() == 0
    assert solution.status.item() == Status.BUDGET_SPENT


def test_the_least_violating_iterate_is_returned_where_none_is_feasible():
    solution = solve(line(), Recite([4.0], [3.0], [5.0]), torch.full((1, 1), 9.0), steps=3)
    assert solution.x.item() == 3.0 and not solution.feasible.item() and solution.violation.item() == 1.0
    assert solution.first_feasible.item() == -1


def test_tolerance_decides_what_is_feasible():
    points = [[2.05], [2.05]]
    assert solve(line(), Recite(*points), torch.zeros(1, 1), steps=2).x.item() == 0.0
    loose = solve(line(), Recite(*points), torch.zeros(1, 1), steps=2, tolerance=0.1)
    assert loose.x.item() == pytest.approx(2.05) and loose.feasible.item()
    assert [default_tolerance(d) for d in (torch.float64, torch.float32, torch.float16)] == [1e-6, 1e-4, 1e-2]


def test_a_claim_that_does_not_reproduce_is_withdrawn():
    calls = 0

    def flaky(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x - 2.0 + (1.0 if calls == 4 else 0.0)  # the clean pass sees another value

    solution = solve(line(h=flaky), Recite([1.0], [1.5]), torch.zeros(1, 1), steps=2)
    assert calls == 4 and solution.x.item() == 1.5
    assert not solution.feasible.item() and solution.violation.item() == 0.5


def test_certified_rows_are_kept_and_finished_rows_stay():
    solver = Recite([1.0], [1.9], [1.95], certified=[[False], [True], [False]], finished=[[False], [True], [False]])
    solution = solve(line(), solver, torch.zeros(1, 1), steps=3)
    assert solution.x.item() == 1.0  # the point that was seen at step 1
    assert solution.forwards.item() == 5 and solution.backwards.item() == 0


def test_the_first_status_of_a_finished_row_is_the_last_word():
    said = [[int(Status.BUDGET_SPENT)], [int(Status.CONVERGED)], [int(Status.INFEASIBLE)]]
    solver = Recite([1.0], [1.0], [1.0], status=said, finished=[[False], [True], [True]])
    assert solve(line(), solver, torch.zeros(1, 1), steps=3).status.item() == Status.CONVERGED


def test_the_loop_stops_where_all_rows_are_finished():
    solver = Recite(*[[1.0]] * 9, check_every=2, finished=[[index >= 2] for index in range(9)])
    seen = []
    solve(line(), solver, torch.zeros(1, 1), steps=9, callback=lambda step, *_: seen.append(step))
    assert seen == [0, 1, 2, 3]  # looked after steps 1 and 3


def test_a_proposal_that_is_not_finite_ends_its_row_at_its_best():
    solver = Recite([1.0, 1.0], [float("nan"), 1.2], [1.9, 1.4])
    solution = solve(line(), solver, torch.zeros(2, 1), steps=3)
    assert solution.x.flatten().tolist() == pytest.approx([1.0, 1.4])
    assert solution.status.tolist() == [Status.DIVERGED, Status.BUDGET_SPENT]
    assert solution.feasible.all()


def test_an_objective_that_is_never_finite_is_said_to_diverge():
    problem = ConstrainedProblem(objective=lambda x, _: x.sum(1) * torch.tensor([1.0, torch.nan]))
    solution = solve(problem, Recite([1.0, 1.0]), torch.zeros(2, 1), steps=1)
    assert solution.status.tolist() == [Status.BUDGET_SPENT, Status.DIVERGED]
    assert solution.feasible.tolist() == [True, False]


def test_a_certificate_needs_feasibility_to_the_tolerance_of_the_run():
    """KKT residuals within a loose tolerance are no reason to prefer an infeasible point."""
    solution = solve(projection(A), joint(kkt_tolerance=1e-2, tolerance=1e-6), X0, steps=300)
    assert solution.feasible.all() and (solution.violation <= 1e-6).all()
    assert (solution.status == Status.CONVERGED).all()


# --------------------------------------------------------------------------------------------- uncounted and non-finite


@pytest.mark.parametrize("solver", [None, joint(), nested()], ids=["default", "joint", "nested"])
def test_entries_that_do_not_count_influence_nothing(solver):
    def two(scale: float) -> ConstrainedProblem:
        def value(x: Tensor, z: Tensor) -> Tensor:
            return torch.stack([(z.square().sum(1) - 1) / 2, scale * z.sum(1) + scale], 1)

        mask = torch.tensor([True, False])
        return projection(A, constraints=[inequality(value, name="two", mask=mask)])

    plain, small, large = (solve(p, solver, X0, steps=60) for p in (projection(A), two(1.0), two(1e3)))
    assert torch.equal(small.x, large.x) and torch.equal(small.violation, large.violation)
    assert torch.allclose(plain.x, small.x, atol=1e-9)


@pytest.mark.parametrize("step", [nested().primal, RMSPropMomentum()], ids=["Gradient", "RMSPropMomentum"])
def test_no_nan_enters_the_duals(step):
    def value(x: Tensor, z: Tensor) -> Tensor:
        return torch.where(z.sum(1) > 0.5, torch.nan, (z.square().sum(1) - 1) / 2)

    solution = solve(projection(A, constraints=[inequality(value)]), joint(primal=step), X0, steps=50)
    assert all(d.mu.isfinite().all() and d.rho.isfinite().all() for d in solution.duals)
    assert solution.x.isfinite().all() and solution.feasible.all()


# ----------------------------------------------------------------------------------------------- rows, seeds, precision


@pytest.mark.parametrize("solver", [None, joint(), nested()], ids=["default", "joint", "nested"])
def test_rows_are_independent_and_runs_are_deterministic(solver):
    together = solve(projection(A), solver, X0, steps=80)
    again = solve(projection(A), solver, X0, steps=80)
    assert torch.equal(together.x, again.x) and torch.equal(together.multipliers[0], again.multipliers[0])
    for row in range(3):
        alone = solve(projection(A[row : row + 1]), solver, X0[row : row + 1], steps=80)
        assert torch.allclose(alone.x[0], together.x[row], atol=1e-12)
        assert alone.first_feasible.item() == together.first_feasible[row]


def test_class_wise_multipliers_join_the_rows():
    """One multiplier per column, the mean over rows of P'(x, rho, mu); its fixed point by hand.

    With rho = 1: x = a - max(0, mu + x). First column: all rows active, x = (a - mu)/2, so mu = mean(a) = 1. Second:
    only the last row is, x = (1 - mu)/2, so mu = (mu + x)/3 = 1/5.
    """
    a = torch.tensor([[1.0, -1.0], [2.0, -3.0], [0.0, 1.0]], dtype=torch.float64)
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - a).square().sum(1) / 2,
        constraints=[inequality(lambda x, _: x, name="columns", shared=(0,))],
        independent=False,
    )
    solver = FirstOrder(
        AugmentedLagrangian(rho=1.0, schedule=ConstantRho(), multiplier=MultiplierUpdate(ema=0.5)), size=StepSize(0.3)
    )
    (duals,) = solve(problem, solver, torch.zeros_like(a), steps=200).duals
    assert duals.mu.shape == (1, 2)
    assert duals.mu[0].tolist() == pytest.approx([1.0, 0.2], abs=1e-6)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32], ids=["float16", "bfloat16", "float32"]
)
@pytest.mark.parametrize("solver", [None, joint(size=StepSize(0.2, final=0.1)), joint(primal=RMSPropMomentum())])
def test_lower_precision(solver, dtype):
    solution = solve(projection(A), solver, X0.to(dtype), steps=60)
    assert solution.x.dtype == dtype and solution.x.isfinite().all() and solution.feasible.all()
    assert (solution.x.double() - OPTIMUM).norm(dim=1).max() < 0.2


def test_a_half_precision_model_of_float32_variables():
    problem = projection(A, lambda x: x.to(torch.bfloat16))
    solution = solve(problem, joint(), X0.float(), steps=60)
    assert solution.x.dtype == torch.float32 and solution.x.isfinite().all()
    assert (solution.x.double() - OPTIMUM).norm(dim=1).max() < 0.1


# ----------------------------------------------------------------------------------------------------------- warm start


@pytest.mark.parametrize(
    "solver", [joint(kkt_tolerance=1e-6, check_every=1), ProjectedLBFGS(check_every=1)], ids=["joint", "default"]
)
def test_a_warm_start_saves_steps(solver):
    problem = projection(A, rowwise=True)
    cold = solve(problem, solver, X0, steps=500)
    warm = solve(problem, solver, cold.x, steps=500, duals=cold.duals)
    assert (warm.status == Status.CONVERGED).all()
    assert warm.backwards.sum() < cold.backwards.sum() / 2 and (warm.backwards < cold.backwards).all()
    assert torch.allclose(warm.x, cold.x, atol=1e-5)


def test_a_warm_start_begins_with_the_duals_it_is_given():
    first = solve(projection(A), joint(), X0, steps=20)
    second = solve(projection(A), joint(), first.x, steps=1, duals=first.duals)
    assert torch.equal(second.duals[0].mu, first.duals[0].mu) and second.duals[0].updates == first.duals[0].updates


@pytest.mark.parametrize(
    ("duals", "error", "message"),
    [
        (lambda d: (), ValueError, "duals: takes one a constraint, 1 here, got 0"),
        (lambda d: d[0], TypeError, "duals: takes the duals of an earlier Solution"),
        (lambda d: (d[0].mu,), TypeError, "duals: takes the duals of an earlier Solution"),
        (
            lambda d: (replace(d[0], mu=torch.ones(7)),),
            ValueError,
            r"duals: those of constraint 'ball' have shape \(7,\)",
        ),
        (lambda d: (replace(d[0], equality=True),), ValueError, "equality=True, which does not fit .* equality=False"),
    ],
)
def test_duals_that_do_not_fit(duals, error, message):
    solution = solve(projection(A), joint(), X0, steps=2)
    with pytest.raises(error, match=message):
        solve(projection(A), joint(), X0, steps=2, duals=duals(solution.duals))


def test_a_solver_without_warm_start_says_so():
    with pytest.raises(ValueError, match="duals: Recite has no warm start; leave duals out"):
        solve(line(), Recite([1.0]), torch.zeros(1, 1), steps=1, duals=())


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"x0": [[0.0, 0.0]]}, ValueError, r"x0: takes a floating point tensor of .* got list"),
        ({"x0": torch.zeros(3, 2).long()}, ValueError, "x0: takes a floating point tensor .* got int64"),
        ({"x0": torch.zeros(3)}, ValueError, r"x0: .* at least two dimensions, got float32 of shape \(3,\)"),
        ({"x0": torch.zeros(0, 2)}, ValueError, r"x0: is empty, got shape \(0, 2\)"),
        (
            {"x0": torch.tensor([[0.0, 0.0], [torch.nan, 0.0], [0.0, torch.inf]])},
            ValueError,
            r"x0: takes finite values, got NaN or infinity in rows \[1, 2\]; leave these rows out",
        ),
        ({"steps": 0}, ValueError, "steps: takes a whole number >= 1, got 0"),
        ({"steps": 2.5}, ValueError, "steps: takes a whole number >= 1, got 2.5"),
        ({"steps": True}, ValueError, "steps: takes a whole number >= 1, got True"),
        ({"tolerance": -1e-3}, ValueError, "tolerance: takes a violation >= 0 .* got -0.001"),
        ({"tolerance": float("nan")}, ValueError, "tolerance: takes a violation >= 0 .* got nan"),
        ({"solver": "PHR"}, TypeError, "solver: takes a Solver, an AugmentedLagrangian or None, got str"),
        ({"problem": A}, TypeError, "problem: takes a ConstrainedProblem, got float64 of"),
        ({"domain": Box(torch.zeros(3), 1.0)}, ValueError, "problem.domain: its tensors do not fit x0"),
        ({"domain": Box(torch.zeros(2, 3, 2), 1.0)}, ValueError, "problem.domain: its tensors do not fit x0"),
        ({"domain": L2Ball(torch.ones(5))}, ValueError, "problem.domain: its tensors do not fit x0"),
        ({"solver": joint(inner_steps=0)}, ValueError, "inner_steps: takes a whole number >= 1, got 0"),
        ({"solver": joint(inner_steps=1.5)}, ValueError, "inner_steps: takes a whole number >= 1, got 1.5"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_before_the_model_is_called(keywords, error, message):
    model = Counting()
    problem = projection(A, model, **({"domain": keywords.pop("domain")} if "domain" in keywords else {}))
    with pytest.raises(error, match=message):
        solve(**{"problem": problem, "solver": joint(), "x0": X0, "steps": 5, **keywords})
    assert model.calls == 0


@pytest.mark.parametrize("solver", [joint(), ProjectedLBFGS()], ids=["joint", "default"])
def test_an_equality_under_a_penalty_without_its_form_is_refused_before_the_model_is_called(solver):
    model = Counting()
    problem = projection(A, model, constraints=[equality(lambda x, z: z.sum(1) - 1)])
    solver = replace(solver, lagrangian=AugmentedLagrangian("P3"))
    with pytest.raises(ValueError, match="penalty: 'P3' has no form for equality constraints; use 'PHR'"):
        solve(problem, solver, X0, steps=5)
    assert model.calls == 0


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"objective": lambda x, z: z.sum()}, r"objective: must return a tensor of shape \(batch,\) = \(3,\)"),
        ({"constraints": [inequality(lambda x, z: z.T, name="t")]}, r"constraint 't': .* batch = 3, got .*\(2, 3\)"),
    ],
)
def test_what_the_model_gives_away_is_refused_at_its_first_call(keywords, message):
    model = Counting()
    with pytest.raises(ValueError, match=message):
        solve(projection(A, model, **keywords), joint(), X0, steps=5)
    assert model.calls == 1


def test_inputs_and_models_stay_as_they_were():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).double().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x0 = X0.clone().requires_grad_()
    with contextlib.suppress(AssertionError):
        solve(projection(A, net), joint(), x0, steps=3)
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters()) and x0.grad is None
    assert torch.equal(x0, X0)


# ------------------------------------------------------------------------------------------------------- against Cooper

TARGET = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
PLANES = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 0.3]], dtype=torch.float64)
LEVELS = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
RHO, LR, STEPS = 1.5, 0.05, 120


class CooperQP(cooper.ConstrainedMinimizationProblem):
    """min |x - target|^2/2 s.t. planes x <= levels (or ==), in Cooper's augmented Lagrangian formulation."""

    def __init__(self, x: Tensor, kind: cooper.ConstraintType, start: float) -> None:
        super().__init__()
        self.x = x
        self.rows = 3 if kind == cooper.ConstraintType.INEQUALITY else 2
        self.multiplier = cooper.multipliers.DenseMultiplier(
            init=torch.full((self.rows,), start, dtype=torch.float64), dtype=torch.float64
        )
        self.constraint = cooper.Constraint(
            constraint_type=kind,
            formulation_type=cooper.formulations.AugmentedLagrangian,
            multiplier=self.multiplier,
            penalty_coefficient=cooper.penalty_coefficients.DensePenaltyCoefficient(
                torch.tensor(RHO, dtype=torch.float64)
            ),
        )

    def compute_cmp_state(self) -> cooper.CMPState:
        violation = (PLANES @ self.x - LEVELS)[: self.rows]
        loss = (self.x - TARGET).square().sum() / 2
        return cooper.CMPState(loss, {self.constraint: cooper.ConstraintState(violation=violation)})


def cooper_run(kind: cooper.ConstraintType, start: float, dual_rate: float) -> tuple[Tensor, Tensor]:
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    qp = CooperQP(x, kind, start)
    optimizer = cooper.optim.AlternatingPrimalDualOptimizer(
        cmp=qp,
        primal_optimizers=torch.optim.SGD([x], lr=LR),
        dual_optimizers=torch.optim.SGD(qp.dual_parameters(), lr=dual_rate, maximize=True),
    )
    for _ in range(STEPS):
        optimizer.roll()
    return x.detach(), qp.multiplier.weight.detach()


def our_run(kind: cooper.ConstraintType, ema: float) -> tuple[Tensor, Solution]:
    """The same: a primal step with the old multipliers, then theirs at the new point. We update first and step then, so
    that our duals after STEPS + 1 steps are Cooper's after STEPS."""
    last = []
    equal = kind == cooper.ConstraintType.EQUALITY
    declare, rows = (equality, 2) if equal else (inequality, 3)
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - TARGET).square().sum(1) / 2,
        constraints=[declare(lambda x, _: (x @ PLANES.T - LEVELS)[:, :rows], name="planes")],
    )
    lagrangian = AugmentedLagrangian(
        "PHR", rho=RHO, schedule=ConstantRho(), multiplier=MultiplierUpdate(ema=ema, minimum=0.0)
    )
    solution = solve(
        problem,
        FirstOrder(lagrangian, size=StepSize(LR)),
        torch.zeros(1, 3, dtype=torch.float64),
        steps=STEPS + 1,
        callback=lambda step, point, proposal: last.append(point.x.detach()[0]),
    )
    return last[-1], solution


@pytest.mark.parametrize("kind", [cooper.ConstraintType.INEQUALITY, cooper.ConstraintType.EQUALITY], ids=str)
def test_the_exact_update_is_coopers_with_dual_rate_rho(kind):
    start = 1.0 if kind == cooper.ConstraintType.INEQUALITY else 0.0  # our initial multipliers
    x, multipliers = cooper_run(kind, start, dual_rate=RHO)
    ours, solution = our_run(kind, ema=0.0)
    assert torch.allclose(ours, x, atol=1e-9)
    assert torch.allclose(solution.duals[0].mu[0], multipliers, atol=1e-9)
    assert multipliers.abs().max() > 0.1 and (multipliers != start).all()


def test_the_average_is_coopers_with_a_smaller_dual_rate():
    """For equalities ema mu + (1 - ema)(mu + rho e) = mu + (1 - ema) rho e; for inequalities the clips differ."""
    x, multipliers = cooper_run(cooper.ConstraintType.EQUALITY, 0.0, dual_rate=(1 - 0.8) * RHO)
    ours, solution = our_run(cooper.ConstraintType.EQUALITY, ema=0.8)
    assert torch.allclose(ours, x, atol=1e-9)
    assert torch.allclose(solution.duals[0].mu[0], multipliers, atol=1e-9)


# ------------------------------------------------------------------------------------------------ the order of the loop


def test_duals_move_every_inner_steps_from_the_pass_at_hand():
    moved = []

    def callback(step: int, point, proposal: Proposal) -> None:
        moved.append(proposal.state.duals[0].updates)

    solve(projection(A), nested(inner_steps=3), X0, steps=8, callback=callback)
    assert moved == [0, 0, 0, 1, 1, 1, 2, 2]


def test_the_first_step_may_follow_the_constraints_alone():
    points = []
    solver = joint(explore_first=True)
    start = torch.full_like(A, 2.0)
    solve(projection(A), solver, start, steps=2, callback=lambda step, point, proposal: points.append(proposal.x))
    y = (start.square().sum(1, keepdim=True) - 1) / 2
    assert torch.allclose(points[0], start - 0.2 * (1 + 2.0 * y) * start)  # no objective in it


def test_the_step_may_be_found_from_what_it_changes():
    """The first step raises the objective by `increase`, in its own units, per row, without a model call."""
    model, start = Counting(), torch.tensor([[3.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    problem = ConstrainedProblem(
        forward=model,
        objective=lambda x, _: (x - start).norm(dim=1),
        constraints=[inequality(lambda x, z: z.square().sum(1) - 1)],
    )
    seen = []
    solver = FirstOrder(AugmentedLagrangian(schedule=PeriodicRho()), size=StepSize(increase=0.25), explore_first=True)
    solve(problem, solver, start, steps=2, callback=lambda step, point, proposal: seen.append(proposal.x))
    assert (seen[0] - start).norm(dim=1).tolist() == pytest.approx([0.25, 0.25], rel=1e-5)
    assert model.calls == 4
