"""Our penalties and problems in Cooper's hands: the iterates of our own rules, its other duals, copies, refusals."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import cooper
import pytest
import torch
from convex import balance, quadratic, simplex
from torch import Tensor

from constropt import AugmentedLagrangian, Box, ConstantRho, ConstrainedProblem, MultiplierUpdate, equality, inequality
from constropt.cooper import MaskedState, PenaltyFormulation, ShapedMultiplier, cmp, cmp_from_loss, formulation
from constropt.penalties import get, names
from constropt.training import ConstrainedLoss, on_average, samplewise

INEQUALITY, EQUALITY = cooper.ConstraintType.INEQUALITY, cooper.ConstraintType.EQUALITY
NAN, INF = float("nan"), float("inf")


def lagrangian(penalty: str, ema: float = 0.0, **keywords) -> AugmentedLagrangian:
    return AugmentedLagrangian(penalty, MultiplierUpdate(ema=ema), ConstantRho(), **{"rho": 2.0, **keywords})


def constraint(penalty, n: int, kind=INEQUALITY, *, rho: float = 2.0, mu: float = 1.0, dual="candidate", indexed=False):
    """A constraint of Cooper with Cooper's own multipliers."""
    multiplier = cooper.multipliers.IndexedMultiplier if indexed else cooper.multipliers.DenseMultiplier
    coefficient = cooper.penalty_coefficients.DensePenaltyCoefficient(torch.tensor(rho, dtype=torch.float64))
    init = torch.full((n,), mu, dtype=torch.float64)
    return cooper.Constraint(
        kind, formulation(penalty, dual=dual), multiplier(init=init, dtype=torch.float64), coefficient
    )


def contributions(declared: cooper.Constraint, *violation, **keywords) -> tuple[Tensor, Tensor, Tensor]:
    """The primal term, its gradient in the violation, and the dual gradient in the multipliers."""
    y = torch.tensor(violation, dtype=torch.float64, requires_grad=True)
    state = cooper.CMPState(None, {declared: MaskedState(y, **keywords)})
    primal = state.compute_primal_lagrangian().lagrangian
    (gradient,) = torch.autograd.grad(primal, y)
    declared.multiplier.weight.grad = None
    state.compute_dual_lagrangian().backward()
    return primal.detach(), gradient, declared.multiplier.weight.grad


# ---------------------------------------------------------------------------------------------------------- formulation


@pytest.mark.parametrize("penalty", names())
def test_the_contributions_are_the_penalty_and_its_candidate(penalty):
    y = (-1.5, -0.01, 0.0, 0.3)
    primal, gradient, dual = contributions(constraint(penalty, 4), *y)
    P, values = get(penalty), torch.tensor(y, dtype=torch.float64)
    assert torch.allclose(primal, P(values, 2.0, 1.0).sum(), atol=1e-12)
    assert torch.allclose(gradient, P.derivative(values, 2.0, 1.0), atol=1e-12)
    assert torch.allclose(dual, P.derivative(values, 2.0, 1.0) - 1.0, atol=1e-12)


def test_the_violation_may_be_what_the_duals_follow():
    assert contributions(constraint("P2", 3, dual="violation"), -1.0, 0.5, 2.0)[2].tolist() == [-1.0, 0.5, 2.0]


def test_duals_follow_the_strict_violation_and_the_model_its_surrogate():
    strict = torch.tensor([1.0, -1.0], dtype=torch.float64)
    primal, gradient, dual = contributions(constraint("PHR", 2), 0.25, 0.5, strict_violation=strict)
    surrogate = torch.tensor([0.25, 0.5], dtype=torch.float64)
    assert torch.allclose(primal, get("PHR")(surrogate, 2.0, 1.0).sum())
    assert torch.allclose(gradient, get("PHR").derivative(surrogate, 2.0, 1.0))
    assert torch.allclose(dual, get("PHR").derivative(strict, 2.0, 1.0) - 1.0)


