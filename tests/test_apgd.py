"""APGD: its checkpoints, its steps against closed forms, its losses and stages, and what every attack owes."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from linear import classifier
from torch import Tensor, nn

from constropt import Box, ConstrainedProblem, L1Ball, L2Ball, LinfBall, Status, solve
from constropt.problems.attacks.aim import Aim
from constropt.problems.attacks.balls import apgd
from constropt.problems.attacks.constraints import class_dlr, dlr, targeted_dlr
from constropt.problems.attacks.goals import LOSSES, leading_classes, towards
from constropt.solution import best_of
from constropt.solvers.balls.auto_projected_gradient import AutoProjectedGradient, checkpoints
from constropt.solvers.balls.projected_gradient import ProjectedGradient

NORMS = ["linf", "l2", "l1"]


def binary(rows: int = 5, d: int = 12) -> SimpleNamespace:
    """Two classes, logits (s, -s) with s = w x + b, away from the box: everything is known. In float64."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(d, generator=generator, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(rows, d, generator=generator, dtype=torch.float64)
    bias = -(x @ weight).mean() + 0.05

    def model(t: Tensor) -> Tensor:
        score = t @ weight + bias
        return torch.stack([score, -score], 1)

    return SimpleNamespace(model=model, weight=weight, x=x, labels=model(x).argmax(1), score=x @ weight + bias)


@pytest.fixture
def small():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5)).eval()
    inputs = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(model=net, inputs=inputs, labels=net(inputs).argmax(1))


# ------------------------------------------------------------------------------------------------------------- solver


