"""Problems as data: what an evaluation holds, which entries count, and what bad declarations get."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from constropt import Box, ConstrainedProblem, Constraint, equality, inequality
from constropt.rows import by_row


def ball() -> Constraint:
    return inequality(lambda x, _: x.square().sum(1) - 1.0, name="ball")


def parabola(constraints=(), **keywords) -> ConstrainedProblem:
    return ConstrainedProblem(objective=lambda x, _: x.square().sum(1), constraints=constraints, **keywords)


# ---------------------------------------------------------------------------------------------------------- evaluations


def test_one_forward_pass_is_shared_by_all_terms():
    calls, seen = [], []

    def forward(x: Tensor) -> Tensor:
        calls.append(x)
        return x * 2

    problem = ConstrainedProblem(
        forward=forward,
        objective=lambda x, z: seen.append(z) or z.sum(1),
        constraints=[
            inequality(lambda x, z: seen.append(z) or z, name="a", mask=lambda x, z: seen.append(z) or z > 0),
            equality(lambda x, z: seen.append(z) or z[:, 0], name="b"),
        ],
    )
    point = problem.evaluate(torch.ones(2, 3))
    assert len(calls) == 1
    assert len(seen) == 4 and all(z is seen[0] for z in seen)
    assert point.output is seen[0]
    assert point.objective.tolist() == [6.0, 6.0]
    assert [tuple(v.shape) for v in point.values] == [(2, 3), (2,)]
    assert point.equalities == (False, True)


def test_an_evaluation_leaves_x_alone_and_needs_no_graph():
    x = torch.ones(2, 3, requires_grad=True)
    point = parabola([ball()]).evaluate(x * 1.0)
    assert point.x.is_leaf and point.x.requires_grad and not point.total().requires_grad
    assert x.grad is None
    clean = parabola([ball()]).evaluate(x, grad=False)
    assert not clean.objective.requires_grad and not clean.values[0].requires_grad
    with torch.no_grad():
        assert parabola().evaluate(x).objective.requires_grad


def test_undetached_gradients_flow_on_to_where_x_came_from():
    w = torch.ones(2, 3, requires_grad=True)
    x = 2 * w
    point = parabola([ball()]).evaluate(x, detach=False)
    assert point.x is x
    point.objective.sum().backward()
    expected = torch.autograd.grad(parabola().evaluate(2 * w, detach=False).objective.sum(), w)[0]
    detached = parabola().evaluate(x)
    assert w.grad is not None and torch.equal(w.grad, expected)
    assert torch.equal(w.grad, 2 * torch.autograd.grad(detached.objective.sum(), detached.x)[0])
    assert not parabola().evaluate(x, grad=False, detach=False).objective.requires_grad


def test_violations_are_of_counted_entries_and_of_either_sign_for_equalities():
    values = torch.tensor([[0.5, -2.0, 3.0], [-1.0, -1.0, -1.0]])
    mask = torch.tensor([True, True, False])
    problem = parabola(
        [
            inequality(lambda x, _: values, name="h", mask=mask),
            equality(lambda x, _: values[:, 1], name="e", mask=torch.tensor([False, True])),
        ]
    )
    point = problem.evaluate(torch.zeros(2, 1))
    assert point.violations()[0].tolist() == [[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert point.violations()[1].tolist() == [0.0, 1.0]
    assert point.violation().tolist() == [0.5, 1.0]


def test_no_constraints_no_entries_or_none_counted_is_no_violation():
    x = torch.zeros(2, 1)
    assert parabola().evaluate(x).violation().tolist() == [0.0, 0.0]
    assert parabola([inequality(lambda x, _: x[:, :0])]).evaluate(x).violation().tolist() == [0.0, 0.0]
    nothing = inequality(lambda x, _: x + 5, mask=torch.tensor(False))
    assert parabola([nothing]).evaluate(x).violation().tolist() == [0.0, 0.0]


def test_nan_is_a_violation_where_it_counts_and_nothing_where_it_does_not():
    values = torch.tensor([[torch.nan, -1.0], [-1.0, torch.nan]])
    problem = parabola([inequality(lambda x, _: values, mask=torch.tensor([True, False]))])
    violation = problem.evaluate(torch.zeros(2, 1)).violation()
    assert violation[0].isnan() and violation[1] == 0


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([True, False, True]),
        torch.tensor([[True, False, True]]),
        torch.tensor([1, 0, 2]),
        lambda x, z: torch.tensor([[1.0, 0.0, 1.0]]).expand(2, 3),
    ],
    ids=["row", "row of one batch", "integers", "callable"],
)
def test_masks_broadcast_and_become_boolean(mask):
    point = parabola([inequality(lambda x, _: x, mask=mask)]).evaluate(torch.ones(2, 3))
    assert point.masks[0].dtype == torch.bool
    assert point.masks[0].tolist() == [[True, False, True]] * 2


def test_the_nonsmooth_term_is_part_of_the_total_only():
    class L1:
        def __call__(self, x: Tensor) -> Tensor:
            return x.abs().sum(1)

        def prox(self, x, step, metric=None):
            raise AssertionError("an evaluation takes no prox")

    point = parabola(nonsmooth=L1()).evaluate(torch.tensor([[1.0, -2.0]]))
    assert point.objective.item() == 5 and point.nonsmooth.item() == 3 and point.total().item() == 8


# ------------------------------------------------------------------------------------------------------------ gradients


def test_gradient_is_autograds_of_the_lagrangian():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    problem = ConstrainedProblem(
        forward=net,
        objective=lambda x, z: z.logsumexp(1) + x.square().sum(1),
        constraints=[inequality(lambda x, z: z - 0.1, name="h"), equality(lambda x, z: x.prod(1), name="e")],
    )
    x = torch.randn(5, 4, dtype=torch.float64)
    mu, lam, weight = torch.rand(5, 3).double(), torch.randn(5).double(), torch.rand(5).double()
    gradient = problem.evaluate(x).gradient(weight, [mu, lam])

    leaf = x.clone().requires_grad_()
    z = net(leaf)
    lagrangian = (weight * (z.logsumexp(1) + leaf.square().sum(1))).sum() + (mu * (z - 0.1)).sum()
    lagrangian = lagrangian + (lam * leaf.prod(1)).sum()
    (expected,) = torch.autograd.grad(lagrangian, leaf)
    assert torch.allclose(gradient, expected, atol=1e-14, rtol=1e-12)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_weights_broadcast_along_shared_dimensions():
    point = parabola([inequality(lambda x, _: x)]).evaluate(torch.zeros(2, 3))
    gradient = point.gradient(0.0, [torch.tensor([[1.0, 2.0, 3.0]])])
    assert gradient.tolist() == [[1.0, 2.0, 3.0]] * 2


def test_the_graph_can_be_kept_for_a_second_gradient():
    point = parabola([ball()]).evaluate(torch.ones(1, 2))
    first = point.gradient(1.0, [torch.zeros(1)], keep_graph=True)
    second = point.gradient(0.0, [torch.ones(1)])
    assert first.tolist() == second.tolist() == [[2.0, 2.0]]


def test_terms_that_do_not_depend_on_x_have_gradient_zero():
    problem = ConstrainedProblem(
        objective=lambda x, _: torch.ones(2), constraints=[inequality(lambda x, _: torch.ones(2, 4))]
    )
    point = problem.evaluate(torch.ones(2, 3))
    assert point.gradient(1.0, [torch.ones(2, 4)]).tolist() == [[0.0] * 3] * 2


def test_what_the_mask_excludes_has_no_influence_with_weight_zero():
    def value(x: Tensor, _: None) -> Tensor:
        return torch.stack([x.sum(1), 1e30 * x.sum(1)], 1)

    point = parabola([inequality(value, mask=torch.tensor([True, False]))]).evaluate(torch.ones(2, 3))
    weight = torch.where(point.masks[0], torch.ones(2, 2), 0)
    assert point.gradient(0.0, [weight]).tolist() == [[1.0] * 3] * 2


def test_direction_methods_differentiate_the_surrogate_and_judge_by_the_value():
    hard = inequality(lambda x, _: (x.sum(1) > 0).float(), surrogate=lambda x, _: 2 * x.sum(1))
    point = parabola([hard, inequality(lambda x, _: x, name="own")]).evaluate(torch.ones(2, 3))
    assert point.violations()[0].tolist() == [1.0, 1.0]
    ones = [torch.ones(2), torch.ones(2, 3)]
    assert point.gradient(0.0, ones).tolist() == [[3.0] * 3] * 2  # 2 of the surrogate, 1 of the value itself


def test_by_row():
    assert by_row(torch.zeros(3)).shape == (3, 1)
    assert by_row(torch.zeros(3, 2, 2)).shape == (3, 4)


# ----------------------------------------------------------------------------------------------------- bad declarations


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: ConstrainedProblem(objective=3.0), "objective: must be a callable or None, got float"),
        (lambda: parabola(forward="net"), "forward: must be a callable, got str"),
        (lambda: parabola(domain=(0, 1)), r"domain: must be a Domain such as Box\(0.0, 1.0\), got tuple"),
        (lambda: parabola(ball()), "constraints: must be a sequence .* got Constraint; put it in a list"),
        (lambda: parabola([lambda x, z: x]), r"constraints: .* got function; build it with inequality\(...\)"),
        (lambda: inequality(3.0), "value must be a callable of .* got float"),
        (lambda: inequality(lambda x, _: x, mask=[True]), "mask must be a tensor or a callable .* got list"),
    ],
)
def test_wrong_types(declare, message):
    with pytest.raises(TypeError, match=message):
        declare()


def test_names_of_constraints_must_differ():
    with pytest.raises(ValueError, match=r"names must differ, got \['ball', 'ball'\]; pass name=..."):
        parabola([ball(), ball()])


@pytest.mark.parametrize(
    ("objective", "got"),
    [
        (lambda x, _: x.sum(), r"\(\)"),
        (lambda x, _: x, r"\(2, 3\)"),
        (lambda x, _: x.sum(0), r"\(3,\)"),
        (lambda x, _: 1.0, "float"),
    ],
)
def test_an_objective_of_the_wrong_shape(objective, got):
    with pytest.raises(ValueError, match=rf"objective: .* shape \(batch,\) = \(2,\), .* got .*{got}"):
        ConstrainedProblem(objective=objective).evaluate(torch.ones(2, 3))


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (lambda x, _: x.sum(), r"\(\)"),
        (lambda x, _: x.T, r"\(3, 2\)"),
        (lambda x, _: x.norm(dim=0), r"\(3,\)"),
        (lambda x, _: None, "NoneType"),
    ],
)
def test_a_constraint_with_the_wrong_leading_dimension(value, got):
    with pytest.raises(ValueError, match=rf"constraint 'mine': .* batch = 2, got .*{got}"):
        parabola([inequality(value, name="mine")]).evaluate(torch.ones(2, 3))


def test_a_mask_that_does_not_broadcast():
    problem = parabola([inequality(lambda x, _: x, name="mine", mask=torch.ones(4))])
    with pytest.raises(ValueError, match=r"constraint 'mine': mask of shape \(4,\) .* the value's \(2, 3\)"):
        problem.evaluate(torch.ones(2, 3))


@pytest.mark.parametrize("shared", [(2,), (-3,), (0, 5)])
def test_shared_dimensions_that_the_value_does_not_have(shared):
    problem = parabola([inequality(lambda x, _: x, name="mine", shared=shared)])
    with pytest.raises(ValueError, match=r"constraint 'mine': shared must name dimensions .* \(2, 3\)"):
        problem.evaluate(torch.ones(2, 3))


def test_problems_are_frozen():
    problem = parabola([ball()], domain=Box())
    with pytest.raises(AttributeError):
        problem.domain = Box(0.0, 2.0)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        problem.constraints[0].name = "other"  # type: ignore[misc]
