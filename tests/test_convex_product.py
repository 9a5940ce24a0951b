"""Problems x penalties x loops: whatever the combination, the optimum that is known beforehand is reached.

Every registered penalty solves the quadratic problem in every loop, and one of each family solves the others. Step
sizes are 1/L with L from the problem's constants and the penalty's own curvature (`Convex.step_size`); nothing is tuned
for a combination. Combinations that cannot work are named, with the reason, and the reason is itself tested.
"""

from __future__ import annotations

from dataclasses import replace

import convex
import pytest
import torch

from constropt import AugmentedLagrangian, ConstantRho, MultiplierUpdate, ProgressRho, solve
from constropt.penalties import get, names
from constropt.solvers import ProjectedLBFGS
from constropt.solvers.first_order import FirstOrder
from constropt.steps import Gradient, PrimalStep, RMSPropMomentum, StepSize, TorchOptimizer

ONE_OF_EACH = (
    "PHR", "P1", "P2", "P3", "P4-Cosh", "P5-HyperQuad", "P6-CubicQuad", "P6-Exp", "P7-LogExp",
    "P8-LogBarrierQuad", "P9-NNSmoothPlus",
)  # fmt: skip
WITH_EQUALITY = tuple(name for name in names() if get(name).equality is not None)

# P'' is infinite at y = 0 (P' = mu + (rho y)^(1/3)), so no fixed step size is small enough for gradient descent.
NOT_SMOOTH = {"P4-FourThirds"}

# P' = 0 where rho mu y <= -1/2, and above 0 a small mu grows like mu^2: a multiplier that an early, strictly feasible
# iterate has put to its floor never recovers while rho stays small.
DEAD_ONCE_ZERO = {"P6-CubicQuad"}

# P'' = rho P'/mu where P is exponential in y/mu: a mu that strictly feasible iterates have made small makes P so steep
# that no step is small enough.
STIFF_WHEN_SMALL = {"P7-Exp", "P7-LogExp", "P7-HyperExp"}

# The multiplier of a constraint that stays met by y < 0 falls like 1/k or 1/k^2 over the updates k, not geometrically:
# it is out of reach for loops whose rho stays small because nothing is violated.
SLOW_WHEN_INACTIVE = {name for name in names() if name.startswith("P6-") and name != "P6-CubicQuad"} | {
    f"P8-{theta}"
    for theta in (
        "DualLogQuad", "HyperBarrierQuad", "HyperExp", "HyperLogQuad", "HyperQuad", "LogBarrierQuad", "LogExp",
        "LogQuad1", "LogQuad2",
    )
} | {"P9-SmoothPlus"}  # fmt: skip

# All of this concerns loops of fixed steps and small rho only: ProjectedLBFGS, which searches lines and chooses rho,
# takes every penalty on every row.
EXCLUDED = NOT_SMOOTH | DEAD_ONCE_ZERO | STIFF_WHEN_SMALL

GRADIENT = Gradient()
RHO, LARGEST_RHO = 2.0, 4.0
STOP = 3e-5  # of the KKT residuals


def lbfgs(problem: convex.Convex, penalty: str) -> ProjectedLBFGS:
    """The default of `solve`, at the tolerance of the other loops."""
    return ProjectedLBFGS(AugmentedLagrangian(penalty), kkt_tolerance=STOP)


def nested(problem: convex.Convex, penalty: str, primal: PrimalStep = GRADIENT, size: float | None = None):
    """Alg. 4.1: ten primal steps between two exact multiplier updates, rho raised where progress is slow."""
    return FirstOrder(
        AugmentedLagrangian(penalty, rho=RHO, schedule=ProgressRho(factor=2.0, maximum=LARGEST_RHO)),
        primal=primal,
        size=StepSize(problem.step_size(penalty, LARGEST_RHO) if size is None else size),
        inner_steps=10,
        kkt_tolerance=STOP,
        tolerance=STOP,
        check_every=10,
    )


def joint(problem: convex.Convex, penalty: str, primal: PrimalStep = GRADIENT, size: float | None = None):
    """Alg. 4.2: multipliers move with every primal step, by an exponential moving average."""
    return FirstOrder(
        AugmentedLagrangian(penalty, rho=RHO, schedule=ConstantRho(), multiplier=MultiplierUpdate(ema=0.7)),
        primal=primal,
        size=StepSize(problem.step_size(penalty, RHO) if size is None else size),
        kkt_tolerance=STOP,
        tolerance=STOP,
        check_every=10,
    )


LOOPS = {"lbfgs": lbfgs, "nested": nested, "joint": joint}


def reaches(problem: convex.Convex, solver, steps: int = 2500) -> None:
    solution = solve(problem.problem, solver, problem.start, steps=steps)
    assert problem.distance(solution.x) <= 1e-4
    assert torch.stack(solution.kkt()).max() <= 1e-3
    assert solution.feasible.all()


def pairs(penalties: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(loop, penalty) for loop in LOOPS for penalty in penalties if loop == "lbfgs" or penalty not in EXCLUDED]


@pytest.mark.parametrize(("loop", "penalty"), pairs(names()))
def test_every_penalty_in_every_loop(loop, penalty):
    _solve_inequalities("quadratic", loop, penalty)