def test_a_constraint_may_contribute_to_one_side_alone():
    declared = constraint("P3", 1)
    state = cooper.ConstraintState(torch.ones(1), contributes_to_primal_update=False)
    assert declared.compute_contribution_to_lagrangian(state, "primal") is None
    state = cooper.ConstraintState(torch.ones(1), contributes_to_dual_update=False)
    assert declared.compute_contribution_to_lagrangian(state, "dual") is None


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("penalty", ["PHR", "P2", "P3"])
def test_what_is_not_finite_does_not_spread(penalty, bad):
    primal, gradient, dual = contributions(constraint(penalty, 3), 0.5, bad, -0.5)
    alone = contributions(constraint(penalty, 2), 0.5, -0.5)
    assert torch.equal(primal, alone[0])
    assert torch.equal(gradient[[0, 2]], alone[1]) and gradient[1] == 0
    assert torch.equal(dual[[0, 2]], alone[2]) and dual[1] == 0


def test_masked_entries_contribute_nothing():
    mask = torch.tensor([True, False, True])
    primal, gradient, dual = contributions(constraint("P2", 3), 0.5, 9.0, -0.5, mask=mask)
    alone = contributions(constraint("P2", 2), 0.5, -0.5)
    assert torch.equal(primal, alone[0]) and gradient[1] == dual[1] == 0
    assert torch.equal(dual[mask], alone[2])


def test_indexed_multipliers_move_where_they_were_observed():
    declared = constraint("P3", 5, indexed=True)
    indices = torch.tensor([3, 1])
    _, _, dual = contributions(declared, 0.5, -0.5, constraint_features=indices)
    expected = torch.zeros(5, dtype=torch.float64)
    expected[indices] = get("P3").derivative(torch.tensor([0.5, -0.5], dtype=torch.float64), 2.0, 1.0) - 1.0
    assert torch.allclose(dual.to_dense().flatten(), expected)


def test_a_shape_is_shared_only_where_it_is_asked_for():
    y = torch.rand(4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"multiplier: multipliers of shape \(4,\) do not fit .* \(4, 3\)"):
        constraint("PHR", 4).compute_contribution_to_lagrangian(cooper.ConstraintState(y), "primal")
    flat = constraint("PHR", 12).compute_contribution_to_lagrangian(cooper.ConstraintState(y), "primal")
    assert torch.allclose(flat.lagrangian_contribution, get("PHR")(y, 2.0, 1.0).sum())
    shared = ShapedMultiplier(torch.ones(1, 5, dtype=torch.float64))
    coefficient = cooper.penalty_coefficients.DensePenaltyCoefficient(torch.ones(7))
    with pytest.raises(ValueError, match=r"multiplier: multipliers of shape \(1, 5\)"):
        cooper.Constraint(INEQUALITY, formulation(), shared, coefficient).compute_contribution_to_lagrangian(
            cooper.ConstraintState(y), "dual"
        )
    shared = ShapedMultiplier(torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"penalty_coefficient: takes one value, or one per multiplier \(3\), got 7"):
        cooper.Constraint(INEQUALITY, formulation(), shared, coefficient).compute_contribution_to_lagrangian(
            cooper.ConstraintState(y), "dual"
        )


def test_what_cannot_work_is_refused_at_once():
    with pytest.raises(ValueError, match="penalty: 'P2' has no form for equality"):
        constraint("P2", 1, EQUALITY)
    with pytest.raises(ValueError, match="no penalty is named 'P22'"):
        formulation("P22")
    with pytest.raises(ValueError, match="dual: takes one of candidate, violation, got 'both'"):
        formulation("P2", dual="both")
    with pytest.raises(ValueError, match="multiplier: an initial value of 0 stays 0 under 'P3'"):
        constraint("P3", 2, mu=0.0)
    assert constraint("PHR", 2, mu=0.0).multiplier is not None
    with pytest.raises(ValueError, match="penalty_coefficient: rho must be > 0"):
        constraint("PHR", 2, rho=0.0)
    with pytest.raises(ValueError, match="expects a multiplier"):
        cooper.Constraint(INEQUALITY, formulation("P3"))
    with pytest.raises(ValueError, match="minimum and maximum"):
        ShapedMultiplier(torch.ones(2), minimum=2.0, maximum=1.0)


