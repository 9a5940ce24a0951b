"""Convex problems whose optimum is known without any solver of the library: closed forms, root finding, KKT systems.

Every problem is a batch of rows (some with active constraints, some without) in float64, scaled so that the optimal
multipliers of active constraints are around 1, with the constants that a step size is computed from.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from constropt import Box, ConstrainedProblem, Simplex, equality, inequality
from constropt.penalties import get


@dataclass(frozen=True)
class Convex:
    """``problem`` from ``start``, with what is known: ``optimum`` of ``read(x)`` (x itself, but for the split LASSO).

    ``curvature`` bounds the objective's Hessian, ``jacobian`` the squared spectral norm of the constraints' Jacobian,
    ``bend`` that of the constraints' Hessian; multipliers lie between ``least_multiplier`` and ``multiplier``.
    """

    name: str
    problem: ConstrainedProblem
    start: Tensor
    optimum: Tensor
    curvature: float
    jacobian: float
    bend: float = 0.0
    multiplier: float = 3.0
    least_multiplier: float = 3e-3
    read: Callable[[Tensor], Tensor] = lambda x: x

    def distance(self, x: Tensor) -> float:
        """The largest Euclidean distance of a row to its optimum."""
        return (self.read(x) - self.optimum).norm(dim=1).max().item()

    def step_size(self, penalty: str, rho: float) -> float:
        """1 / L, with L a Lipschitz constant of the gradient of g(x) + sum_i P(h_i(x), rho, mu_i)."""
        between = self.least_multiplier, self.multiplier
        steepest = steepness(penalty, rho, *between)
        if any(constraint.equality for constraint in self.problem.constraints):
            steepest = max(steepest, steepness(penalty, rho, *between, equal=True))
        return 1 / (self.curvature + self.jacobian * steepest + self.bend * self.multiplier)


def steepness(penalty: str, rho: float, least: float, most: float, *, equal: bool = False) -> float:
    """The largest second derivative of P in y over y in [-1, 1] with |P'| <= most, and mu from least to most."""
    p = get(penalty)
    if equal:
        assert p.equality is not None
        p = p.equality
    mu = torch.logspace(math.log10(least), math.log10(most), 40, dtype=torch.float64)[:, None]
    y = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    slope = p.derivative(y.expand(40, -1), rho, mu)
    second = slope.diff(dim=1) / y.diff()
    return second[slope[:, 1:].abs() <= most].max().item()


def quadratic(rows: Sequence[int] = (0, 1, 2)) -> Convex:
    """min x'Qx/2 - b'x s.t. Ax <= c; both constraints active, one, none. Optimum: KKT systems of all active sets."""
    Q = np.array([[1.0, 0.3, 0.0], [0.3, 1.2, 0.2], [0.0, 0.2, 0.8]])
    A = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]])
    c = np.array([0.5, 0.5])
    b = np.array([[2.0, 2.0, 0.5], [2.0, -1.0, 0.3], [-0.6, -0.5, 0.1]])[list(rows)]
    optimum = torch.tensor(np.array([_active_set(Q, row, A, c) for row in b]))
    Qt, At, ct, bt = (torch.tensor(array) for array in (Q, A, c, b))
    problem = ConstrainedProblem(
        objective=lambda x, _: ((x @ Qt) * x).sum(1) / 2 - (bt * x).sum(1),
        constraints=[inequality(lambda x, _: x @ At.T - ct, name="linear")],
    )
    return Convex("quadratic", problem, torch.zeros_like(optimum), optimum, _largest(Q), _largest(A @ A.T))


