"""Square Attack: windows and norms of its moves, what it finds, and what it counts."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from constropt import Box, ConstrainedProblem, L1Ball, L2Ball, LinfBall, Status, inequality, solve
from constropt.problems.attacks.balls import square
from constropt.solvers.balls.square import SquareSearch

BALLS = {"linf": (LinfBall, torch.inf), "l2": (L2Ball, 2), "l1": (L1Ball, 1)}


@pytest.fixture
def small():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(75, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5)).eval()
    inputs = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(model=net, inputs=inputs, labels=net(inputs).argmax(1))


def quadratic(shape: tuple[int, ...], ball: type, radius: float, box: Box | None = None) -> ConstrainedProblem:
    center = torch.full(shape, 0.5, dtype=torch.float64)
    goal = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ConstrainedProblem(
        objective=lambda x, _: (x - goal).flatten(1).square().sum(1), domain=ball(radius, center, box)
    )


@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (2, 8, 8), (3, 20), (1, 1, 1, 6), (2, 2, 3, 1)])
@pytest.mark.parametrize("norm", BALLS)
def test_every_trial_lies_in_the_domain_and_the_objective_falls(norm, shape):
    ball, p = BALLS[norm]
    problem = quadratic(shape, ball, 0.4, Box(0.2, 0.8))
    values: list[Tensor] = []

    def watch(index, point, proposal):
        assert problem.domain.contains(point.x.detach(), 1e-12).all() and point.x.isfinite().all()
        values.append(proposal.state.value)

    x = problem.domain.center
    solution = solve(problem, SquareSearch(), x, steps=60, callback=watch)
    falling = torch.stack(values[1:])
    assert (falling.diff(dim=0) <= 0).all() and (falling[-1] < falling[0]).all()
    assert (solution.backwards == 0).all() and (solution.forwards == 62).all()
    length = torch.linalg.vector_norm((solution.x - x).flatten(1), ord=p, dim=1)
    assert (length <= 0.4 + 1e-12).all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_trials_use_the_whole_radius(norm):
    ball, p = BALLS[norm]
    problem = quadratic((2, 3, 8, 8), ball, 0.3)
    lengths: list[Tensor] = []

    def watch(index, point, proposal):
        lengths.append(torch.linalg.vector_norm((point.x.detach() - 0.5).flatten(1), ord=p, dim=1))

    solve(problem, SquareSearch(), problem.domain.center, steps=40, callback=watch)
    assert torch.allclose(torch.stack(lengths[1:]), torch.tensor(0.3, dtype=torch.float64))


def test_linf_moves_are_windows_of_corners():
    problem = quadratic((1, 2, 8, 8), LinfBall, 0.25)
    points: list[Tensor] = []
    best: list[Tensor] = []

    def watch(index, point, proposal):
        points.append(point.x.detach() - 0.5)
        best.append(proposal.state.x - 0.5)

    solve(problem, SquareSearch(area=0.25), problem.domain.center, steps=30, callback=watch)
    stripes = points[1]
    assert (stripes.abs() == 0.25).all() and (stripes == stripes[:, :, :1]).all()
    for before, trial in zip(best[1:-1], points[2:]):
        assert (trial.abs() == 0.25).all()
        changed = (trial != before).any(1)[0]
        if changed.any():
            rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
            assert rows.max() - rows.min() < 4 and columns.max() - columns.min() < 4


def test_windows_shrink_as_published():
    sizes = []
    run = SimpleNamespace(steps=10_000)
    delta = torch.zeros(1, 1, 100, 100)
    for index in (1, 11, 12, 52, 202, 8002):
        sizes.append(SquareSearch(area=0.64)._size(delta, index, run, least=1)[0])
    assert sizes == [80, 80, 57, 40, 28, 4]


def test_a_linear_model_is_fooled_where_signs_decide():
    """linf: the largest drop of a linear score is eps ||w||_1; random search comes near it."""
    weight = torch.randn(64, generator=torch.Generator().manual_seed(0))
    x = torch.full((2, 1, 8, 8), 0.5)
    bias = -0.5 * weight.sum() + 1.0
    model = lambda t: torch.stack([t.flatten(1) @ weight + bias, torch.zeros(len(t))], 1)  # noqa: E731
    labels = torch.zeros(2, dtype=torch.long)
    least = 1.0 / float(weight.abs().sum())
    attack = partial(square, model, x, labels, steps=600)
    assert not attack(eps=0.95 * least, steps=100).feasible.any()
    found = attack(eps=1.2 * least)
    assert found.feasible.all() and (found.forwards < 602).all()
    minimal = attack(searches=9, steps=300)
    assert minimal.feasible.all() and (minimal.objective < 1.5 * least).all() and (minimal.objective >= least).all()


def test_rows_stop_at_their_first_success_and_count_their_own_queries(small):
    calls = 0

    def model(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        assert not torch.is_grad_enabled()
        return small.model(x)

    radius = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.01, 0.3])
    solution = square(model, small.inputs, small.labels, eps=radius, steps=50)
    assert (solution.backwards == 0).all() and solution.forwards.max() == calls
    assert not solution.feasible[0] and (solution.forwards == 52).all()  # a function is asked for the whole batch
    alone = square(small.model, small.inputs, small.labels, eps=radius, steps=50)
    assert torch.equal(alone.feasible, solution.feasible) and alone.forwards[0] == 52
    done = solution.feasible
    # a network is not: rows that are done are left out from the check after the next on, every tenth step
    assert done.any() and (alone.forwards[done] <= alone.first_feasible[done] + 22).all()
    all_wrong = square(model, small.inputs, (small.labels + 1) % 5, eps=0.1, steps=50)
    assert (all_wrong.forwards == 11).all() and torch.equal(all_wrong.x, small.inputs)


def test_targets_are_reached(small):
    targets = (small.labels + 1) % 5
    solution = square(small.model, small.inputs, small.labels, targets=targets, eps=1.0, steps=200)
    assert torch.equal(small.model(solution.x).argmax(1) == targets, solution.feasible) and solution.feasible.any()


@pytest.mark.parametrize("norm", BALLS)
def test_rows_are_independent_and_seeds_decide(norm):
    weight = torch.randn(4, 48, generator=torch.Generator().manual_seed(0))
    x = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    model = lambda t: (t.flatten(1)[:, None] * weight).sum(2)  # noqa: E731
    labels, state = model(x).argmax(1), torch.get_rng_state()
    attack = partial(square, model, distance=norm, eps=0.15, steps=40)
    together, alone = attack(x, labels), attack(x[3:4], labels[3:4])
    assert torch.equal(together.x[3], alone.x[0]) and torch.equal(together.forwards[3:4], alone.forwards)
    assert torch.equal(attack(x, labels).x, together.x)
    assert not torch.equal(attack(x, labels, seed=1).x, together.x)
    assert torch.equal(torch.get_rng_state(), state)
    several = attack(x, labels, restarts=3)
    single = [attack(x, labels, seed=k).feasible for k in range(3)]
    assert torch.equal(several.feasible, torch.stack(single).any(0))

    def broken(t: Tensor) -> Tensor:
        return model(t) * torch.where(torch.arange(5) == 2, torch.nan, 1.0)[:, None]

    lost, others = square(broken, x, labels, distance=norm, eps=0.15, steps=40), [0, 1, 3, 4]
    assert not lost.feasible[2] and lost.status[2] == Status.DIVERGED and lost.x.isfinite().all()
    assert torch.equal(lost.x[others], together.x[others])


def test_constraints_stop_rows_only_on_demand():
    problem = quadratic((2, 1, 4, 4), LinfBall, 0.3)
    problem = ConstrainedProblem(
        objective=problem.objective,
        constraints=[inequality(lambda x, _: x.flatten(1).sum(1) - 8.5)],
        domain=problem.domain,
    )
    going = solve(problem, SquareSearch(), problem.domain.center, steps=30)
    stopped = solve(problem, SquareSearch(stop=True), problem.domain.center, steps=30)
    assert (going.forwards == 32).all() and (stopped.forwards == 11).all()
    assert (going.objective <= stopped.objective).all() and (going.objective < stopped.objective).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("norm, eps", [("linf", 0.5), ("l2", 4.0), ("l1", 30.0)])
def test_other_dtypes_and_modes(dtype, norm, eps, small):
    model = small.model.to(dtype)
    model.train()
    x = small.inputs.to(dtype)
    solution = square(model, x, small.labels, distance=norm, eps=eps, steps=30)
    assert model.training and solution.x.dtype == dtype and solution.x.isfinite().all()
    model.eval()
    assert torch.equal(model(solution.x).argmax(1) != small.labels, solution.feasible) and solution.feasible.any()


GOOD = {"inputs": torch.full((2, 12), 0.5), "labels": torch.zeros(2, dtype=torch.long)}
BAD = {
    "no steps": ({"steps": 0}, "steps: takes a whole number"),
    "no restarts": ({"restarts": 0}, "restarts: takes a whole number"),
    "no area": ({"area": 0.0}, "area: takes the part of the image"),
    "a negative seed": ({"seed": -1}, "seed: takes a whole number >= 0"),
    "an unknown distance": ({"distance": "l0"}, "distance: takes one of"),
    "targets equal to labels": ({"targets": torch.tensor([1, 0])}, "targets: must differ"),
    "negative eps": ({"eps": -0.1}, "eps: takes finite radii >= 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_model_call(case):
    changes, message = BAD[case]

    def model(x: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    with pytest.raises((ValueError, TypeError), match=message):
        square(model, **{"eps": 0.1, **GOOD, **changes})


def test_no_ball_is_refused():
    problem = ConstrainedProblem(objective=lambda x, _: x.sum(1), domain=Box())
    with pytest.raises(ValueError, match="problem.domain: SquareSearch takes a ball.*Box"):
        solve(problem, SquareSearch(), torch.zeros(1, 2), steps=1)
    with pytest.raises(TypeError, match="model: takes a callable"):
        square("a name", **GOOD, eps=0.1)