def exponential(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    return mu / rho * torch.expm1(rho * y)


def test_formulations_are_one_per_penalty_and_survive_copies():
    assert formulation("P2") is formulation(get("P2")) and formulation("P2") is not formulation("P3")
    for made in (formulation("P4-Quadratic"), formulation(exponential, dual="violation")):
        assert issubclass(made, PenaltyFormulation)
        assert pickle.loads(pickle.dumps(made)) is made and copy.deepcopy(made) is made
    assert pickle.loads(pickle.dumps(PenaltyFormulation)) is PenaltyFormulation
    _, gradient, _ = contributions(constraint(exponential, 1), 0.5)
    assert torch.allclose(gradient, torch.tensor([2.718281828459045], dtype=torch.float64))
    for declared in (constraint("P2", 2), constraint("P4-Cosh", 2, EQUALITY)):
        for copied in (copy.deepcopy(declared), pickle.loads(pickle.dumps(declared))):
            found, expected = (contributions(one, 0.5, -1.0) for one in (copied, declared))
            assert all(torch.equal(a, b) for a, b in zip(found, expected))


# --------------------------------------------------------------------------------------- the same iterates as our rules


def by_hand(problem: ConstrainedProblem, x0: Tensor, rule: AugmentedLagrangian, rate: float, steps: int, order: str):
    """Iterates of gradient steps on our augmented Lagrangian with our dual updates, one evaluation a step."""
    x = x0
    duals = [
        rule.init(y, equality=c.equality, shared=c.shared)
        for c, y in zip(problem.constraints, problem.evaluate(x).values)
    ]
    for _ in range(steps):
        point = problem.evaluate(problem.domain.project(x))

        def updated(point=point, duals=tuple(duals)):
            return [rule.update(y.detach(), d, m) for y, d, m in zip(point.values, duals, point.masks)]

        after = updated()
        used = after if order == "dual first" else duals
        terms = [
            rule.term(y, d) if m is None else torch.where(m, rule.term(y, d), 0)
            for y, d, m in zip(point.values, used, point.masks)
        ]
        loss = point.objective.sum() + sum(term.sum() for term in terms)
        x = point.x.detach() - rate * torch.autograd.grad(loss, point.x)[0]
        duals = after
        yield x, [d.mu for d in duals]


ORDERS = {"together": cooper.optim.SimultaneousOptimizer, "dual first": cooper.optim.AlternatingDualPrimalOptimizer}


def agree(problem: ConstrainedProblem, x0: Tensor, penalty: str, ema: float, order: str, steps: int = 25) -> None:
    rule = lagrangian(penalty, ema, mu=0.5)
    ours = cmp(problem, x0, rule)
    optimizer = ORDERS[order](
        ours, torch.optim.SGD([ours.x], lr=0.03), torch.optim.SGD(ours.dual_parameters(), lr=1 - ema, maximize=True)
    )
    start = [multiplier().clone() for multiplier in ours.multipliers()]
    for x, mus in by_hand(problem, x0, rule, 0.03, steps, order):
        optimizer.roll()
        assert (ours.x - x).abs().max() < 1e-6
        for multiplier, mu in zip(ours.multipliers(), mus):
            assert multiplier().shape == mu.shape and (multiplier() - mu).abs().max() < 1e-6
    assert all((multiplier() - first).abs().max() > 0.02 for multiplier, first in zip(ours.multipliers(), start))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("penalty", ["PHR", "P2", "P3"])
def test_iterates_on_a_quadratic_program_are_those_of_our_rules(penalty, ema, order):
    case = quadratic()
    agree(case.problem, case.start, penalty, ema, order)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("case", [balance, simplex])
def test_iterates_with_equalities_are_those_of_our_rules(case, ema):
    agree(case().problem, case().start, "PHR", ema, "together")


def classes(masked: bool = False, shared: tuple[int, ...] = (0,), domain=None) -> tuple[ConstrainedProblem, Tensor]:
    """min |x - a|^2 / 2 over a table (4, 3), every entry at most its class's level, multipliers shared along rows."""
    a = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1
    levels = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]).bool() if masked else None  # class 2 is absent
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - a).square().sum(1) / 2,
        constraints=[inequality(lambda x, _: x - levels, name="levels", shared=shared, mask=mask)],
        **({} if domain is None else {"domain": domain}),
    )
    return problem, torch.zeros(4, 3, dtype=torch.float64)


