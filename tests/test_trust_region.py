"""The trust-region attack: closed forms on linear classifiers, how the radius adapts, and what it promises."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from linear import classifier
from torch import Tensor, nn

from constropt import ConstrainedProblem, Status, inequality, solve
from constropt.problems.attacks.linearized import trust_region
from constropt.solvers.linearized.trust_region import TrustRegion

P = {"l2": 2.0, "linf": torch.inf}
FREE = (-float("inf"), float("inf"))


def linear(rows: int = 24) -> SimpleNamespace:
    weight, bias, x = (t.double() for t in classifier(0, rows=rows))
    return SimpleNamespace(
        model=lambda t: t @ weight.T + bias, weight=weight, bias=bias, x=x, labels=(x @ weight.T + bias).argmax(1)
    )


def free_optimum(problem: SimpleNamespace, p: float) -> Tensor:
    """The distance to the nearest boundary in the whole space."""
    logits = problem.model(problem.x)
    normals = problem.weight.unsqueeze(0) - problem.weight[problem.labels].unsqueeze(1)
    gaps = logits.gather(1, problem.labels.unsqueeze(1)) - logits
    distance = gaps / torch.linalg.vector_norm(normals, ord={2.0: 2.0, torch.inf: 1.0}[p], dim=2)
    return distance.scatter(1, problem.labels.unsqueeze(1), torch.inf).amin(1)


@pytest.fixture
def small():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Dropout(0.5), nn.Linear(24, 5))
    inputs = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    net.eval()
    return SimpleNamespace(model=net, x=inputs, labels=net(inputs).argmax(1))


@pytest.mark.parametrize("distance", P)
def test_the_nearest_boundary_is_reached(distance):
    problem = linear()
    solution = trust_region(problem.model, problem.x, problem.labels, distance=distance, bounds=FREE)
    assert bool(solution.feasible.all())
    assert bool((problem.model(solution.x).argmax(1) != problem.labels).all())
    ratio = solution.objective / free_optimum(problem, P[distance])
    # every step goes 2 % too far, but only the last one matters
    assert ratio.min() > 1 and ratio.max() < 1.03


def test_a_linear_function_lets_the_radius_grow():
    x0 = torch.zeros(1, 2, dtype=torch.float64)
    problem = ConstrainedProblem(
        objective=lambda x, _: x.norm(dim=1), constraints=[inequality(lambda x, _: 1.0 - 10 * x[:, 0])]
    )
    moves: list[float] = []
    solver = TrustRegion(overshoot=0.0)
    solution = solve(
        problem, solver, x0, steps=9, callback=lambda i, point, proposal: moves.append(float(proposal.x[0, 0]))
    )
    steps = torch.tensor(moves).diff(prepend=torch.zeros(1))
    # the decrease is all that is predicted: 0.001, then 1.2 times as much each step
    torch.testing.assert_close(steps[:8], 0.001 * 1.2 ** torch.arange(8.0))
    assert not bool(solution.feasible.any())
    assert bool(solve(problem, solver, x0, steps=30).feasible.all())


@pytest.mark.parametrize(("share", "factor"), [(0.3, 1 / 1.2), (0.7, 1.0), (0.95, 1.2)])
def test_the_radius_follows_the_ratio(share, factor):
    # the function falls by the given share of what its gradient says
    slope = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def value(x: Tensor, _: object) -> Tensor:
        full = x @ slope
        return 1.0 - share * full.detach() - (full - full.detach())

    problem = ConstrainedProblem(objective=lambda x, _: x.norm(dim=1), constraints=[inequality(value)])
    radii: list[float] = []
    solver = TrustRegion(radius=0.01, overshoot=0.0)
    x0 = torch.zeros(1, 2, dtype=torch.float64)
    solve(problem, solver, x0, steps=2, callback=lambda i, point, proposal: radii.append(float(proposal.state.radius)))
    assert radii == pytest.approx([0.01, 0.01 * factor])


@pytest.mark.parametrize("distance", P)
def test_the_radius_stays_within_its_limits(small, distance):
    radii: list[Tensor] = []
    trust_region(
        small.model,
        small.x,
        small.labels,
        distance=distance,
        steps=30,
        eps_max=0.003,
        eps_min=0.0008,
        callback=lambda i, point, proposal: radii.append(proposal.state.radius),
    )
    seen = torch.stack(radii)
    assert seen.min() >= 0.0008 * (1 - 1e-6) and seen.max() <= 0.003 * (1 + 1e-6)
    assert torch.stack(radii).unique().numel() > 1
    constant: list[Tensor] = []
    trust_region(
        small.model,
        small.x,
        small.labels,
        steps=5,
        eta=1.0,
        callback=lambda i, point, proposal: constant.append(proposal.state.radius),
    )
    torch.testing.assert_close(torch.stack(constant), torch.full((len(constant), 6), 0.001))


def test_passes_are_counted():
    problem = linear(rows=3)
    labels = problem.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    solution = trust_region(problem.model, problem.x, labels, steps=5, eps=0.0001, eps_max=0.0001)
    # the first step looks at nine boundaries, the others follow one; a row that starts fooled is one of the batch
    assert solution.backwards.tolist() == [13, 13, 13]
    assert solution.objective[0] == 0 and torch.equal(solution.x[0], problem.x[0])
    done = trust_region(problem.model, problem.x, problem.labels, bounds=FREE, steps=100)
    assert bool((done.backwards == done.first_feasible.max() + 8).all())


@pytest.mark.parametrize("distance", P)
def test_bounds_are_kept_and_targets_reached(distance):
    problem = linear(rows=12)
    targets = (problem.labels + 3) % 10
    for aim in (None, targets):
        # towards a target the leading class changes: a constant radius
        solution = trust_region(
            problem.model, problem.x, problem.labels, targets=aim, distance=distance, steps=200, eps=0.02, eta=1.0
        )
        assert bool(solution.feasible.all())
        assert solution.x.min() >= 0 and solution.x.max() <= 1
    assert torch.equal(problem.model(solution.x).argmax(1), targets)


@pytest.mark.parametrize("distance", P)
def test_rows_do_not_depend_on_each_other(small, distance):
    together = trust_region(small.model, small.x, small.labels, distance=distance)
    alone = trust_region(small.model, small.x[2:3], small.labels[2:3], distance=distance)
    torch.testing.assert_close(alone.x, together.x[2:3], rtol=1e-4, atol=1e-5)
    assert bool(together.feasible.all())


def test_the_model_and_the_generator_stay_as_found(small):
    small.model.train()
    state = torch.get_rng_state()
    trust_region(small.model, small.x, small.labels, steps=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in small.model.modules())
    assert all(parameter.grad is None for parameter in small.model.parameters())


@pytest.mark.parametrize("change", [lambda z: 100 * z, lambda z: z.softmax(1)], ids=["times 100", "probabilities"])
def test_the_scale_of_the_logits_changes_nothing(change):
    problem = linear(rows=6)
    base = trust_region(problem.model, problem.x, problem.labels)
    other = trust_region(lambda t: change(problem.model(t)), problem.x, problem.labels)
    torch.testing.assert_close(other.objective, base.objective, rtol=1e-3, atol=0)


def test_no_gradient_and_no_number():
    x, labels = torch.full((3, 4), 0.5), torch.zeros(3, dtype=torch.long)
    flat = torch.tensor([[2.0, 1.0, 0.0]])
    still = trust_region(lambda t: flat + 0 * t.sum(1, keepdim=True), x, labels, steps=4)
    assert torch.equal(still.x, x) and not bool(still.feasible.any())
    mark = torch.tensor([[0.0], [torch.nan], [0.0]])
    weight = torch.tensor([[3.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    broken = trust_region(lambda t: (t + mark) @ weight.T, x, labels)
    assert broken.status[1] == Status.DIVERGED and torch.equal(broken.x[1], x[1])
    assert broken.feasible.tolist() == [True, False, True]


def test_other_bounds_and_half_precision():
    problem = linear(rows=8)
    lower, upper = -2.0, 3.0
    moved = trust_region(
        lambda t: problem.model((t - lower) / (upper - lower)),
        problem.x * (upper - lower) + lower,
        problem.labels,
        bounds=(lower, upper),
    )
    base = trust_region(problem.model, problem.x, problem.labels)
    torch.testing.assert_close(moved.objective, base.objective * (upper - lower), rtol=1e-3, atol=0)
    weight, bias, x = (t.to(torch.bfloat16) for t in (problem.weight, problem.bias, problem.x))
    labels = (x @ weight.T + bias).argmax(1)
    short = trust_region(lambda t: t @ weight.T + bias, x, labels, eps=0.05)
    assert short.x.dtype == torch.bfloat16 and bool(short.x.isfinite().all()) and bool(short.feasible.any())


def refuse(x: Tensor) -> Tensor:
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0.0}, "radius"),
        ({"eps_min": 0.01}, "radius"),
        ({"eta": 0.5}, "eta"),
        ({"sigma_low": 0.99}, "low"),
        ({"overshoot": -0.1}, "overshoot"),
        ({"candidates": 1}, "candidates"),
        ({"distance": "l1"}, "distance"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        trust_region(refuse, torch.rand(2, 3), torch.tensor([0, 1]), **arguments)
