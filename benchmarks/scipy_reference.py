"""Reference runs of scipy's SLSQP and trust-constr on one problem, with gradients by torch's autograd."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import BFGS, Bounds, NonlinearConstraint, minimize
from torch import Tensor

Array = NDArray[np.float64]
Method = Literal["SLSQP", "trust-constr"]
Function = Callable[[Tensor], Tensor]


class Problem(Protocol):
    """What ``run_scipy`` reads of a problem (``HSProblem`` and ``SpecialProblem`` have it)."""

    @property
    def x0(self) -> tuple[float, ...]: ...
    @property
    def objective(self) -> Function: ...
    @property
    def inequalities(self) -> Function | None: ...
    @property
    def equalities(self) -> Function | None: ...
    @property
    def lower(self) -> tuple[float, ...] | None: ...
    @property
    def upper(self) -> tuple[float, ...] | None: ...


@dataclass(frozen=True)
class ScipyResult:
    """The outcome of one run; ``status`` is scipy's own code (0 is SLSQP's, 1 and 2 are trust-constr's successes)
    or -1 where scipy raised an error, whose text is then the ``message`` and whose point is the start."""

    x: Array
    f: float
    violation: float
    gradient_evaluations: int
    status: int
    success: bool
    message: str
    seconds: float


class _Counted:
    """An objective on numpy vectors that counts its gradient evaluations."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.gradients = 0

    def value(self, x: Array) -> float:
        with torch.no_grad():
            return float(self.function(torch.tensor(x, dtype=torch.float64).unsqueeze(0)))

    def gradient(self, x: Array) -> Array:
        self.gradients += 1
        point = torch.tensor(x, dtype=torch.float64).unsqueeze(0).requires_grad_()
        value = self.function(point).sum()
        if not value.requires_grad:
            return np.zeros(len(x))
        (gradient,) = torch.autograd.grad(value, point, allow_unused=True)
        return np.zeros(len(x)) if gradient is None else gradient[0].numpy()


def _value(function: Function, x: Array) -> Array:
    with torch.no_grad():
        return function(torch.tensor(x, dtype=torch.float64).unsqueeze(0))[0].numpy()


def _jacobian(function: Function, x: Array) -> Array:
    """All rows by one backward pass: row i is the gradient of component i at copy i of the point in a batch."""
    point = torch.tensor(x, dtype=torch.float64).unsqueeze(0)
    with torch.no_grad():
        rows = function(point).shape[1]
    batch = point.repeat(rows, 1).requires_grad_()
    (jacobian,) = torch.autograd.grad(function(batch).diagonal().sum(), batch)
    return jacobian.numpy()


def _bounds(problem: Problem) -> tuple[Array, Array]:
    n = len(problem.x0)
    lower = np.full(n, -np.inf) if problem.lower is None else np.array(problem.lower, dtype=float)
    upper = np.full(n, np.inf) if problem.upper is None else np.array(problem.upper, dtype=float)
    return lower, upper


def violation(problem: Problem, x: Array) -> float:
    """Largest absolute violation of the constraints and bounds at ``x`` (NaN where a constraint is NaN)."""
    lower, upper = _bounds(problem)
    parts = [np.zeros(1), lower - x, x - upper]
    if problem.inequalities is not None:
        parts.append(_value(problem.inequalities, x))
    if problem.equalities is not None:
        parts.append(np.abs(_value(problem.equalities, x)))
    return float(np.max(np.concatenate(parts)))


def _slsqp_constraints(problem: Problem) -> list[dict[str, object]]:
    constraints: list[dict[str, object]] = []
    if (g := problem.inequalities) is not None:
        constraints.append({"type": "ineq", "fun": lambda x: -_value(g, x), "jac": lambda x: -_jacobian(g, x)})
    if (h := problem.equalities) is not None:
        constraints.append({"type": "eq", "fun": lambda x: _value(h, x), "jac": lambda x: _jacobian(h, x)})
    return constraints


def _trust_constraints(problem: Problem) -> list[NonlinearConstraint]:
    constraints = []
    for function, low in ((problem.inequalities, -np.inf), (problem.equalities, 0.0)):
        if function is not None:
            constraints.append(
                NonlinearConstraint(
                    lambda x, c=function: _value(c, x),
                    low,
                    0.0,
                    jac=lambda x, c=function: _jacobian(c, x),  # pyright: ignore[reportArgumentType]
                    hess=BFGS(),
                )
            )
    return constraints


def run_scipy(
    problem: Problem, method: Method, x0: Array | None = None, tolerance: float = 1e-9, max_iterations: int = 1000
) -> ScipyResult:
    """Run scipy's ``method`` on ``problem`` from ``x0`` (by default the problem's own start).

    The start is clipped to the bounds, for trust-constr to their interior, as it then keeps them strictly
    (functions such as a logarithm may be undefined outside).
    """
    lower, upper = _bounds(problem)
    start = np.array(problem.x0 if x0 is None else x0, dtype=float)
    objective = _Counted(problem.objective)
    bounded = bool(np.isfinite(lower).any() or np.isfinite(upper).any())
    begin = time.perf_counter()
    if method == "SLSQP":
        start = np.clip(start, lower, upper)
        bounds = Bounds(lower, upper) if bounded else None  # pyright: ignore[reportArgumentType]
        constraints: list = _slsqp_constraints(problem)
        options: dict[str, object] = {"maxiter": max_iterations, "ftol": tolerance}
    else:
        margin = np.minimum(1e-2 * np.maximum(1.0, np.abs(start)), 0.05 * (upper - lower))
        start = np.clip(start, lower + margin, upper - margin)
        bounds = Bounds(lower, upper, keep_feasible=True) if bounded else None  # pyright: ignore[reportArgumentType]
        constraints = _trust_constraints(problem)
        options = {"maxiter": max_iterations, "gtol": tolerance, "xtol": tolerance}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            result = minimize(
                objective.value,
                start,
                jac=objective.gradient,
                method=method,
                bounds=bounds,
                constraints=constraints,
                options=options,
            )
        x, status, message = np.asarray(result.x, dtype=float), int(result.status), str(result.message)
        success = bool(result.success)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError, RuntimeError) as error:
        x, status, message, success = start, -1, f"{type(error).__name__}: {error}", False
    seconds = time.perf_counter() - begin
    return ScipyResult(
        x, objective.value(x), violation(problem, x), objective.gradients, status, success, message, seconds
    )