@pytest.mark.parametrize("shared", [(), (0,), (1,), (-1,), (0, 1)])
@pytest.mark.parametrize("penalty", ["PHR", "P2"])
def test_shared_multipliers_are_shared_as_ours(penalty, shared):
    agree(*classes(shared=shared), penalty, 0.9, "together", steps=20)


def test_masks_count_as_ours_and_the_absent_keep_their_multiplier():
    problem, x0 = classes(masked=True)
    rule = lagrangian("P2", 0.9, mu=0.5)
    ours = cmp(problem, x0, rule)
    dual = torch.optim.SGD(ours.dual_parameters(), lr=0.1, maximize=True)
    optimizer = cooper.optim.SimultaneousOptimizer(ours, torch.optim.SGD([ours.x], lr=0.03), dual)
    for x, (mu,) in by_hand(problem, x0, rule, 0.03, 20, "together"):
        optimizer.roll()
        assert (ours.x - x).abs().max() < 1e-6 and (ours.levels.multiplier() - mu).abs().max() < 1e-6
    assert ours.levels.multiplier()[0, 2] == 0.5


def test_x_stays_in_the_domain():
    problem, x0 = classes(domain=Box(0.1, 0.4))
    agree(problem, x0 + 0.2, "PHR", 0.5, "together", steps=20)
    ours = cmp(problem, x0)
    assert ours.x.min() == 0.1  # the start is projected
    ours.x.data.fill_(7.0)
    assert ours.point().max() == 0.4 and ours.x.max() == 7.0
    ours.compute_cmp_state()
    assert ours.x.max() == 0.4


def test_one_forward_pass_per_evaluation():
    calls = []
    problem = ConstrainedProblem(
        forward=lambda x: calls.append(1),
        objective=lambda x, _: x.square().sum(1),
        constraints=[inequality(lambda x, _: 1 - x, name="a"), equality(lambda x, _: x.sum(1), name="b")],
    )
    ours = cmp(problem, torch.zeros(2, 3))
    calls.clear()
    state = ours.compute_cmp_state()
    assert calls == [1] and list(dict(ours.named_constraints())) == ["a", "b"]
    assert state.loss.shape == () and [s.violation.shape for s in state.observed_constraints.values()] == [(2, 3), (2,)]


def test_a_surrogate_moves_x_and_the_value_the_multipliers():
    problem = ConstrainedProblem(
        objective=lambda x, _: x.square().sum(1),
        constraints=[inequality(lambda x, _: (1 - x).sign(), surrogate=lambda x, _: 1 - 2 * x, name="step")],
    )
    ours = cmp(problem, torch.zeros(1, 2), "PHR")
    state = ours.compute_cmp_state().observed_constraints[ours.step]
    assert state.violation.tolist() == [[1.0, 1.0]] and state.violation.requires_grad
    assert state.strict_violation.tolist() == [[1.0, 1.0]] and not state.strict_violation.requires_grad
    wrong = inequality(lambda x, _: x, surrogate=lambda x, _: x.sum(1), name="wrong")
    with pytest.raises(ValueError, match="constraint 'wrong': its surrogate must have the shape of its value"):
        cmp(ConstrainedProblem(objective=lambda x, _: x.sum(1), constraints=[wrong]), torch.zeros(1, 2))


