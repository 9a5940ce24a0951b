"""``minimal`` against exact optima on linear classifiers, and its promises about outputs, rows, passes and failures."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from constropt import Box, ConstrainedProblem, inequality, solve
from constropt.lab.attacks.counting import PassCounter, counted
from constropt.problems.attacks import ddn, minimal
from constropt.solution import Status
from constropt.solvers.linearized.cuts import meet_l1, meet_l2, meet_linf
from constropt.solvers.linearized.linearized_projection import LinearizedProjection

P = {"l1": 1.0, "l2": 2.0, "linf": torch.inf}
DATA = Path(os.environ.get("CONSTROPT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def linear(classes: int = 10, seed: int = 0, rows: int = 128) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 256, generator=generator) / 16
    bias = torch.randn(classes, generator=generator) * 0.1
    x = torch.rand(rows, 256, generator=generator)
    return weight, bias, x, (x @ weight.T + bias).argmax(1)


def exact(weight: Tensor, bias: Tensor, x: Tensor, labels: Tensor, p: float, targets: Tensor | None = None) -> Tensor:
    """The least p-norm within the box that reaches another class (the target), float64, by bisection or greedily."""
    weight, bias, x = weight.double(), bias.double(), x.double()
    best = x.new_full((len(x),), torch.inf)
    for c in range(len(weight)):
        # towards the target all other classes bind; the references of targeted attacks need two classes only
        w = weight[c] - weight[labels]
        needed = -((x * w).sum(1) + bias[c] - bias[labels])
        if p == 1:
            size, order = w.abs().sort(dim=1, descending=True)
            room = torch.where(w > 0, 1 - x, x).gather(1, order)
            gained = (size * room).cumsum(1)
            before = gained - size * room
            norm = torch.minimum((needed.unsqueeze(1) - before).clamp_min(0) / size.clamp_min(1e-300), room).sum(1)
            reached = gained[:, -1] >= needed
        else:
            direction = w if p == 2 else w.sign()
            low, high = torch.zeros_like(needed), torch.full_like(needed, 1e6)
            for _ in range(100):
                middle = (low + high) / 2
                moved = (x + middle.unsqueeze(1) * direction).clamp(0, 1) - x
                enough = (moved * w).sum(1) >= needed
                low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
            moved = (x + high.unsqueeze(1) * direction).clamp(0, 1) - x
            norm = torch.linalg.vector_norm(moved, ord=p, dim=1)
            reached = (moved * w).sum(1) >= needed - 1e-9
        allowed = reached & (c != labels) & (True if targets is None else c == targets)
        best = torch.where(allowed & (norm < best), norm, best)
    return best


@pytest.mark.parametrize("distance", P)
def test_linear_classifiers_are_solved(distance):
    weight, bias, x, labels = linear()
    solution = minimal(lambda t: t @ weight.T + bias, x, labels, distance=distance, steps=100)
    assert bool(solution.feasible.all())
    ratio = solution.objective / exact(weight, bias, x, labels, P[distance])
    assert ratio.min() > 1 - 1e-5
    assert ratio.max() < 1.01
    assert ratio.median() < 1.002
    # strictly misclassified, not merely tied
    assert bool(((solution.x @ weight.T + bias).argmax(1) != labels).all())
    # a run that starts elsewhere takes no gradient at the point that it leaves
    assert bool((solution.backwards == (100 if distance == "l1" else 98)).all())
    # the last point and the re-check are forward passes alone
    assert bool((solution.forwards == 102).all())


@pytest.mark.parametrize("distance", P)
def test_several_runs_spend_the_same_budget(distance):
    weight, bias, x, labels = linear(rows=16)
    solution = minimal(lambda t: t @ weight.T + bias, x, labels, distance=distance, steps=200)
    assert bool(solution.feasible.all())
    assert bool((solution.backwards == (200 if distance == "l1" else 197)).all())
    assert (solution.objective / exact(weight, bias, x, labels, P[distance])).max() < 1.01


@pytest.mark.parametrize("others", [(), (-3.0,)], ids=["two classes", "three classes"])
@pytest.mark.parametrize("distance", P)
def test_a_curved_boundary_is_met_closely(distance: str, others: tuple[float, ...]):
    """From within a ball around ``c``, ``v = x - c``: to its surface, by the largest entry, along v, by all entries.

    Two classes make one run of slow steps, three make several.
    """
    x = 0.5 + 0.1 * torch.rand(16, 16, generator=torch.Generator().manual_seed(0))

    def model(t: Tensor) -> Tensor:
        inside = 0.25 - (t - 0.5).square().sum(1)
        return torch.stack([inside, 0 * inside, *(other + 0 * inside for other in others)], dim=1)

    size = (x - 0.5).double()
    missing, largest, total = 0.25 - size.square().sum(1), size.amax(1), size.sum(1)
    nearest = {
        "l1": (missing + largest.square()).sqrt() - largest,
        "l2": 0.5 - size.norm(dim=1),
        "linf": ((total.square() + 16 * missing).sqrt() - total) / 16,
    }[distance]
    solution = minimal(model, x, torch.zeros(16, dtype=torch.int64), distance=distance, steps=100)
    assert bool(solution.feasible.all())
    ratio = solution.objective / nearest
    assert ratio.min() > 1 - 1e-5 and ratio.max() < 1 + 3e-4


@pytest.mark.parametrize("steps", [25, 50, 75, 100, 130])
def test_several_runs_never_add_passes(steps):
    model, x, labels = small_net()
    counter = PassCounter()
    with counted(model, counter) as watched:
        solution = minimal(watched, x, labels, steps=steps)
    assert bool(solution.feasible.all()) and bool((solution.forwards == steps + 2).all())
    assert (
        bool((solution.backwards == counter.backwards / len(x)).all()) and steps - 3 <= counter.backwards / 16 <= steps
    )
    assert counter.forwards == 16 * (steps + 2)


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("p", P.values())
def test_the_number_of_runs(p, runs):
    """Also where there is but one alternative, so that the second run is left out."""
    problem = ConstrainedProblem(
        objective=lambda x, _: torch.linalg.vector_norm(x - 0.1, ord=p, dim=1),
        constraints=[inequality(lambda x, _: 0.5 - x[:, 0], name="to the right")],
        domain=Box(0.0, 1.0),
    )
    solver = LinearizedProjection(p=p, runs=runs, restart_after=10)
    solution = solve(problem, solver, torch.full((2, 3), 0.1), steps=51)
    assert bool(solution.feasible.all()) and bool((solution.backwards >= 51 - 3).all())
    torch.testing.assert_close(solution.objective, torch.full((2,), 0.4), rtol=2e-3, atol=0)
    with pytest.raises(ValueError, match="runs"):
        LinearizedProjection(runs=6)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_few_steps(steps):
    weight, bias, x, labels = linear(rows=8)
    solution = minimal(lambda t: t @ weight.T + bias, x, labels, steps=steps)
    assert bool(solution.x.isfinite().all()) and bool((solution.backwards == steps).all())


def small_net(classes: int = 10, seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, classes)).double().eval()
        x = torch.rand(16, 1, 8, 8, dtype=torch.float64)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("distance", P)
@pytest.mark.parametrize(
    "change", [lambda z: 100 * z, lambda z: z - 50, lambda z: z.softmax(1)], ids=["x100", "shift", "softmax"]
)
def test_scale_and_probabilities_change_nothing(distance: str, change: Callable[[Tensor], Tensor]):
    model, x, labels = small_net()
    base = minimal(model, x, labels, distance=distance, steps=40)
    other = minimal(lambda t: change(model(t)), x, labels, distance=distance, steps=40)
    assert bool(base.feasible.all()) and bool(other.feasible.all())
    torch.testing.assert_close(other.objective, base.objective, rtol=1e-3, atol=0)


@pytest.mark.parametrize("distance", P)
def test_binary_and_targeted(distance):
    weight, bias, x, labels = linear(classes=2, rows=16)
    for targets in (None, 1 - labels):
        solution = minimal(lambda t: t @ weight.T + bias, x, labels, distance=distance, targets=targets)
        assert bool(solution.feasible.all())
        assert (solution.objective / exact(weight, bias, x, labels, P[distance]) - 1).abs().max() < 0.01
    softmax = minimal(lambda t: (t @ weight.T + bias).softmax(1), x, labels, distance=distance)
    torch.testing.assert_close(softmax.objective, solution.objective, rtol=5e-3, atol=0)


@pytest.mark.parametrize("distance", P)
def test_targets_are_reached(distance):
    weight, bias, x, labels = linear(rows=32)
    targets = (labels + 3) % 10
    solution = minimal(lambda t: t @ weight.T + bias, x, labels, targets=targets, distance=distance)
    assert bool(solution.feasible.all())
    assert torch.equal((solution.x @ weight.T + bias).argmax(1), targets)
    assert (solution.objective / exact(weight, bias, x, labels, P[distance])).min() > 1 - 1e-5


@pytest.mark.parametrize("distance", P)
def test_rows_are_independent(distance):
    model, x, labels = small_net()
    together = minimal(model, x, labels, distance=distance, steps=40)
    alone = minimal(model, x[3:4], labels[3:4], distance=distance, steps=40)
    torch.testing.assert_close(alone.x, together.x[3:4], rtol=1e-6, atol=1e-8)


def test_a_nan_row_is_lost_alone():
    model, x, labels = small_net()
    x[5, 0, 0, 0] = 1.0
    mark = torch.zeros_like(x)
    mark[5] = torch.nan
    broken = minimal(lambda t: model(t + mark), x, labels, steps=40)
    whole = minimal(model, x, labels, steps=40)
    others = torch.arange(16) != 5
    assert not bool(broken.feasible[5]) and broken.status[5] == Status.DIVERGED
    assert torch.equal(broken.x[5], x[5])
    torch.testing.assert_close(broken.objective[others], whole.objective[others])


@pytest.mark.parametrize("distance", P)
def test_no_gradient_is_no_success_and_no_nan(distance):
    x, labels = torch.rand(4, 6), torch.zeros(4, dtype=torch.int64)
    flat = torch.tensor([[2.0, 1.0, 0.0]])
    with pytest.raises(ValueError, match="constraint 'misclassified': does not depend on x"):
        minimal(lambda t: flat.expand(4, 3), x, labels, distance=distance, steps=20)
    solution = minimal(lambda t: flat + 0 * t.sum(1, keepdim=True), x, labels, distance=distance, steps=20)
    assert not bool(solution.feasible.any())
    assert bool(solution.x.isfinite().all()) and torch.equal(solution.x, x)


def test_misclassified_rows_stay():
    weight, bias, x, labels = linear(rows=8)
    solution = minimal(lambda t: t @ weight.T + bias, x, (labels + 1) % 10, steps=10)
    assert bool((solution.objective == 0).all()) and bool(solution.feasible.all())


def test_the_model_is_left_as_it_was():
    model, x, labels = small_net()
    model.train()
    minimal(model, x, labels, steps=5)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_errors_come_before_the_model():
    def model(t: Tensor) -> Tensor:
        raise AssertionError("called")

    x, labels = torch.rand(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="distance"):
        minimal(model, x, labels, distance="l0")
    with pytest.raises(TypeError, match="model"):
        minimal("net", x, labels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inputs"):
        minimal(model, x + 1, labels)


def test_the_solver_is_general():
    """A problem that is no attack: the point of a box nearest to the start beyond a curved constraint."""
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - 0.2).norm(dim=1),
        constraints=[inequality(lambda x, _: 1.0 - x.square().sum(1), name="outside the ball")],
        domain=Box(0.0, 1.0),
    )
    solution = solve(problem, LinearizedProjection(), torch.full((3, 4), 0.2), steps=60)
    assert bool(solution.feasible.all())
    torch.testing.assert_close(solution.objective, torch.full((3,), 0.6), rtol=2e-3, atol=0)
    with pytest.raises(ValueError, match="finite Box"):
        solve(
            ConstrainedProblem(problem.objective, problem.constraints),
            LinearizedProjection(),
            torch.zeros(1, 2),
            steps=5,
        )
    with pytest.raises(ValueError, match="exactly one inequality"):
        solve(
            ConstrainedProblem(problem.objective, (), domain=Box()), LinearizedProjection(), torch.zeros(1, 2), steps=5
        )


@pytest.mark.parametrize("meet", [meet_l1, meet_l2, meet_linf])
def test_cuts_are_met_in_the_box(meet):
    generator = torch.Generator().manual_seed(0)
    lower = -torch.rand(64, 30, generator=generator, dtype=torch.float64)
    upper = torch.rand(64, 30, generator=generator, dtype=torch.float64)
    start = lower + (upper - lower) * torch.rand(64, 30, generator=generator, dtype=torch.float64)
    start[:32] = 0.0
    normal = torch.randn(64, 30, generator=generator, dtype=torch.float64)
    normal[:, :3] = 0.0
    furthest = torch.where(normal > 0, lower, upper)
    least = (normal * furthest).sum(1)
    for fraction in (0.1, 0.5, 0.99):
        point = meet(start, normal, fraction * least, lower, upper)
        assert bool(((point >= lower) & (point <= upper)).all())
        torch.testing.assert_close((normal * point).sum(1), fraction * least, rtol=1e-6, atol=1e-9)
    beyond = meet(start, normal, 2 * least, lower, upper)  # no point of the box meets it
    torch.testing.assert_close((normal * beyond).sum(1), least)
    assert torch.equal(meet(start, 0 * normal, least, lower, upper), start)


def test_half_precision_inputs():
    weight, bias, x, labels = linear(rows=8)
    solution = minimal(lambda t: t.bfloat16() @ weight.bfloat16().T + bias.bfloat16(), x, labels, steps=40)
    assert bool(solution.x.isfinite().all()) and solution.feasible.float().mean() > 0.8


@pytest.mark.skipif(not (DATA / "weights" / "mnist").exists(), reason="needs the optional MNIST data and weights")
def test_mnist_is_better_than_ddn():
    layers = [nn.Conv2d(1, 16, 4, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(800, 100), nn.ReLU(), nn.Linear(100, 10)).eval().requires_grad_(False)
    path = DATA / "weights" / "mnist" / "mnist_conv_small_nat.pth"
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu")["state_dict"][0])
    with gzip.open(DATA / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        images = (
            torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)[:20].copy()) / 255
        )
    labels = model(images).argmax(1)
    solution = minimal(model, images, labels)
    other = ddn(model, images, labels)
    assert bool(solution.feasible.all())
    assert solution.objective.median() < 1.01 * other.objective.median()
