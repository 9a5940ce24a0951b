"""Alternating steps on problems of known optimum, and what the solver refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from constropt import Box, ConstrainedProblem, equality, inequality, solve
from constropt.prox import NormAround
from constropt.solvers.alternating import Alternating


def beyond_a_plane(rows: int = 4) -> tuple[ConstrainedProblem, Tensor, Tensor]:
    """min ||x - a|| s.t. w x >= 1: the distance is (1 - w a) / ||w||. In float64."""
    generator = torch.Generator().manual_seed(0)
    a = 0.1 * torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    w = torch.randn(8, generator=generator, dtype=torch.float64)
    problem = ConstrainedProblem(
        objective=lambda x, _: torch.linalg.vector_norm(x - a[: len(x)], dim=1),
        constraints=[inequality(lambda x, _: 1 - x @ w)],
    )
    return problem, a, (1 - a @ w) / w.norm()


def test_half_spaces():
    problem, a, exact = beyond_a_plane()
    solution = solve(problem, Alternating(size=0.5, objective_size=0.2, final=0.01, objective_final=0.01), a, steps=500)
    assert bool(solution.feasible.all())
    assert bool((solution.objective >= exact - 1e-9).all())
    assert (solution.objective / exact).max() < 1.03
    assert bool((solution.backwards == 500).all()) and bool((solution.forwards == 502).all())


def test_the_first_step_has_its_length_and_goes_down_the_surrogate():
    a = torch.zeros(1, 2)
    down = torch.tensor([[3.0, -4.0]])
    problem = ConstrainedProblem(
        objective=lambda x, _: x.square().sum(1),
        constraints=[inequality(lambda x, _: 1 - x[:, 0], surrogate=lambda x, _: -(x * down).sum(1))],
    )
    seen = []
    solve(problem, Alternating(size=0.5), a, steps=2, callback=lambda k, point, proposal: seen.append(proposal.x))
    torch.testing.assert_close(seen[0], 0.1 * down)


def test_feasible_rows_reduce_the_objective_and_others_the_violation():
    x0 = torch.tensor([[2.0, 2.0], [-2.0, 2.0]])
    problem = ConstrainedProblem(
        objective=lambda x, _: x[:, 1], constraints=[inequality(lambda x, _: -x[:, 0])], domain=Box(-5.0, 5.0)
    )
    seen = []
    solver = Alternating(size=1.0, objective_size=0.5)
    solve(problem, solver, x0, steps=1, callback=lambda k, point, proposal: seen.append(proposal.x))
    torch.testing.assert_close(seen[0], torch.tensor([[2.0, 1.5], [-1.0, 2.0]]))


def test_rows_do_not_depend_on_each_other_and_rows_without_a_gradient_stay():
    problem, a, _ = beyond_a_plane()
    together = solve(problem, Alternating(), a, steps=30)
    alone = solve(problem, Alternating(), a[:1], steps=30)
    assert torch.equal(alone.x, together.x[:1])
    flat = ConstrainedProblem(
        objective=lambda x, _: 0 * x.sum(1), constraints=[inequality(lambda x, _: 1 + 0 * x.sum(1))]
    )
    solution = solve(flat, Alternating(), a, steps=5)
    assert torch.equal(solution.x, a) and not bool(solution.feasible.any())


def test_refusals():
    a = torch.zeros(1, 2)
    objective = NormAround("l1", a, -1.0, 1.0)
    one = [inequality(lambda x, _: x[:, 0])]
    for constraints in ([], [*one, inequality(lambda x, _: x[:, 1], name="b")], [equality(lambda x, _: x[:, 0])]):
        problem = ConstrainedProblem(objective=lambda x, _: x.sum(1), constraints=constraints)
        with pytest.raises(ValueError, match="constraints: Alternating takes exactly one inequality"):
            solve(problem, Alternating(), a, steps=1)
    problem = ConstrainedProblem(objective=lambda x, _: x.sum(1), constraints=one, nonsmooth=objective)
    with pytest.raises(ValueError, match="problem: has a nonsmooth term"):
        solve(problem, Alternating(), a, steps=1)
    for name in ("size", "objective_size", "final", "objective_final"):
        with pytest.raises(ValueError, match=f"{name}: takes a number > 0, got 0"):
            Alternating(**{name: 0.0})
