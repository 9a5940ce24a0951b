"""Stand-ins for models and recipes: they need no training, and some of them are wrong on purpose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.lab import RunSettings, load_data, run_evaluation
from constropt.solution import Solution, Status


class NearestMean(nn.Module):
    """Nearest class mean as a linear layer: about 90 % of the digits, and nothing to train."""

    def __init__(self) -> None:
        super().__init__()
        inputs, labels = load_data("digits", split="train")
        means = torch.stack([inputs[labels == k].flatten(1).mean(0) for k in range(10)])
        self.linear = nn.Linear(64, 10)
        self.linear.weight.data = 2 * means
        self.linear.bias.data = -means.square().sum(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def run_with(recipes: Any, models: Any, inputs: Tensor, labels: Tensor, *, out: Any, warn: Any = None, **settings: Any):
    """``run_evaluation`` with its settings as keywords."""
    return run_evaluation(recipes, models, inputs, labels, out=out, settings=RunSettings(**settings), warn=warn)


def nearest_mean() -> nn.Module:
    return NearestMean()


def needs_arguments(depth: int) -> nn.Module:
    return nn.Linear(depth, 1)


def no_model() -> str:
    return "a string"


NUMBER = 3


def solution(x: Tensor, inputs: Tensor, feasible: Tensor, passes: int, objective: Tensor | None = None) -> Solution:
    rows = len(inputs)
    distance = (x - inputs).flatten(1).norm(dim=1) if objective is None else objective
    return Solution(
        problem=None,  # type: ignore[arg-type]
        x=x,
        objective=distance,
        feasible=feasible,
        violation=(~feasible).float(),
        status=torch.full((rows,), int(Status.BUDGET_SPENT), dtype=torch.int8),
        multipliers=(),
        duals=None,
        forwards=torch.full((rows,), passes),
        backwards=torch.full((rows,), passes),
        first_feasible=torch.where(feasible, 0, -1),
    )


def sign_steps(
    model: Any,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    steps: int = 8,
    distance: str = "l2",
    size: float = 0.05,
    bounds: tuple[float, float] = (0, 1),
) -> Solution:
    """Signed gradient steps that keep the first point past the boundary.

    More text, which a list of recipes leaves out.
    """
    x, best = inputs.clone(), inputs.clone()
    found = torch.zeros(len(inputs), dtype=torch.bool)
    for _ in range(steps):
        point = x.clone().requires_grad_()
        logits = model(point)
        goal = labels if targets is None else targets
        loss = functional.cross_entropy(logits, goal, reduction="sum") * (1 if targets is None else -1)
        (gradient,) = torch.autograd.grad(loss, point)
        reached = (logits.argmax(1) != labels) if targets is None else (logits.argmax(1) == targets)
        best[reached & ~found] = x[reached & ~found]
        found |= reached
        x = (x + size * gradient.sign()).clamp(*bounds)
    return solution(best, inputs, found, steps)


def lazy(model: Any, inputs: Tensor, labels: Tensor, *, distance: str = "l2") -> Solution:
    """Returns what it got, claims success, and reports passes that it never made."""
    return solution(inputs.clone(), inputs, torch.ones(len(inputs), dtype=torch.bool), 7)


def outside(model: Any, inputs: Tensor, labels: Tensor) -> Solution:
    """Leaves the box: NaN in the first row, far away in the others."""
    x = 1 - 50 * inputs
    x[0] = float("nan")
    return solution(x, inputs, torch.ones(len(inputs), dtype=torch.bool), 0)


def broken(model: Any, inputs: Tensor, labels: Tensor) -> Any:
    return inputs


def anything(model: Any, inputs: Tensor, labels: Tensor, **options: Any) -> Solution:
    return sign_steps(model, inputs, labels, **options)


def random_noise(model: Any, inputs: Tensor, labels: Tensor, *, distance: str = "l2") -> Solution:
    """Draws from the global generator, as a recipe should not."""
    x = (inputs + 0.3 * torch.randn_like(inputs)).clamp(0, 1)
    return solution(x, inputs, model(x).argmax(1) != labels, 1)
