"""The margins of metric learning as constraints: known optima, their multipliers, and the triplets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from constropt import AugmentedLagrangian, solve
from constropt.problems.metric_learning import Triplet, all_triplets, contrastive_margins, recall_at_k, triplet_margins


def test_the_contrastive_margin_of_two_points_is_met_by_moving_each_half_way():
    z = torch.tensor([[[0.0, 0.0], [0.6, 0.8]], [[0.0, 0.0], [0.0, 3.0]]], dtype=torch.float64)
    problem = contrastive_margins(torch.tensor([0, 1]), margin=2.0, anchor=z)
    solution = solve(problem, AugmentedLagrangian(penalty="PHR"), z, steps=300)
    assert solution.feasible.all() and solution.kkt().stationarity.max() < 1e-4
    expected = torch.tensor([[[-0.3, -0.4], [0.9, 1.2]], [[0.0, 0.0], [0.0, 3.0]]], dtype=torch.float64)
    torch.testing.assert_close(solution.x, expected, rtol=0, atol=1e-4)
    # the price of a wider margin is how far each had to move; the far pair pays nothing
    torch.testing.assert_close(solution.multipliers[0][:, 0, 1], torch.tensor([0.5, 0.0]).double(), rtol=0, atol=1e-3)


def test_the_tightness_alone_collapses_classes_and_keeps_them_apart():
    # in the plane classes get in each other's way, and it has other local optima
    z = torch.randn(9, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    labels = torch.arange(9) % 3
    solution = solve(contrastive_margins(labels, 1.0), AugmentedLagrangian(penalty="PHR"), z[None], steps=1000)
    assert solution.feasible.all() and solution.objective.max() < 1e-4
    assert recall_at_k(solution.x[0], labels, ks=(1,), distance="l2") == {1: 1.0}


def test_the_triplet_margin_is_the_projection_on_its_quadric():
    z = torch.tensor([[[0.0], [1.0], [1.2]]], dtype=torch.float64)
    problem = triplet_margins(
        torch.tensor([0, 0, 1]), margin=1.0, anchor=z, triplets=torch.tensor([[0, 1, 2]], dtype=torch.int64)
    )
    solution = solve(problem, AugmentedLagrangian(penalty="PHR"), z, steps=300)
    assert solution.feasible.all() and solution.kkt().stationarity.max() < 1e-4
    # stationarity: (I + 2 T + mu Q) x = z with the tightness (2/3)(x_0 - x_1)^2; mu where the constraint is 0
    tightness = torch.tensor([[4.0, -4.0, 0.0], [-4.0, 4.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64) / 3
    quadric = 2 * torch.tensor([[0.0, -1.0, 1.0], [-1.0, 1.0, 0.0], [1.0, 0.0, -1.0]], dtype=torch.float64)

    def at(mu: float) -> tuple[Tensor, float]:
        x = torch.linalg.solve(torch.eye(3, dtype=torch.float64) + tightness + mu * quadric, z[0, :, 0])
        return x, float((x[0] - x[1]) ** 2 - (x[0] - x[2]) ** 2 + 1.0)

    low, high = 0.0, 0.2
    assert at(low)[1] > 0 > at(high)[1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle)[1] > 0 else (low, middle)
    torch.testing.assert_close(solution.x[0, :, 0], at(high)[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(float(solution.multipliers[0][0, 0]), high, rtol=0, atol=1e-3)


def test_all_triplets_are_listed_once():
    labels = torch.tensor([0, 1, 0, 1, 2])
    listed = {tuple(row) for row in all_triplets(labels).tolist()}
    expected = {
        (a, p, n)
        for a in range(5)
        for p in range(5)
        for n in range(5)
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    }
    assert listed == expected and len(all_triplets(labels)) == len(expected)
    z = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(0))
    values = triplet_margins(labels, 0.5).evaluate(z).values[0]
    torch.testing.assert_close(values.clamp_min(0).mean(), Triplet(0.5, mining="all")(z[0], labels))


def test_bad_input_is_refused():
    for call, message in (
        (lambda: contrastive_margins(torch.zeros(3).long()), "one class"),
        (lambda: contrastive_margins(torch.arange(3), -1.0), "margin"),
        (lambda: triplet_margins(torch.arange(3)), "triplets"),
        (lambda: triplet_margins(torch.tensor([0, 0, 1]), triplets=torch.tensor([[0, 1, 3]])), "positions 0 to 2"),
        (lambda: contrastive_margins(torch.arange(3)).evaluate(torch.zeros(1, 4, 2)), "n = 3"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
