"""Primal steps as formulas: one update each against hand-written arithmetic, and the step sizes that go with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from constropt.steps import (
    Gradient,
    PrimalStep,
    RMSPropMomentum,
    StepSize,
    TorchOptimizer,
    VariableMetric,
    first_step_size,
)


def free(x: Tensor, size: Tensor, metric: Tensor | None) -> Tensor:
    return x


def unused(x: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("this step evaluates nowhere else")


def walk(step: PrimalStep, gradients: list[Tensor], x: Tensor, size: Tensor, prox=free) -> list[Tensor]:
    state, found = step.init(x), []
    for gradient in gradients:
        x, state = step.update(gradient, state, x, size, prox, unused)
        found.append(x)
    return found


X = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
G = [torch.tensor([[1.0, 4.0], [-2.0, 0.0]], dtype=torch.float64), torch.tensor([[0.5, -1.0], [1.0, 8.0]]).double()]
SIZE = torch.tensor([[0.1], [0.2]], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- formulas


def test_gradient():
    first, second = walk(Gradient(), G, X, SIZE)
    assert torch.allclose(first, X - SIZE * G[0], rtol=1e-15)
    assert torch.allclose(second, X - SIZE * G[0] - SIZE * G[1], rtol=1e-15)


def test_rmsprop_momentum():
    first, second = walk(RMSPropMomentum(smoothing=0.9, momentum=0.5, floor=1e-3), G, X, SIZE)
    v1 = 0.9 * torch.ones_like(X) + 0.1 * G[0] ** 2  # v starts at 1
    m1 = G[0] / (v1**0.5 + 1e-3)
    assert torch.allclose(first, X - SIZE * m1, rtol=1e-12)
    v2 = 0.9 * v1 + 0.1 * G[1] ** 2
    m2 = 0.5 * m1 + G[1] / (v2**0.5 + 1e-3)  # undamped
    assert torch.allclose(second, first - SIZE * m2, rtol=1e-12)


def test_variable_metric_hands_the_metric_of_its_step_to_the_prox():
    metrics = []

    def prox(x: Tensor, size: Tensor, metric: Tensor | None) -> Tensor:
        metrics.append(metric)
        return x

    first, second = walk(VariableMetric(smoothing=0.9, floor=1e-3), G, X, SIZE, prox)
    s1 = G[0].abs() + 1e-3  # the first average is the gradient itself, by the bias correction
    v2 = 0.09 * G[0] ** 2 + 0.1 * G[1] ** 2
    s2 = (v2 / (1 - 0.9**2)) ** 0.5 + 1e-3
    assert torch.allclose(metrics[0], s1, rtol=1e-12) and torch.allclose(metrics[1], s2, rtol=1e-12)
    assert torch.allclose(first, X - SIZE * G[0] / s1, rtol=1e-12)
    assert torch.allclose(second, first - SIZE * G[1] / s2, rtol=1e-12)


@pytest.mark.parametrize(
    "factory",
    [
        lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.3),
        lambda p: torch.optim.RMSprop(p, lr=0.3),
    ],
    ids=["SGD", "Adam", "RMSprop"],
)
def test_a_torch_optimizer_does_what_it_does_alone(factory):
    found = walk(TorchOptimizer(factory), G, X, torch.ones(2, 1).double())
    parameter = X.clone().requires_grad_()
    optimizer = factory([parameter])
    for gradient, x in zip(G, found):
        parameter.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(x, parameter.detach())


def test_the_size_scales_the_displacement_of_a_torch_optimizer():
    step = TorchOptimizer(lambda p: torch.optim.Adam(p, lr=0.3))
    whole, half = (walk(step, G[:1], X, torch.full((2, 1), size).double())[0] for size in (1.0, 0.5))
    assert torch.allclose(half - X, (whole - X) / 2, rtol=1e-12)


def test_torch_lbfgs_evaluates_by_the_closure_and_reuses_the_gradient_at_hand():
    target, elsewhere = torch.tensor([[0.3, -0.2], [1.0, 0.0]], dtype=torch.float64), []

    def closure(x: Tensor) -> tuple[Tensor, Tensor]:
        elsewhere.append(x.clone())
        return (x - target).square().sum(), 2 * (x - target)

    step = TorchOptimizer(lambda p: torch.optim.LBFGS(p, max_iter=20, line_search_fn="strong_wolfe"))
    state = step.init(X)
    x, _ = step.update(2 * (X - target), state, X, torch.ones(2, 1).double(), free, closure)
    assert torch.allclose(x, target, atol=1e-8)
    assert elsewhere


# ------------------------------------------------------------------------------------------------------- what all share

STEPS = {
    "Gradient": Gradient(),
    "RMSPropMomentum": RMSPropMomentum(),
    "VariableMetric": VariableMetric(),
    "Adam": TorchOptimizer(lambda p: torch.optim.Adam(p, lr=0.3, eps=1e-4)),  # its usual eps is 0 in float16
}


@pytest.mark.parametrize("name", STEPS)
def test_every_step_ends_in_the_prox(name):
    found = walk(STEPS[name], G, X, SIZE, lambda x, size, metric: x.clamp(0, 1))
    assert all(((x >= 0) & (x <= 1)).all() for x in found)


@pytest.mark.parametrize("name", STEPS)
def test_no_step_modifies_what_it_is_given(name):
    x, gradients = X.clone(), [g.clone() for g in G]
    walk(STEPS[name], gradients, x, SIZE)
    assert torch.equal(x, X) and all(torch.equal(a, b) for a, b in zip(gradients, G))


@pytest.mark.parametrize("name", STEPS)
def test_rows_are_independent_and_a_nan_gradient_stays_in_its_row(name):
    together = walk(STEPS[name], G, X, SIZE)
    alone = walk(STEPS[name], [g[1:] for g in G], X[1:], SIZE[1:])
    hurt = [torch.cat([g[:1] * torch.nan, g[1:]]) for g in G]
    poisoned = walk(STEPS[name], hurt, X, SIZE)
    for a, b, c in zip(together, alone, poisoned):
        assert torch.allclose(a[1:], b, rtol=1e-12)
        assert torch.equal(a[1:], c[1:]) and c[0].isnan().all()


@pytest.mark.parametrize("name", ["Gradient", "RMSPropMomentum", "VariableMetric"])
def test_states_are_values_that_can_be_used_twice(name):
    step = STEPS[name]
    state = step.init(X)
    first, second = (step.update(G[0], state, X, SIZE, free, unused)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_steps_keep_the_dtype_of_x(name, dtype):
    found = walk(STEPS[name], [g.to(dtype) for g in G], X.to(dtype), SIZE.to(dtype))
    assert all(x.dtype == dtype and x.isfinite().all() for x in found)


# ----------------------------------------------------------------------------------------------------------- step sizes


def test_the_size_is_constant_until_feasible_then_decays_to_the_final_ratio():
    size = StepSize(initial=2.0, final=0.01)
    initial = torch.full((3,), 2.0, dtype=torch.float64)
    first = torch.tensor([-1, 0, 40])  # never, from the start, from step 40 of 100
    assert size.at(initial, 70, 100, first).tolist() == pytest.approx([2.0, 2 * 0.01**0.7, 2 * 0.01**0.5])
    assert size.at(initial, 40, 100, first).tolist() == pytest.approx([2.0, 2 * 0.01**0.4, 2.0])
    assert size.at(initial, 100, 100, first).tolist() == pytest.approx([2.0, 0.02, 0.02])


def test_a_final_ratio_of_one_keeps_the_size():
    initial = torch.tensor([0.1, 0.2])
    assert torch.equal(StepSize().at(initial, 5, 10, torch.tensor([0, -1])), initial)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_sizes_keep_their_dtype(dtype):
    sizes = StepSize(final=0.1).at(torch.ones(2, dtype=dtype), 3, 10, torch.tensor([0, -1]))
    assert sizes.dtype == dtype


@pytest.mark.parametrize("keywords", [{"initial": 0.0}, {"increase": -1.0}, {"final": 0.0}, {"final": float("nan")}])
def test_sizes_must_be_positive(keywords):
    with pytest.raises(ValueError, match=f"{next(iter(keywords))}: takes a number > 0"):
        StepSize(**keywords)


def test_first_step_size_raises_the_measure_by_the_increase():
    direction = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64)
    size = first_step_size(
        measure=lambda p: p.norm(dim=1),
        move=lambda s: s.view(-1, 1) * direction,
        base=torch.full((2,), 1e-6, dtype=torch.float64),
        increase=2.0,
    )
    assert size.tolist() == pytest.approx([0.4, 4.0], rel=1e-5)


def test_first_step_size_takes_half_of_what_can_be_reached():
    size = first_step_size(
        measure=lambda p: p.sum(1),
        move=lambda s: s.view(-1, 1).clamp_max(1.0),
        base=torch.full((1,), 1e-6, dtype=torch.float64),
        increase=5.0,
    )
    assert size.item() == pytest.approx(0.5, rel=1e-5)
