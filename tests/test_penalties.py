"""Every shipped penalty satisfies the laws, wrong ones don't, and formulas give the published numbers."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import pytest
import torch

from constropt import AugmentedLagrangian
from constropt.penalties import Penalty, base, families, get, names, penalty, univariate
from constropt.testing import LawViolation, check_penalty

SHIPPED = [name for name in names() if name in base._shipped]
EQUALITY = ["PHR", "P4-Quadratic", "P4-FourThirds", "P4-Cosh"]


@pytest.fixture
def clean_registry():
    before = dict(base._registry)
    yield
    base._registry.clear()
    base._registry.update(before)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", SHIPPED)
def test_gradients_of_the_value_are_the_slope_to_second_order_and_under_transforms(name):
    p = get(name)
    y, rho, mu = f64(-1.3, -0.2, 0.4, 1.1).requires_grad_(), f64(2.0), f64(0.7)
    (gradient,) = torch.autograd.grad(p(y, rho, mu).sum(), y, create_graph=True)
    assert torch.allclose(gradient, p.derivative(y, rho, mu), atol=1e-12)
    (second,) = torch.autograd.grad(gradient.sum(), y)
    ends = [p.derivative(y.detach() + h, rho, mu) for h in (1e-5, -1e-5)]
    assert torch.allclose(second, (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-6)
    each = torch.func.vmap(torch.func.grad(lambda y: p(y, rho, mu).sum()))(y.detach())
    assert torch.allclose(each, gradient, atol=1e-12)
    scalar = f64(0.4).requires_grad_()  # broadcast over many multipliers
    (total,) = torch.autograd.grad(p(scalar, rho, mu.expand(5)).sum(), scalar)
    assert torch.allclose(total, 5 * gradient[2], atol=1e-12)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_the_candidate_compiles_without_a_graph_break():
    lagrangian = AugmentedLagrangian(penalty="P2")
    y = torch.linspace(-3, 3, 1001)[None]
    duals = lagrangian.init(y)
    compiled = torch.compile(lagrangian.candidate, fullgraph=True)
    torch.testing.assert_close(compiled(y, duals), lagrangian.candidate(y, duals))


def test_the_slopes_of_p2_and_p3_are_differentiable_and_broadcast():
    y, rho, mu = (torch.rand(7, dtype=torch.float64) + shift for shift in (-0.5, 0.5, 0.1))
    for name in ("P2", "P2Floor", "P3"):
        slope = get(name).slope
        assert slope is not None
        assert torch.autograd.gradcheck(slope, tuple(t.requires_grad_() for t in (y, rho, mu)))
        assert get(name).derivative(y.detach(), 2.0, torch.rand(3, 1)).shape == (3, 7)


# -------------------------------------------------------------------------------------------------- the laws hold


def test_the_registry_holds_the_families():
    assert len(SHIPPED) == 5 + 3 + 4 * 12 + 3
    assert list(names()) == sorted(names())
    assert {name for name in SHIPPED if get(name).equality} == set(EQUALITY)
    for name in SHIPPED:
        p = get(name)
        assert p.name == name and p.formula and "Birgin" in p.reference or "Rony" in p.reference
        assert p.slope is not None and len(p.__doc__ or "") > 40


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_penalty_satisfies_the_laws(name):
    check_penalty(name)


@pytest.mark.parametrize("name", ["PHR", "P2Floor", "P4-Cosh", "P6-HyperExp", "P9-SmoothPlus"])
def test_laws_in_float32(name):
    check_penalty(name, dtype=torch.float32, max_examples=10)


@pytest.mark.parametrize("name", SHIPPED)
def test_float32_tails_are_finite(name):
    magnitude = torch.logspace(-6, 6, 49)
    z = torch.cat([magnitude, -magnitude, torch.tensor([0.0, 0.5, -0.5, -1.0, 30.0, 1e6, -1e6])])
    rho = torch.tensor([1e-3, 0.5, 1.0, 1e3, 1e6])[:, None, None]
    mu = torch.tensor([1e-4, 0.5, 1.0, 2.0, 4.0, 1e4])[:, None]
    for p in filter(None, (get(name), get(name).equality)):
        y = (z / rho).expand(5, 6, -1).clone().requires_grad_()
        P = p(y, rho, mu)
        (gradient,) = torch.autograd.grad(P.sum(), y)
        derivative = p.derivative(y, rho, mu)
        assert P.dtype == gradient.dtype == derivative.dtype == torch.float32
        assert P.isfinite().all() and gradient.isfinite().all() and derivative.isfinite().all()
        assert ((gradient - derivative).abs() <= 1e-3 * (derivative.abs() + mu)).all()


# -------------------------------------------------------------------------------------------- wrong ones are caught


def phr(y, rho, mu):
    return ((mu + rho * y).clamp_min(0).square() - mu.square()) / (2 * rho)


PLANTED = {
    # the derivative jumps from mu to 2 mu just above 0
    "continuity of P'": Penalty("kink", lambda y, rho, mu: get("P3").value(y, rho, mu) + mu * y.relu()),
    "Axiom 2": Penalty("forgets mu", lambda y, rho, mu: (1 + rho * y).clamp_min(0).square() / (2 * rho)),
    # bounded by 2 mu on the violated side
    "Axiom 3": Penalty("sigmoid", lambda y, rho, mu: 2 * mu / rho * torch.nn.functional.softplus(rho * y)),
    # never lets go of a constraint that is met
    "Axiom 4": Penalty(
        "leaky", lambda y, rho, mu: 0.9 * get("P3").value(y, rho, mu) + 0.1 * mu * (y + rho * y.relu().square())
    ),
    "Axiom 1": Penalty("untruncated", lambda y, rho, mu: mu * y + rho * y.square() / 2),
    # PHR whose constant tail has lost its factor 1/2
    "continuity of P": Penalty(
        "step", lambda y, rho, mu: torch.where(mu + rho * y > 0, y * (mu + rho * y / 2), -mu.square() / rho)
    ),
    "closed form": Penalty("wrong slope", phr, lambda y, rho, mu: (mu + rho * y).clamp_min(0) + 0.01 * rho * y.relu()),
    "finite": Penalty("root", lambda y, rho, mu: phr(y, rho, mu) + 0 * torch.sqrt(y + 1e5 / rho)),
    "elementwise": Penalty("sum", lambda y, rho, mu: phr(y, rho, mu).sum()),
}


@pytest.mark.parametrize("law", PLANTED)
def test_planted_violation_is_caught_by_its_law(law):
    with pytest.raises(LawViolation) as caught:
        check_penalty(PLANTED[law])
    error = caught.value
    assert error.law == law
    assert isinstance(error, AssertionError)
    for part in (law, PLANTED[law].name, "y=", "rho=", "mu="):
        assert part in str(error)


def test_wrong_equality_form_is_caught():
    one_sided = Penalty("one-sided", phr, equality=Penalty("form", lambda y, rho, mu: mu * y + rho * y.relu().square()))
    with pytest.raises(LawViolation, match="two-sided growth"):
        check_penalty(one_sided)


def test_the_search_is_deterministic():
    messages = set()
    for _ in range(2):
        with pytest.raises(LawViolation) as caught:
            check_penalty(PLANTED["continuity of P'"])
        messages.add(str(caught.value))
    assert len(messages) == 1


@pytest.mark.parametrize(
    "slow",
    [
        lambda y, rho, mu: mu * (1 + torch.log1p((rho * y).relu())) / (1 + torch.log1p((-rho * y).relu())),
        lambda y, rho, mu: mu * (1 + torch.log1p(torch.log1p((rho * y).relu()))) / (1 - rho * y.clamp_max(0)),
    ],
)
def test_slow_limits_pass(slow):
    """log rho tends to infinity and 1/log rho to 0: no law is broken, however slowly they do."""

    class Integral(torch.autograd.Function):  # has the derivative `slow`; its values come from a one-point rule
        @staticmethod
        def forward(ctx, y, rho, mu):
            ctx.save_for_backward(slow(y, rho, mu))
            return y * slow(y / 2, rho, mu)

        @staticmethod
        def backward(ctx, *grads):
            return grads[0] * ctx.saved_tensors[0], None, None

    check_penalty(Penalty("slow", Integral.apply))


def test_unregistered_combinations_fail_the_named_axiom():
    for theta in univariate.OF_P9:  # theta' < 1, so that P' <= 2 mu
        for family in (families.p5, families.p6, families.p7):
            with pytest.raises(LawViolation) as caught:
                check_penalty(family(theta))
            assert caught.value.law == "Axiom 3"
        with pytest.raises(LawViolation) as caught:  # theta'(t) = mu has no solution for mu >= 1
            check_penalty(families.p8(theta))
        assert caught.value.law == "Axiom 2"
    for theta in (univariate.LOG_EXP, univariate.LOG_QUAD_1, univariate.LOG_QUAD_2, univariate.DUAL_LOG_QUAD,
                  univariate.LOG_BARRIER_QUAD):  # fmt: skip
        with pytest.raises(LawViolation) as caught:
            check_penalty(families.p9(theta))
        assert caught.value.law == "Axiom 3"
        y, mu = f64(-2.0, -0.5), 0.7  # and Axiom 4: P' stops at a positive number
        curved = 4 if theta is univariate.LOG_QUAD_2 else 1
        limit = families.p9(theta).derivative(y, 1e12, mu)
        torch.testing.assert_close(limit, 1 / (1 / mu - curved * y), rtol=1e-6, atol=0)
    for theta in univariate.OF_P4:
        with pytest.raises(LawViolation) as caught:
            check_penalty(families.p8(theta))
        assert caught.value.law == "Axiom 1"
        for family in (families.p5, families.p6, families.p7):
            with pytest.raises(ValueError, match="Axiom 2"):
                family(theta)
    for theta in univariate.OF_P5_TO_P8:  # P'(0) = mu + theta'(0) = mu + 1/c
        excess = families.p4(theta).derivative(f64(0.0), 1.0, 1.0).item() - 1
        assert excess == pytest.approx(1 / theta.c)


# --------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("name", "y", "rho", "mu", "expected", "slope"),
    [
        ("PHR", 0.5, 2.0, 3.0, (4.0**2 - 9) / 4, 4.0),
        ("PHR", -2.0, 2.0, 3.0, -9 / 4, 0.0),
        ("P1", 0.5, 2.0, 3.0, 1.5 + 0.25 + 0.5, 3 + 1 + 3),
        ("P1", -1.0, 2.0, 3.0, -3 + 1, 1.0),
        ("P2", 0.5, 2.0, 3.0, 1.5 + 1.5 + 4 / 48, 3 + 6 + 0.5),
        ("P2", -1.0, 2.0, 3.0, -1.0, 3 / 9),
        ("P2Floor", -1.0, 0.25, 3.0, -1.5, 3 / 4),
        ("P2Floor", -1.0, 2.0, 3.0, -1.0, 3 / 9),
        ("P2Floor", 2.0, 0.25, 3.0, 6 + 3 + 0.5 / 6, 3 + 3 + 0.125),
        ("P3", 0.5, 2.0, 3.0, 3.0, 9.0),
        ("P3", -1.0, 2.0, 3.0, -1.0, 3 / 9),
        ("P4-FourThirds", 4.0, 2.0, 3.0, 12 + 0.75 * 16 / 2, 5.0),
        ("P4-FourThirds", -20.0, 2.0, 3.0, -(3**4) / 8, 0.0),
        ("P4-Cosh", 1.0, 2.0, 3.0, 3 + (math.cosh(2) - 1) / 2, 3 + math.sinh(2)),
        ("P4-Cosh", -5.0, 2.0, 3.0, (math.sqrt(10) - 1 - 3 * math.asinh(3)) / 2, 0.0),
        ("P5-Exp", 1.0, 2.0, 3.0, 1.5 * (math.e**2 - 1), 3 * math.e**2),
        ("P8-Exp", 1.0, 2.0, 3.0, 1.5 * (math.e**2 - 1), 3 * math.e**2),
        ("P6-LogQuad1", -1.0, 2.0, 3.0, -math.log(7) / 2, 3 / 7),
        ("P6-LogQuad1", 1.0, 2.0, 3.0, (72 + math.log(2) - 0.5) / 2, 3 * 24),
        ("P7-HyperQuad", -1.0, 2.0, 4.0, 8 * (-0.5 / 1.5), 4 / 1.5**2),
        ("P5-CubicQuad", 1.0, 2.0, 3.0, 1.5 * 8 * (2 + 1 / 48), 3 * 16),
        ("P5-HyperBarrierQuad", -1.0, 2.0, 3.0, 1.5 / 12 * (0.5 - 6), 3 / 48),
        ("P8-LogQuad1", 1.0, 2.0, 3.0, (2 * 2.75**2 - 2 * 0.75**2) / 2, 11.0),
        ("P8-DualLogQuad", 0.0, 2.0, 3.0, 0.0, 3.0),
        ("P9-NNSmoothPlus", 1.0, 4.0, 1.0, math.log(1 + math.e**4 / 3) - math.log(4 / 3), 4 / (1 + 3 * math.e**-4)),
        ("P9-ExpSmoothPlus", -1.0, 1.0, 1.0, math.e**-2 / 2 - 0.5, math.e**-2),  # rho is raised to 2 mu
        ("P9-SmoothPlus", 0.0, 4.0, 1.0, 0.0, 1.0),
    ],
)
def test_hand_computed_values(name, y, rho, mu, expected, slope):
    p = get(name)
    assert p(f64(y), rho, mu).item() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert p.derivative(f64(y), rho, mu).item() == pytest.approx(slope, rel=1e-12, abs=1e-14)


def test_p4_quadratic_is_phr():
    y = torch.linspace(-5, 5, 101, dtype=torch.float64)
    for rho, mu in ((0.3, 2.0), (10.0, 0.1)):
        for one, other in ((get("PHR"), get("P4-Quadratic")), (get("PHR").equality, get("P4-Quadratic").equality)):
            assert one is not None and other is not None
            torch.testing.assert_close(one(y, rho, mu), other(y, rho, mu))
            torch.testing.assert_close(one.derivative(y, rho, mu), other.derivative(y, rho, mu))


@pytest.mark.parametrize("theta", [*univariate.OF_P4, *univariate.OF_P5_TO_P8, *univariate.OF_P9], ids=lambda t: t.name)
def test_univariate_functions(theta):
    t = torch.linspace(-8, 8, 1601, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(theta.value(t).sum(), t)
    torch.testing.assert_close(theta.slope(t).detach(), gradient)
    assert theta.value(f64(0.0)).item() == pytest.approx(theta.zero, abs=1e-14)
    if math.isfinite(theta.c):
        assert theta.c * theta.slope(f64(0.0)).item() == pytest.approx(1, abs=1e-14)
    m = f64(1e-3, 0.1, 0.3, 0.5, 0.7, 0.99)
    if theta not in univariate.OF_P9:
        m = torch.cat([m, f64(1.0, math.exp(0.5), 2.0, 3.0, 4.0, 5.0, 100.0, 1e15)])
    torch.testing.assert_close(theta.slope(theta.inverse(m)), m, rtol=1e-10, atol=0)


def test_published_formulas_of_piecewise_thetas():
    """The table's own expressions, piece by piece, against the way they are computed."""
    log, sqrt = torch.log, torch.sqrt
    t = f64(-4.0, -1.5, -0.75, -0.6)
    rows = [
        (univariate.LOG_EXP, t, -log(1 - t)), (univariate.LOG_QUAD_2, t, -log(-2 * t) / 4 - 3 / 8),
        (univariate.LOG_BARRIER_QUAD, t, -log(-t) - 1), (univariate.HYPER_BARRIER_QUAD, t, -1 / t),
        (univariate.HYPER_LOG_QUAD, t, torch.where(t <= -1, 4 / (1 - t) - 2, -log(-t))),
        (univariate.CUBIC_QUAD, t, torch.zeros_like(t) - 1 / 24),
        (univariate.SMOOTH_PLUS, t, (t + sqrt(t * t + 4)) / 2),
    ]  # fmt: skip
    t = f64(0.6, 1.0, 7.0)
    s = (1 + t + sqrt((1 + t) ** 2 + 8)) / 4
    rows += [
        (univariate.LOG_EXP, t, torch.exp(2 * t - 1) + math.log(2) - 1),
        (univariate.LOG_QUAD_1, t, 2 * t * t + math.log(2) - 0.5), (univariate.LOG_QUAD_2, t, t * t / 2 + t),
        (univariate.HYPER_EXP, t, torch.exp(4 * t - 2)), (univariate.HYPER_QUAD, t, 8 * t * t - 4 * t + 1),
        (univariate.DUAL_LOG_QUAD, t, s * s + log(s) - 1), (univariate.CUBIC_QUAD, t, t * t / 2),
        (univariate.EXP_QUAD, t, math.exp(0.5) * (t * t / 2 + t / 2 + 5 / 8)),
        (univariate.LOG_BARRIER_QUAD, t, 2 * t * t + 4 * t + 0.5 + math.log(2)),
        (univariate.HYPER_BARRIER_QUAD, t, 8 * t * t + 12 * t + 6),
        (univariate.HYPER_LOG_QUAD, t, 8 * t * t + 8 * t + 1.5 + 2 * math.log(2)),
    ]  # fmt: skip
    for theta, at, expected in rows:
        torch.testing.assert_close(theta.value(at), expected, rtol=1e-13, atol=1e-13)


