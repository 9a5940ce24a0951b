"""Budgeted attacks and their bisection: losses, balls, FGSM, BIM, MI-FGSM and PGD against closed forms."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import fakes
import pytest
import torch
from linear import classifier, exact_l2
from torch import Tensor, nn

from constropt import Box, ConstrainedProblem, L1Ball, L2Ball, LinfBall, Solution, Status, solve
from constropt.problems.attacks import MaximalLoss, bim, fgsm, mi_fgsm, pgd
from constropt.problems.attacks.aim import Aim
from constropt.problems.attacks.constraints import MARGIN
from constropt.problems.attacks.goals import LOSSES, as_loss
from constropt.solution import best_of
from constropt.solvers.balls.projected_gradient import ProjectedGradient
from constropt.solvers.balls.radius_search import smallest_radius

RECIPES = [
    pytest.param(fgsm, id="fgsm"),
    pytest.param(partial(bim, steps=6), id="bim"),
    pytest.param(partial(mi_fgsm, steps=6), id="mi_fgsm"),
    pytest.param(partial(pgd, steps=6), id="pgd"),
]


def binary(rows: int = 6, d: int = 12) -> SimpleNamespace:
    """Two classes, logits (s, -s) with s = w x + b: everything is known. In float64."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(d, generator=generator, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(rows, d, generator=generator, dtype=torch.float64)
    bias = -(x @ weight).mean() + 0.05

    def model(t: Tensor) -> Tensor:
        score = t @ weight + bias
        return torch.stack([score, -score], 1)

    score = x @ weight + bias
    return SimpleNamespace(model=model, weight=weight, x=x, labels=model(x).argmax(1), margin=2 * score.abs())


@pytest.fixture
def small():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5)).eval()
    inputs = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(model=net, inputs=inputs, labels=net(inputs).argmax(1))


# ------------------------------------------------------------------------------------------------------------- losses


def test_losses_have_their_closed_forms():
    logits = torch.tensor([[3.0, 1.0, -1.0, -5.0]], dtype=torch.float64)
    x, label, target = torch.zeros(1, 2), torch.tensor([0]), torch.tensor([1])
    away, towards = (Aim.of(x, label, t, None, 255) for t in (None, target))
    value = {name: (LOSSES[name](logits, away).item(), LOSSES[name](logits, towards).item()) for name in LOSSES}
    log_sum = logits.logsumexp(1).item()
    assert value["ce"] == pytest.approx((log_sum - 3, 1 - log_sum))
    assert value["logit difference"] == pytest.approx((-2, -2))
    assert value["dlr"] == pytest.approx((-2 / 4 - MARGIN, -2 / (3 + 3) - MARGIN))
    normal = torch.distributions.Normal(0.0, 1.0)
    below = normal.cdf(torch.tensor(-2.0)).item()
    assert value["houdini"] == pytest.approx((below, -(1 - below)), abs=1e-6)


def test_houdini_is_bounded_and_leaves_what_has_reached_its_target():
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, 0.0], [60.0, 0.0, 0.0]], requires_grad=True)
    x, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    loss = LOSSES["houdini"](logits, Aim.of(x, labels, torch.ones(3, dtype=torch.long), None, 255))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss[1] == 0 and (gradient[1] == 0).all()
    # the derivative of the normal distribution function at the gap of one
    assert gradient[0].tolist() == pytest.approx([-0.24197, 0.24197, 0], abs=1e-4)
    assert ((loss >= -1) & (loss <= 0)).all() and gradient.isfinite().all()


def test_the_mean_is_over_counted_pixels_and_custom_losses_are_taken():
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0, :3] = 255
    x = torch.rand(2, 3, 4, 4)

    def my_loss(z: Tensor, aim: Aim) -> Tensor:
        return z[:, 1] - z[:, 0]

    problem = MaximalLoss(lambda t: logits, x, labels, eps=0.1, loss=my_loss)
    value = logits[:, 1] - logits[:, 0]
    expected = [-value[0, 3:].mean().item(), -value[1].mean().item()]
    assert problem.evaluate(x).objective.tolist() == pytest.approx(expected, abs=1e-6)