def test_checkpoints_are_the_published_ones():
    assert checkpoints(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    for steps in (1, 2, 5, 37, 1000):
        found = checkpoints(steps)
        assert list(found) == sorted(found) and all(0 < index <= steps for index in found)
        assert sum(found.values()) == max(found)
    assert list(checkpoints(1000))[:3] == [220, 410, 570]


def test_step_sizes_shrink_where_a_fixed_one_oscillates():
    minimum = torch.tensor([[0.3, -0.11], [0.05, 0.62]], dtype=torch.float64)
    x = torch.zeros(2, 2, dtype=torch.float64)
    for ball in (LinfBall, L2Ball):
        problem = ConstrainedProblem(objective=lambda t, _: (t - minimum).square().sum(1), domain=ball(1.0, x))
        solution = solve(problem, AutoProjectedGradient(), x, steps=100)
        assert (solution.x - minimum).abs().max() < 0.02
        fixed = solve(problem, ProjectedGradient(size=0.3), x, steps=100)
        assert (fixed.x - minimum).abs().max() > 0.02
        assert (solution.backwards == 100).all() and (solution.forwards == 102).all()


def test_sizes_are_halved_per_row():
    """One row improves at every step, the other jumps around its minimum: only the second is halved."""
    x = torch.zeros(2, 1, dtype=torch.float64)
    minimum = torch.tensor([[1e6], [0.013]], dtype=torch.float64)
    problem = ConstrainedProblem(objective=lambda t, _: (t - minimum).abs().sum(1), domain=LinfBall(1e3, x))
    solver, sizes = AutoProjectedGradient(momentum=1.0), []
    solve(problem, solver, x, steps=50, callback=lambda k, point, proposal: sizes.append(proposal.state.size.tolist()))
    assert sizes[0] == [2.0, 2.0] and sizes[11] == [1.0, 1.0]  # the first row stands at the edge of its ball
    assert sizes[-1][1] < sizes[0][1] / 16
    moving = ConstrainedProblem(
        objective=lambda t, _: (
            (torch.tensor([[0.0], [1.0]], dtype=torch.float64) * (t - 0.1).abs()).sum(1) + 0 * t[:, 0]
        ),
        domain=LinfBall(1.0, x),
    )
    still = solve(moving, solver, x, steps=50)
    assert still.x[0] == 0 and abs(still.x[1] - 0.1) < 0.05


def test_the_best_point_is_where_a_row_goes_back_to():
    points: list[Tensor] = []
    x = torch.zeros(1, 1, dtype=torch.float64)
    problem = ConstrainedProblem(objective=lambda t, _: (t - 0.3).abs().sum(1), domain=LinfBall(1.0, x))

    def record(index, point, proposal):
        points.append(point.x.detach().clone())
        state = proposal.state
        values = torch.stack([(p - 0.3).abs().sum() for p in points])
        assert state.best_value == values.min()
        if index in checkpoints(40):
            assert torch.equal(state.previous, state.best)  # x_max is where the step started

    solve(problem, AutoProjectedGradient(momentum=1.0), x, steps=40, callback=record)


def test_l1_steps_end_on_the_vertex():
    x = torch.full((2, 20), 0.5)
    slope = torch.linspace(0.1, 1, 20).repeat(2, 1)
    slope[1, 3] = -7.0
    problem = ConstrainedProblem(objective=lambda t, _: (t * slope).sum(1), domain=L1Ball(0.4, x, Box()))
    solution = solve(problem, AutoProjectedGradient(), x, steps=100)
    delta = solution.x - x
    assert torch.allclose(delta[0, -1], torch.tensor(-0.4), atol=1e-5) and (delta[0].abs() > 1e-6).sum() == 1
    assert torch.allclose(delta[1, 3], torch.tensor(0.4), atol=1e-5) and (delta[1].abs() > 1e-6).sum() == 1
    sparse = solve(problem, AutoProjectedGradient(density=None), solution.x, steps=3)
    assert torch.allclose(sparse.x, solution.x, atol=1e-5)


def test_the_solver_refuses_what_it_cannot_do():
    problem = ConstrainedProblem(objective=lambda x, _: x.sum(1))
    with pytest.raises(ValueError, match="problem.domain: AutoProjectedGradient takes a ball.*Reals"):
        solve(problem, AutoProjectedGradient(), torch.zeros(1, 2), steps=1)
    for values, name in (({"momentum": 0.0}, "momentum"), ({"rho": 2.0}, "rho"), ({"density": 0.0}, "density")):
        with pytest.raises(ValueError, match=name):
            AutoProjectedGradient(**values)


@pytest.mark.parametrize("ball", [LinfBall, L2Ball, L1Ball])
def test_nan_gradients_are_not_hidden_and_flat_rows_stay(ball):
    x = torch.full((3, 3), 0.5)
    weight = torch.tensor([[1.0, 1.0, 1.0], [1.0, torch.nan, 1.0], [0.0, 0.0, 0.0]])
    problem = ConstrainedProblem(objective=lambda t, _: (t * weight).nansum(1) + 0 * t.sum(1), domain=ball(0.1, x))
    solution = solve(problem, AutoProjectedGradient(), x, steps=30)
    assert solution.x.isfinite().all() and (solution.x[0] < x[0]).any()
    assert torch.equal(solution.x[2], x[2])


# ------------------------------------------------------------------------------------------------------------- losses


def test_class_dlr_has_its_closed_forms():
    logits = torch.tensor([[3.0, 1.0, -1.0, -5.0]], dtype=torch.float64)
    label, other = torch.tensor([0]), torch.tensor([2])
    margin = 1e-4
    assert torch.allclose(class_dlr(logits, label, other) - margin, torch.tensor([4.0 / 6.0], dtype=torch.float64))
    assert torch.allclose(class_dlr(2 * logits + 5, label, other), class_dlr(logits, label, other))
    three, two = logits[:, :3], logits[:, :2]
    assert torch.allclose(class_dlr(three, label, other) - margin, torch.ones(1, dtype=torch.float64))
    assert torch.allclose(class_dlr(two, label, torch.tensor([1])) - margin, 2 * torch.ones(1, dtype=torch.float64))
    assert torch.allclose(class_dlr(three, label, torch.tensor([1])), dlr(three, label))


def test_targeted_losses_follow_one_class():
    logits = torch.tensor([[3.0, 1.0, 2.0, -5.0]], dtype=torch.float64)
    aim = Aim.of(torch.zeros(1, 2), torch.tensor([0]), None, None, 255)
    assert leading_classes(logits, aim.labels, 2).tolist() == [[2, 1]]
    assert leading_classes(logits, aim.labels, 9).tolist() == [[2, 1, 3]]
    assert torch.equal(LOSSES["targeted dlr"](logits, aim), towards(torch.tensor([2]))(logits, aim))
    reach = Aim.of(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([3]), None, 255)
    assert torch.equal(LOSSES["targeted dlr"](logits, reach), -class_dlr(logits, reach.labels, torch.tensor([3])))
    assert (LOSSES["targeted dlr"](logits, reach) < 0).all() and (targeted_dlr(logits, torch.tensor([0])) < 0).all()


# ------------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize(
    "distance, dual, loss",
    [("linf", 1, "ce"), ("linf", 1, "dlr"), ("linf", 1, "targeted dlr"), ("l2", 2, "ce"), ("l1", torch.inf, "dlr")],
)
def test_minimal_distances_of_a_linear_model(distance, dual, loss):
    case = binary()
    solution = apgd(case.model, case.x, case.labels, distance=distance, loss=loss, steps=10, searches=11)
    exact = case.score.abs() / torch.linalg.vector_norm(case.weight, ord=dual)
    reachable = exact < 0.35  # an l1 optimum beyond it meets the box
    assert solution.feasible.all() and reachable.any()
    across = 12 ** {"linf": 0, "l2": 0.5, "l1": 1}[distance]  # what the bisection halves
    assert (solution.objective - 1.01 * exact)[reachable].max() < across / 2**11
    assert (solution.objective / exact).min() > 1 - 1e-9


