"""The attack problem, ALMA and DDN: closed forms on linear classifiers, contracts, bad input."""

from types import SimpleNamespace

import pytest
import torch
from linear import classifier, exact_l2
from torch import Tensor, nn

from constropt import Status, solve
from constropt.problems.attacks import ALMA, MinimalPerturbation, alma, ddn, dlr, logit_difference, targeted_dlr
from constropt.problems.attacks.augmented_lagrangian import ema_for
from constropt.problems.attacks.constraints import MARGIN

RECIPES = [pytest.param(alma, id="alma"), pytest.param(ddn, id="ddn")]


def linear_case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight, bias, x = classifier(seed)
    return weight, bias, x, (x @ weight.T + bias).argmax(1)


@pytest.fixture(scope="module")
def linear():
    weight, bias, x, labels = linear_case()
    return SimpleNamespace(
        model=lambda t: t @ weight.T.to(t) + bias.to(t), x=x, labels=labels, exact=exact_l2(weight, bias, x, labels)
    )


class Counting(nn.Module):
    """A small net that counts its calls, with the parts that a careless attack would disturb."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x.flatten(1))


@pytest.fixture
def small():
    model = Counting().eval()
    inputs = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = model(inputs).argmax(1)
    model.calls = 0
    return SimpleNamespace(model=model, inputs=inputs, labels=labels)


# ------------------------------------------------------------------------------------------------------ constraints


def test_dlr_closed_form_and_invariance():
    logits = torch.tensor([[3.0, 1.0, -1.0, -5.0], [0.0, 2.0, 1.0, -1.0]])
    labels = torch.tensor([0, 0])
    assert dlr(logits, labels) == pytest.approx([0.5 + MARGIN, -1.0 + MARGIN], abs=1e-6)
    assert torch.allclose(dlr(100 * logits + 7, labels), dlr(logits, labels), atol=1e-5)
    assert logit_difference(logits, labels, confidence=0.5).tolist() == [2.5, -1.5]


def test_targeted_dlr_closed_form_and_fallbacks():
    logits = torch.tensor([[3.0, 1.0, -1.0, -5.0]])
    assert targeted_dlr(logits, torch.tensor([1])).item() == pytest.approx(2 / (3 + 3) + MARGIN)
    assert targeted_dlr(logits, torch.tensor([0])).item() == pytest.approx(-2 / (3 + 3) + MARGIN)
    assert targeted_dlr(logits[:, :3], torch.tensor([1])).item() == pytest.approx(2 / (3 + 1) + MARGIN)
    assert targeted_dlr(logits[:, :2], torch.tensor([1])).item() == pytest.approx(2 + MARGIN)
    assert dlr(logits[:, :2], torch.tensor([0])).item() == pytest.approx(2 + MARGIN)


def test_all_logits_equal_is_no_success_and_no_nan():
    logits = torch.zeros(2, 4, requires_grad=True)
    value = dlr(logits, torch.tensor([0, 1]))
    assert (value > 0).all()
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient.isfinite().all()


# -------------------------------------------------------------------------------------------- linear classifiers


@pytest.mark.parametrize("seed", [0, 1])
def test_alma_reaches_the_exact_l2_optimum_of_linear_classifiers(seed):
    weight, bias, x, labels = linear_case(seed)
    solution = alma(lambda t: t @ weight.T + bias, x, labels, steps=300)
    ratio = solution.objective.double() / exact_l2(weight, bias, x, labels)
    assert solution.feasible.all()
    assert ratio.min() >= 1 - 1e-5
    assert ratio.median() <= 1.003
    assert ratio.quantile(0.95) <= 1.02
    assert ratio.max() <= 1.2  # with a first step that jumps over near boundaries single rows are 2 to 3 times off


def test_ddn_follows_the_cross_entropy_to_a_bounded_excess(linear):
    solution = ddn(linear.model, linear.x, linear.labels, steps=300)
    ratio = solution.objective.double() / linear.exact
    assert solution.feasible.all()
    assert ratio.min() >= 1 - 1e-5
    assert ratio.median() <= 1.27


def test_alma_l1_is_within_five_percent_of_the_exact_optimum(linear):
    """The l1 optimum pushes coordinates to the box in decreasing |w| until the boundary is met, for the best class."""
    weight, bias, x, labels = linear_case()
    best = torch.full((len(x),), torch.inf)
    for other in range(len(weight)):
        w, gap = weight[other] - weight[labels], (x @ (weight.T) + bias)
        need = gap.gather(1, labels[:, None]).squeeze(1) - gap[:, other]
        order = w.abs().argsort(dim=1, descending=True)
        room = torch.where(w > 0, 1 - x, x).gather(1, order)
        gain = (w.abs().gather(1, order) * room).cumsum(1)
        cost = room.cumsum(1)
        index = (gain < need[:, None]).sum(1).clamp_max(w.shape[1] - 1)[:, None]
        before = torch.where(index > 0, gain.gather(1, (index - 1).clamp_min(0)), 0)
        spent = torch.where(index > 0, cost.gather(1, (index - 1).clamp_min(0)), 0)
        last = (need[:, None] - before) / w.abs().gather(1, order).gather(1, index)
        total = (spent + last).squeeze(1)
        best = torch.where(labels != other, torch.minimum(best, total), best)
    solution = alma(linear.model, x, labels, distance="l1", steps=300)
    ratio = solution.objective / best
    assert solution.feasible.all()
    assert ratio.min() >= 1 - 1e-4
    assert ratio.median() <= 1.05


@pytest.mark.parametrize("scale", [1e-2, 1e2])
def test_alma_does_not_depend_on_the_scale_of_the_logits(linear, scale):
    plain = alma(linear.model, linear.x[:32], linear.labels[:32], steps=100)
    scaled = alma(lambda x: scale * linear.model(x), linear.x[:32], linear.labels[:32], steps=100)
    assert torch.allclose(plain.objective, scaled.objective, rtol=1e-2)


# ------------------------------------------------------------------------------------------------------ contracts


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_forward_and_one_backward_a_step(recipe, small):
    solution = recipe(small.model, small.inputs, small.labels, steps=17)
    # one more forward for the last iterate, one for the clean check of what is returned
    assert small.model.calls == 17 + 2
    assert (solution.forwards == 19).all() and (solution.backwards == 17).all()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("targeted", [False, True])
def test_success_is_real(recipe, targeted, small):
    targets = (small.labels + 1) % 5 if targeted else None
    solution = recipe(small.model, small.inputs, small.labels, targets=targets, steps=200)
    predicted = small.model(solution.x).argmax(1)
    fooled = predicted == targets if targeted else predicted != small.labels
    assert torch.equal(fooled, solution.feasible)
    assert solution.feasible.any()
    distance = (solution.x - small.inputs).flatten(1).norm(dim=1)
    assert torch.allclose(distance, solution.objective, atol=1e-6)
    assert (solution.x >= 0).all() and (solution.x <= 1).all()
    assert ((solution.first_feasible >= 0) == solution.feasible).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_model_and_the_random_state_are_left_as_found(recipe, small):
    small.model.train()
    small.model.net[1].eval()  # a module that its owner froze stays frozen
    modes = [module.training for module in small.model.modules()]
    before = {name: value.clone() for name, value in small.model.state_dict().items()}
    state = torch.get_rng_state()
    inputs = small.inputs.clone()
    recipe(small.model, small.inputs, small.labels, steps=5)
    assert [module.training for module in small.model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in small.model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in small.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(inputs, small.inputs) and not small.inputs.requires_grad


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_are_independent_of_their_batch(recipe, linear):
    weight, bias, x, labels = linear_case()

    def model(inputs: Tensor) -> Tensor:  # its rounding does not depend on the batch, as that of a matrix product does
        return (inputs[:, None] * weight).sum(2) + bias

    whole = recipe(model, x[:16], labels[:16], steps=60)
    alone = recipe(model, x[5:6], labels[5:6], steps=60)
    assert torch.equal(whole.x[5], alone.x[0])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_nan_row_loses_only_itself(recipe, linear):
    def model(x: Tensor) -> Tensor:
        logits = linear.model(x)
        moved = (x[:1] - linear.x[:1]).abs().amax() > 0
        return torch.cat([logits[:1] * torch.where(moved, torch.nan, 1.0), logits[1:]])

    clean = recipe(linear.model, linear.x[:8], linear.labels[:8], steps=60)
    broken = recipe(model, linear.x[:8], linear.labels[:8], steps=60)
    assert not broken.feasible[0] and broken.status[0] == Status.DIVERGED
    assert broken.x.isfinite().all()
    assert torch.allclose(broken.objective[1:], clean.objective[1:], rtol=1e-4)
    assert broken.feasible[1:].all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_without_gradient_fails_honestly(recipe):
    solution = recipe(lambda x: torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1) + 0 * x.sum(1, keepdim=True),
                      torch.rand(3, 4), torch.zeros(3, dtype=torch.long), steps=20)  # fmt: skip
    assert not solution.feasible.any() and (solution.first_feasible == -1).all()
    assert solution.x.isfinite().all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_already_misclassified_rows_need_no_perturbation(recipe, small):
    wrong = (small.labels + 1) % 5
    solution = recipe(small.model, small.inputs, wrong, steps=10)
    assert solution.feasible.all() and (solution.objective == 0).all()
    assert torch.equal(solution.x, small.inputs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_binary_classifiers(recipe):
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    weight = torch.linspace(-1, 1, 6)

    def model(x: Tensor) -> Tensor:
        score = x @ weight
        return torch.stack([score, -score], 1)

    solution = recipe(model, x, model(x).argmax(1), steps=200)
    exact = (x @ weight).abs() / weight.norm()
    assert solution.feasible.all()
    assert torch.allclose(solution.objective, exact, rtol=0.05)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(recipe, dtype, linear):
    x = linear.x[:8].to(dtype)
    labels = linear.model(x).argmax(1)
    solution = recipe(linear.model, x, labels, steps=50)
    assert solution.x.dtype == dtype and solution.feasible.all()
    assert (linear.model(solution.x).argmax(1) != labels).all()


def test_output_objects_with_logits_are_accepted(linear):
    model = lambda x: SimpleNamespace(logits=linear.model(x))  # noqa: E731
    assert alma(model, linear.x[:4], linear.labels[:4], steps=30).feasible.all()


def test_other_bounds(linear):
    centred = linear.x[:8] * 2 - 1
    solution = alma(lambda x: linear.model((x + 1) / 2), centred, linear.labels[:8], bounds=(-1, 1), steps=100)
    plain = alma(linear.model, linear.x[:8], linear.labels[:8], steps=100)
    assert solution.feasible.all() and torch.allclose(solution.objective, 2 * plain.objective, rtol=0.02)


def test_a_callable_distance_and_another_penalty(linear):
    def weighted(x: Tensor, reference: Tensor) -> Tensor:
        return ((x - reference).square() * torch.linspace(1, 3, x.shape[1])).sum(1).add(1e-12).sqrt()

    problem = MinimalPerturbation(linear.model, linear.x[:16], linear.labels[:16], distance=weighted)
    solution = solve(problem, ALMA(penalty="P3", ema=0.9), linear.x[:16], steps=300)
    assert solution.feasible.all()
    # between the l2 optimum and that optimum measured in the heaviest weight
    assert (solution.objective >= linear.exact[:16] * (1 - 1e-4)).all()
    assert (solution.objective <= linear.exact[:16] * 3**0.5 * 1.01).double().mean() > 0.5


def test_quantized_ddn_returns_8_bit_images(small):
    inputs = (small.inputs * 255).round() / 255
    labels = small.model(inputs).argmax(1)
    solution = ddn(small.model, inputs, labels, steps=200, quantize=256)
    levels = solution.x * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert solution.feasible.any()
    saved = (solution.x * 255).round().to(torch.uint8).to(torch.float32) / 255
    assert torch.equal(small.model(saved).argmax(1) != labels, solution.feasible)


def test_the_smoothing_by_budget_is_the_papers():
    assert (ema_for(10), ema_for(100), ema_for(1000), ema_for(5000)) == (0.5, 0.5, 0.9, 0.9)
    assert 0.5 < ema_for(300) < 0.9


def test_callback_sees_every_step(small):
    seen = []
    alma(small.model, small.inputs, small.labels, steps=7, callback=lambda step, point, proposal: seen.append(step))
    assert seen == list(range(7))


# ------------------------------------------------------------------------------------------------------ bad input


GOOD = {"inputs": torch.full((2, 12), 0.5), "labels": torch.zeros(2, dtype=torch.long)}
BAD = {
    "inputs above the bounds": (
        {"inputs": torch.full((2, 12), 1.5)},
        r"inputs: must lie within bounds=\(0.0, 1.0\).*1.5",
    ),
    "inputs below the bounds": ({"inputs": torch.full((2, 12), -0.1)}, "normalisation inside the model"),
    "NaN inputs": ({"inputs": torch.tensor([[0.5] * 12, [torch.nan] * 12])}, r"inputs: .*NaN.* rows \[1\]"),
    "8-bit inputs": ({"inputs": torch.ones(2, 12, dtype=torch.uint8)}, "inputs: .*uint8.*divide"),
    "inputs of one dimension": ({"inputs": torch.ones(2)}, r"inputs: .*\(batch, \*event\)"),
    "labels of another length": ({"labels": torch.zeros(3, dtype=torch.long)}, r"labels: .*\(2,\), got .*\(3,\)"),
    "float labels": ({"labels": torch.zeros(2)}, "labels: takes int64.*float32"),
    "negative labels": ({"labels": torch.tensor([0, -1])}, "labels: .*>= 0, got -1"),
    "targets equal to labels": ({"targets": torch.tensor([1, 0])}, r"targets: must differ.*rows \[1\]"),
    "float targets": ({"targets": torch.ones(2)}, "targets: takes int64"),
    "reversed bounds": ({"bounds": (1.0, 0.0)}, "bounds: .*lower < upper"),
    "no steps": ({"steps": 0}, "steps: takes a whole number >= 1, got 0"),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_model_call(recipe, case):
    changes, message = BAD[case]

    def model(x: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    with pytest.raises((ValueError, TypeError), match=message):
        recipe(model, **{**GOOD, **changes})


def test_a_model_that_returns_no_logits_is_named():
    for model in (lambda x: x.sum(1), lambda x: x[:, :1], lambda x: "no", lambda x: x.repeat(2, 1)):
        with pytest.raises(ValueError, match=r"model: must return logits of shape \(batch, classes\)"):
            alma(model, **GOOD)
    with pytest.raises(TypeError, match="model: takes a callable"):
        alma(3, **GOOD)


def test_labels_beyond_the_classes_are_named():
    with pytest.raises(ValueError, match="labels: .*3 classes"):
        alma(lambda x: x[:, :3], GOOD["inputs"], torch.tensor([0, 3]))


def test_unknown_distances_and_options_are_named():
    with pytest.raises(ValueError, match="distance: takes one of .*'l2'.*, got 'l7'"):
        alma(lambda x: x, **GOOD, distance="l7")
    with pytest.raises(TypeError, match="distance"):
        alma(lambda x: x, **GOOD, distance=3)
    with pytest.raises(ValueError, match="quantize: takes the number of levels"):
        ddn(lambda x: x, **GOOD, quantize=1)
    with pytest.raises(ValueError, match="ema"):
        alma(lambda x: x, **GOOD, ema=1.0)
