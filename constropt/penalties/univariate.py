"""The univariate functions theta that the families P4 to P9 are built from (Birgin, Castillo & Martinez, 2005).

Each is a value, its slope theta', and the inverse t of the slope (theta'(t(m)) = m), with two constants: theta(0), and
the scale c that makes c theta'(0) = 1. All pieces are written so that autograd never meets an undefined branch: a
function that changes formula at `a` is left(min(t, a)) + right(max(t - a, 0)), where `clamp_max` passes the gradient at
the tie and `relu` does not, so that exactly one piece counts there.

An exponential e^u continues beyond u = 30 by its quadratic Taylor polynomial e^30 (1 + s + s^2/2), s = u - 30 (same
value, slope and curvature; its slope still grows without bound, which Axiom 3 needs). float32 then stays finite for
rho*y up to 1e6. A cosh continues in the same way beyond |t| = 30.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Theta:
    """theta(t), theta'(t), the t at which theta' equals a given number, c = 1/theta'(0) and theta(0).

    c is infinite where the slope is 0 at 0 (the functions of P4).
    """

    name: str
    formula: str
    value: Map
    slope: Map
    inverse: Map
    c: float = 1.0
    zero: float = 0.0


def quadratic_beyond(
    name: str, formula: str, f: Map, df: Map, inverse: Map, *, at: float, slope: float, curvature: float,
    c: float = 1.0, zero: float = 0.0,
) -> Theta:  # fmt: skip
    """f up to `at`, then the parabola with the same value and slope there and the given curvature.

    `inverse` inverts df below `slope` = df(at).
    """

    def value(t: Tensor) -> Tensor:
        s = (t - at).relu()
        return torch.addcmul(f(t.clamp_max(at)), s, torch.add(s.new_full((), slope), s, alpha=curvature / 2))

    def derivative(t: Tensor) -> Tensor:
        return torch.add(df(t.clamp_max(at)), (t - at).relu(), alpha=curvature)

    def t_of(m: Tensor) -> Tensor:
        return torch.add(inverse(m.clamp_max(slope)), (m - slope).relu(), alpha=1 / curvature)

    return Theta(name, formula, value, derivative, t_of, c, zero)


def absolute(t: Tensor) -> Tensor:
    """|t| with gradient -1 (not 0) at 0: the other half of `relu`, whose gradient is 0 there."""
    return torch.add(-t, t.relu(), alpha=2)


def hyperbola(t: Tensor, k: float) -> Tensor:
    """(t + sqrt(t^2 + k))/2, the positive root of x^2 - t x = k/4, without cancellation for t << 0."""
    return t.relu() + (k / 2) / (torch.sqrt(t.square() + k) + absolute(t))


# ------------------------------------------------------------------------------------ the three functions of P4

LIMIT = 30.0  # where exponentials are continued
SINH, COSH = math.sinh(LIMIT), math.cosh(LIMIT)


def _cosh(t: Tensor) -> Tensor:
    s = (t.abs() - LIMIT).relu()
    half = torch.sinh(t.clamp(-LIMIT, LIMIT) / 2)
    return 2 * half.square() + s * torch.add(s.new_full((), SINH), s, alpha=COSH / 2)  # cosh(t) - 1 = 2 sinh(t/2)^2


def _sinh(t: Tensor) -> Tensor:
    # not t - clamp(t): differentiated, that is COSH - COSH beside a number around 1, which loses all its digits
    beyond = (t.abs() - LIMIT).relu() * t.sign()
    return torch.add(torch.sinh(t.clamp(-LIMIT, LIMIT)), beyond, alpha=COSH)


def _asinh(m: Tensor) -> Tensor:
    inside = m.clamp(-SINH, SINH)
    return torch.add(torch.asinh(inside), m - inside, alpha=1 / COSH)


QUADRATIC = Theta("Quadratic", "t^2/2", lambda t: t.square() / 2, lambda t: t, lambda m: m, math.inf)
FOUR_THIRDS = Theta(
    "FourThirds", "(3/4) |t|^(4/3)",
    lambda t: 0.75 * t.abs().pow(4 / 3), lambda t: t.sign() * t.abs().pow(1 / 3), lambda m: m * m * m, math.inf,
)  # fmt: skip
HYPERBOLIC_COSINE = Theta("Cosh", "cosh(t) - 1", _cosh, _sinh, _asinh, math.inf)

# ------------------------------------------------------------------- the twelve functions of P5 to P8: slope in (0, oo)

EXP = quadratic_beyond(
    "Exp", "e^t - 1",
    lambda t: torch.exp(t) - 1,  # not expm1: its gradient is computed as expm1(t) + 1, which has no digits for t << 0
    torch.exp, torch.log,
    at=LIMIT, slope=math.exp(LIMIT), curvature=math.exp(LIMIT),
)  # fmt: skip


def exponential_beyond(
    name: str, formula: str, f: Map, df: Map, inverse: Map, *, at: float, rate: float, slope: float
) -> Theta:
    """f up to `at`, then f(at) + (slope/rate) (e^(rate (t - at)) - 1): same value, same slope."""

    def value(t: Tensor) -> Tensor:
        return torch.add(f(t.clamp_max(at)), EXP.value(rate * (t - at).relu()), alpha=slope / rate)

    def derivative(t: Tensor) -> Tensor:
        return torch.add(df(t.clamp_max(at)), EXP.slope(rate * (t - at).relu()) - 1, alpha=slope)

    def t_of(m: Tensor) -> Tensor:
        return torch.add(inverse(m.clamp_max(slope)), EXP.inverse((m / slope).clamp_min(1)), alpha=1 / rate)

    return Theta(name, formula, value, derivative, t_of)


# -log(1 - t) and t/(1 - t), their slopes, and the inverses of these
_LOG: tuple[Map, Map, Map] = lambda t: -torch.log1p(-t), lambda t: 1 / (1 - t), lambda m: 1 - 1 / m
_HYPER: tuple[Map, Map, Map] = lambda t: t / (1 - t), lambda t: (1 - t).square().reciprocal(), lambda m: 1 - m.rsqrt()

LOG_EXP = exponential_beyond(
    "LogExp", "-log(1 - t) if t <= 1/2, else e^(2t - 1) + log 2 - 1", *_LOG, at=0.5, rate=2.0, slope=2.0
)
LOG_QUAD_1 = quadratic_beyond(
    "LogQuad1", "-log(1 - t) if t <= 1/2, else 2t^2 + log 2 - 1/2", *_LOG, at=0.5, slope=2.0, curvature=4.0
)
LOG_QUAD_2 = quadratic_beyond(
    "LogQuad2", "-(1/4) log(-2t) - 3/8 if t <= -1/2, else t^2/2 + t",
    lambda t: -0.25 * torch.log(-2 * t) - 0.375, lambda t: -0.25 / t, lambda m: -0.25 / m,
    at=-0.5, slope=0.5, curvature=1.0,
)  # fmt: skip
HYPER_EXP = exponential_beyond(
    "HyperExp", "t/(1 - t) if t <= 1/2, else e^(4t - 2)", *_HYPER, at=0.5, rate=4.0, slope=4.0
)
HYPER_QUAD = quadratic_beyond(
    "HyperQuad", "t/(1 - t) if t <= 1/2, else 8t^2 - 4t + 1", *_HYPER, at=0.5, slope=4.0, curvature=16.0
)


def _dual(t: Tensor) -> Tensor:  # s, which is also the slope: theta'(t) = s
    return hyperbola(1 + t, 8.0) / 2


def _dual_value(t: Tensor) -> Tensor:
    s = _dual(t)
    return s.square() + torch.log(s) - 1


DUAL_LOG_QUAD = Theta(
    "DualLogQuad", "s^2 + log s - 1 with s = (1 + t + sqrt((1 + t)^2 + 8))/4",
    _dual_value, _dual, lambda m: 2 * m - 1 / m - 1,
)  # fmt: skip


CUBIC_QUAD = quadratic_beyond(
    "CubicQuad", "(1/6) max(0, t + 1/2)^3 - 1/24 if t <= 1/2, else t^2/2",
    lambda t: (t + 0.5).relu().pow(3) / 6 - 1 / 24, lambda t: (t + 0.5).relu().square() / 2,
    lambda m: torch.sqrt(2 * m) - 0.5,
    at=0.5, slope=0.5, curvature=1.0, c=8.0, zero=-1 / 48,
)  # fmt: skip
EXP_QUAD = quadratic_beyond(
    "ExpQuad", "e^t if t <= 1/2, else e^(1/2) (t^2/2 + t/2 + 5/8)",
    torch.exp, torch.exp, torch.log,
    at=0.5, slope=math.exp(0.5), curvature=math.exp(0.5), zero=1.0,
)  # fmt: skip
LOG_BARRIER_QUAD = quadratic_beyond(
    "LogBarrierQuad", "-log(-t) - 1 if t <= -1/2, else 2t^2 + 4t + 1/2 + log 2",
    lambda t: -torch.log(-t) - 1, lambda t: -1 / t, lambda m: -1 / m,
    at=-0.5, slope=2.0, curvature=4.0, c=1 / 4, zero=0.5 + math.log(2),
)  # fmt: skip
HYPER_BARRIER_QUAD = quadratic_beyond(
    "HyperBarrierQuad", "-1/t if t <= -1/2, else 8t^2 + 12t + 6",
    lambda t: -1 / t, lambda t: t.square().reciprocal(), lambda m: -m.rsqrt(),
    at=-0.5, slope=4.0, curvature=16.0, c=1 / 12, zero=6.0,
)  # fmt: skip


def _hyper_log(t: Tensor) -> Tensor:  # 4/(1 - t) - 2 up to t = -1, then -log(-t); both pieces are 0 at -1
    return 4 / (1 - t.clamp_max(-1)) - 2 - torch.log1p(-(t + 1).relu())


def _hyper_log_slope(t: Tensor) -> Tensor:
    return torch.where(t <= -1, 4 / (1 - t).square(), -1 / t)


def _hyper_log_inverse(m: Tensor) -> Tensor:
    return torch.where(m <= 1, 1 - 2 * m.rsqrt(), -1 / m)


HYPER_LOG_QUAD = quadratic_beyond(
    "HyperLogQuad", "4/(1 - t) - 2 if t <= -1, -log(-t) if t <= -1/4, else 8t^2 + 8t + 3/2 + 2 log 2",
    _hyper_log, _hyper_log_slope, _hyper_log_inverse,
    at=-0.25, slope=4.0, curvature=16.0, c=1 / 8, zero=1.5 + 2 * math.log(2),
)  # fmt: skip

# ---------------------------------------------------------------------- the three functions of P9: slope in (0, 1)


def _smooth_plus_slope(t: Tensor) -> Tensor:
    q = torch.sqrt(t.square() + 4)
    below = 2 / (q * (q + t.abs()))  # (1 - |t|/q)/2 without cancellation
    return torch.where(t > 0, 1 - below, below)


def _exp_smooth_plus_slope(t: Tensor) -> Tensor:
    below = torch.exp(-t.abs()) / 2
    return torch.where(t > 0, 1 - below, below)


SMOOTH_PLUS = Theta(
    "SmoothPlus", "(t + sqrt(t^2 + 4))/2",
    lambda t: hyperbola(t, 4.0), _smooth_plus_slope, lambda m: (2 * m - 1) / torch.sqrt(m * (1 - m)), 2.0, 1.0,
)  # fmt: skip
NN_SMOOTH_PLUS = Theta(
    "NNSmoothPlus", "log(1 + e^t)",
    lambda t: t.relu() + torch.log1p(torch.exp(-absolute(t))), torch.sigmoid, torch.logit, 2.0, math.log(2),
)  # fmt: skip
EXP_SMOOTH_PLUS = Theta(
    "ExpSmoothPlus", "e^t/2 if t <= 0, else t + e^(-t)/2",
    lambda t: t.relu() + torch.exp(-absolute(t)) / 2, _exp_smooth_plus_slope,
    lambda m: torch.where(m <= 0.5, torch.log(2 * m), -torch.log(2 * (1 - m))), 2.0, 0.5,
)  # fmt: skip

OF_P4 = (QUADRATIC, FOUR_THIRDS, HYPERBOLIC_COSINE)
OF_P5_TO_P8 = (
    EXP, LOG_EXP, LOG_QUAD_1, LOG_QUAD_2, HYPER_EXP, HYPER_QUAD, DUAL_LOG_QUAD, CUBIC_QUAD, EXP_QUAD,
    LOG_BARRIER_QUAD, HYPER_BARRIER_QUAD, HYPER_LOG_QUAD,
)  # fmt: skip
OF_P9 = (SMOOTH_PLUS, NN_SMOOTH_PLUS, EXP_SMOOTH_PLUS)