def test_without_gradients_no_graph_is_built():
    ours = cmp(*classes(masked=True))
    with torch.no_grad():
        state = ours.compute_cmp_state()
    assert not state.loss.requires_grad
    assert not any(s.violation.requires_grad for s in state.observed_constraints.values())


def test_problems_that_cooper_cannot_take_are_refused():
    problem, x0 = classes()
    with pytest.raises(TypeError, match="problem: must be a ConstrainedProblem, got Convex"):
        cmp(quadratic(), x0)
    with pytest.raises(ValueError, match="x0: must be a finite floating point tensor"):
        cmp(problem, x0 * NAN)
    with pytest.raises(ValueError, match="has no form for equality"):
        cmp(balance().problem, balance().start, "P3")

    class Norm:
        def __call__(self, x: Tensor) -> Tensor:
            return x.abs().sum(1)

        def prox(self, x, step, metric=None):
            return x

    nonsmooth = ConstrainedProblem(objective=lambda x, _: x.sum(1), nonsmooth=Norm())
    with pytest.raises(ValueError, match="nonsmooth term is known by its prox"):
        cmp(nonsmooth, x0)


# ------------------------------------------------------------------------------------------------- Cooper's other duals


@pytest.mark.parametrize(
    ("case", "penalty"),
    [
        (quadratic, "PHR"),
        (quadratic, "P2"),
        (quadratic, "P3"),
        (balance, "PHR"),
        (simplex, "PHR"),
        (balance, "P4-Cosh"),
    ],
)
def test_nupi_reaches_the_optimum(case, penalty):
    case = case()
    ours = cmp(case.problem, case.start, lagrangian(penalty), dual="violation")
    dual = cooper.optim.nuPI(ours.dual_parameters(), lr=1.0, Kp=1.0, Ki=1.0, maximize=True)
    optimizer = cooper.optim.AlternatingDualPrimalOptimizer(ours, torch.optim.SGD([ours.x], lr=0.15), dual)
    for _ in range(150):
        optimizer.roll()
    assert case.distance(ours.point()) < 1e-4


@pytest.mark.parametrize("adam", [False, True], ids=["ExtraSGD", "ExtraAdam"])
@pytest.mark.parametrize("case", [quadratic, balance], ids=lambda case: case.__name__)
def test_extragradient_reaches_the_optimum(case, adam):
    case = case()
    ours = cmp(case.problem, case.start, lagrangian("PHR"), dual="violation")
    optimizers = cooper.optim.ExtraAdam if adam else cooper.optim.ExtraSGD
    primal = optimizers([ours.x], lr=0.05 if adam else 0.2)
    dual = optimizers(ours.dual_parameters(), lr=0.05 if adam else 1.0, maximize=True)
    optimizer = cooper.optim.ExtrapolationConstrainedOptimizer(ours, primal, dual)
    for _ in range(200 if adam else 100):
        optimizer.roll()
    assert case.distance(ours.point()) < (1e-3 if adam else 1e-4)


# -------------------------------------------------------------------------------------------------- copies, checkpoints


def nothing(x: Tensor) -> None:
    return None


def square(x: Tensor, _: None) -> Tensor:
    return x.square().sum(1)


def above(x: Tensor, _: None) -> Tensor:
    return 1 - x


def saved() -> tuple:
    problem = ConstrainedProblem(square, [inequality(above, name="above", shared=(0,))], nothing)
    ours = cmp(problem, torch.zeros(2, 3), "P2")
    return ours, optimizer_of(ours)


