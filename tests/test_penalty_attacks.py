"""C&W, EAD, L-BFGS, LPA, PerC-AL and StrAttack: exact optima of linear models, and what every attack promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from constropt.problems.attacks import MinimalPerturbation
from constropt.problems.attacks.method import remeasured, solution_at
from constropt.problems.attacks.penalized import cw, ead, lbfgs_attack, other_than, str_attack
from constropt.problems.attacks.perceptual import DistanceStep, lpa, perc_al
from constropt.solution import Solution

Attack = Callable[..., Solution]

# Each with a budget that is short, and enough for the small problems below.
RECIPES: dict[str, Attack] = {
    "cw": partial(cw, steps=90, size=0.05),
    "cw ssim": partial(cw, steps=90, size=0.05, distance="ssim"),
    "cw linf": partial(cw, steps=90, size=0.05, searches=9, distance="linf", weight=0.1),
    "cw l0": partial(cw, steps=90, size=0.05, searches=9, distance="l0", weight=1.0),
    "ead": partial(ead, steps=90, size=0.05),
    "ead l1": partial(ead, steps=90, size=0.05, rule="l1", accelerated=False),
    "lbfgs": partial(lbfgs_attack, steps=90, weight=0.1),
    "lpa": partial(lpa, steps=50, eps=1.5, distance="l2"),
    "perc_al": partial(perc_al, steps=60, distance="ciede2000"),
    "str_attack": partial(str_attack, steps=90, size=0.05, tau=0.1),
}


def binary(rows: int = 4, d: int = 16) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor, Tensor]:
    """Logits (s, -s), s = w x + b: the model, inputs far from the box, labels, w and ``|s|``. In float64."""
    generator = torch.Generator().manual_seed(2)
    w = torch.randn(d, generator=generator, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(rows, d, generator=generator, dtype=torch.float64)
    b = 0.3 - x @ w
    score = torch.linspace(-0.4, 0.4, rows, dtype=torch.float64)
    x = x + ((score - (x @ w + b.mean())) / w.square().sum()).unsqueeze(1) * w

    def model(t: Tensor) -> Tensor:
        s = t.flatten(1) @ w + b.mean()
        return torch.stack([s, -s], 1)

    return model, x, model(x).argmax(1), w, score.abs()


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = (nn.Flatten(), nn.Linear(3 * 12 * 12, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 4))
        net = nn.Sequential(*layers).double().eval()
    x = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return net, x, net(x).argmax(1)


# -------------------------------------------------------------------------------------------------------- exact optima


def test_cw_l2_is_within_a_percent_of_the_optimum():
    model, x, labels, w, score = binary()
    solution = cw(model, x, labels, steps=900)
    assert bool(solution.feasible.all())
    ratio = solution.objective / (score / w.norm())
    assert ratio.min() > 1 - 1e-9 and ratio.max() < 1.01


def test_cw_takes_any_smooth_distance():
    model, x, labels, w, score = binary()
    scale = torch.linspace(0.5, 2, 16, dtype=torch.float64)
    solution = cw(model, x, labels, steps=900, distance=lambda t, start: ((t - start) * scale).square().sum(1))
    exact = score.square() / (w / scale).square().sum()
    assert bool(solution.feasible.all()) and (solution.objective / exact).max() < 1.05


def test_cw_linf_and_l0_come_near_the_optimum():
    model, x, labels, w, score = binary()
    solution = cw(model, x, labels, distance="linf", steps=1500, searches=30, weight=0.01)
    assert bool(solution.feasible.all())
    ratio = solution.objective / (score / w.abs().sum())
    assert ratio.min() > 1 - 1e-9 and ratio.median() < 1.05 and ratio.max() < 1.2

    solution = cw(model, x, labels, distance="l0", steps=1000, searches=20, weight=0.1)
    # the fewest entries whose largest possible changes reach the boundary
    toward = -(model(x)[:, 0].sign().unsqueeze(1) * w)
    gain = (w.abs() * torch.where(toward > 0, 1 - x, x)).sort(dim=1, descending=True).values.cumsum(1)
    fewest = (gain < score.unsqueeze(1)).sum(1) + 1
    assert bool(solution.feasible.all()) and bool((solution.objective <= fewest + 1).all())
    assert bool(((solution.x != x).sum(1) == solution.objective).all())


def test_ead_is_near_the_optimum_of_l1():
    model, x, labels, w, score = binary()
    solution = ead(model, x, labels, rule="l1", beta=0.02, steps=900)
    exact = score / w.abs().max()
    room = torch.where((model(x)[:, 0] * w[w.abs().argmax()]) > 0, x[:, w.abs().argmax()], 1 - x[:, w.abs().argmax()])
    assert bool((exact < room).all())  # one entry suffices
    assert bool(solution.feasible.all())
    ratio = solution.objective / exact
    assert ratio.min() > 1 - 1e-9 and ratio.median() < 1.1 and ratio.max() < 1.3


def test_ead_rules_are_what_the_objective_is():
    model, x, labels, _, _ = binary()
    elastic, l1 = (ead(model, x, labels, rule=rule, beta=0.02, steps=90) for rule in ("EN", "l1"))
    for solution, other in ((elastic, l1), (l1, elastic)):
        assert bool(solution.feasible.all())
        delta = solution.x - x
        value = delta.square().sum(1) + 0.02 * delta.abs().sum(1) if solution is elastic else delta.abs().sum(1)
        torch.testing.assert_close(solution.objective, value)
        instead = other.x - x
        theirs = instead.square().sum(1) + 0.02 * instead.abs().sum(1) if solution is elastic else instead.abs().sum(1)
        assert bool((value <= theirs + 1e-12).all())


def test_lbfgs_minimises_what_it_says():
    model, x, labels, w, score = binary()
    solution = lbfgs_attack(lambda t: 40 * model(t), x, labels, steps=360)
    ratio = solution.objective / (score / w.norm())
    assert bool(solution.feasible.all()) and ratio.min() > 1 - 1e-9 and ratio.max() < 1.15
    logits = torch.randn(3, 5, dtype=torch.float64)
    classes = torch.tensor([0, 3, 4])
    expected = -(1 - logits.softmax(1)[torch.arange(3), classes]).log()
    torch.testing.assert_close(other_than(logits, classes), expected)


def test_lpa_fools_within_the_budget_beyond_the_robust_radius():
    model, x, labels, w, score = binary()
    radius = score / w.norm()
    below, above = (lpa(model, x, labels, eps=factor * radius, distance="l2") for factor in (0.9, 1.2))
    assert not bool(below.feasible.any()) and bool(above.feasible.all())
    reached = (above.x - x).norm(dim=1)
    assert bool((reached <= 1.2 * radius).all()) and bool((above.backwards == 100).all())


def test_lpa_without_a_budget_is_minimal():
    model, x, labels, w, score = binary()
    solution = lpa(model, x, labels, distance="l2", steps=25, radii=9)
    ratio = solution.objective / (score / w.norm())
    assert bool(solution.feasible.all()) and ratio.min() > 1 - 1e-9 and ratio.max() < 1.1
    torch.testing.assert_close(solution.objective, (solution.x - x).norm(dim=1))


def test_the_distance_step_covers_its_size():
    step = DistanceStep(lambda x, moved: 3 * (moved - x).norm(dim=1))
    x, gradient = torch.zeros(2, 4), torch.tensor([[1.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    size = torch.full((2, 1), 0.6)
    moved, _ = step.update(gradient, None, x, size, lambda p, size, metric: p, lambda t: (t, t))
    torch.testing.assert_close(moved, torch.stack([-0.2 * gradient[0] / 3, x[1]]))


def test_perc_al_is_near_the_optimum_of_l2():
    model, x, labels, w, score = binary()
    solution = perc_al(model, x, labels, distance="l2", steps=400)
    ratio = solution.objective / (score / w.norm())
    assert bool(solution.feasible.all()) and ratio.min() > 1 - 1e-9 and ratio.median() < 1.35


def test_str_attack_changes_few_groups():
    model, x, labels, w, score = binary()
    groups = torch.arange(16) // 4
    solution = str_attack(model, x, labels, groups=groups, steps=900)
    assert bool(solution.feasible.all())
    delta = (solution.x - x).view(-1, 4, 4)
    strength = w.view(4, 4).norm(dim=1)
    changed = delta.abs().amax(2) > 1e-6
    assert bool((changed.sum(1) <= 2).all()) and bool(changed[:, strength.argmax()].all())
    value = delta.square().sum((1, 2)) + 2 * delta.norm(dim=2).sum(1)
    torch.testing.assert_close(solution.objective, value)


# ------------------------------------------------------------------------------------------------- what attacks promise


@pytest.mark.parametrize("name", RECIPES)
def test_untargeted_targeted_and_bounds(name: str, small: Any):
    net, x, labels = small
    attack = RECIPES[name]
    solution = attack(net, x, labels)
    assert bool(solution.feasible.all()), solution.objective
    assert bool((net(solution.x).argmax(1) != labels).all())
    assert solution.x.min() >= 0 and solution.x.max() <= 1 and bool(solution.objective.isfinite().all())

    targets = (labels + 1) % 4
    reached = attack(net, x, labels, targets=targets)
    assert torch.equal(net(reached.x).argmax(1) == targets, reached.feasible) and reached.feasible.float().mean() >= 0.5


@pytest.mark.parametrize("name", ["cw", "cw linf", "cw l0", "ead l1", "lbfgs", "str_attack"])
def test_other_bounds_are_the_same_problem(name: str, small: Any):
    net, x, labels = small
    attack, other = RECIPES[name], lambda t: net((t + 1) / 4)
    plain, shifted = attack(net, x, labels), attack(other, 4 * x - 1, labels, bounds=(-1.0, 3.0))
    assert bool(shifted.feasible.all()) and shifted.x.min() >= -1 and shifted.x.max() <= 3
    first, second = (plain.x - x).flatten(1).norm(dim=1), (shifted.x - (4 * x - 1)).flatten(1).norm(dim=1) / 4
    assert (second / first).median() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("name", RECIPES)
def test_rows_rng_mode_and_gradients_are_left_alone(name: str, small: Any):
    net, x, labels = small
    attack, state = RECIPES[name], torch.get_rng_state()
    net.train()
    together = attack(net, x, labels)
    alone = attack(net, x[1:2], labels[1:2])
    assert all(module.training for module in net.modules())
    net.eval()
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())
    # a matrix product of another batch rounds differently
    torch.testing.assert_close(alone.x[0], together.x[1], atol=1e-6, rtol=0)
    assert bool((together.backwards <= 90).all())


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"lpa"}))
def test_misclassified_inputs_stay(name: str):
    model, x, labels, _, _ = binary()
    x, labels = x.view(-1, 1, 4, 4), 1 - labels
    if name in ("perc_al", "cw ssim"):
        x = x.repeat_interleave(3, 2).repeat_interleave(3, 3).expand(-1, 3, -1, -1)
        solution = RECIPES[name](lambda t: model(t[:, :1, ::3, ::3].flatten(1)), x, labels)
    else:
        solution = RECIPES[name](model, x, labels)
    assert torch.equal(solution.x, x) and bool((solution.objective == 0).all()) and bool(solution.feasible.all())


@pytest.mark.parametrize("name", ["cw", "cw linf", "ead", "perc_al", "str_attack"])
def test_rows_without_a_gradient_stay(name: str, small: Any):
    _, x, labels = small
    constant = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).expand(4, 4)
    solution = RECIPES[name](lambda t: constant + 0 * t.flatten(1)[:, :4], x, torch.zeros_like(labels))
    assert not bool(solution.feasible.any())
    torch.testing.assert_close(solution.x, x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["cw", "ead", "str_attack"])
def test_confidence(name: str, small: Any):
    net, x, labels = small
    solution = RECIPES[name](net, x, labels, confidence=0.1)
    logits = net(solution.x)
    gap = logits.gather(1, labels[:, None])[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    assert bool(solution.feasible.all()) and bool((gap <= -0.1).all())
    with pytest.raises(ValueError, match="confidence: takes a number >= 0 and < inf, got -1"):
        RECIPES[name](net, x, labels, confidence=-1.0)


@pytest.mark.parametrize("name", ["cw", "ead", "perc_al"])
def test_half_precision_models(name: str, small: Any):
    net, x, labels = small
    half = nn.Sequential(nn.Flatten(), nn.Linear(432, 4)).half()
    inputs = x.half()
    options = {"distance": "l2"} if name == "perc_al" else {}
    solution = RECIPES[name](half, inputs, half(inputs).argmax(1), **options)
    assert solution.x.dtype == torch.float16 and bool(solution.x.isfinite().all())


def test_lpa_starts_from_its_own_generator(small: Any):
    net, x, labels = small
    attack = partial(RECIPES["lpa"], net, x, labels)
    assert torch.equal(attack(seed=1).x, attack(seed=1).x) and not torch.equal(attack(seed=1).x, attack(seed=2).x)


def test_points_are_solutions_of_what_they_are_worth():
    model, x, labels, _, s = binary()
    problem = MinimalPerturbation(model, x, labels, distance="l1")
    given = x.clone()
    found = solution_at(problem, given)
    assert torch.equal(found.x, x) and found.x.data_ptr() != given.data_ptr()
    assert (found.objective == 0).all() and torch.equal(found.feasible, found.violation <= 0)
    assert found.problem is problem and found.messages() == found.messages()[:1] * len(x)
    assert (found.forwards == 1).all() and (found.backwards == 0).all() and (found.first_feasible == -1).all()
    assert not found.feasible.any() and (s > 0).all()
    fooled = solution_at(MinimalPerturbation(model, x, 1 - labels, distance="l1"), x)
    assert fooled.feasible.all() and (fooled.first_feasible == 0).all()


def test_remeasured_counts_its_pass():
    model, x, labels, _, _ = binary()
    solution = perc_al(model, x, labels, distance="l2", steps=5)
    other = remeasured(solution, MinimalPerturbation(model, x, labels, distance="l1"))
    torch.testing.assert_close(other.objective, (solution.x - x).abs().sum(1))
    assert torch.equal(other.forwards, solution.forwards + 1) and torch.equal(other.backwards, solution.backwards)
    assert torch.equal(other.status, solution.status) and torch.equal(other.x, solution.x)


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (cw, {"steps": 0}, "steps: takes a whole number >= 1, got 0"),
        (cw, {"searches": 1.5}, "searches: takes a whole number"),
        (cw, {"weight": 0.0}, "weight: must be > 0"),
        (cw, {"distance": "linf", "decrease": 1.0}, "decrease: must lie in"),
        (cw, {"distance": "l7"}, "distance: takes one of"),
        (ead, {"rule": "l2"}, r"rule: takes one of l1, EN, got 'l2'"),
        (ead, {"threshold": "soft"}, "threshold: takes one of published, exact, got 'soft'"),
        (ead, {"beta": -1.0}, "weight: must be >= 0"),
        (lbfgs_attack, {"memory": 0}, "memory: takes a whole number"),
        (lpa, {"distance": "l2", "h": 0.0}, "h: takes a number > 0"),
        (lpa, {"distance": "l2", "eps": -1.0}, "eps: takes finite radii >= 0"),
        (lpa, {"distance": "l2", "radii": 0}, "radii: takes a whole number"),
        (perc_al, {"distance": "l2", "alpha_c": 0.0}, "alpha_c: takes a number > 0"),
        (str_attack, {"tau": -1.0}, "tau: takes a number >= 0"),
        (str_attack, {"groups": torch.zeros(3, dtype=torch.long)}, "groups: takes integers"),
    ],
)
def test_bad_arguments_are_named_before_any_model_call(attack: Attack, options: dict[str, Any], message: str):
    def never(t: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    _, x, labels, _, _ = binary()
    with pytest.raises(ValueError, match=message):
        attack(never, x, labels, **options)
    with pytest.raises(ValueError, match="targets: must differ"):
        attack(never, x, labels, targets=labels, **({"distance": "l2"} if attack in (lpa, perc_al) else {}))
