"""The penalties with a formula of their own: PHR, P1, P2, P2 with a floor on rho, P3.

All are written in z = rho * y, split as z = z+ + z- (z+ = max(z, 0), z- = min(z, 0)), so that no branch is evaluated
where it is undefined and autograd stays finite on both sides. `relu` has gradient 0 at 0 and `clamp_max` gradient 1:
at a junction exactly one side contributes, and the gradient there is right too.
"""

import torch
from torch import Tensor

from .base import BIRGIN, RONY, Penalty, register


def phr(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """PHR (Powell, Hestenes, Rockafellar): (max(0, mu + rho y)^2 - mu^2) / (2 rho).

    Birgin, Castillo & Martinez (2005); Rony (2023), Eq. A III-9.
    """
    # no difference of two squares: small y keep their digits; and few new tensors, which take the time for large y
    y = torch.maximum(y, mu.div(rho).neg_())
    return y * torch.addcmul(mu, rho, y, value=0.5)


def phr_slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """max(0, mu + rho y)"""
    return torch.addcmul(mu, rho, y).clamp_min_(0)


def phr_equality(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """PHR for an equality constraint: mu y + rho y^2 / 2, mu of any sign. Birgin, Castillo & Martinez (2005)."""
    return y * torch.addcmul(mu, rho, y, value=0.5)


def phr_equality_slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """mu + rho y"""
    return torch.addcmul(mu, rho, y)


def p1(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """P1: PHR + rho^2 max(0, y)^3.

    Birgin, Castillo & Martinez (2005); Rony (2023), Eq. A III-10.
    """
    z = torch.maximum(rho * y, -mu)
    return z * torch.addcmul(mu, z, 0.5 + z.relu()) / rho


def p1_slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """max(0, mu + rho y) + 3 max(0, rho y)^2"""
    z = rho * y
    above = z.relu()
    return torch.addcmul((mu + z).clamp_min_(0), above, above, value=3)


def p2(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """P2: mu y + mu rho y^2 + rho^2 y^3 / 6 if y >= 0, else mu y / (1 - rho y).

    Birgin, Castillo & Martinez (2005); Rony (2023), Eq. A III-11.
    """
    z = rho * y
    return _p2(y, z, z, mu)


def p2_slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """mu + 2 mu rho y + (rho y)^2 / 2 if y >= 0, else mu / (1 - rho y)^2"""
    z = rho * y
    return _p2_slope(z, z, mu)


def p2_floor(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """P2 with rho floored at 1 on the feasible side: as P2 if y >= 0, else mu y / (1 - max(1, rho) y).

    Multipliers of met constraints still decrease when rho < 1. Both sides give P'(0) = mu; the second derivative
    jumps at 0. Rony (2023), Eq. 5.9.
    """
    return _p2(y, rho * y, rho.clamp_min(1) * y, mu)


def p2_floor_slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """mu + 2 mu rho y + (rho y)^2 / 2 if y >= 0, else mu / (1 - max(1, rho) y)^2"""
    return _p2_slope(rho * y, rho.clamp_min(1) * y, mu)


def _p2(y: Tensor, violated: Tensor, met: Tensor, mu: Tensor) -> Tensor:
    above = violated.relu()
    return y * torch.addcmul(mu / _barrier(met), above, torch.add(mu, above, alpha=1 / 6))


def _p2_slope(violated: Tensor, met: Tensor, mu: Tensor) -> Tensor:
    above = violated.relu()
    return (mu * _steep(met).add_(above, alpha=2)).addcmul_(above, above, value=0.5)


def _barrier(z: Tensor) -> Tensor:
    """1 - min(z, 0) >= 1: what the feasible side of P2 and P3 divides by."""
    return 1 - z.clamp_max(0)


def _steep(z: Tensor) -> Tensor:
    """(1 - min(z, 0))^-2 <= 1, their slope there. In place: with millions of entries, memory takes the time.

    (The slopes stay differentiable by autograd, which keeps what it needs of a tensor before it is overwritten.)
    """
    return z.clamp_max(0).sub_(1).pow_(-2)


def p3(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """P3: mu y + mu rho y^2 if y >= 0, else mu y / (1 - rho y).

    Birgin, Castillo & Martinez (2005); Rony (2023), Eq. A III-12.
    """
    z = rho * y
    return mu * y * (_barrier(z).reciprocal() + z.relu())


def p3_slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """mu (1 + 2 rho y) if y >= 0, else mu / (1 - rho y)^2"""
    z = rho * y
    return mu * _steep(z).add_(z.relu(), alpha=2)


BOTH = f"{BIRGIN}; {RONY}"
_CUBIC = "mu y + mu rho y^2 + rho^2 y^3 / 6 if y >= 0, else mu y / "
_EQUALITY = Penalty("PHR (equality)", phr_equality, phr_equality_slope, None, BIRGIN, "mu y + rho y^2 / 2")

for _penalty in (
    Penalty("PHR", phr, phr_slope, _EQUALITY, f"{BOTH}, Eq. A III-9", "(max(0, mu + rho y)^2 - mu^2) / (2 rho)"),
    Penalty("P1", p1, p1_slope, None, f"{BOTH}, Eq. A III-10", "PHR + rho^2 max(0, y)^3"),
    Penalty("P2", p2, p2_slope, None, f"{BOTH}, Eq. A III-11", f"{_CUBIC}(1 - rho y)"),
    Penalty("P2Floor", p2_floor, p2_floor_slope, None, f"{RONY}, Eq. 5.9", f"{_CUBIC}(1 - max(1, rho) y)"),
    Penalty("P3", p3, p3_slope, None, f"{BOTH}, Eq. A III-12", "mu y + mu rho y^2 if y >= 0, else mu y / (1 - rho y)"),
):
    register(_penalty, shipped=True)