def optimizer_of(ours) -> cooper.optim.SimultaneousOptimizer:
    dual = torch.optim.SGD(ours.dual_parameters(), lr=0.1, maximize=True)
    return cooper.optim.SimultaneousOptimizer(ours, torch.optim.SGD([ours.x], lr=0.1), dual)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deep", "pickle"]
)
def test_copies_go_on_as_the_original(copied):
    ours, optimizer = saved()
    for _ in range(5):
        optimizer.roll()
    twin, its_optimizer = copied((ours, optimizer))
    for _ in range(5):
        its_optimizer.roll()
    assert not torch.equal(twin.x, ours.x)
    for _ in range(5):
        optimizer.roll()
    assert torch.equal(twin.x, ours.x) and torch.equal(twin.above.multiplier(), ours.above.multiplier())


def test_a_checkpoint_is_whole():
    ours, optimizer = saved()
    for _ in range(5):
        optimizer.roll()
    ours.above.penalty_coefficient.value = torch.full((3,), 5.0)
    state = copy.deepcopy(ours.state_dict())
    other, its_optimizer = saved()
    other.above.penalty_coefficient.init.fill_(9.0)
    other.load_state_dict(state)
    assert other.above.penalty_coefficient.init.tolist() == [1.0, 1.0, 1.0]
    for one in (optimizer, its_optimizer):
        one.roll()
    assert torch.equal(other.x, ours.x) and torch.equal(other.above.multiplier(), ours.above.multiplier())


def test_constropt_alone_does_not_import_cooper():
    code = "import constropt, constropt.training, sys; assert 'cooper' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------------------- training problems


def training(reduction: str = "sum", counted=None, rule: str = "P2", ema: float = 0.0) -> ConstrainedLoss:
    """Class-wise limits on the logits of four classes, per sample and on average, of a cross entropy."""
    return ConstrainedLoss(
        lambda z, t: torch.nn.functional.cross_entropy(z, t.clamp_min(0), reduction="none"),
        [
            samplewise(lambda z, t: z - 0.3, shape=(4,), name="each", mask=lambda z, t: t >= 0),
            samplewise(lambda z, t: z.max(1).values - 0.4, name="largest"),
            on_average(
                lambda z, t: (z > 0).to(z) - 0.5,
                surrogate=lambda z, t: z.sigmoid() - 0.5,
                mask=lambda z, t: torch.nn.functional.one_hot(t.clamp_min(0), 4).bool(),
                shape=(4,),
                name="rate",
            ),
        ],
        lagrangian=lagrangian(rule, ema, mu=0.5),
        counted=counted,
        reduction=reduction,
    ).double()


def batch(size: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, 4, dtype=torch.float64, generator=generator), torch.arange(size) % 4 - (
        torch.arange(size) == 2
    ).long() * 9


