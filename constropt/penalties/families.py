"""The families P4 to P9: each a function from a univariate theta to a `Penalty`, registered as "P5-LogQuad1".

Birgin, Castillo & Martinez, Numerical comparison of augmented Lagrangian algorithms for nonconvex problems, Comput.
Optim. Appl. 31 (2005). Only the combinations that satisfy the four axioms are registered: P4 with the functions whose
slope is 0 at 0, P5 to P8 with those whose slope covers (0, infinity), P9 with those whose slope covers (0, 1). See
docs/penalties.md for the others and the axiom that each fails.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .base import BIRGIN, Penalty, register
from .univariate import OF_P4, OF_P5_TO_P8, OF_P9, Theta


def p4(theta: Theta) -> Penalty:
    """P4: mu y + theta(rho y)/rho where its slope mu + theta'(rho y) is >= 0, its minimum (a constant) elsewhere.

    Needs theta convex with theta(0) = theta'(0) = 0. Without the truncation it is the form for equality constraints.
    Quadratic gives PHR; the minima are -mu^2/(2 rho) (Quadratic), -mu^4/(4 rho) (FourThirds) and
    (sqrt(1 + mu^2) - 1 - mu asinh(mu))/rho (Cosh).
    """

    def untruncated(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
        return torch.addcmul(theta.value(rho * y) / rho, mu, y)

    def untruncated_slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
        return mu + theta.slope(rho * y)

    def value(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
        z = torch.maximum(rho * y, theta.inverse(-mu))  # stops at the minimum, where mu + theta'(z) = 0
        return torch.addcmul(theta.value(z), mu, z) / rho

    def slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
        return untruncated_slope(y, rho, mu).clamp_min_(0)  # theta' increases: below the minimum means below 0

    formula = "mu y + theta(rho y)/rho"
    equality = _build("P4", theta, untruncated, untruncated_slope, None, formula, suffix=" (equality)")
    return _build("P4", theta, value, slope, equality, f"{formula} where mu + theta'(rho y) >= 0, else its minimum")


def p5(theta: Theta) -> Penalty:
    """P5: (mu/rho) c theta(rho y), minus the constant that makes P(0) = 0."""
    formula = "(mu/rho) c (theta(rho y) - theta(0))"
    return _scaled("P5", theta, formula, lambda rho, mu: rho, lambda term, rho, mu: mu / rho * term)


def p6(theta: Theta) -> Penalty:
    """P6: (1/rho) c theta(rho mu y), minus the constant that makes P(0) = 0."""
    formula = "(1/rho) c (theta(rho mu y) - theta(0))"
    return _scaled("P6", theta, formula, lambda rho, mu: rho * mu, lambda term, rho, mu: term / rho)


def p7(theta: Theta) -> Penalty:
    """P7: (mu^2/rho) c theta(rho y/mu), minus the constant that makes P(0) = 0."""
    formula = "(mu^2/rho) c (theta(rho y/mu) - theta(0))"
    return _scaled("P7", theta, formula, lambda rho, mu: rho / mu, lambda term, rho, mu: mu.square() / rho * term)


def _scaled(
    family: str, theta: Theta, formula: str,
    stretch: Callable[[Tensor, Tensor], Tensor], weighed: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Penalty:  # fmt: skip
    """``weighed(c (theta(stretch y) - theta(0)))``, where weight times stretch is mu."""

    def value(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
        return weighed(theta.c * (theta.value(stretch(rho, mu) * y) - theta.zero), rho, mu)

    def slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
        return mu * (theta.c * theta.slope(stretch(rho, mu) * y))

    return _build(family, theta, value, slope, None, formula)


def p8(theta: Theta) -> Penalty:
    """P8: (theta(rho y + t) - theta(t))/rho with t such that theta'(t) = mu."""

    def value(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
        t = theta.inverse(mu)
        return (theta.value(torch.addcmul(t, rho, y)) - theta.value(t)) / rho

    def slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
        return theta.slope(torch.addcmul(theta.inverse(mu), rho, y))

    return _build("P8", theta, value, slope, None, "(theta(rho y + t) - theta(t))/rho with theta'(t) = mu")


def p9(theta: Theta) -> Penalty:
    """P9: theta(rho y + t) - theta(t) with t such that rho theta'(t) = mu.

    Needs theta' in (0, 1), and rho > mu: max(rho, 2 mu) stands for rho throughout.
    """

    def shifted(y: Tensor, rho: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rho = torch.maximum(rho, 2 * mu)
        t = theta.inverse(mu / rho)
        return rho, t, torch.addcmul(t, rho, y)

    def value(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
        _, t, z = shifted(y, rho, mu)
        return theta.value(z) - theta.value(t)

    def slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
        rho, _, z = shifted(y, rho, mu)
        return rho * theta.slope(z)

    formula = "theta(r y + t) - theta(t) with r theta'(t) = mu, r = max(rho, 2 mu)"
    return _build("P9", theta, value, slope, None, formula)


def _build(family, theta, value, slope, equality, formula, suffix="") -> Penalty:
    if " c " in formula and theta.c == math.inf:
        raise ValueError(f"theta: {theta.name} has slope 0 at 0, so no scale c gives P'(0) = mu (Axiom 2)")
    c = f", c = {theta.c:.4g}" if " c " in formula else ""
    value.__doc__ = f"{family}-{theta.name}{suffix}: {formula}; theta(t) = {theta.formula}{c}.\n\n{BIRGIN}.\n"
    return Penalty(f"{family}-{theta.name}{suffix}", value, slope, equality, BIRGIN, formula)


FAMILIES = {p4: OF_P4, p5: OF_P5_TO_P8, p6: OF_P5_TO_P8, p7: OF_P5_TO_P8, p8: OF_P5_TO_P8, p9: OF_P9}

for _family, _thetas in FAMILIES.items():
    for _theta in _thetas:
        register(_family(_theta), shipped=True)
