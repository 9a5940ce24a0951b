"""FAB against the exact box-aware optimum of linear classifiers, its parts, restarts, FAB-T, and what it promises."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from linear import classifier
from torch import Tensor, nn

from constropt import Box, ConstrainedProblem, Status, inequality, solve
from constropt.problems.attacks.linearized import fab
from constropt.solvers.linearized.boundary_projection import BoundaryProjection

P = {"l1": 1.0, "l2": 2.0, "linf": torch.inf}


def linear(rows: int = 24) -> SimpleNamespace:
    weight, bias, x = (t.double() for t in classifier(0, rows=rows))
    return SimpleNamespace(
        model=lambda t: t @ weight.T + bias, weight=weight, bias=bias, x=x, labels=(x @ weight.T + bias).argmax(1)
    )


def exact(problem: SimpleNamespace, p: float) -> Tensor:
    """The least p-norm within [0, 1] that reaches another class, by bisection along its path (l1: greedily)."""
    weight, bias, x, labels = problem.weight, problem.bias, problem.x, problem.labels
    best = x.new_full((len(x),), torch.inf)
    for c in range(len(weight)):
        w = weight[c] - weight[labels]
        needed = -((x * w).sum(1) + bias[c] - bias[labels])
        if p == 1:
            size, order = w.abs().sort(dim=1, descending=True)
            room = torch.where(w > 0, 1 - x, x).gather(1, order)
            gained = (size * room).cumsum(1)
            missing = (needed.unsqueeze(1) - (gained - size * room)).clamp_min(0)
            norm = torch.minimum(missing / size.clamp_min(1e-300), room).sum(1)
        else:
            direction = w if p == 2 else w.sign()
            low, high = torch.zeros_like(needed), torch.full_like(needed, 1e6)
            for _ in range(80):
                middle = (low + high) / 2
                enough = (((x + middle.unsqueeze(1) * direction).clamp(0, 1) - x) * w).sum(1) >= needed
                low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
            moved = (x + high.unsqueeze(1) * direction).clamp(0, 1) - x
            norm = torch.linalg.vector_norm(moved, ord=p, dim=1)
        best = torch.where((c != labels) & (norm < best), norm, best)
    return best


@pytest.fixture
def small():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 5))
    inputs = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    net.eval()
    return SimpleNamespace(model=net, x=inputs, labels=net(inputs).argmax(1))


@pytest.mark.parametrize("distance", P)
def test_linear_classifiers_are_solved(distance):
    problem = linear()
    solution = fab(problem.model, problem.x, problem.labels, distance=distance, steps=20)
    assert bool(solution.feasible.all())
    assert bool((problem.model(solution.x).argmax(1) != problem.labels).all())
    ratio = solution.objective / exact(problem, P[distance])
    assert ratio.min() > 1 - 1e-9 and ratio.max() < 1.01


@pytest.mark.parametrize("distance", P)
def test_the_final_search_only_improves(small, distance):
    plain = fab(small.model, small.x, small.labels, distance=distance, steps=8, search=0)
    searched = fab(small.model, small.x, small.labels, distance=distance, steps=8, search=3)
    assert bool(plain.feasible.all())
    assert bool((searched.objective <= plain.objective).all())
    assert bool((searched.objective < plain.objective).any())


def test_passes_are_counted():
    problem = linear(rows=4)
    labels = problem.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    run = partial(fab, problem.model, problem.x, labels, distance="l2", steps=7)
    solution = run(search=0)
    # nine boundaries an iteration; a forward pass for the check and one for the gradients, but for the first
    assert solution.backwards.tolist() == [63] * 4  # a row that starts fooled is one of the batch
    assert (solution.forwards - 1)[1:].tolist() == [14, 14, 14]
    assert solution.objective[0] == 0 and torch.equal(solution.x[0], problem.x[0])
    # three trials between the two ends, and a re-check
    assert (run(search=3).forwards - solution.forwards)[1:].tolist() == [6, 6, 6]
    assert torch.equal(run(search=3).backwards, solution.backwards)
    assert run(search=0, candidates=4).backwards.tolist() == [21] * 4
    assert run(search=0, by_class=True, restarts=2).backwards.tolist() == [14] * 4


def test_fab_t_follows_one_boundary_a_run(small):
    every = fab(small.model, small.x, small.labels, distance="l2", steps=10, by_class=True, restarts=4, search=0)
    assert bool(every.feasible.all())
    one = fab(small.model, small.x, small.labels, distance="l2", steps=10, by_class=True, search=0)
    assert bool((every.objective <= one.objective).all())
    assert bool((one.backwards == 10).all()) and bool((every.backwards == 40).all())
    # four boundaries, four runs: as good as all boundaries at once, within a little
    untargeted = fab(small.model, small.x, small.labels, distance="l2", steps=10, search=0)
    assert (every.objective / untargeted.objective).max() < 1.05


def test_restarts_start_at_random_and_only_improve(small):
    one = fab(small.model, small.x, small.labels, distance="l2", steps=6)
    three = fab(small.model, small.x, small.labels, distance="l2", steps=6, restarts=3)
    assert bool((three.objective <= one.objective).all())
    again = fab(small.model, small.x, small.labels, distance="l2", steps=6, restarts=3)
    assert torch.equal(again.x, three.x)
    seen = []
    for seed in (0, 1):
        fab(
            lambda t: seen.append(t.detach().clone()) or small.model(t),
            small.x,
            small.labels,
            distance="linf",
            steps=2,
            restarts=2,
            eps=0.2,
            seed=seed,
            search=0,
        )
    # the start of the second run: within half of eps, elsewhere for another seed
    half = len(seen) // 2
    starts = [seen[4], seen[half + 4]]
    assert all(0 < float((start - small.x).abs().max()) <= 0.1 + 1e-6 for start in starts)
    assert not torch.equal(*starts)


@pytest.mark.parametrize("distance", P)
def test_targets_are_reached(distance):
    problem = linear(rows=10)
    targets = (problem.labels + 3) % 10
    solution = fab(problem.model, problem.x, problem.labels, targets=targets, distance=distance, steps=30)
    assert bool(solution.feasible.all())
    assert torch.equal(problem.model(solution.x).argmax(1), targets)
    assert bool((solution.backwards == 30).all())


@pytest.mark.parametrize("distance", P)
def test_rows_do_not_depend_on_each_other(small, distance):
    options = {"distance": distance, "steps": 5, "restarts": 2}
    together = fab(small.model, small.x, small.labels, **options)
    alone = fab(small.model, small.x[2:3], small.labels[2:3], **options)
    torch.testing.assert_close(alone.objective, together.objective[2:3], rtol=1e-3, atol=1e-6)


def test_the_model_and_the_generator_stay_as_found(small):
    small.model.train()
    state = torch.get_rng_state()
    fab(small.model, small.x, small.labels, steps=3, restarts=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in small.model.modules())
    assert all(parameter.grad is None for parameter in small.model.parameters())


@pytest.mark.parametrize("change", [lambda z: 100 * z, lambda z: z.softmax(1)], ids=["times 100", "probabilities"])
@pytest.mark.parametrize("distance", P)
def test_the_scale_of_the_logits_changes_nothing(distance, change):
    problem = linear(rows=6)
    base = fab(problem.model, problem.x, problem.labels, distance=distance, steps=6)
    other = fab(lambda t: change(problem.model(t)), problem.x, problem.labels, distance=distance, steps=6)
    torch.testing.assert_close(other.objective, base.objective, rtol=1e-3, atol=0)


@pytest.mark.parametrize("distance", P)
def test_no_gradient_and_no_number(distance):
    x, labels = torch.rand(3, 4), torch.zeros(3, dtype=torch.long)
    flat = torch.tensor([[2.0, 1.0, 0.0]])
    still = fab(lambda t: flat + 0 * t.sum(1, keepdim=True), x, labels, distance=distance, steps=4)
    assert torch.equal(still.x, x) and not bool(still.feasible.any())
    mark = torch.tensor([[0.0], [torch.nan], [0.0]])
    weight = torch.tensor([[3.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    x = 0 * x + 0.5
    broken = fab(
        lambda t: (t + mark) @ weight.T + torch.tensor([0.1, 0.0]), x, labels, distance=distance, steps=4, restarts=2
    )
    assert broken.status[1] == Status.DIVERGED and torch.equal(broken.x[1], x[1])
    assert broken.feasible.tolist() == [True, False, True]


def test_other_bounds_and_half_precision():
    problem = linear(rows=8)
    lower, upper = -2.0, 3.0
    moved = fab(
        lambda t: problem.model((t - lower) / (upper - lower)),
        problem.x * (upper - lower) + lower,
        problem.labels,
        bounds=(lower, upper),
        steps=6,
        restarts=2,
    )
    base = fab(problem.model, problem.x, problem.labels, steps=6, restarts=2)
    torch.testing.assert_close(moved.objective, base.objective * (upper - lower), rtol=1e-3, atol=0)
    assert moved.x.min() >= lower and moved.x.max() <= upper
    weight, bias, x = (t.to(torch.bfloat16) for t in (problem.weight, problem.bias, problem.x))
    labels = (x @ weight.T + bias).argmax(1)
    short = fab(lambda t: t @ weight.T + bias, x, labels, steps=6)
    assert short.x.dtype == torch.bfloat16 and bool(short.x.isfinite().all()) and bool(short.feasible.any())


def test_the_solver_is_general():
    """A problem that is no attack, without alternatives: out of an ellipse, in a box that cuts some of it off."""
    x0 = torch.tensor([[0.1, 0.3], [0.5, 0.1]], dtype=torch.float64)
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - x0).norm(dim=1),
        constraints=[inequality(lambda x, _: 1.0 - x[:, 0].square() - 4 * x[:, 1].square(), name="outside")],
        domain=Box(-9.0, 0.45),
    )
    x1 = x0.clone()
    x1[1, 0] = 0.45
    solution = solve(problem, BoundaryProjection(), x1, steps=60)
    assert bool(solution.feasible.all())
    # the least distance to the ellipse within the box, by search
    angle = torch.linspace(0, 2 * torch.pi, 200_001, dtype=torch.float64)
    boundary = torch.stack([angle.cos(), angle.sin() / 2], 1)
    boundary = boundary[(boundary <= 0.45).all(1)]
    exact_distance = torch.cdist(x0, boundary).amin(1)
    assert ((solution.objective - exact_distance) / exact_distance).abs().max() < 0.01


def refuse(x: Tensor) -> Tensor:
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha_max": 1.5}, "alpha"),
        ({"beta": -0.1}, "beta"),
        ({"eta": 0.9}, "eta"),
        ({"eps": 0.0}, "radius"),
        ({"restarts": 0}, "restarts"),
        ({"steps": 0}, "steps"),
        ({"search": -1}, "search"),
        ({"candidates": 1}, "candidates"),
        ({"distance": "l0"}, "distance"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fab(refuse, torch.rand(2, 3), torch.tensor([0, 1]), **arguments)
