"""A penalty, a distance, a solver and a recipe from outside the package, each in one place; a study and a data format
are in ``test_lab_extensions.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from constropt import AugmentedLagrangian, Box, ConstrainedProblem, Takes, inequality, solve
from constropt.lab import evaluate
from constropt.penalties import penalty
from constropt.problems.attacks import MinimalPerturbation, alma, worst_case
from constropt.problems.attacks.method import AttackMethod
from constropt.problems.attacks.recipe import MinimalRecipe
from constropt.problems.distances import Distance
from constropt.solvers import Proposal, Solver
from constropt.testing import check_declaration, check_penalty


@penalty(name="outside")
def outside(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """mu (exp(rho y) - 1) / rho."""
    return mu * (torch.exp(rho * y) - 1) / rho


def weighted_norm(x: Tensor, reference: Tensor) -> Tensor:
    weight = torch.linspace(1, 2, x[0].numel(), dtype=x.dtype)
    return torch.linalg.vector_norm((x - reference + 1e-12).flatten(1) * weight, dim=1)


WEIGHTED = Distance("weighted", weighted_norm, first_step=0.1)


@dataclass(frozen=True)
class SubgradientDescent(Solver[None]):
    """Down the objective where a row is feasible, down its one constraint where it is not."""

    takes = Takes(least=1, most=1, fraction=True)

    size: float = 0.05

    def init(self, run, point) -> None:
        return None

    def step(self, run, state, point, index) -> Proposal[None]:
        met = point.violation() <= run.tolerance
        y = point.values[0]
        violated = point.counted(0) & ~met.view(-1, *[1] * (y.dim() - 1))
        gradient = point.pull_back((point.objective, met), (y, violated))
        length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *[1] * (gradient.dim() - 1))
        size = self.size * (1 - index / run.steps)
        return Proposal(run.problem.domain.project(point.x.detach() - size * gradient / length), None)


@dataclass(frozen=True)
class Subgradient(AttackMethod):
    """Subgradient descent as an attack: ``size`` is in parts of the bounds' width."""

    size: float = 0.1

    distances: ClassVar[tuple[str, ...] | None] = ("l2", "linf")

    def prepare(self, problem, x0, steps):
        return problem, SubgradientDescent(self.size * self.fitting(problem).width)


subgradient = MinimalRecipe("subgradient", Subgradient, steps=50, reference="these lines")


@pytest.fixture
def attacked():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    inputs = torch.rand(6, 3, 2, 2)
    return net, inputs, net(inputs).argmax(1)


def test_a_penalty():
    check_penalty(outside)
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - 2).square().sum(1), constraints=[inequality(lambda x, _: x.sum(1) - 1)]
    )
    found = solve(problem, AugmentedLagrangian(penalty="outside"), torch.zeros(1, 2, dtype=torch.float64), steps=200)
    torch.testing.assert_close(found.x, torch.full_like(found.x, 0.5), atol=1e-4, rtol=0)


def test_a_distance(attacked):
    net, inputs, labels = attacked
    found = alma(net, inputs, labels, distance=WEIGHTED, steps=60)
    assert found.feasible.all()
    torch.testing.assert_close(found.objective, WEIGHTED(found.x, inputs))


def test_a_solver():
    start = torch.full((2, 2), 0.2, dtype=torch.float64)
    center = torch.tensor([0.1, 0.3], dtype=torch.float64)
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - center).square().sum(1),
        constraints=[inequality(lambda x, _: 1 - x.sum(1))],
        domain=Box(0.0, 1.0),
    )
    check_declaration(SubgradientDescent(), problem, start)
    found = solve(problem, SubgradientDescent(), start, steps=300)
    assert found.feasible.all() and (found.x - center - 0.3).abs().max() < 0.05


def test_a_recipe(attacked):
    net, inputs, labels = attacked
    found = subgradient(net, inputs, labels, distance="l2", size=0.05)
    assert found.feasible.all() and subgradient.takes("size") and not subgradient.takes("mask")
    alone = solve(MinimalPerturbation(net, inputs, labels), Subgradient(size=0.05), inputs, steps=50)
    torch.testing.assert_close(alone.x, found.x)
    with pytest.raises(TypeError, match="subgradient: takes no sise; did you mean size"):
        subgradient(net, inputs, labels, sise=1.0)
    with pytest.raises(ValueError, match="distance: takes .*l2.*linf"):
        subgradient(net, inputs, labels, distance="l1")
    report = evaluate(subgradient, net, inputs, labels, distance="linf", size=0.05)
    assert report.columns["success"].all() and report.distance_name == "linf"
    best = worst_case(net, inputs, labels, recipes=[subgradient, "ddn"], steps=50)
    assert best.feasible.all() and best.recipes == ("subgradient", "ddn")
