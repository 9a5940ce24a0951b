"""The boundary walk and Brendel & Bethge: the step against its optimality, exact optima of linear models, contracts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from linear import classifier, exact_l2
from test_fmn import exact_l0
from torch import Tensor, nn

from constropt import Box, ConstrainedProblem, L2Ball, Status, inequality, solve
from constropt.problems.attacks import minimal
from constropt.problems.attacks.linearized import brendel_bethge
from constropt.solvers.linearized.boundary_walk import BoundaryWalk, step_on_cut
from constropt.solvers.linearized.cuts import meet_l0

P = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": torch.inf}


@pytest.fixture(scope="module")
def linear():
    weight, bias, x = classifier(0, d=64, rows=24)
    labels = (x @ weight.T + bias).argmax(1)

    def model(t: Tensor) -> Tensor:
        return t @ weight.T.to(t) + bias.to(t)

    return model, weight, bias, x, labels


def exact_linf_l1(weight: Tensor, bias: Tensor, x: Tensor, labels: Tensor, p: float) -> Tensor:
    """The least l1 or linf distance to the boundary of a linear model within the unit box."""
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for other in range(len(weight)):
        w = (weight[other] - weight[labels]).double()
        missing = -(x.double() * w).sum(1) - (bias[other] - bias[labels]).double()
        room = torch.where(w > 0, 1 - x.double(), x.double())
        # both are piecewise linear: what a cap gains, and what the entries with the largest |w| cost
        if p == torch.inf:
            low, high = torch.zeros_like(best), torch.ones_like(best)
            for _ in range(60):
                cap = (low + high) / 2
                reached = (w.abs() * torch.minimum(room, cap.unsqueeze(1))).sum(1) >= missing
                low, high = torch.where(reached, low, cap), torch.where(reached, cap, high)
            distance = high
        else:
            size, order = w.abs().sort(dim=1, descending=True)
            room = room.gather(1, order)
            before = torch.nn.functional.pad((size * room).cumsum(1)[:, :-1], (1, 0))
            distance = torch.minimum((missing.unsqueeze(1) - before).clamp_min(0) / size, room).sum(1)
        possible = (labels != other) & ((w.abs() * torch.where(w > 0, 1 - x, x)).sum(1) >= missing)
        best = torch.where(possible, torch.minimum(best, distance), best)
    return best


# ------------------------------------------------------------------------------------------------------------ the step


def tables(seed: int = 0, batch: int = 8, n: int = 10) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """start, normal, target, lower, upper; the starts violate their cuts a little, lie on them, or within."""
    generator = torch.Generator().manual_seed(seed)
    lower, upper = (
        -torch.rand(batch, n, generator=generator).double(),
        torch.rand(batch, n, generator=generator).double(),
    )
    start = lower + (upper - lower) * torch.rand(batch, n, generator=generator)
    normal = torch.randn(batch, n, generator=generator).double()
    target = (normal * start).sum(1) - 0.2 * torch.linspace(-1, 1, batch).double()
    return start, normal, target, lower, upper


@pytest.mark.parametrize("p", [1.0, 2.0, torch.inf])
@pytest.mark.parametrize("radius", [0.1, 0.3, 1.0])
def test_the_step_is_feasible_and_no_feasible_point_is_better(p, radius):
    start, normal, target, lower, upper = tables()
    z = step_on_cut(p, start, normal, target, lower, upper, torch.full((8,), radius).double())
    assert ((normal * z).sum(1) <= target + 1e-6).all()
    assert ((z - start).norm(dim=1) <= radius * (1 + 1e-2)).all() and (z >= lower).all() and (z <= upper).all()
    # convex: a better point anywhere would make one on the way to it better, and those are all around
    generator = torch.Generator().manual_seed(1)
    value = torch.linalg.vector_norm(z, ord=p, dim=1)
    for size in (1e-3, 1e-2, 0.1, 0.5):
        other = z + size * torch.randn(4000, *z.shape, generator=generator).double()
        other = torch.minimum(torch.maximum(other, lower), upper)
        fits = ((normal * other).sum(2) <= target) & ((other - start).norm(dim=2) <= radius)
        found = torch.linalg.vector_norm(other, ord=p, dim=2).masked_fill(~fits, torch.inf).amin(0)
        assert (value <= found + 2e-3 * value).all()


def test_the_step_of_the_l2_norm_in_closed_form():
    # on the cut, towards the point nearest to 0, as far as the radius allows; an infinite box
    start = torch.tensor([[-3.0, -4.0], [-3.0, -4.0], [-3.0, -2.0]], dtype=torch.float64)
    normal = torch.tensor([[0.0, 2.0]] * 3, dtype=torch.float64)
    box = torch.full_like(start, 100.0)
    radius = torch.tensor([1.0, 9.0, 0.5], dtype=torch.float64)
    z = step_on_cut(2.0, start, normal, torch.full((3,), -8.0, dtype=torch.float64), -box, box, radius)
    # the third cannot reach its cut
    expected = torch.tensor([[-2.0, -4.0], [0.0, -4.0], [-3.0, -2.5]], dtype=torch.float64)
    torch.testing.assert_close(z, expected, atol=2e-3, rtol=0)


def test_the_step_without_a_limit_is_the_nearest_point_in_every_norm():
    start, normal, target, lower, upper = tables(3)
    far = torch.full((8,), 1e3).double()
    for p in P.values():
        z = step_on_cut(p, start, normal, target, lower, upper, far)
        assert ((normal * z).sum(1) <= target.clamp_min(0) + 1e-9).all()
        inside = target >= 0
        assert (z[inside] == 0).all()
    sparse = step_on_cut(0.0, start, normal, target, lower, upper, far)
    gain = torch.maximum(-normal * lower, -normal * upper).sort(dim=1, descending=True).values.cumsum(1)
    fewest = torch.where(target < 0, (gain < -target.unsqueeze(1)).sum(1) + 1, 0)
    assert torch.equal((sparse != 0).sum(1), fewest)


def test_the_sparse_step_does_not_fill_what_is_0():
    start = torch.tensor([[-0.5, 0.01, 0.0, 0.0, -0.5]])
    normal = torch.tensor([[1.0, 0.1, 0.3, 0.2, 1.0]])
    box = torch.full_like(start, 0.6)
    z = step_on_cut(0.0, start, normal, (normal * start).sum(1), -box, box, torch.tensor([0.05]))
    assert (z != 0).tolist() == [[True, False, False, False, True]]
    assert ((normal * z).sum(1) <= (normal * start).sum(1) + 1e-6).all()


def test_rows_without_a_normal_stay_and_unreachable_cuts_are_approached():
    start, _, target, lower, upper = tables(4)
    for p in P.values():
        z = step_on_cut(p, start, torch.zeros_like(start), target, lower, upper, torch.ones_like(target))
        assert torch.equal(z, start)
    box = torch.full((1, 3), 0.5)
    ones, target = torch.ones(1, 3), torch.tensor([-9.0])
    for p in P.values():
        z = step_on_cut(p, torch.zeros(1, 3), ones, target, -box, box, torch.tensor([0.1]))
        assert (z <= 0).all() and 0.05 < z.norm() <= 0.1 + 1e-6
    corner = meet_l0(torch.zeros(1, 3), ones, target, -box, box)
    torch.testing.assert_close(corner, -box)


# -------------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("distance, within", [("l1", 1.02), ("l2", 1.01), ("linf", 1.01)])
def test_convex_norms_reach_the_nearest_boundary_of_two_classes(linear, distance, within):
    _, weight, bias, x, _ = linear
    weight, bias = weight[:2].double(), bias[:2].double()
    x = x.double()
    labels = (x @ weight.T + bias).argmax(1)
    exact = (
        exact_l2(weight, bias, x, labels) if distance == "l2" else exact_linf_l1(weight, bias, x, labels, P[distance])
    )
    solution = brendel_bethge(lambda t: t @ weight.T + bias, x, labels, distance=distance, steps=100)
    ratio = solution.objective / exact
    assert solution.feasible.all() and ratio.min() > 1 - 1e-9 and ratio.max() < within


@pytest.mark.parametrize("distance", ["l1", "l2", "linf"])
def test_convex_norms_with_ten_classes(linear, distance):
    """The start decides which class is reached: a median near the optimum, and no row far from it."""
    model, weight, bias, x, labels = linear
    exact = (
        exact_l2(weight, bias, x, labels) if distance == "l2" else exact_linf_l1(weight, bias, x, labels, P[distance])
    )
    ratio = brendel_bethge(model, x, labels, distance=distance, steps=100).objective / exact
    assert ratio.min() > 1 - 1e-4 and ratio.median() < 1.15
    # from a point on the way to the nearest class it is the optimum
    near = minimal(model, x, labels, distance=distance, steps=100).x
    ratio = brendel_bethge(model, x, labels, distance=distance, steps=100, starts=near).objective / exact
    assert ratio.median() < 1.01 and ratio.max() < 1.02


@pytest.mark.parametrize("steps, within", [(12, 1.05), (40, 1.01)])
@pytest.mark.parametrize("distance", ["l1", "l2", "linf"])
def test_a_short_walk_crosses_a_large_box(distance, steps, within):
    """From the far end of 784 entries: a first radius of 1e-3 n is spent on the way."""
    weight, bias, x = classifier(1, d=784, classes=2, rows=12)
    weight, bias, x = weight.double(), bias.double(), x.double()
    labels = (x @ weight.T + bias).argmax(1)
    exact = (
        exact_l2(weight, bias, x, labels) if distance == "l2" else exact_linf_l1(weight, bias, x, labels, P[distance])
    )
    far = (weight[1 - labels] > weight[labels]).double()
    attack = partial(brendel_bethge, lambda t: t @ weight.T + bias, x, labels, distance=distance, starts=far)
    ratio = attack(steps=steps).objective / exact
    assert ratio.min() > 1 - 1e-9 and ratio.max() < within
    if distance != "linf":
        assert (attack(steps=steps, radius=0.784, searches=0).objective / exact).median() > 2


def test_the_walk_leaves_where_the_label_is_third():
    """There DLR+ is -1, whatever the logits: what is walked along is the logit difference."""
    weight = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    bias = torch.tensor([0.0, -1.2, -1.2])
    x, labels = torch.tensor([[0.2, 0.2]]), torch.tensor([0])
    start = torch.tensor([[1.0, 0.8]])
    solution = brendel_bethge(lambda t: t @ weight.T + bias, x, labels, starts=start, searches=0, steps=30)
    assert solution.feasible.all()
    torch.testing.assert_close(solution.objective, torch.tensor([0.8 / 2**0.5]), rtol=1e-3, atol=0)


def test_l0_is_near_the_exact_optimum(linear):
    model, weight, bias, x, labels = linear
    solution = brendel_bethge(model, x, labels, distance="l0", steps=100)
    excess = solution.objective - exact_l0(weight, bias, x, labels)
    assert solution.feasible.all() and excess.min() >= 0 and excess.median() <= 1
    assert torch.equal(solution.objective, (solution.x != x).sum(1).float())


# ----------------------------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize("distance", P)
def test_starts_are_brought_to_the_boundary_in_the_norms_geometry(linear, distance):
    model, weight, bias, x, labels = linear
    starts = torch.where(weight[(labels + 1) % 10] > weight[labels], 1.0, 0.0)
    seen: list[Tensor] = []
    solution = brendel_bethge(
        model, x, labels, distance=distance, starts=starts, searches=12, steps=2,
        callback=lambda step, point, proposal: seen.append(proposal.x),
    )  # fmt: skip
    assert (solution.forwards == 12 + 4).all() and (solution.backwards == 1).all()  # none at x0
    delta = seen[0] - x
    away = starts - x
    assert (model(seen[0]).argmax(1) != labels).all()
    assert (delta.abs() <= away.abs() + 1e-6).all() and (delta * away >= 0).all()
    if distance == "l0":
        assert ((delta == 0) | ((delta - away).abs() < 1e-6)).all() and ((delta == 0).sum(1) > 10).all()
    if distance == "l2":
        torch.testing.assert_close(delta / away, (delta / away)[:, :1].expand_as(away), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("distance", P)
def test_targets_are_reached(linear, distance):
    model, _, _, x, labels = linear
    targets = (labels + 1) % 10
    solution = brendel_bethge(model, x, labels, targets=targets, distance=distance, steps=40)
    assert solution.feasible.all() and torch.equal(model(solution.x).argmax(1), targets)
    assert (solution.x >= 0).all() and (solution.x <= 1).all()


def test_rows_are_independent_and_passes_counted(linear):
    model, _, _, x, labels = linear
    state = torch.get_rng_state()
    calls = 0

    def counting(t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return model(t)

    for distance in P:
        calls = 0
        whole = brendel_bethge(counting, x[:8].double(), labels[:8], distance=distance, steps=16)
        # 4 steps of search, 12 of the walk, 10 bisections; either loop ends with two clean passes
        assert (whole.backwards == 15).all() and (whole.forwards == calls).all() and calls == 4 + 2 + 10 + 12 + 2
        single = brendel_bethge(model, x[7:8].double(), labels[7:8], distance=distance, steps=16)
        torch.testing.assert_close(single.x[0], whole.x[7])
    assert torch.equal(torch.get_rng_state(), state)


def test_other_bounds_and_dtypes(linear):
    model, _, _, x, labels = linear
    x, labels = x[:8], labels[:8]
    plain = brendel_bethge(model, x.double(), labels, steps=30)
    wide = brendel_bethge(lambda t: model((t + 4) / 8), 8 * x.double() - 4, labels, steps=30, bounds=(-4.0, 4.0))
    torch.testing.assert_close(wide.objective / 8, plain.objective, rtol=1e-3, atol=0)
    for distance in P:
        half = x.bfloat16()
        solution = brendel_bethge(model, half, model(half).argmax(1), distance=distance, steps=24)
        assert solution.x.dtype == torch.bfloat16 and solution.feasible.all()


def test_misclassified_rows_stay_and_modes_are_kept():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 4)).train()
    x = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = (net.eval()(x).argmax(1) + 1) % 4
    net.train()
    solution = brendel_bethge(net, x, labels, steps=12)
    assert solution.feasible.all() and (solution.objective == 0).all() and torch.equal(solution.x, x)
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("distance", P)
def test_no_gradient_and_nan(distance):
    def flat(t: Tensor) -> Tensor:
        return torch.stack([1 + 0 * t.sum(1), 0 * t.sum(1)], 1)

    x, labels = torch.full((2, 4), 0.5), torch.zeros(2, dtype=torch.long)
    solution = brendel_bethge(flat, x, labels, distance=distance, steps=12)
    assert not solution.feasible.any() and torch.equal(solution.x, x)

    def broken(t: Tensor) -> Tensor:
        score = torch.stack([1.5 - t[:, 0] - t[:, 1], t[:, 0] + t[:, 1]], 1)
        return score + torch.where(t[:, 2:3] > 0.99, torch.nan, 0.0)

    x = torch.tensor([[0.3, 0.3, 0.5, 0.5], [0.3, 0.3, 1.0, 0.5]])
    starts = torch.tensor([[1.0, 1.0, 0.5, 0.5], [1.0, 1.0, 1.0, 0.5]])
    solution = brendel_bethge(broken, x, labels, distance=distance, steps=20, starts=starts)
    assert solution.x.isfinite().all() and solution.feasible.tolist() == [True, False]
    assert solution.status[1] == Status.DIVERGED


def test_a_walk_from_x0_on_any_problem():
    # the nearest point of the outside of a ball, inside a box that cuts the way to it
    center = torch.tensor([[0.5, 0.6], [0.3, 0.5]])
    problem = ConstrainedProblem(
        objective=lambda t, _: (t - center).norm(dim=1),
        constraints=[inequality(lambda t, _: 0.4 - (t - torch.tensor([0.5, 0.5])).norm(dim=1))],
        domain=Box(0.0, 1.0),
    )
    solution = solve(problem, BoundaryWalk(radius=0.1, momentum=0.0), center, steps=60)
    assert solution.feasible.all()
    torch.testing.assert_close(solution.objective, torch.tensor([0.3, 0.2]), rtol=1e-3, atol=0)


def test_wrong_arguments_are_named(linear):
    _, _, _, x, labels = linear

    def model(t: Tensor) -> Tensor:
        raise AssertionError("called before the arguments were checked")

    attack = partial(brendel_bethge, model, x, labels)
    with pytest.raises(TypeError, match="starts: takes a tensor like the inputs, got list"):
        attack(starts=[x])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="distance: takes one of .*got 'ssim'"):
        attack(distance="ssim")
    with pytest.raises(ValueError, match="starts: takes a tensor like the inputs.*got float32 of shape"):
        attack(starts=x[:2])
    for bad in (2 * x + 1, x * torch.nan):
        with pytest.raises(ValueError, match="starts: must be finite and within the bounds"):
            attack(starts=bad)
    for name, value in (
        ("steps", 0), ("radius", 0.0), ("decay", 0.0), ("decays", 0), ("overshoot", 2.0), ("momentum", 1.0),
        ("searches", -1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            attack(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="p: takes"):
        BoundaryWalk(p=3.0)
    h = inequality(lambda t, _: t.sum(1))
    for problem, message in (
        (ConstrainedProblem(objective=lambda t, _: t.sum(1), constraints=[h]), "finite Box"),
        (ConstrainedProblem(objective=lambda t, _: t.sum(1), constraints=[h], domain=L2Ball()), "finite Box"),
        (ConstrainedProblem(objective=lambda t, _: t.sum(1), domain=Box()), "exactly one inequality"),
    ):
        with pytest.raises(ValueError, match=message):
            solve(problem, BoundaryWalk(), torch.zeros(1, 2), steps=1)