def test_wrong_losses_are_named():
    aim = Aim.of(torch.zeros(1, 2), torch.tensor([0]), None, None, 255)
    with pytest.raises(ValueError, match="loss: takes one of .*'houdini'.*got 'cw'"):
        as_loss("cw", aim)
    with pytest.raises(TypeError, match="loss: .*got int"):
        as_loss(3, aim)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"loss: must return one value per label, \(1,\), got float32 of shape \(\)"):
        as_loss(lambda z, aim: z.sum(), aim)(torch.zeros(1, 3))


# -------------------------------------------------------------------------------------------------------- closed forms


def test_fgsm_is_one_step_along_the_sign():
    case = binary()
    solution = fgsm(case.model, case.x, case.labels, eps=0.05)
    direction = torch.where(case.labels == 0, -1.0, 1.0)[:, None] * case.weight.sign()
    assert torch.allclose(solution.x, case.x + 0.05 * direction, atol=1e-12)
    assert (solution.backwards == 1).all() and (solution.forwards == 3).all()


@pytest.mark.parametrize("loss", ["ce", "logit difference", "dlr", "houdini"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_linf_attacks_fool_a_linear_model_exactly_beyond_its_robust_radius(recipe, loss):
    case = binary()
    # the box is far: the margin falls by 2 eps ||w||_1, and the constraint asks for MARGIN more
    exact = (case.margin + MARGIN) / (2 * case.weight.abs().sum())
    attack = partial(recipe, case.model, case.x, case.labels, loss=loss)
    assert not attack(eps=exact * (1 - 1e-6)).feasible.any()
    assert attack(eps=exact * (1 + 1e-6)).feasible.all()


@pytest.mark.parametrize("distance, dual", [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_pgd_reaches_the_exact_worst_case_margin_in_every_ball(distance, dual):
    case = binary()
    eps = torch.linspace(0.02, 0.1, len(case.x), dtype=torch.float64)
    solution = pgd(
        case.model, case.x, case.labels, eps=eps, distance=distance, loss="logit difference", steps=60, size=0.2
    )
    exact = case.margin - 2 * eps * torch.linalg.vector_norm(case.weight, ord=dual)
    assert torch.allclose(solution.objective, exact, rtol=1e-6, atol=1e-9)
    assert torch.equal(solution.feasible, exact + MARGIN <= 0)
    norm = torch.linalg.vector_norm(solution.x - case.x, ord=solution.problem.distance.p, dim=1)  # type: ignore
    assert (norm <= eps * (1 + 1e-9)).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_bisection_finds_the_smallest_radius(recipe):
    case = binary()
    exact = (case.margin + MARGIN) / (2 * case.weight.abs().sum())
    solution = recipe(case.model, case.x, case.labels)
    assert solution.feasible.all()
    excess = solution.objective - exact
    assert (excess >= -1e-12).all() and (excess <= 2.0**-13).all()
    assert torch.allclose(solution.objective, (solution.x - case.x).abs().amax(1))
    fine = recipe(case.model, case.x, case.labels, searches=25)
    assert (fine.objective - exact <= 2.0**-25 + 1e-12).all()
    wide = recipe(lambda t: case.model(t / 255), case.x * 255, case.labels, bounds=(0.0, 255.0))
    assert torch.allclose(wide.objective / 255, solution.objective, rtol=1e-9)


def test_minimal_pgd_is_near_the_exact_l2_and_l1_optimum():
    weight, bias, x = classifier(0, d=64, rows=8)
    labels = (x @ weight.T + bias).argmax(1)
    solution = pgd(lambda t: t @ weight.T + bias, x, labels, distance="l2", loss="logit difference", steps=20)
    ratio = solution.objective.double() / exact_l2(weight, bias, x, labels)
    assert solution.feasible.all() and ratio.min() > 1 - 1e-5 and ratio.median() < 1.05
    case = binary()
    sparse = pgd(case.model, case.x, case.labels, distance="l1", steps=20, searches=18)
    exact = (case.margin + MARGIN) / (2 * case.weight.abs().max())
    assert torch.allclose(sparse.objective, exact, rtol=1e-3)


def test_mi_fgsm_accumulates_gradients_of_unit_l1_norm():
    def model(t: Tensor) -> Tensor:
        return torch.stack([t.square().sum(1), 0 * t[:, 0]], 1)

    x = torch.tensor([[0.5, 0.1, 0.9]])
    seen: list[Tensor] = []
    mi_fgsm(
        model, x, torch.tensor([0]), eps=0.4, steps=4, momentum=0.5, loss="logit difference",
        callback=lambda step, point, proposal: seen.append(proposal.state),
    )  # fmt: skip
    point, m = x.clone(), torch.zeros_like(x)
    for state in seen:
        m = 0.5 * m + point / point.abs().sum()  # the gradient is proportional to the point
        assert torch.allclose(state, m, atol=1e-6)
        point = (point - 0.1 * m.sign()).clamp(0, 1).clamp(x - 0.4, x + 0.4)


def test_radius_zero_and_rows_that_need_no_perturbation():
    case = binary()
    wrong = 1 - case.labels
    for recipe in (fgsm, bim, pgd):
        solution = recipe(case.model, case.x, wrong)
        assert solution.feasible.all() and (solution.objective == 0).all() and torch.equal(solution.x, case.x)
        nothing = recipe(case.model, case.x, case.labels, eps=0.0)
        assert not nothing.feasible.any() and torch.equal(nothing.x, case.x)


def test_targets_are_reached(small):
    targets = (small.labels + 1) % 5
    solution = pgd(small.model, small.inputs, small.labels, targets=targets, eps=1.0, loss="dlr")
    assert torch.equal(small.model(solution.x).argmax(1) == targets, solution.feasible)
    assert solution.feasible.any()
    minimal = bim(small.model, small.inputs, small.labels, targets=targets)
    assert torch.equal(small.model(minimal.x).argmax(1) == targets, minimal.feasible)


# ------------------------------------------------------------------------------------------------------------- solvers


def test_radius_search_on_its_own():
    x = torch.zeros(3, 2, dtype=torch.float64)
    truth = torch.tensor([0.3, 0.7, 2.0], dtype=torch.float64)  # the last is out of reach
    asked: list[Tensor] = []

    def at(radius: Tensor) -> Solution:
        asked.append(radius)
        return fakes.solution(x + radius[:, None], x, radius >= truth, 5, radius)

    start = fakes.solution(x, x, truth < 0, 5)
    found = smallest_radius(at, start, largest=1.0, searches=20)
    assert found.feasible.tolist() == [True, True, False]
    assert (found.objective[:2] - truth[:2]).abs().max() <= 2.0**-20
    assert len(asked) == 20 and (found.forwards == 105).all()
    for wrong in ({"largest": 0.0}, {"largest": 1.0, "searches": 0}):
        with pytest.raises(ValueError, match=next(reversed(wrong))):
            smallest_radius(at, found, **wrong)


def test_l1_steps_are_sparse_and_avoid_the_box():
    x = torch.tensor([[1.0, 0.5, 0.5, 0.5]])
    problem = ConstrainedProblem(
        objective=lambda t, _: -(t @ torch.tensor([9.0, 3.0, 1.0, 2.0])), domain=L1Ball(0.2, x, Box())
    )
    solution = solve(problem, ProjectedGradient(size=1.0, dense=0.5), x, steps=1)
    assert torch.allclose(solution.x, torch.tensor([[1.0, 0.6, 0.5, 0.6]]))


def test_projected_gradient_refuses_what_it_cannot_do():
    problem = ConstrainedProblem(objective=lambda x, _: x.sum(1))
    with pytest.raises(ValueError, match="problem.domain: ProjectedGradient takes a ball.*Reals"):
        solve(problem, ProjectedGradient(), torch.zeros(1, 2), steps=1)
    for values, name in (({"size": 0.0}, "size"), ({"momentum": -1.0}, "momentum"), ({"dense": 0.0}, "dense")):
        with pytest.raises(ValueError, match=name):
            ProjectedGradient(**values)


@pytest.mark.parametrize("ball", [LinfBall, L2Ball, L1Ball])
def test_a_nan_gradient_is_not_hidden(ball):
    x = torch.full((2, 3), 0.5)
    weight = torch.tensor([[1.0, 1.0, 1.0], [1.0, torch.nan, 1.0]])
    problem = ConstrainedProblem(objective=lambda t, _: (t * weight).nansum(1) + 0 * t.sum(1), domain=ball(0.1, x))
    solution = solve(problem, ProjectedGradient(), x, steps=3)
    assert solution.x.isfinite().all() and (solution.x[0] < x[0]).any()


# ------------------------------------------------------------------------------------------------------------ contracts


@pytest.mark.parametrize("distance", ["linf", "l2", "l1"])
def test_random_starts_lie_in_the_domain_and_depend_only_on_the_seed(distance):
    x = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    problem = partial(MaximalLoss, lambda t: t, eps=0.5, distance=distance)
    labels = torch.zeros(5, 4, 4, dtype=torch.long)
    state = torch.get_rng_state()
    whole = problem(inputs=x, labels=labels)
    start = whole.random_start(7)
    assert torch.equal(torch.get_rng_state(), state)
    assert whole.domain.contains(start, 1e-6).all() and (start >= 0).all() and (start <= 1).all()
    assert torch.equal(start, whole.random_start(7)) and not torch.equal(start, whole.random_start(8))
    assert torch.equal(problem(inputs=x[3:4], labels=labels[3:4]).random_start(7)[0], start[3])
    assert (whole.distance(start, x) > 0).all()


def test_seeds_and_restarts(small):
    attack = partial(pgd, small.model, small.inputs, small.labels, eps=0.1)
    state = torch.get_rng_state()
    first, again, other = attack(seed=1), attack(seed=1), attack(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.x, again.x) and not torch.equal(first.x, other.x)
    runs = attack(steps=40, restarts=4)
    assert (runs.backwards == 40).all() and (runs.forwards == 48).all()
    assert torch.equal(runs.x, best_of(*(attack(steps=10, seed=k) for k in range(4))).x)
    from_inputs = attack(steps=1, seed=None, size=1.0)
    assert torch.equal(from_inputs.x, fgsm(small.model, small.inputs, small.labels, eps=0.1).x)


@pytest.mark.parametrize("recipe", RECIPES)
def test_passes_are_counted(recipe, small):
    calls = 0

    def model(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return small.model(x)

    steps = 1 if recipe is fgsm else 6
    solution = recipe(model, small.inputs, small.labels, eps=0.1)
    assert calls == steps + 2 and (solution.forwards == calls).all() and (solution.backwards == steps).all()
    calls = 0
    solution = recipe(model, small.inputs, small.labels, searches=3)
    assert calls == 3 + 3 * (steps + 2)
    assert (solution.forwards == calls).all() and (solution.backwards == 1 + 3 * steps).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_model_is_left_as_found_and_success_is_real(recipe, small):
    small.model.train()
    small.model[1].eval()  # a module that its owner froze stays frozen
    modes = [module.training for module in small.model.modules()]
    inputs, state = small.inputs.clone(), torch.get_rng_state()
    solution = recipe(small.model, small.inputs, small.labels, eps=torch.linspace(0.05, 0.5, 6))
    assert [module.training for module in small.model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in small.model.parameters())
    assert torch.equal(inputs, small.inputs) and torch.equal(torch.get_rng_state(), state)
    small.model.eval()
    assert torch.equal(small.model(solution.x).argmax(1) != small.labels, solution.feasible)
    assert (solution.x >= 0).all() and (solution.x <= 1).all()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("eps", [0.1, None])
def test_rows_are_independent_and_a_nan_row_is_lost_alone(recipe, eps):
    weight, bias, x = classifier(0, d=32, rows=6)

    def model(t: Tensor) -> Tensor:  # its rounding does not depend on the batch, as that of a matrix product does
        return (t[:, None] * weight).sum(2) + bias

    labels = model(x).argmax(1)
    attack = partial(recipe, eps=eps, searches=4)
    together = attack(model, x, labels)
    alone = attack(model, x[2:3], labels[2:3])
    assert torch.equal(together.x[2], alone.x[0])

    def broken(t: Tensor) -> Tensor:
        return model(t) * torch.where(torch.arange(6) == 4, torch.nan, 1.0)[:, None]

    lost = attack(broken, x, labels)
    others = torch.arange(6) != 4
    assert not lost.feasible[4] and lost.status[4] == Status.DIVERGED and lost.x.isfinite().all()
    assert torch.equal(lost.x[others], together.x[others])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("recipe", RECIPES)
def test_other_dtypes(recipe, dtype):
    weight, bias, x = classifier(0, d=32, rows=6)
    model = lambda t: t @ weight.T.to(t) + bias.to(t)  # noqa: E731
    x = x.to(dtype)
    labels = model(x).argmax(1)
    solution = recipe(model, x, labels, eps=1.0)
    assert solution.x.dtype == dtype
    assert torch.equal(model(solution.x).argmax(1) != labels, solution.feasible) and solution.feasible.any()


def test_a_model_without_gradient_is_an_error_and_a_flat_one_fails_honestly():
    x, labels, flat = torch.rand(3, 4), torch.zeros(3, dtype=torch.long), torch.tensor([[1.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="objective: does not depend on x"):
        pgd(lambda t: flat.repeat(len(t), 1), x, labels, eps=0.1)
    solution = pgd(lambda t: flat + 0 * t.sum(1, keepdim=True), x, labels, eps=0.1)
    assert not solution.feasible.any() and solution.x.isfinite().all()


GOOD = {"inputs": torch.full((2, 12), 0.5), "labels": torch.zeros(2, dtype=torch.long)}
BAD = {
    "inputs above the bounds": ({"inputs": torch.full((2, 12), 1.5)}, "inputs: must lie within"),
    "NaN inputs": ({"inputs": torch.full((2, 12), torch.nan)}, "inputs: .*NaN"),
    "8-bit inputs": ({"inputs": torch.ones(2, 12, dtype=torch.uint8)}, "inputs: .*uint8"),
    "labels of another length": ({"labels": torch.zeros(3, dtype=torch.long)}, "labels: "),
    "float labels": ({"labels": torch.zeros(2)}, "labels: takes int64"),
    "targets equal to labels": ({"targets": torch.tensor([1, 0])}, r"targets: must differ.*rows \[1\]"),
    "a mask for a classifier": ({"mask": torch.ones(2, dtype=torch.bool)}, "mask: is for dense labels"),
    "a fraction out of range": ({"nu": 1.5}, "fraction"),
    "negative eps": ({"eps": -0.1}, "eps: takes finite radii >= 0"),
    "eps of another length": ({"eps": torch.ones(3)}, r"eps: .*\(2,\), got shape \(3,\)"),
    "eps that is no number": ({"eps": "8/255"}, "eps: takes a number"),
    "NaN eps": ({"eps": torch.tensor([0.1, torch.nan])}, "eps: takes finite radii"),
    "an unknown distance": ({"distance": "l0"}, "distance: takes one of"),
    "an unknown loss": ({"loss": "cw"}, "loss: takes one of"),
    "no searches": ({"eps": None, "searches": 0}, "searches: takes a whole number"),
    "reversed bounds": ({"bounds": (1.0, 0.0)}, "bounds: .*lower < upper"),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_model_call(recipe, case):
    changes, message = BAD[case]

    def model(x: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    with pytest.raises((ValueError, TypeError), match=message):
        recipe(model, **{"eps": 0.1, **GOOD, **changes})


@pytest.mark.parametrize("eps", [0.1, None])
def test_steps_and_restarts_are_checked_first(eps):
    def model(x: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    for recipe in (bim, mi_fgsm, pgd):
        with pytest.raises(ValueError, match="steps: takes a whole number >= 1, got 0"):
            recipe(model, **GOOD, eps=eps, steps=0)
    for restarts in (0, 41):
        with pytest.raises(ValueError, match="restarts"):
            pgd(model, **GOOD, eps=eps, steps=40, restarts=restarts)
    with pytest.raises(ValueError, match="size: takes a step > 0"):
        bim(model, **GOOD, eps=eps, size=0.0)


def test_labels_beyond_the_classes_are_named():
    with pytest.raises(ValueError, match="labels: .*3 classes"):
        pgd(lambda x: x[:, :3], GOOD["inputs"], torch.tensor([0, 3]), eps=0.1)