@pytest.mark.parametrize("counted", [None, lambda z, t: t >= 0], ids=["all", "some"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_primal_lagrangian_is_the_criterion(reduction, counted):
    criterion = training(reduction, counted)
    z, t = batch()
    z.requires_grad_()
    primal = cmp_from_loss(criterion).compute_cmp_state(z, t).compute_primal_lagrangian().lagrangian
    loss = criterion(z, t)
    assert torch.allclose(primal, loss, atol=1e-9)
    (ours,), (theirs,) = torch.autograd.grad(primal, z), torch.autograd.grad(loss, z)
    assert torch.allclose(ours, theirs, atol=1e-9)


def test_masks_are_evaluated_once_beside_a_surrogate_of_the_same_shape():
    calls = []
    rate = on_average(
        lambda z, t: z.sign(), surrogate=lambda z, t: z, mask=lambda z, t: calls.append(1) or t >= 0, name="rate"
    )
    problem = cmp_from_loss(ConstrainedLoss(lambda z, t: z.square(), [rate]))
    state = problem.compute_cmp_state(torch.tensor([2.0, -4.0, 8.0]), torch.tensor([0, 0, -1]))
    observed = state.observed_constraints[problem.rate]
    assert calls == [1] and observed.violation == -1 and observed.strict_violation == 0
    wrong = on_average(lambda z, t: z, surrogate=lambda z, t: z[:, None], name="wrong")
    with pytest.raises(ValueError, match="constraint 'wrong': its surrogate must have the shape of its value"):
        cmp_from_loss(ConstrainedLoss(lambda z, t: z.square(), [wrong])).compute_cmp_state(torch.zeros(3))


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("penalty", ["PHR", "P2", "P3"])
def test_training_by_cooper_is_training_by_hand(penalty, ema):
    """The same model, batch by batch, with the criterion observing each batch and stepping, and as Cooper's problem."""
    criterion, other = training(rule=penalty, ema=ema), training(rule=penalty, ema=ema)
    problem = cmp_from_loss(other)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4).double()
    twin = copy.deepcopy(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = cooper.optim.SimultaneousOptimizer(
        problem,
        torch.optim.SGD(twin.parameters(), lr=0.1),
        torch.optim.SGD(problem.dual_parameters(), lr=1 - ema, maximize=True),
    )
    for step in range(12):
        x, t = batch(5 + step % 7)
        sgd.zero_grad()
        output = model(x)
        criterion(output, t).backward()
        criterion.observe(output.detach(), t)
        criterion.step()
        sgd.step()
        optimizer.roll(compute_cmp_state_kwargs={"output": lambda x=x: twin(x), "target": t})
        assert torch.allclose(model.weight, twin.weight, atol=1e-6)
        for name, mu in criterion.multipliers.items():
            assert torch.allclose(dict(problem.named_multipliers())[name](), mu, atol=1e-6)


def test_held_out_data_moves_the_multipliers_alone():
    problem = cmp_from_loss(training())
    model = torch.nn.Linear(4, 4).double()
    before = copy.deepcopy(model.state_dict())
    optimizer = cooper.optim.SimultaneousOptimizer(
        problem,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        torch.optim.SGD(problem.dual_parameters(), lr=0.5, maximize=True),
    )
    x, t = batch()
    optimizer.roll(compute_cmp_state_kwargs={"output": model(x), "target": t, "primal": False})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    moved = problem.each.multiplier().clone()
    assert (moved != 0.5).all()
    optimizer.roll(compute_cmp_state_kwargs={"output": model(x), "target": t, "dual": False})
    assert torch.equal(problem.each.multiplier(), moved)
    assert not torch.equal(model.weight, before["weight"])


def test_absent_classes_and_bad_values_leave_their_multipliers():
    problem = cmp_from_loss(training())
    z, t = batch(3)
    z[0, 1] = NAN
    problem.compute_cmp_state(z, torch.tensor([0, 1, 1])).compute_dual_lagrangian().backward()
    gradient = problem.rate.multiplier.weight.grad
    assert (gradient[2:] == 0).all() and gradient[0] != 0
    z[:, 1] = NAN
    for multiplier in problem.multipliers():
        multiplier.weight.grad = None
    problem.compute_cmp_state(z, torch.tensor([0, 1, 1])).compute_dual_lagrangian().backward()
    assert problem.each.multiplier.weight.grad[1] == 0 and problem.each.multiplier.weight.grad[0] != 0
    assert all(multiplier.weight.grad.isfinite().all() for multiplier in problem.multipliers())


def test_losses_that_cooper_cannot_take_are_refused():
    with pytest.raises(TypeError, match="criterion: must be a ConstrainedLoss, got CrossEntropyLoss"):
        cmp_from_loss(torch.nn.CrossEntropyLoss())
    ruled = ConstrainedLoss(
        lambda z, t: z.sum(),
        [on_average(lambda z, t: z, name="a")],
        rule=lambda level, candidate, duals, present: duals,
    )
    with pytest.raises(ValueError, match="criterion: its rule replaces the dual update"):
        cmp_from_loss(ruled)
