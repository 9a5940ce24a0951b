"""Every solver's declaration is true; what is not declared is refused by name, and gradients that are not there too."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from constropt import Box, ConstrainedProblem, L2Ball, LinfBall, Takes, inequality, solve
from constropt import solvers as all_solvers
from constropt.solvers import (
    Alternating,
    AutoProjectedGradient,
    BoundaryProjection,
    BoundaryWalk,
    FirstOrder,
    GreedyAccumulation,
    LevelSetProjection,
    LinearizedProjection,
    MinimumNorm,
    NearestProjection,
    PenaltySearch,
    PrimalDual,
    ProjectedGradient,
    ProjectedLBFGS,
    Proposal,
    Saliency,
    SegmentSearch,
    SmoothedL0,
    Solver,
    SquareSearch,
    SteepestDescent,
    TrustRegion,
)
from constropt.solvers.penalized.weight_search import Bisection
from constropt.steps import StepSize
from constropt.testing import LawViolation, check_declaration

START = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.1, 0.1]], dtype=torch.float64)
WEIGHT = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
END = torch.full_like(START, 0.9)


def near(p: float = 2.0) -> ConstrainedProblem:
    """The nearest point beyond a plane, in a box."""
    return ConstrainedProblem(
        objective=lambda x, _: torch.linalg.vector_norm(x - START[: len(x)] + 1e-12, ord=p, dim=1),
        constraints=[inequality(lambda x, _: 1.5 - x @ WEIGHT, name="plane")],
        domain=Box(0.0, 1.0),
    )


def smooth() -> ConstrainedProblem:
    return replace(near(), objective=lambda x, _: (x - START[: len(x)] + 0.01).square().sum(1))


def ball() -> ConstrainedProblem:
    """The lowest point of a ball within a half-space."""
    return ConstrainedProblem(
        objective=lambda x, _: x @ WEIGHT,
        constraints=[inequality(lambda x, _: 0.1 - x[:, 0], name="half-space")],
        domain=LinfBall(0.2, START),
    )


SOLVERS = [
    (FirstOrder(size=StepSize(0.05)), smooth()),
    (ProjectedLBFGS(), smooth()),
    (LevelSetProjection(), near()),
    (MinimumNorm(p=2.0), near()),
    (SmoothedL0(), near(0.0)),
    (Alternating(size=0.2, objective_size=0.1), smooth()),
    (PenaltySearch(searches=2, size=0.05, rule=Bisection(weight=10.0)), smooth()),
    (PrimalDual(), smooth()),
    (GreedyAccumulation(size=0.05), near()),
    (Saliency(), near(0.0)),
    (LinearizedProjection(), near()),
    (NearestProjection(), near()),
    (BoundaryProjection(), near()),
    (BoundaryWalk(starts=END), near()),
    (TrustRegion(radius=0.05), near()),
    (SegmentSearch(END), near()),
    (ProjectedGradient(), ball()),
    (AutoProjectedGradient(), ball()),
    (SquareSearch(), ball()),
    (SteepestDescent(size=0.02), ball()),
]


@pytest.mark.parametrize(("solver", "problem"), SOLVERS, ids=lambda value: type(value).__name__)
def test_what_is_declared_is_used_and_the_rest_refused(solver, problem):
    check_declaration(solver, problem, START)


def test_every_solver_is_checked():
    exported = {name for name in all_solvers.__all__ if name not in ("Loop", "Method", "Proposal", "Run", "Solver")}
    assert exported == {type(solver).__name__ for solver, _ in SOLVERS}


# ------------------------------------------------------------------------------------------------- a user's own solver


@dataclass(frozen=True)
class Descent(Solver[None]):
    """Gradient descent on the objective, that looks at nothing else."""

    def init(self, run, point) -> None:
        return None

    def step(self, run, state, point, index) -> Proposal[None]:
        return Proposal(run.problem.domain.project(point.x.detach() - 0.05 * point.gradient(1.0, ())), None)


@dataclass(frozen=True)
class Boasting(Descent):
    takes = Takes(equalities=True, nonsmooth=True, constraint_gradients=False)


def test_a_solver_that_declares_nothing_gets_nothing_special():
    r = replace(smooth(), independent=False)
    with pytest.raises(ValueError, match="rows are one problem .*, but Descent takes independent rows; these take it"):
        solve(r, Descent(), START, steps=3)
    assert solve(replace(smooth(), constraints=[]), Descent(), START, steps=3).x.isfinite().all()


def test_a_declaration_that_is_not_true_is_found():
    with pytest.raises(LawViolation, match="nonsmooth is declared, but a problem that needs it ends as if"):
        check_declaration(Boasting(), replace(smooth(), constraints=[]), START)


# ----------------------------------------------------------------------------------------- gradients that are not there


def stuck(value) -> ConstrainedProblem:
    return replace(smooth(), constraints=[inequality(value, name="count")])


@pytest.mark.parametrize("solver", [None, FirstOrder()], ids=["default", "first order"])
@pytest.mark.parametrize(
    ("problem", "term"),
    [
        (replace(smooth(), objective=lambda x, _: x.detach().square().sum(1)), "objective"),
        (replace(smooth(), objective=lambda x, _: torch.from_numpy(x.detach().numpy()).sum(1)), "objective"),
        (stuck(lambda x, _: (x > 0.5).double().sum(1) - 1), "constraint 'count'"),
        (stuck(lambda x, _: x.argmax(1).double() - 1), "constraint 'count'"),
    ],
    ids=["detached", "numpy", "count", "argmax"],
)
def test_a_term_that_does_not_depend_on_x_is_named(solver, problem, term):
    with pytest.raises(ValueError, match=f"{term}: does not depend on x, .* usual causes: detach.*argmax"):
        solve(problem, solver, START, steps=5)


def test_a_model_with_parameters_of_its_own_does_not_hide_it():
    """The output requires a gradient, but not one in x."""
    model = torch.nn.Linear(3, 1).double()
    problem = ConstrainedProblem(forward=lambda x: model(x.detach()), objective=lambda x, z: z.sum(1))
    with pytest.raises(ValueError, match="objective: does not depend on x"):
        solve(problem, None, START, steps=5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_under_another_grad_mode_is_named(mode):
    def forward(x: Tensor) -> Tensor:
        with mode():
            return 2 * x

    problem = ConstrainedProblem(forward=forward, objective=lambda x, z: z.sum(1), domain=Box(0.0, 1.0))
    with pytest.raises(ValueError, match="objective: does not depend on x.*no_grad.*inference_mode"):
        solve(problem, None, START, steps=5)


def test_a_count_takes_a_surrogate_and_a_solver_that_follows_it():
    count = inequality(
        lambda x, _: (x < 0.5).double().sum(1) - 1, surrogate=lambda x, _: (0.6 - x).clamp_min(0).sum(1), name="count"
    )
    problem = replace(smooth(), constraints=[count])
    found = solve(problem, FirstOrder(size=StepSize(0.05)), START, steps=200)
    assert found.feasible.all() and ((found.x < 0.5).sum(1) <= 1).all()
    with pytest.raises(ValueError, match="constraint 'count': has a surrogate, but ProjectedLBFGS follows the values"):
        solve(problem, None, START, steps=5)


def test_a_feasibility_problem_says_so():
    problem = replace(smooth(), objective=None)
    for solver in (None, FirstOrder(size=StepSize(0.05))):
        found = solve(problem, solver, START, steps=200)
        assert found.feasible.all() and (found.objective == 0).all()
    with pytest.raises(ValueError, match="objective: is None, .* but LinearizedProjection needs one to minimise"):
        solve(problem, LinearizedProjection(), START, steps=5)


# ---------------------------------------------------------------------------------------------- the caller's grad mode


@pytest.mark.parametrize("solver", [None, FirstOrder(size=StepSize(0.05)), LinearizedProjection()])
def test_the_callers_grad_mode_changes_nothing(solver):
    problem = near() if isinstance(solver, LinearizedProjection) else smooth()
    expected = solve(problem, solver, START, steps=40)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = solve(problem, solver, START, steps=40)
            inside = solve(problem, solver, START.clone(), steps=40)  # an inference tensor under inference_mode
        for other in (found, inside, solve(problem, solver, START.clone().requires_grad_(), steps=40)):
            assert torch.equal(other.x, expected.x) and torch.equal(other.status, expected.status)
            assert not other.x.is_inference() and not other.x.requires_grad
        assert torch.equal(found.kkt().stationarity, expected.kkt().stationarity)


# ------------------------------------------------------------------------------------------------------- one problem


def test_rows_that_are_one_problem_are_judged_together():
    """The rows share a sum: alone each would stay, together they must move."""
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - START).square().sum(1),
        constraints=[inequality(lambda x, _: (2.0 - x.sum()).expand(len(x)), name="sum")],
        independent=False,
    )
    found = solve(problem, FirstOrder(size=StepSize(0.05)), START, steps=500)
    assert found.feasible.all() and found.x.sum() >= 2 - 1e-5
    torch.testing.assert_close(found.x, START + (2 - START.sum()) / START.numel(), atol=1e-2, rtol=0)


def test_domains_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match="problem.domain: LinearizedProjection needs a finite Box, got L2Ball"):
        solve(replace(near(), domain=L2Ball(1.0)), LinearizedProjection(), START, steps=5)