def ball(rows: Sequence[int] = (0, 1, 2)) -> Convex:
    """Projection onto the unit ball in the box [0, 1]; the last row is inside. Optimum: a root for the multiplier."""
    a = torch.tensor([[2.0, 1.0, 0.4, -0.5], [1.1, 1.2, 0.9, 0.1], [0.3, -0.2, 0.4, 0.1]], dtype=torch.float64)
    a = a[list(rows)]

    def at(row: Tensor, mu: float) -> Tensor:
        return (row / (1 + mu)).clamp(0, 1)

    roots = [
        0.0 if at(row, 0).norm() <= 1 else brentq(lambda mu, row=row: at(row, mu).norm().item() - 1, 0, 10, xtol=1e-14)
        for row in a
    ]
    optimum = torch.stack([at(row, root) for row, root in zip(a, roots)])
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - a).square().sum(1) / 2,
        constraints=[inequality(lambda x, _: (x.square().sum(1) - 1) / 2, name="ball")],
        domain=Box(0.0, 1.0),
    )
    return Convex("ball", problem, torch.full_like(a, 0.1), optimum, 1.0, 1.0, bend=1.0)


def lasso(rows: Sequence[int] = (0, 1, 2)) -> Convex:
    """min |Mw - b|^2/2 s.t. |w|_1 <= t, smooth as w = u - v, u, v >= 0, sum(u + v) <= t. Optimum: all sign patterns."""
    M = np.array([[1.0, 0.2, 0.0], [0.0, 0.9, 0.3], [0.3, 0.0, 1.0], [0.1, 0.1, 0.1]])
    b = np.array([[1.5, -1.4, 0.5, 0.0], [0.2, 1.3, 1.2, 0.5], [1.7, 0.2, -0.1, 0.3]])[list(rows)]
    t = 1.0
    optimum = torch.tensor(np.array([_l1_constrained(M, row, t) for row in b]))
    Mt, bt = torch.tensor(M), torch.tensor(b)
    problem = ConstrainedProblem(
        objective=lambda x, _: ((x[:, :3] - x[:, 3:]) @ Mt.T - bt).square().sum(1) / 2,
        constraints=[inequality(lambda x, _: (x.sum(1) - t) / 6**0.5, name="l1")],
        domain=Box(0.0, float("inf")),
    )
    start = torch.full((len(b), 6), 0.05, dtype=torch.float64)
    return Convex("lasso", problem, start, optimum, 2 * _largest(M.T @ M), 1.0, read=lambda x: x[:, :3] - x[:, 3:])


def entropy(rows: Sequence[int] = (0, 1, 2)) -> Convex:
    """min sum x log x + c'x over the simplex s.t. a'x <= b. Optimum: x_i ~ exp(-c_i - mu a_i), mu by root finding.

    Below 0.05 the entropy continues by its parabola (same value, slope and curvature); the optima lie above.
    """
    c = np.array([[-0.2, 0.3, 0.0, 0.4], [-0.5, -0.6, 0.0, 0.3], [0.8, 0.5, 0.1, 0.0]])[list(rows)]
    a, b = np.array([1.0, 0.5, -0.5, -1.0]), -0.2

    def at(row: np.ndarray, mu: float) -> np.ndarray:
        weights = np.exp(-row - mu * a)
        return weights / weights.sum()

    roots = [0.0 if at(r, 0) @ a <= b else brentq(lambda mu, r=r: at(r, mu) @ a - b, 0, 50, xtol=1e-14) for r in c]
    optimum = torch.tensor(np.array([at(row, root) for row, root in zip(c, roots)]))
    assert optimum.min() > 0.05
    ct, at_ = torch.tensor(c), torch.tensor(a)
    problem = ConstrainedProblem(
        objective=lambda x, _: (_x_log_x(x) + ct * x).sum(1),
        constraints=[inequality(lambda x, _: x @ at_ - b, name="moment")],
        domain=Simplex(),
    )
    return Convex("entropy", problem, torch.full_like(optimum, 0.25), optimum, 20.0, float(a @ a))