# --------------------------------------------------------------------------------------------- calling and registry


def test_broadcasting_dtypes_and_modes():
    for name in SHIPPED:
        p = get(name)
        y = torch.linspace(-1, 1, 6).reshape(2, 3)
        rho, mu = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor([[0.5], [1.5]])
        assert p(y, rho, mu).shape == p.derivative(y, rho, mu).shape == (2, 3)
        assert p(y[:, :1], rho, 1.0).shape == p.derivative(y[:, :1], rho, 1.0).shape == (2, 3)
        assert p(y, rho, mu).dtype == torch.float32
        half = p(y.half(), 2.0, 1e5)
        assert half.dtype == p.derivative(y.half(), 2.0, 1.0).dtype == torch.float16
        with torch.inference_mode():
            torch.testing.assert_close(p.derivative(y, 2.0, 1.0), p.autograd_slope(y, 2.0, 1.0), rtol=1e-4, atol=1e-5)


def test_derivative_leaves_the_graph_alone():
    closed, auto = get("P2"), Penalty("auto", get("P2").value)
    y = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    mu = torch.ones(5, dtype=torch.float64, requires_grad=True)
    h = y.exp()
    with torch.no_grad():
        expected = auto.derivative(h, 2.0, mu)
    for p in (closed, auto):
        d = p.derivative(h, 2.0, mu)
        assert not d.requires_grad and y.grad is None and mu.grad is None
        torch.testing.assert_close(d, expected)
    closed(h, 2.0, 1.0).sum().backward()  # the graph of h is still there
    assert y.grad is not None
    torch.testing.assert_close(y.grad, h.detach() * closed.derivative(h, 2.0, 1.0))


