"""The projection on the Wasserstein ball against a quadratic program, its laws, the growing radius, the attack."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from constropt import Box, ConstrainedProblem, L2Ball, Status, inequality, solve
from constropt.domain import WassersteinBall
from constropt.problems.attacks.transport import wasserstein
from constropt.prox.wasserstein_ball import _omega, project_wasserstein, transport_cost
from constropt.solvers.balls.steepest_descent import SteepestDescent

optimize = pytest.importorskip("scipy.optimize")


def images(seed: int, batch: int = 2, channels: int = 1, side: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, side, side, generator=generator, dtype=torch.float64)


def local_distance(z: Tensor, center: Tensor, kernel: int) -> float:
    """The least cost of moving the mass of one image (height, width) onto another within the neighbourhood: an LP."""
    height, width = center.shape
    side, mass = kernel // 2, float(center.sum())
    moves, costs = [], []
    for i in range(height * width):
        for j in range(height * width):
            down, right = i // width - j // width, i % width - j % width
            if max(abs(down), abs(right)) <= side:
                moves.append((i, j))
                costs.append((down**2 + right**2) ** 0.5)
    equal = np.zeros((2 * height * width, len(moves)))
    for k, (i, j) in enumerate(moves):
        equal[i, k] = equal[height * width + j, k] = 1
    right_side = np.concatenate([center.numpy().ravel(), z.numpy().ravel()]) / mass
    # rounding leaves the totals unequal: what must arrive may differ a little
    slack = 1e-7
    found = optimize.linprog(
        costs,
        A_ub=np.concatenate([equal, -equal]),
        b_ub=np.concatenate([right_side + slack, slack - right_side]),
        method="highs",
    )
    assert found.success, found.message
    return found.fun


def test_omega_solves_its_equation():
    a = torch.tensor([-60.0, -5.0, 0.0, 0.9, 1.1, 30.0, 4000.0], dtype=torch.float64)
    t = _omega(a)
    assert torch.allclose(t + t.log(), a, rtol=1e-12, atol=1e-12)
    assert _omega(torch.tensor([-torch.inf])).tolist() == [0.0]


def test_costs_are_distances_in_pixels():
    assert torch.equal(transport_cost(3, p=torch.inf), torch.tensor([1.0] * 4 + [0.0] + [1.0] * 4, dtype=torch.float64))
    assert transport_cost(5)[0] == 8**0.5 and transport_cost(1).tolist() == [0.0]


def test_the_projection_is_that_of_the_quadratic_program():
    """One row of three pixels: moves of one pixel cost 1; the plan is optimised by SLSQP without entropy."""
    center = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).view(1, 1, 1, 3)
    wanted = torch.tensor([0.6, 0.1, 0.5], dtype=torch.float64).view(1, 1, 1, 3)
    pairs = [(i, j) for i in range(3) for j in range(3) if abs(i - j) <= 1]
    columns = np.zeros((3, len(pairs)))
    rows = np.zeros((3, len(pairs)))
    for k, (i, j) in enumerate(pairs):
        rows[i, k], columns[j, k] = 1, 1
    cost = np.array([abs(i - j) for i, j in pairs])
    w, x = wanted.numpy().ravel(), center.numpy().ravel()
    for radius, upper in ((0.1, 1.0), (0.25, 1.0), (0.25, 0.38)):
        best = optimize.minimize(
            lambda plan: ((columns @ plan - w) ** 2).sum(),
            np.array([x[i] if i == j else 0.0 for i, j in pairs]),
            bounds=[(0, 1)] * len(pairs),
            constraints=[
                {"type": "eq", "fun": lambda plan: rows @ plan - x},
                {"type": "ineq", "fun": lambda plan, r=radius: r - cost @ plan},
                {"type": "ineq", "fun": lambda plan, u=upper: u - columns @ plan},
            ],
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        options = {"upper": upper, "kernel": 3, "regularization": 300.0, "iterations": 2000}
        found = project_wasserstein(wanted, center, radius, **options)
        exact = torch.from_numpy(columns @ best.x).view_as(found)
        assert (found - exact).abs().max() < 6e-3, (radius, upper, found, exact)


@given(st.integers(0, 1000), st.floats(0, 1.0), st.sampled_from([1, 3, 5]))
@settings(max_examples=15, deadline=None)
def test_what_is_returned_is_within_the_radius_and_keeps_the_mass(seed, radius, kernel):
    center, w = images(seed), images(seed + 1)
    center[0, 0, 0] = 0.0  # pixels without mass
    z = project_wasserstein(w, center, radius, kernel=kernel, iterations=20)
    assert z.isfinite().all() and (z >= 0).all()
    assert torch.allclose(z.sum((1, 2, 3)), center.sum((1, 2, 3)), rtol=1e-9)
    for row in range(2):
        assert local_distance(z[row, 0], center[row, 0], kernel) <= radius + 1e-5


def test_upper_sides_hold_and_no_radius_moves_nothing():
    center, w = images(0).clamp_max(0.7), 2 * images(1)
    z = project_wasserstein(w, center, 0.5, upper=0.8, iterations=400)
    assert z.max() <= 0.8 and torch.allclose(z.sum((1, 2, 3)), center.sum((1, 2, 3)), rtol=1e-3)
    still = project_wasserstein(w, center, torch.tensor([0.0, 0.5]), iterations=30)
    assert torch.allclose(still[0], center[0], atol=1e-9) and not torch.allclose(still[1], center[1], atol=1e-2)
    alone = project_wasserstein(center, center, 0.1)
    assert torch.equal(alone, center)
    assert torch.equal(project_wasserstein(w, torch.zeros_like(w), 0.1), torch.zeros_like(w))


def test_rows_and_channels_do_not_mix():
    center, w = images(2, batch=3, channels=2), images(3, batch=3, channels=2)
    radii = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    whole = project_wasserstein(w, center, radii)
    assert torch.equal(project_wasserstein(w[1:2], center[1:2], 0.2)[0], whole[1])
    assert torch.allclose(whole.sum((2, 3)), center.sum((2, 3)), rtol=1e-9)  # mass stays in its channel
    w[2] = torch.nan
    lost = project_wasserstein(w, center, radii)
    assert torch.equal(lost[:2], whole[:2]) and lost[2].isnan().any()


def test_the_domain_moves_with_the_box():
    center = images(4)
    x = (center + 0.1 * torch.randn(center.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    near = WassersteinBall(0.2, center).project(x)
    far = WassersteinBall(0.2, 4 * center - 3, Box(-3.0, 1.0)).project(4 * x - 3)
    assert torch.allclose(4 * near - 3, far, atol=0.05) and far.min() >= -3 and far.max() <= 1
    assert torch.equal(WassersteinBall(0.2, center).project(center), center)
    for wrong, message in (
        ({"radius": -1.0}, "radius: takes numbers >= 0"),
        ({"center": torch.rand(2, 4)}, "center: takes images"),
        ({"center": torch.full((1, 1, 2, 2), 2.0)}, "center: must lie in the box"),
        ({"box": Box(-torch.inf, 1.0)}, "center: must lie in the box"),
        ({"kernel": 4}, "kernel: takes an odd"),
        ({"regularization": 0.0}, "regularization: takes a number > 0"),
        ({"iterations": 0}, "iterations: takes a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            WassersteinBall(**{"radius": 0.1, "center": center, **wrong})
    with pytest.raises(ValueError, match="w, center: take images"):
        project_wasserstein(center[0], center, 0.1)
    with pytest.raises(ValueError, match="radius: takes a number >= 0"):
        project_wasserstein(center, center, -0.1)


# ------------------------------------------------------------------------------------------------------------- solver


def test_radii_grow_and_rows_stop_at_the_first_success():
    x = torch.zeros(3, 2, dtype=torch.float64)
    need = torch.tensor([0.5, 1.2, 100.0], dtype=torch.float64)
    problem = ConstrainedProblem(
        objective=lambda t, _: -t[:, 0], constraints=[inequality(lambda t, _: need - t[:, 0])], domain=L2Ball(10.0, x)
    )
    solver = SteepestDescent(size=5.0, p=2.0, first=0.25, growth=2.0, period=2, stop=True)
    solution = solve(problem, solver, x, steps=6)
    assert [solver.radius(k) for k in range(7)] == [0.0, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    assert solution.feasible.tolist() == [True, False, False] and solution.first_feasible.tolist() == [3, -1, -1]
    assert torch.allclose(solution.x[0], torch.tensor([0.5, 0.0], dtype=torch.float64))
    assert solution.backwards.tolist() == [6] * 3  # the row that has stopped is one of the batch
    fixed = solve(problem, SteepestDescent(size=5.0, p=2.0), x, steps=2)
    assert fixed.x[:, 0].tolist() == [10.0] * 3
    with pytest.raises(ValueError, match="problem.domain: a radius that grows.*Reals"):
        solve(ConstrainedProblem(objective=lambda t, _: t.sum(1)), solver, x, steps=1)
    for name, value in (("size", 0.0), ("p", 1.0), ("first", 0.0), ("growth", 1.0), ("period", 0)):
        with pytest.raises(ValueError, match=f"{name}: takes"):
            SteepestDescent(**{name: value})


# ------------------------------------------------------------------------------------------------------------- attack


@pytest.fixture
def small():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)).eval()
    inputs = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(5))
    return net, inputs, net(inputs).argmax(1)


def test_a_linear_model_needs_its_transport():
    """The model sees one pixel against its neighbour: half the difference has to move by one pixel."""
    x = torch.zeros(2, 1, 5, 5, dtype=torch.float64)
    x[:, 0, 2, 2] = torch.tensor([0.5, 0.8], dtype=torch.float64)
    x[:, 0, 4, 4] = torch.tensor([0.5, 0.2], dtype=torch.float64)  # mass 1 in all
    model = lambda t: torch.stack([t[:, 0, 2, 2], t[:, 0, 2, 3]], 1)  # noqa: E731
    labels = torch.zeros(2, dtype=torch.long)
    attack = partial(wasserstein, model, x, labels, loss="logit difference")
    assert not attack(eps=torch.tensor([0.22, 0.35]), steps=30).feasible.any()
    enough = attack(eps=torch.tensor([0.29, 0.45]), steps=25)
    assert enough.feasible.all() and torch.allclose(enough.x.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64))
    minimal = attack(steps=50, period=5, first_radius=0.2, growth=1.1)
    assert minimal.feasible.all()
    exact = torch.tensor([0.25, 0.4], dtype=torch.float64)
    assert (minimal.objective >= exact * 0.999).all() and (minimal.objective < 1.3 * exact).all()
    for row in range(2):
        assert local_distance(minimal.x[row, 0], x[row, 0], 5) <= minimal.objective[row] + 1e-5


def test_success_is_real_and_all_is_left_as_found(small):
    model, inputs, labels = small
    model.train()
    state, before = torch.get_rng_state(), inputs.clone()
    solution = wasserstein(model, inputs, labels, steps=40, first_radius=0.05, growth=2.0)
    assert model.training and torch.equal(torch.get_rng_state(), state) and torch.equal(before, inputs)
    model.eval()
    assert torch.equal(model(solution.x).argmax(1) != labels, solution.feasible) and solution.feasible.any()
    assert (solution.x >= 0).all() and (solution.x <= 1).all()
    again = solution.problem.evaluate(solution.x, grad=False).total()
    assert torch.equal(again, solution.objective)
    clean = wasserstein(model, inputs, (labels + 1) % 4, steps=5)
    assert clean.feasible.all() and (clean.objective == 0).all() and torch.equal(clean.x, inputs)
    targets = (labels + 1) % 4
    reached = wasserstein(model, inputs, labels, targets=targets, steps=40, first_radius=0.1, growth=2.0)
    assert torch.equal(model(reached.x).argmax(1) == targets, reached.feasible)


def test_rows_are_independent_and_passes_counted():
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    calls = 0

    def model(t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return (t.flatten(1)[:, None] * weight).sum(2)

    labels = model(x).argmax(1)
    attack = partial(wasserstein, eps=0.1, steps=12)
    calls = 0
    together = attack(model, x, labels)
    assert calls == 14 and (together.forwards == 14).all() and (together.backwards == 12).all()
    assert torch.equal(attack(model, x[2:3], labels[2:3]).x[0], together.x[2])

    def broken(t: Tensor) -> Tensor:
        return model(t) * torch.where(torch.arange(4) == 1, torch.nan, 1.0)[:, None]

    lost = attack(broken, x, labels)
    assert lost.status[1] == Status.DIVERGED and lost.x.isfinite().all()
    assert torch.equal(lost.x[[0, 2, 3]], together.x[[0, 2, 3]])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"inputs": torch.rand(2, 12)}, "center: takes images"),
        ({"steps": 0}, "steps: takes a whole number"),
        ({"eps": -1.0}, "eps: takes finite radii"),
        ({"size": 0.0}, "size: takes a step > 0"),
        ({"first_radius": 0.0}, "first: takes a radius > 0"),
        ({"kernel": 2}, "kernel: takes an odd"),
        ({"targets": torch.tensor([0, 1])}, "targets: must differ"),
    ],
)
def test_bad_input_is_refused_before_the_first_model_call(changes, message):
    def model(x: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    good = {"inputs": torch.rand(2, 1, 4, 4), "labels": torch.zeros(2, dtype=torch.long)}
    with pytest.raises(ValueError, match=message):
        wasserstein(model, **{**good, **changes})