@pytest.mark.parametrize("distance, dual", [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_the_largest_loss_in_a_ball(distance, dual):
    case = binary()
    eps = torch.linspace(0.01, 0.3, 5, dtype=torch.float64)
    solution = apgd(case.model, case.x, case.labels, distance=distance, loss="logit difference", eps=eps, steps=50)
    sign = 1 - 2 * case.labels
    largest = 2 * (eps * torch.linalg.vector_norm(case.weight, ord=dual) - case.score * sign)
    assert torch.allclose(-solution.objective, largest, atol=0.02 * float(case.weight.norm()))
    length = torch.linalg.vector_norm(solution.x - case.x, ord={"linf": torch.inf, "l2": 2, "l1": 1}[distance], dim=1)
    assert (length <= eps * (1 + 1e-9)).all()


def test_misclassified_inputs_need_nothing():
    case = binary()
    solution = apgd(case.model, case.x, 1 - case.labels, steps=5, searches=3)
    assert solution.feasible.all() and (solution.objective == 0).all() and torch.equal(solution.x, case.x)


# --------------------------------------------------------------------------------------------------- runs and stages


def test_passes_are_counted(small):
    calls = 0

    def model(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return small.model(x)

    def check(forwards: int, backwards: int, **options) -> None:
        nonlocal calls
        calls = 0
        solution = apgd(model, small.inputs, small.labels, **options)
        assert calls == forwards and (solution.forwards == forwards).all() and (solution.backwards == backwards).all()

    check(8, 6, eps=0.1, steps=6)
    check(16, 12, eps=0.1, steps=6, restarts=2)
    check(12, 6, eps=0.1, steps=6, radii=(3.0, 2.0, 1.0))
    check(16, 10, eps=0.1, steps=10, distance="l1")
    check(1 + 4 * 9, 24, eps=0.1, steps=6, loss="targeted dlr")  # four other classes, each measured once more
    check(1 + 2 * 9, 12, eps=0.1, steps=6, loss="targeted dlr", target_classes=(0, 3))
    check(3 + 2 * 8, 1 + 12, steps=6, searches=2)


def test_restarts_and_classes_are_the_best_of_their_runs(small):
    attack = partial(apgd, small.model, small.inputs, small.labels, eps=0.1, steps=8)
    assert torch.equal(attack(restarts=3).x, best_of(*(attack(seed=k) for k in range(3))).x)
    towards_all = attack(loss="targeted dlr")
    single = [attack(loss="targeted dlr", target_classes=(k,)) for k in range(4)]
    assert torch.equal(towards_all.feasible, torch.stack([s.feasible for s in single]).any(0))
    again = towards_all.problem.evaluate(towards_all.x, grad=False).total()
    assert torch.allclose(again, towards_all.objective)


def test_stages_begin_wider_and_end_within_eps(small):
    widths: list[float] = []

    def watch(index, point, proposal):
        widths.append(float((point.x.detach() - small.inputs).flatten(1).abs().sum(1).amax()))

    solution = apgd(small.model, small.inputs, small.labels, eps=0.5, distance="l1", steps=20, callback=watch)
    assert max(widths[:6]) > 1.0 and max(widths[6:12]) <= 1.0 + 1e-5 and max(widths[12:]) <= 0.5 + 1e-5
    assert ((solution.x - small.inputs).flatten(1).abs().sum(1) <= 0.5 + 1e-5).all()


def test_targets_are_reached(small):
    targets = (small.labels + 1) % 5
    for loss in ("dlr", "targeted dlr", "ce"):
        solution = apgd(small.model, small.inputs, small.labels, targets=targets, eps=1.0, loss=loss, steps=30)
        assert torch.equal(small.model(solution.x).argmax(1) == targets, solution.feasible)
        assert solution.feasible.any()


# ---------------------------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize("distance", NORMS)
@pytest.mark.parametrize("options", [{"eps": 0.3}, {"eps": 0.3, "loss": "targeted dlr"}, {"searches": 3}])
def test_rows_are_independent_and_a_nan_row_is_lost_alone(distance, options):
    weight, bias, x = classifier(0, d=32, rows=6)

    def model(t: Tensor) -> Tensor:  # its rounding does not depend on the batch, as that of a matrix product does
        return (t[:, None] * weight).sum(2) + bias

    labels = model(x).argmax(1)
    attack = partial(apgd, distance=distance, steps=12, target_classes=2, **options)
    together = attack(model, x, labels)
    alone = attack(model, x[2:3], labels[2:3])
    assert torch.equal(together.x[2], alone.x[0])

    def broken(t: Tensor) -> Tensor:
        return model(t) * torch.where(torch.arange(6) == 4, torch.nan, 1.0)[:, None]

    lost, others = attack(broken, x, labels), torch.arange(6) != 4
    assert not lost.feasible[4] and lost.status[4] == Status.DIVERGED and lost.x.isfinite().all()
    assert torch.equal(lost.x[others], together.x[others])


@pytest.mark.parametrize("distance", NORMS)
def test_the_model_is_left_as_found_and_success_is_real(distance, small):
    small.model.train()
    small.model[1].eval()
    modes = [module.training for module in small.model.modules()]
    inputs, state = small.inputs.clone(), torch.get_rng_state()
    solution = apgd(small.model, small.inputs, small.labels, eps=torch.linspace(0.1, 1, 6), distance=distance, steps=9)
    assert [module.training for module in small.model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in small.model.parameters())
    assert torch.equal(inputs, small.inputs) and torch.equal(torch.get_rng_state(), state)
    small.model.eval()
    assert torch.equal(small.model(solution.x).argmax(1) != small.labels, solution.feasible)
    assert (solution.x >= 0).all() and (solution.x <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("distance, eps", [("linf", 1.0), ("l2", 4.0), ("l1", 30.0)])
def test_other_dtypes(dtype, distance, eps):
    weight, bias, x = classifier(0, d=32, rows=6)
    model = lambda t: t @ weight.T.to(t) + bias.to(t)  # noqa: E731
    x = x.to(dtype)
    labels = model(x).argmax(1)
    solution = apgd(model, x, labels, eps=eps, distance=distance, steps=30)
    assert solution.x.dtype == dtype
    assert torch.equal(model(solution.x).argmax(1) != labels, solution.feasible) and solution.feasible.any()


def test_other_bounds_scale():
    case = binary()
    wide = partial(apgd, lambda t: case.model(t / 10 + 0.5), bounds=(-5.0, 5.0), steps=8, searches=9)
    near = apgd(case.model, case.x, case.labels, steps=8, searches=9)
    far = wide((case.x - 0.5) * 10, case.labels)
    assert torch.allclose(far.objective, 10 * near.objective, rtol=1e-6)


GOOD = {"inputs": torch.full((2, 12), 0.5), "labels": torch.zeros(2, dtype=torch.long)}
BAD = {
    "no steps": ({"steps": 0}, "steps: takes a whole number"),
    "no restarts": ({"restarts": 0}, "restarts: takes a whole number"),
    "no classes": ({"target_classes": 0}, "target_classes: takes a whole number"),
    "a negative rank": ({"target_classes": (-1,)}, "target_classes: takes a number of classes, or ranks"),
    "no radii": ({"radii": ()}, "radii: takes positive factors"),
    "radii that end elsewhere": ({"radii": (2.0,)}, "radii: takes positive factors.*the last of them 1"),
    "more stages than steps": ({"radii": (3.0, 2.0, 1.0), "steps": 2}, "radii: 3 stages share steps=2"),
    "an unknown loss": ({"loss": "cw"}, "loss: takes one of"),
    "an unknown distance": ({"distance": "l0"}, "distance: takes one of"),
    "eps that is no number": ({"eps": "8/255"}, "eps: takes a number"),
    "targets equal to labels": ({"targets": torch.tensor([1, 0])}, "targets: must differ"),
    "inputs above the bounds": ({"inputs": torch.full((2, 12), 1.5)}, "inputs: must lie within"),
    "no searches": ({"eps": None, "searches": 0}, "searches: takes a whole number"),
    "classes of pixels": (
        {"inputs": torch.rand(2, 3, 4, 4), "labels": torch.zeros(2, 4, 4, dtype=torch.long), "loss": "targeted dlr"},
        "loss: 'targeted dlr' without targets is for classifiers",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_model_call(case):
    changes, message = BAD[case]

    def model(x: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    with pytest.raises((ValueError, TypeError), match=message):
        apgd(model, **{"eps": 0.1, **GOOD, **changes})


def test_ranks_beyond_the_classes_are_named():
    with pytest.raises(ValueError, match="target_classes: the model has 11 other classes"):
        apgd(lambda x: x, **GOOD, eps=0.1, loss="targeted dlr", target_classes=(11,))