def balance() -> Convex:
    """min x'Qx/2 - b'x s.t. Ex = d. Optimum: one KKT system."""
    Q = np.array([[1.0, 0.3, 0.0], [0.3, 1.2, 0.2], [0.0, 0.2, 0.8]])
    E, d = np.array([[0.6, 0.6, 0.6], [0.7, -0.7, 0.0]]), np.array([0.5, -0.2])
    b = np.array([[1.0, 0.0, 0.5], [-1.0, 1.0, 2.0]])
    system = np.block([[Q, E.T], [E, np.zeros((2, 2))]])
    optimum = torch.tensor(np.array([np.linalg.solve(system, np.concatenate([row, d]))[:3] for row in b]))
    Qt, Et, dt, bt = (torch.tensor(array) for array in (Q, E, d, b))
    problem = ConstrainedProblem(
        objective=lambda x, _: ((x @ Qt) * x).sum(1) / 2 - (bt * x).sum(1),
        constraints=[equality(lambda x, _: x @ Et.T - dt, name="balance")],
    )
    return Convex("balance", problem, torch.zeros_like(optimum), optimum, _largest(Q), _largest(E @ E.T))


def simplex() -> Convex:
    """Projection onto the simplex as an equality and positivity. Optimum: max(a - tau, 0), tau by root finding."""
    a = torch.tensor([[1.5, 0.2, -0.8], [0.9, 0.8, 0.7], [-0.5, 0.3, 1.0]], dtype=torch.float64)
    taus = [brentq(lambda tau, row=row: (row - tau).clamp_min(0).sum().item() - 1, -2, 2, xtol=1e-14) for row in a]
    optimum = torch.stack([(row - tau).clamp_min(0) for row, tau in zip(a, taus)])
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - a).square().sum(1) / 2,
        constraints=[
            equality(lambda x, _: (x.sum(1) - 1) / 3**0.5, name="sum"),
            inequality(lambda x, _: -x, name="positive"),
        ],
    )
    return Convex("simplex", problem, torch.full_like(a, 1 / 3), optimum, 1.0, 2.0)


# how to build each, and the rows in which every constraint is active at the optimum
INEQUALITIES: dict[str, tuple[Callable[..., Convex], tuple[int, ...]]] = {
    "quadratic": (quadratic, (0,)),
    "ball": (ball, (0, 1)),
    "lasso": (lasso, (0, 1, 2)),
    "entropy": (entropy, (0, 1)),
}
EQUALITIES: dict[str, Callable[[], Convex]] = {"balance": balance, "simplex": simplex}


def _active_set(Q: np.ndarray, b: np.ndarray, A: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The minimiser of x'Qx/2 - b'x over Ax <= c: of all active sets the one with mu >= 0 and Ax <= c."""
    n, m = len(b), len(c)
    for active in itertools.chain.from_iterable(itertools.combinations(range(m), k) for k in range(m + 1)):
        rows = A[list(active)]
        system = np.block([[Q, rows.T], [rows, np.zeros((len(active), len(active)))]])
        solved = np.linalg.solve(system, np.concatenate([b, c[list(active)]]))
        if (solved[n:] >= 0).all() and (A @ solved[:n] <= c + 1e-12).all():
            return solved[:n]
    raise AssertionError("a strongly convex problem with a feasible point has a solution")


def _l1_constrained(M: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The minimiser of |Mw - b|^2/2 over |w|_1 <= t, where the bound is active: the one sign pattern that fits."""
    G, r, n = M.T @ M, M.T @ b, M.shape[1]
    for signs in itertools.product([-1.0, 0.0, 1.0], repeat=n):
        s = np.array(signs)
        on = np.flatnonzero(s)
        if not on.size:
            continue
        system = np.block([[G[np.ix_(on, on)], s[on, None]], [s[None, on], np.zeros((1, 1))]])
        *w_on, mu = np.linalg.solve(system, np.concatenate([r[on], [t]]))
        w = np.zeros(n)
        w[on] = w_on
        residual = r - G @ w
        if mu > 0 and (w * s >= 0).all() and (np.abs(residual) <= mu + 1e-12).all():
            return w
    raise AssertionError("the l1 bound is not active")


def _x_log_x(x: Tensor, junction: float = 0.05) -> Tensor:
    inside, below = x.clamp_min(junction), (x - junction).clamp_max(0)
    slope = 1 + math.log(junction)
    return inside * inside.log() + below * slope + below.square() / (2 * junction)


def _largest(matrix: np.ndarray | Sequence[Sequence[float]]) -> float:
    return float(np.linalg.eigvalsh(np.asarray(matrix)).max())
