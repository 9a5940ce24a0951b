"""The examples that users meet first, as they stand in the README."""

import torch
from torch import nn

from constropt.penalties import names


def test_projection_onto_the_ball_inside_the_box():
    a = torch.tensor([[2.0, 1.0, -1.0], [0.2, 0.3, 0.1], [-1.0, -2.0, 3.0], [0.9, 0.9, 0.9]])
    x0 = torch.full_like(a, 0.5)

    from constropt import AugmentedLagrangian, Box, ConstrainedProblem, inequality, solve

    problem = ConstrainedProblem(  # project `a` onto the unit l2 ball inside the box
        forward=lambda x: None,
        objective=lambda x, _: (x - a).square().sum(1),
        constraints=[inequality(lambda x, _: x.norm(dim=1) - 1.0, name="ball")],
        domain=Box(0.0, 1.0),
    )
    solution = solve(problem, AugmentedLagrangian(penalty="PHR"), x0, steps=500)
    assert solution.feasible.all() and solution.kkt().stationarity.max() < 1e-3

    inside = a.clamp(0, 1)
    expected = inside / inside.norm(dim=1, keepdim=True).clamp_min(1)
    # the third row is at a corner, the others on the sphere or inside
    expected[0] = torch.nn.functional.normalize(a[0].clamp_min(0), dim=0)
    assert torch.allclose(solution.x, expected, atol=1e-3)


def test_minimal_perturbations_and_a_custom_attack():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 4))
    images = torch.rand(5, 1, 6, 6)
    labels = model(images).argmax(1)

    def my_distance(x, reference):
        return (x - reference).square().flatten(1).sum(1)

    from constropt import solve
    from constropt.problems.attacks import ALMA, MinimalPerturbation, alma, alma_prox, ddn, minimal

    solution = minimal(model, images, labels, distance="linf", steps=100)
    assert solution.feasible.all()
    solution = alma(model, images, labels, distance="l2", steps=100)
    assert solution.feasible.all()
    problem = MinimalPerturbation(model, images, labels, distance=my_distance)
    solution = solve(problem, ALMA(penalty="P3", ema=0.9), images, steps=300)
    assert solution.feasible.all()
    assert alma_prox(model, images, labels, steps=100).feasible.all()
    assert ddn(model, images, labels, steps=100).feasible.all()


def test_a_penalty_of_ones_own_plugs_in_and_is_checkable():
    from constropt.penalties import penalty
    from constropt.testing import check_penalty

    @penalty(name="mine")
    def mine(y, rho, mu):
        return mu * (torch.exp(rho * y) - 1) / rho

    check_penalty(mine)
    assert "mine" in names()
