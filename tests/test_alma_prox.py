"""``alma_prox``: success, quality against exact optima, and what every attack promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from constropt.problems.attacks import alma_prox, minimal
from constropt.problems.attacks.augmented_lagrangian import GrowingStepSize
from constropt.solution import Status


def linear(rows: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 256, generator=generator) / 16
    x = torch.rand(rows, 256, generator=generator)
    return weight, x, (x @ weight.T).argmax(1)


def test_linear_classifier_is_close_to_the_optimum():
    weight, x, labels = linear(32)
    solution = alma_prox(lambda t: t @ weight.T, x, labels, steps=100)
    reference = minimal(lambda t: t @ weight.T, x, labels, distance="linf").objective  # within 1 % of the exact one
    assert bool(solution.feasible.all())
    ratio = solution.objective / reference
    assert ratio.min() > 0.985
    assert ratio.median() < 1.1
    assert bool((solution.backwards == 100).all()) and bool((solution.forwards == 102).all())
    torch.testing.assert_close(solution.objective, (solution.x - x).abs().amax(1))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_logits_scale_does_not_matter(scale):
    weight, x, labels = linear(16)
    solution = alma_prox(lambda t: scale * (t @ weight.T), x, labels, steps=60)
    base = alma_prox(lambda t: t @ weight.T, x, labels, steps=60)
    assert bool(solution.feasible.all())
    torch.testing.assert_close(solution.objective, base.objective, rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("hardness", [0.02, 0.2, 1.0])
def test_one_default_for_answers_of_every_size(hardness):
    """The distance to the boundary over two orders of magnitude: no step size is tuned to it."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(10, 256, generator=generator) / 16
    x = torch.full((16, 256), 0.5)
    bias = torch.randn(16, 10, generator=generator) * hardness
    labels = (x @ weight.T + bias).argmax(1)
    solution = alma_prox(lambda t: t @ weight.T + bias, x, labels)
    reference = minimal(lambda t: t @ weight.T + bias, x, labels, distance="linf")
    assert torch.equal(solution.feasible, reference.feasible)
    assert (solution.objective / reference.objective)[reference.feasible].median() < 1.2


def test_targets_and_two_classes():
    weight, x, labels = linear(16)
    targets = (labels + 1) % 10
    solution = alma_prox(lambda t: t @ weight.T, x, labels, targets=targets)
    assert bool(solution.feasible.all())
    assert torch.equal((solution.x @ weight.T).argmax(1), targets)
    pair = weight[:2]
    binary = alma_prox(lambda t: t @ pair.T, x, (x @ pair.T).argmax(1))
    assert bool(binary.feasible.all())


def test_bounds_scale_with_the_inputs():
    weight, x, labels = linear(8)
    weight, x = weight.double(), x.double()
    base = alma_prox(lambda t: t @ weight.T, x, labels, steps=60)
    wide = alma_prox(lambda t: (t / 255) @ weight.T, x * 255, labels, steps=60, bounds=(0.0, 255.0))
    assert bool(wide.feasible.all()) and bool((wide.x >= 0).all()) and bool((wide.x <= 255).all())
    # not equal: the cubic term of the penalty has no units
    torch.testing.assert_close(wide.objective / 255, base.objective, rtol=0.2, atol=0)


def test_rows_are_independent_and_a_nan_row_is_lost_alone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 5)).double()
        x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    labels = model(x).argmax(1)
    model.train()
    together = alma_prox(model, x, labels, steps=30)
    alone = alma_prox(model, x[2:3], labels[2:3], steps=30)
    torch.testing.assert_close(alone.x, together.x[2:3], rtol=1e-6, atol=1e-8)
    mark = torch.zeros_like(x)
    mark[4] = torch.nan
    broken = alma_prox(lambda t: model(t + mark), x, labels, steps=30)
    others = torch.arange(6) != 4
    assert broken.status[4] == Status.DIVERGED and not bool(broken.feasible[4])
    torch.testing.assert_close(broken.objective[others], together.objective[others])
    assert all(module.training for module in model.modules())


def test_no_gradient_is_no_success_and_no_nan():
    x, labels = torch.rand(4, 6), torch.zeros(4, dtype=torch.int64)
    solution = alma_prox(lambda t: torch.tensor([[2.0, 1.0, 0.0]]) + 0 * t.sum(1, keepdim=True), x, labels, steps=20)
    assert not bool(solution.feasible.any()) and bool(solution.x.isfinite().all())


def test_the_step_size_grows_then_decays():
    rule = GrowingStepSize(initial=1e-3, growth=2.0, final=0.1, largest=0.05)
    initial = torch.tensor([1e-3, 1e-3])
    never, fourth = torch.tensor([-1, -1]), torch.tensor([4, 4])
    torch.testing.assert_close(rule.at(initial, 3, 100, never), 8 * initial)
    torch.testing.assert_close(rule.at(initial, 50, 100, never), torch.full((2,), 0.05))
    torch.testing.assert_close(rule.at(initial, 4, 100, fourth), 16 * initial)
    torch.testing.assert_close(rule.at(initial, 100, 100, fourth), 1.6 * initial)
    with pytest.raises(ValueError, match="growth"):
        GrowingStepSize(growth=0.5)
