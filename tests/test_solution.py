"""What a solution claims: residuals worked out by hand, which point is best, what the status says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from constropt import Box, ConstrainedProblem, Evaluation, Reals, Solution, Status, equality, inequality
from constropt.solution import BestPoint, kkt_residuals


def plane(domain=None, mask=None) -> ConstrainedProblem:
    """min (x1 - 2)^2 + (x2 - 1)^2 s.t. x1 + x2 <= 2: the solution is (1.5, 0.5) with multiplier 1."""
    target = torch.tensor([2.0, 1.0])
    return ConstrainedProblem(
        objective=lambda x, _: (x - target).square().sum(1),
        constraints=[inequality(lambda x, _: x.sum(1) - 2.0, name="plane", mask=mask)],
        domain=Reals() if domain is None else domain,
    )


# ------------------------------------------------------------------------------------------------------------ residuals


@pytest.mark.parametrize(
    ("x", "mu", "stationarity", "feasibility", "complementarity"),
    [
        ([1.5, 0.5], 1.0, 0.0, 0.0, 0.0),  # the solution
        ([1.0, 1.0], 0.5, 1.5, 0.0, 0.0),  # gradient (-2, 0) + 0.5 (1, 1)
        ([2.0, 1.0], 0.25, 0.25, 1.0, 1.0),  # violated by 1: no multiplier is complementary
        ([0.0, 0.0], 3.0, 1.0, 0.0, 2.0),  # y = -2 and mu = 3: the smaller counts
        ([0.0, 0.0], 0.5, 3.5, 0.0, 0.5),
        ([2.0, 1.0], 0.0, 0.0, 1.0, 1.0),  # the free minimum
    ],
)
def test_residuals_by_hand(x, mu, stationarity, feasibility, complementarity):
    problem = plane()
    residuals = kkt_residuals(problem, problem.evaluate(torch.tensor([x])), [torch.tensor([mu])])
    assert residuals.stationarity.item() == pytest.approx(stationarity)
    assert residuals.feasibility.item() == pytest.approx(feasibility)
    assert residuals.complementarity.item() == pytest.approx(complementarity)


def test_stationarity_is_that_of_the_projected_gradient():
    problem = plane(Box(0.0, 1.0))
    point = problem.evaluate(torch.tensor([[1.0, 1.0]]))
    # the gradient (-1.5, 0.5) pushes x1 out of the box, which does not count, and x2 down by 0.5
    assert kkt_residuals(problem, point, [torch.tensor([0.5])]).stationarity.item() == pytest.approx(0.5)


def test_equalities_have_no_complementarity_and_multipliers_of_any_sign():
    problem = ConstrainedProblem(
        objective=lambda x, _: x.square().sum(1) / 2, constraints=[equality(lambda x, _: x - 1.0)]
    )
    residuals = kkt_residuals(problem, problem.evaluate(torch.tensor([[1.0, 1.0], [0.5, 1.0]])), [-torch.ones(2, 2)])
    assert residuals.stationarity.tolist() == [0.0, 0.5]
    assert residuals.feasibility.tolist() == [0.0, 0.5]
    assert residuals.complementarity.tolist() == [0.0, 0.0]


def test_entries_that_do_not_count_have_no_residual():
    problem = plane(mask=torch.tensor(False))
    residuals = kkt_residuals(problem, problem.evaluate(torch.tensor([[2.0, 1.0]])), [torch.tensor([7.0])])
    assert [value.item() for value in residuals] == [0.0, 0.0, 0.0]


def test_the_nonsmooth_term_enters_by_its_prox():
    class L1:
        def __call__(self, x: Tensor) -> Tensor:
            return x.abs().sum(1)

        def prox(self, x, step, metric=None):
            return x.sign() * (x.abs() - step).clamp_min(0)

    problem = ConstrainedProblem(objective=lambda x, _: (x - 3.0).square().sum(1) / 2, nonsmooth=L1())
    at = problem.evaluate(torch.tensor([[2.0], [1.5]]))  # x - 3 + 1 = 0 at 2
    assert kkt_residuals(problem, at, []).stationarity.tolist() == [0.0, 0.5]


def test_kkt_of_a_solution_takes_one_pass_and_its_own_multipliers():
    calls = 0

    def forward(x: Tensor) -> None:
        nonlocal calls
        calls += 1

    target = torch.tensor([2.0, 1.0])
    problem = ConstrainedProblem(
        forward=forward,
        objective=lambda x, _: (x - target).square().sum(1),
        constraints=[inequality(lambda x, _: x.sum(1) - 2.0)],
    )
    row = torch.zeros(1)
    solution = Solution(
        problem, torch.tensor([[1.5, 0.5]]), row, row == 0, row, row, (torch.ones(1),), None, row, row, row
    )
    assert [value.item() for value in solution.kkt()] == [0.0, 0.0, 0.0]
    assert calls == 1


# --------------------------------------------------------------------------------------------------------------- status


def test_every_status_has_a_message_of_its_own():
    messages = [status.message for status in Status]
    assert len(set(messages)) == len(Status) == 6
    beginnings = ("converged", "approximate", "budget", "infeasible", "unbounded", "diverged")
    assert all(message.startswith(word) for message, word in zip(messages, beginnings))


def test_a_solution_says_the_status_of_each_row():
    row = torch.zeros(2)
    status = torch.tensor([Status.CONVERGED, Status.DIVERGED], dtype=torch.int8)
    solution = Solution(plane(), row, row, row == 0, row, status, (), None, row, row, row)
    assert solution.messages() == [Status.CONVERGED.message, Status.DIVERGED.message]


# ----------------------------------------------------------------------------------------------------------- best point


def point(objective: float, violation: float, tag: float) -> Evaluation:
    """One row with the given objective and violation, recognised by x = tag."""
    constraint = inequality(lambda x, _: x)
    values = (torch.tensor([violation]),)
    return Evaluation(torch.tensor([[tag]]), None, torch.tensor([objective]), values, (None,), (constraint,))


def best_of(*points: Evaluation, **keywords) -> BestPoint:
    best = BestPoint.start(torch.tensor([[-1.0]]), points[0])
    for step, seen in enumerate(points):
        best.update(seen, 0.1, step, **keywords)
    return best


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ((5.0, 0.0), (9.0, -1.0), 1),  # both feasible: the lower objective
        ((9.0, 0.0), (5.0, -1.0), 2),
        ((9.0, 0.05), (5.0, 0.2), 1),  # feasible within the tolerance beats infeasible
        ((0.0, 3.0), (9.0, 0.1), 2),
        ((0.0, 3.0), (9.0, 2.0), 2),  # both infeasible: the lower violation, whatever the objective
        ((9.0, 2.0), (0.0, 3.0), 1),
        ((5.0, 0.0), (5.0, -1.0), 1),  # a tie stays with the first
        ((5.0, 0.0), (NAN, 0.0), 1),  # a value that is not finite never wins
        ((NAN, 0.0), (5.0, 9.0), 2),
        ((5.0, 9.0), (NAN, 0.0), 1),
        ((5.0, 9.0), (-INF, 0.0), 1),
        ((5.0, 9.0), (1.0, NAN), 1),
        ((5.0, NAN), (5.0, 9.0), 2),
    ],
)
def test_which_point_is_best(first, second, winner):
    best = best_of(point(*first, 1.0), point(*second, 2.0))
    assert best.x.item() == winner
    expected = (first, second)[winner - 1]
    assert best.objective.item() == expected[0]
    assert best.violation.item() == pytest.approx(max(expected[1], 0))
    assert best.feasible.item() == (expected[1] <= 0.1)


def test_a_row_that_was_never_finite_keeps_its_start():
    best = best_of(point(NAN, 0.0, 1.0), point(1.0, NAN, 2.0))
    assert best.x.item() == -1.0 and not best.feasible.item()


def test_first_feasible_is_the_first_step_that_met_all_even_if_not_the_best():
    points = (point(0.0, 1.0, 1.0), point(9.0, 0.0, 2.0), point(1.0, 1.0, 3.0), point(5.0, 0.0, 4.0))
    best = best_of(*points)
    assert best.first_feasible.item() == 1 and best.x.item() == 4.0
    assert best_of(point(0.0, 1.0, 1.0)).first_feasible.item() == -1


def test_multipliers_are_those_of_the_best_point():
    best = BestPoint.start(torch.tensor([[-1.0]]), point(5.0, 0.0, 1.0))
    for step, (seen, mu) in enumerate([(point(5.0, 0.0, 1.0), 0.5), (point(9.0, 0.0, 2.0), 0.7)]):
        best.update(seen, 0.1, step, [torch.tensor([mu])])
    assert best.multipliers[0].item() == 0.5


def test_a_certified_row_is_taken_as_it_is_and_kept():
    best = BestPoint.start(torch.tensor([[-1.0]]), point(1.0, 0.0, 1.0))
    best.update(point(1.0, 0.0, 1.0), 0.1, 0, certified=torch.tensor([False]))
    best.update(point(2.0, 0.05, 2.0), 0.1, 1, certified=torch.tensor([True]))  # worse, but a solution
    best.update(point(0.0, 0.0, 3.0), 0.1, 2, certified=torch.tensor([True]))
    best.update(point(0.0, 0.0, 4.0), 0.1, 3)
    assert best.x.item() == 2.0


def test_rows_are_judged_one_by_one():
    constraint = inequality(lambda x, _: x)

    def both(objective, violation, tag) -> Evaluation:
        x = torch.tensor([[tag], [tag]])
        return Evaluation(x, None, torch.tensor(objective), (torch.tensor(violation),), (None,), (constraint,))

    first, second = both([1.0, 5.0], [0.0, 0.0], 1.0), both([2.0, 4.0], [0.0, 0.0], 2.0)
    best = BestPoint.start(torch.zeros(2, 1), first)
    best.update(first, 0.0, 0)
    best.update(second, 0.0, 1)
    assert best.x.tolist() == [[1.0], [2.0]]