@pytest.mark.parametrize(("loop", "penalty"), pairs(ONE_OF_EACH))
@pytest.mark.parametrize("name", [name for name in convex.INEQUALITIES if name != "quadratic"])
def test_one_penalty_of_each_family_on_the_other_problems(name, loop, penalty):
    _solve_inequalities(name, loop, penalty)


def _solve_inequalities(name: str, loop: str, penalty: str) -> None:
    build, active = convex.INEQUALITIES[name]
    problem = build()
    if loop != "lbfgs" and penalty in SLOW_WHEN_INACTIVE:
        problem = replace(build(active), least_multiplier=0.3)
    reaches(problem, LOOPS[loop](problem, penalty))


@pytest.mark.parametrize(("loop", "penalty"), pairs(WITH_EQUALITY))
@pytest.mark.parametrize("name", convex.EQUALITIES)
def test_every_penalty_with_an_equality_form(name, loop, penalty):
    problem = convex.EQUALITIES[name]()
    reaches(problem, LOOPS[loop](problem, penalty))


# ---------------------------------------------------------------------------------------- the reasons of the exclusions


@pytest.mark.parametrize("penalty", names())
def test_what_is_not_smooth_has_a_curvature_that_grows_with_the_resolution(penalty):
    p, grid = get(penalty), torch.linspace(-1, 1, 100, dtype=torch.float64)
    coarse, fine = ((p.derivative(h * grid, RHO, 1.0).diff() / (h * grid).diff()).abs().max() for h in (1e-3, 1e-5))
    assert (fine > 2 * coarse) == (penalty in NOT_SMOOTH)


@pytest.mark.parametrize("penalty", names())
def test_what_is_dead_once_zero_does_not_recover_from_one_strictly_feasible_iterate(penalty):
    mu = _updated(penalty, -0.5, 1, mu=1.0)
    assert (_updated(penalty, 0.1, 300, mu=mu) < 1e-3) == (penalty in DEAD_ONCE_ZERO)


@pytest.mark.parametrize("penalty", names())
def test_what_is_stiff_when_small_has_a_curvature_like_one_over_mu(penalty):
    usual, small = (convex.steepness(penalty, RHO, mu, 3.0) for mu in (0.3, 3e-3))
    assert (small > 20 * usual) == (penalty in STIFF_WHEN_SMALL)


@pytest.mark.parametrize("penalty", names())
def test_what_is_slow_when_inactive_has_multipliers_that_do_not_fall_geometrically(penalty):
    assert (_updated(penalty, -0.3, 200, mu=1.0) > 2e-6) == (penalty in SLOW_WHEN_INACTIVE)


def _updated(penalty: str, y: float, updates: int, mu: float) -> float:
    """The multiplier after exact updates mu <- P'(y, rho, mu), safeguarded as in the loops."""
    multiplier, value = torch.tensor([mu], dtype=torch.float64), torch.tensor([y], dtype=torch.float64)
    for _ in range(updates):
        multiplier = get(penalty).derivative(value, RHO, multiplier).clamp(1e-6, 1e12)
    return multiplier.item()


# --------------------------------------------------------------------------------------------------- other primal steps


@pytest.mark.parametrize(
    ("primal", "size"),
    [(RMSPropMomentum(), 0.01), (TorchOptimizer(lambda parameters: torch.optim.Adam(parameters, lr=0.05)), 1.0)],
    ids=["RMSPropMomentum", "Adam"],
)
@pytest.mark.parametrize("name", ["quadratic", "ball"])
def test_normalised_steps(name, primal, size):
    """Their length is in the units of x, whatever the gradient: it must decay, and the duals must wait for them.

    (In the joint loop the multipliers outrun steps of a bounded length and oscillate; hence the nested one.)
    """
    problem = convex.INEQUALITIES[name][0]()
    solver = nested(problem, "PHR", primal)
    solver = replace(solver, size=StepSize(size, final=1e-3), inner_steps=30)
    solver = replace(solver, lagrangian=replace(solver.lagrangian, schedule=ConstantRho()))
    reaches(problem, solver, steps=1500)


@pytest.mark.parametrize("loop", ["nested", "joint"])
@pytest.mark.parametrize("name", ["quadratic", "ball"])
def test_torch_sgd_is_our_gradient_step(name, loop):
    problem = convex.INEQUALITIES[name][0]()
    rho = LARGEST_RHO if loop == "nested" else RHO
    sgd = TorchOptimizer(lambda parameters: torch.optim.SGD(parameters, lr=problem.step_size("PHR", rho)))
    theirs = LOOPS[loop](problem, "PHR", sgd, 1.0)
    reaches(problem, theirs)
    x, y = (solve(problem.problem, s, problem.start, steps=50).x for s in (theirs, LOOPS[loop](problem, "PHR")))
    assert torch.allclose(x, y, atol=1e-12, rtol=0)


def test_torch_lbfgs():
    problem = convex.quadratic()
    newton = TorchOptimizer(lambda parameters: torch.optim.LBFGS(parameters, max_iter=4, line_search_fn="strong_wolfe"))
    reaches(problem, joint(problem, "PHR", newton, 1.0), steps=300)