def test_user_penalty(clean_registry):
    @penalty(name="mine")
    def mine(y, rho, mu):
        """An exponential penalty."""
        return mu / rho * torch.expm1(rho * y)

    assert isinstance(mine, Penalty) and get("mine") is mine and "mine" in names()
    assert mine.__doc__ == "An exponential penalty."
    check_penalty(mine)
    check_penalty("mine")
    torch.testing.assert_close(mine.derivative(f64(1.0), 1.0, 2.0), f64(2 * math.e))

    @penalty(name="mine", derivative=lambda y, rho, mu: (mu + rho * y).clamp_min(0))
    def again(y, rho, mu):
        return phr(y, rho, mu)

    assert get("mine") is again
    check_penalty(again)


def test_shipped_names_are_protected(clean_registry):
    with pytest.raises(ValueError, match="PHR"):
        penalty(name="PHR")(phr)
    with pytest.raises(TypeError, match="@penalty"):
        penalty(phr)  # type: ignore[arg-type]


def test_get():
    assert get(get("PHR")) is get("PHR")
    wrapped = get(phr)
    assert isinstance(wrapped, Penalty) and wrapped.name == "phr" and "phr" not in names()
    with pytest.raises(ValueError, match="P5-LogQuad1"):
        get("P5-LogQuad")
    with pytest.raises(ValueError, match="PHR"):
        get("phr")
    with pytest.raises(TypeError, match="int"):
        get(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("y", [1.0, [1.0], torch.tensor([1]), None])
def test_y_must_be_a_floating_tensor(y):
    for f in (get("PHR"), get("PHR").derivative):
        with pytest.raises(TypeError, match="^y: "):
            f(y, 1.0, 1.0)


def test_check_penalty_rejects_half_precision():
    with pytest.raises(ValueError, match="float16"):
        check_penalty("PHR", dtype=torch.float16)


def test_hypothesis_is_imported_lazily_and_missed_clearly(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)  # from here on `import hypothesis` fails
    for module in ("constropt.testing.penalties", "constropt.testing"):
        monkeypatch.delitem(sys.modules, module)
    from constropt.testing import check_penalty

    with pytest.raises(ImportError, match=r"constropt\[test\]"):
        check_penalty("PHR")


def test_documentation_lists_every_penalty():
    page = (Path(__file__).parent.parent / "docs" / "penalties.md").read_text()
    for name in SHIPPED:
        family, _, theta = name.partition("-")
        assert f"`{family}`" in page or f"`{family}-" in page
        assert f"`{theta}`" in page if theta else f"`{name}`" in page
