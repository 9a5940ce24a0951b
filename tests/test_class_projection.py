"""Per-class gradients, DeepFool, SuperDeepFool and the search along a segment, against closed forms."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from linear import classifier
from torch import Tensor, nn

from constropt import Box, ConstrainedProblem, L2Ball, Status, inequality, solve
from constropt.gradients import jacobian, jacobian_blocks
from constropt.problems.attacks.constraints import class_gaps
from constropt.problems.attacks.linearized import deepfool, superdeepfool
from constropt.solvers.linearized.alternatives import nearest, onto
from constropt.solvers.linearized.class_projection import NearestProjection
from constropt.solvers.linearized.segment_search import SegmentSearch

P = {"l2": 2.0, "linf": torch.inf}
FREE = (-float("inf"), float("inf"))
RECIPES = [
    pytest.param(partial(deepfool, distance="l2"), id="deepfool-l2"),
    pytest.param(partial(deepfool, distance="linf"), id="deepfool-linf"),
    pytest.param(partial(superdeepfool, steps=20), id="superdeepfool"),
    pytest.param(partial(superdeepfool, steps=20, accumulate=True), id="superdeepfool-accumulate"),
]


def linear(rows: int = 32, dtype: torch.dtype = torch.float64) -> SimpleNamespace:
    weight, bias, x = (t.to(dtype) for t in classifier(0, rows=rows))
    return SimpleNamespace(
        model=lambda t: t @ weight.T + bias, weight=weight, x=x, labels=(x @ weight.T + bias).argmax(1), bias=bias
    )


def free_optimum(problem: SimpleNamespace, p: float) -> Tensor:
    """The distance to the nearest boundary in the whole space."""
    logits = problem.model(problem.x)
    normals = problem.weight.unsqueeze(0) - problem.weight[problem.labels].unsqueeze(1)
    gaps = logits.gather(1, problem.labels.unsqueeze(1)) - logits
    q = {1.0: torch.inf, 2.0: 2.0, torch.inf: 1.0}[p]
    distance = gaps / torch.linalg.vector_norm(normals, ord=q, dim=2)
    return distance.scatter(1, problem.labels.unsqueeze(1), torch.inf).amin(1)


@pytest.fixture
def small():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 5)
        )
    inputs = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    net.eval()
    return SimpleNamespace(model=net, x=inputs, labels=net(inputs).argmax(1))


# ------------------------------------------------------------------------------------------------------- the gradients


@pytest.mark.parametrize("entries", [1, 500, None])
def test_the_jacobian_is_that_of_a_loop_over_classes(small, entries):
    x = small.x.clone().requires_grad_()
    logits = small.model(x)
    loop = torch.stack([torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)[0] for k in range(5)])
    torch.testing.assert_close(jacobian(logits, x, entries=entries), loop)


def test_blocks_are_limited_and_complete():
    x = torch.rand(4, 3, requires_grad=True)
    blocks = list(jacobian_blocks(x @ torch.rand(3, 7), x, entries=36))
    assert [first for first, _ in blocks] == [0, 3, 6]
    assert [len(block) for _, block in blocks] == [3, 3, 1]


def test_what_does_not_depend_on_x_has_gradient_zero():
    x = torch.rand(2, 3, requires_grad=True)
    weight = torch.rand(2, 4, requires_grad=True)
    for values in (torch.rand(2, 4), weight * 1):
        assert torch.equal(jacobian(values, x), torch.zeros(4, 2, 3))
        assert torch.equal(jacobian(values, x, entries=1), torch.zeros(4, 2, 3))


def at(x):
    """The leaf x as an evaluated point."""
    return ConstrainedProblem(None).evaluate(x, detach=False)


def test_the_nearest_is_a_column_with_a_gradient():
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], requires_grad=True)
    flat, lost = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, torch.nan])
    values = torch.stack([0.1 + 0 * x[:, 0], 3 * x[:, 0] + lost, x[:, 1] * flat], 1)
    cut = nearest(at(x), values, 2.0)
    assert cut.index.tolist() == [1, 1, 2]
    torch.testing.assert_close(cut.normal, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(cut.value, torch.tensor([1.0, 1.0, 2.0]))
    nothing = nearest(at(x), torch.stack([x[:, 0] * 0 + lost, x[:, 0] * 0], 1), 2.0)
    assert nothing.normal.isnan().any(1).tolist() == [False, False, True]
    assert bool((nothing.normal[:2] == 0).all())


@pytest.mark.parametrize("p", [1.0, 2.0, torch.inf])
def test_a_cut_is_met_from_both_sides(p):
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(8, 20, generator=generator, dtype=torch.float64)
    x = torch.randn(8, 20, generator=generator, dtype=torch.float64).requires_grad_()
    cut = nearest(at(x), (normal * x).sum(1, keepdim=True) - torch.linspace(-9, 9, 8).unsqueeze(1).double(), p)
    side = torch.full_like(normal, 99.0)
    start = torch.rand(8, 20, generator=generator, dtype=torch.float64) * 2 - 1
    met = onto(cut, start, p, -side, side)
    assert ((cut.normal * met).sum(1) + cut.value).abs().max() < 1e-9
    distance = torch.linalg.vector_norm(met - start, ord=p, dim=1)
    torch.testing.assert_close(distance, ((cut.normal * start).sum(1) + cut.value).abs())


# ------------------------------------------------------------------------------------------------------------ DeepFool


@pytest.mark.parametrize("distance", P)
def test_a_linear_classifier_takes_one_step(distance):
    problem = linear()
    solution = deepfool(problem.model, problem.x, problem.labels, distance=distance, bounds=FREE)
    assert bool(solution.feasible.all())
    ratio = solution.objective / free_optimum(problem, P[distance])
    # the constraint's margin beyond the tie is part of the way
    assert ratio.min() > 1.02 and ratio.max() < 1.04
    assert ratio.median() < 1.021
    assert bool((solution.first_feasible == 1).all())
    # one Jacobian of nine boundaries; the second point only has to be looked at
    assert bool((solution.backwards == 9).all()) and bool((solution.forwards == 3).all())
    assert bool((problem.model(solution.x).argmax(1) != problem.labels).all())


@pytest.mark.parametrize("distance", P)
def test_bounds_are_kept_and_the_result_is_misclassified(distance):
    problem = linear()
    solution = deepfool(problem.model, problem.x, problem.labels, distance=distance)
    assert bool(solution.feasible.all())
    assert solution.x.min() >= 0 and solution.x.max() <= 1
    assert bool((problem.model(solution.x).argmax(1) != problem.labels).all())
    assert (solution.objective / free_optimum(problem, P[distance])).min() > 1


def test_only_the_candidates_are_linearised():
    problem = linear()
    options = {"bounds": FREE, "distance": "l2"}
    few = deepfool(problem.model, problem.x, problem.labels, candidates=3, **options)
    every = deepfool(problem.model, problem.x, problem.labels, candidates=None, **options)
    assert bool((few.backwards == 2).all()) and bool((every.backwards == 9).all())
    # the nearest boundary may be that of an unlikely class
    assert bool((few.objective >= every.objective * (1 - 1e-9)).all()) and bool(few.feasible.all())


def test_rows_that_have_ended_stay_and_their_last_gradients_are_counted():
    problem = linear(rows=4)
    labels = problem.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    solution = deepfool(problem.model, problem.x, labels, bounds=FREE)
    assert solution.backwards.tolist() == [9, 9, 9, 9]  # the first row's last point is one of a batch
    assert torch.equal(solution.x[0], problem.x[0]) and solution.objective[0] == 0


# ------------------------------------------------------------------------------------------------------- SuperDeepFool


def circle(rows: int = 5) -> tuple[ConstrainedProblem, Tensor, Tensor]:
    """Out of the unit circle around 0: the least distance is ``1 - |x0|``, along the radius."""
    x0 = torch.rand(rows, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.2 + 0.1
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - x0).norm(dim=1),
        constraints=[inequality(lambda x, _: 1.0 - x[:, 0].square() - 4 * x[:, 1].square(), name="outside")],
        domain=Box(-9.0, 9.0),
    )
    angle = torch.linspace(0, torch.pi / 2, 100_001, dtype=torch.float64)
    boundary = torch.stack([angle.cos(), angle.sin() / 2], 1)
    return problem, x0, torch.cdist(x0, boundary).amin(1)


def test_alignment_brings_the_normal_in_line():
    problem, x0, exact = circle()
    plain = solve(problem, NearestProjection(), x0, steps=60)
    aligned = solve(problem, NearestProjection(align=True), x0, steps=60)
    assert bool(plain.feasible.all()) and bool(aligned.feasible.all())
    searched = solve(problem, SegmentSearch(aligned.x), x0, steps=31)
    ratio = searched.objective / exact
    assert ratio.min() > 1 - 1e-6 and ratio.max() < 1.02
    assert bool((aligned.objective <= plain.objective + 1e-12).all())


def test_accumulated_projections_end_sooner():
    problem, x0, exact = circle()
    summed = solve(problem, NearestProjection(align=True, accumulate=True), x0, steps=60)
    assert bool(summed.feasible.all())
    assert bool((solve(problem, SegmentSearch(summed.x), x0, steps=31).objective < 1.3 * exact).all())


def test_superdeepfool_on_a_linear_classifier():
    problem = linear()
    solution = superdeepfool(problem.model, problem.x, problem.labels, bounds=FREE, search=20)
    assert bool(solution.feasible.all())
    ratio = solution.objective / free_optimum(problem, 2.0)
    assert ratio.min() > 1 and ratio.max() < 1.01


# --------------------------------------------------------------------------------------------------- what all promise


@pytest.mark.parametrize("recipe", RECIPES)
def test_targets_are_reached(recipe):
    problem = linear(rows=12)
    targets = (problem.labels + 3) % 10
    solution = recipe(problem.model, problem.x, problem.labels, targets=targets)
    assert bool(solution.feasible.all())
    assert torch.equal(problem.model(solution.x).argmax(1), targets)


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_do_not_depend_on_each_other(small, recipe):
    together = recipe(small.model, small.x, small.labels)
    alone = recipe(small.model, small.x[2:3], small.labels[2:3])
    torch.testing.assert_close(alone.x, together.x[2:3], rtol=1e-4, atol=1e-5)
    assert bool(together.feasible.all())


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_model_and_the_generator_stay_as_found(small, recipe):
    small.model.train()
    state = torch.get_rng_state()
    recipe(small.model, small.x, small.labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in small.model.modules())
    assert all(parameter.grad is None for parameter in small.model.parameters())


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("change", [lambda z: 100 * z, lambda z: z.softmax(1)], ids=["times 100", "probabilities"])
def test_the_scale_of_the_logits_changes_nothing(recipe, change):
    problem = linear(rows=8)
    base = recipe(problem.model, problem.x, problem.labels)
    other = recipe(lambda t: change(problem.model(t)), problem.x, problem.labels)
    torch.testing.assert_close(other.objective, base.objective, rtol=1e-3, atol=0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_gradient_and_no_number(recipe):
    x, labels = torch.rand(3, 4), torch.zeros(3, dtype=torch.long)
    flat = torch.tensor([[2.0, 1.0, 0.0]])
    still = recipe(lambda t: flat + 0 * t.sum(1, keepdim=True), x, labels)
    assert torch.equal(still.x, x) and not bool(still.feasible.any())
    mark = torch.tensor([[0.0], [torch.nan], [0.0]])
    weight = torch.tensor([[3.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    broken = recipe(lambda t: (t + mark) @ weight.T + torch.tensor([0.1, 0.0]), 0 * x + 0.5, labels)
    assert broken.status[1] == Status.DIVERGED and bool((broken.x[1] == 0.5).all())
    assert broken.feasible.tolist() == [True, False, True]


@pytest.mark.parametrize("recipe", RECIPES)
def test_half_precision_models(recipe):
    problem = linear(rows=6, dtype=torch.bfloat16)
    solution = recipe(problem.model, problem.x, problem.labels)
    assert solution.x.dtype == torch.bfloat16 and bool(solution.x.isfinite().all())
    assert bool(solution.feasible.any())


@pytest.mark.parametrize("recipe", RECIPES)
def test_other_bounds(recipe):
    problem = linear(rows=8)
    lower, upper = -2.0, 3.0
    moved = recipe(
        lambda t: problem.model((t - lower) / (upper - lower)),
        problem.x * (upper - lower) + lower,
        problem.labels,
        bounds=(lower, upper),
    )
    base = recipe(problem.model, problem.x, problem.labels)
    torch.testing.assert_close(moved.objective, base.objective * (upper - lower), rtol=1e-3, atol=0)


def refuse(x: Tensor) -> Tensor:
    raise AssertionError("called")


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overshoot": -1.0}, "overshoot"),
        ({"candidates": 1}, "candidates"),
        ({"candidates": 2.5}, "candidates"),
        ({"steps": 0}, "steps"),
        ({"bounds": (0.4, 0.5)}, "inputs"),
    ],
)
def test_bad_arguments(recipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        recipe(refuse, torch.rand(2, 3), torch.tensor([0, 1]), **arguments)


def test_bad_problems():
    x, labels = torch.rand(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="distance"):
        deepfool(refuse, x, labels, distance="l1")
    with pytest.raises(ValueError, match="search"):
        superdeepfool(refuse, x, labels, search=-1)
    with pytest.raises(ValueError, match="p:"):
        NearestProjection(p=3.0)
    with pytest.raises(ValueError, match="align"):
        NearestProjection(p=torch.inf, align=True)
    with pytest.raises(ValueError, match="accumulate"):
        NearestProjection(accumulate=True)
    one = inequality(lambda x, _: x.sum(1))
    ball = ConstrainedProblem(objective=lambda x, _: x.sum(1), constraints=[one], domain=L2Ball(1.0))
    with pytest.raises(ValueError, match="Box"):
        solve(ball, NearestProjection(), x, steps=1)
    with pytest.raises(ValueError, match="constraints"):
        solve(ConstrainedProblem(objective=lambda x, _: x.sum(1)), NearestProjection(), x, steps=1)
    half = inequality(lambda x, _: x, fraction=0.5)
    with pytest.raises(ValueError, match="fraction"):
        solve(ConstrainedProblem(objective=lambda x, _: x.sum(1), constraints=[half]), NearestProjection(), x, steps=1)


# ---------------------------------------------------------------------------------------------------------- the search


@pytest.mark.parametrize("secant", [False, True])
def test_the_search_ends_at_the_boundary(secant):
    problem = linear()
    end = torch.where(problem.weight[(problem.labels + 1) % 10] > problem.weight[problem.labels], 1.0, 0.0).double()
    attack = ConstrainedProblem(
        objective=lambda x, _: (x - problem.x).norm(dim=1),
        constraints=[
            inequality(
                lambda x, z: class_gaps(z, problem.labels).amin(1),
                alternatives=lambda x, z: class_gaps(z, problem.labels),
            )
        ],
        forward=problem.model,
        domain=Box(0.0, 1.0),
    )
    trials = 8 if secant else 30
    solution = solve(attack, SegmentSearch(end, secant=secant), problem.x, steps=trials + 1)
    assert bool(solution.feasible.all())
    assert bool((solution.backwards == 0).all()) and bool((solution.forwards == trials + 3).all())
    moved, whole = solution.x - problem.x, end - problem.x
    share = (moved * whole).sum(1) / whole.square().sum(1)
    torch.testing.assert_close(moved, share.unsqueeze(1) * whole)
    # a little nearer to the start no class is reached
    before = problem.x + 0.995 * moved
    assert bool((problem.model(before).argmax(1) == problem.labels).all())


def test_the_search_leaves_what_it_cannot_search():
    problem = ConstrainedProblem(
        objective=lambda x, _: x.norm(dim=1),
        constraints=[inequality(lambda x, _: 1.0 - x.sum(1))],
        domain=Box(0.0, 9.0),
    )
    x0, end = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.3, 0.3], [4.0, 4.0]])
    solution = solve(problem, SegmentSearch(end), x0, steps=9)
    assert torch.equal(solution.x, torch.tensor([[0.3, 0.3], [2.0, 0.0]]))
    assert solution.feasible.tolist() == [False, True]
    with pytest.raises(ValueError, match="end"):
        solve(problem, SegmentSearch(end[:1]), x0, steps=9)
