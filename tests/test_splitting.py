"""Splitting solvers x problems with a known optimum: every solver that claims a problem reaches it, in both dtypes.

Optima are known by construction (a subgradient certifies them), by the library's exact operators, or by scipy; maps are
sums over the last dimension, which round alike in every batch, so that rows can be compared bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from constropt import Box, L1Ball, L2Ball, Reals, Simplex, prox
from constropt.prox import NormAround
from constropt.splitting import (
    RMS,
    Backtracking,
    LinearMap,
    Smooth,
    SplittingResult,
    accelerated_dual_forward_backward,
    admm,
    chambolle_pock,
    condat_vu,
    conjugate,
    douglas_rachford,
    dual_forward_backward,
    fista,
    forward_backward,
    operator_norm,
    variable_metric_forward_backward,
    with_distance,
)
from constropt.steps import VariableMetric

Run = Callable[..., SplittingResult]  # options of the loop -> result
BATCH = 5
DTYPES = {torch.float64: (1e-7, 1e-5), torch.float32: (1e-6, 3e-4)}  # tolerance of the loop, distance to the optimum


@dataclass(frozen=True)
class Known:
    """Solvers by name, the optimum, the tensors that nobody may change, and g and L, which certify the dual."""

    optimum: Tensor
    solvers: dict[str, Run]
    data: tuple[Tensor, ...]
    g: Any = None
    linear: Callable[[Tensor], Tensor] = field(default=lambda x: x)


Rows = Sequence[int]
Spoil = Callable[[Tensor], Tensor]  # applied to what f's prox returns: the identity, or a source of NaN


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix * x.unsqueeze(1)).sum(-1)


def column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


def soft(x: Tensor, amount: Tensor | float) -> Tensor:
    return (x - amount).clamp_min(0) + (x + amount).clamp_max(0)


def lasso(dtype: torch.dtype, rows: Rows, spoil: Spoil) -> Known:
    """min ||Ax - b||^2/2 + w |x|_1 with b such that w times a subgradient at the optimum is A'(b - Ax)."""
    A = numbers(15, 12, seed=1) / 4 + torch.eye(15, 12).double()
    optimum = torch.where(numbers(BATCH, 12, seed=2).abs() > 0.8, numbers(BATCH, 12, seed=3), 0)
    w = torch.tensor([0.1, 0.5, 1.0, 0.2, 2.0]).double()
    subgradient = torch.where(optimum != 0, optimum.sign(), numbers(BATCH, 12, seed=4).clamp(-0.9, 0.9))
    b = optimum @ A.T + (w[:, None] * subgradient) @ torch.linalg.inv(A.T @ A) @ A.T
    gram = A.T @ A
    L = torch.linalg.matrix_norm(gram, 2).item()
    inverse = torch.linalg.inv(torch.eye(12).double() + 0.3 * gram).to(dtype)
    A, gram, b, w, optimum = (
        A.to(dtype),
        gram.to(dtype),
        b[list(rows)].to(dtype),
        w[list(rows)].to(dtype),
        optimum[list(rows)].to(dtype),
    )
    linear = LinearMap(lambda x: times(A, x), lambda u: times(A.T, u))
    h = Smooth(lambda x: (times(A, x) - b).square().sum(1) / 2, lambda x: times(A.T, times(A, x) - b))
    automatic = Smooth(h.value)
    f = lambda x, t: spoil(soft(x, t * column(w, x)))  # noqa: E731
    in_metric = lambda x, t, metric: spoil(soft(x, t * column(w, x) / metric))  # noqa: E731
    majorant = gram.abs().sum(1)
    quadratic = lambda x, t: times(inverse, x + 0.3 * times(A.T, b))  # noqa: E731  (the prox of h with step 0.3)
    fit = lambda u, t: (u + t * b) / (1 + t)  # noqa: E731  (the prox of ||. - b||^2/2)
    x0 = torch.ones_like(optimum)
    return Known(
        optimum,
        {
            "forward-backward": lambda **o: forward_backward(h, f, x0, step=1.9 / L, **o),
            "forward-backward searched": lambda **o: forward_backward(automatic, f, x0, step=Backtracking(1e4), **o),
            "fista": lambda **o: fista(automatic, f, x0, step=1 / L, **o),
            "fista searched": lambda **o: fista(h, f, x0, step=Backtracking(1e4, 0.7), **o),
            "fista restarted": lambda **o: fista(h, f, x0, step=1 / L, restart=True, **o),
            "vmfb": lambda **o: variable_metric_forward_backward(
                h, in_metric, x0, step=1.0, metric=lambda x, _: majorant.expand_as(x), **o
            ),
            "douglas-rachford": lambda **o: douglas_rachford(f, quadratic, x0, step=0.3, **o),
            "admm": lambda **o: admm(quadratic, f, x0, step=0.3, relaxation=1.5, **o),
            "chambolle-pock": lambda **o: chambolle_pock(f, fit, x0, linear=linear, **o),
            "condat-vu": lambda **o: condat_vu(h, f, Reals(), x0, lipschitz=L, norm=0.1, **o),
        },
        (b, w, A, x0),
    )


def box_quadratic(dtype: torch.dtype, rows: Rows, spoil: Spoil) -> Known:
    """min x'Qx/2 - b'x over [0, 1]^n, b made from an optimum and from multipliers of the right signs."""
    root = numbers(8, 8, seed=5)
    Q = root @ root.T / 8 + 0.3 * torch.eye(8).double()
    optimum = (numbers(BATCH, 8, seed=6) + 0.5).clamp(0, 1)
    pull = numbers(BATCH, 8, seed=7).abs()
    b = optimum @ Q + torch.where(optimum == 1, pull, torch.where(optimum == 0, -pull, 0))
    L = torch.linalg.matrix_norm(Q, 2).item()
    inverse = torch.linalg.inv(torch.eye(8).double() + 0.5 * Q).to(dtype)
    Q, b, optimum = Q.to(dtype), b[list(rows)].to(dtype), optimum[list(rows)].to(dtype)
    h = Smooth(lambda x: (x * times(Q, x) / 2 - b * x).sum(1), lambda x: times(Q, x) - b)
    box = lambda x, t: spoil(x.clamp(0, 1))  # noqa: E731
    in_metric = lambda x, t, metric: spoil(x.clamp(0, 1))  # noqa: E731
    quadratic = lambda x, t: times(inverse, x + 0.5 * b)  # noqa: E731  (the prox of h with step 0.5)
    majorant, x0 = Q.abs().sum(1), torch.zeros_like(optimum)
    return Known(
        optimum,
        {
            "forward-backward": lambda **o: forward_backward(h, box, x0, step=1 / L, **o),
            "forward-backward searched": lambda **o: forward_backward(h, box, x0, step=Backtracking(1e3), **o),
            "fista": lambda **o: fista(h, box, x0, step=1 / L, **o),
            "fista restarted and searched": lambda **o: fista(h, box, x0, step=Backtracking(1e3), restart=True, **o),
            "vmfb": lambda **o: variable_metric_forward_backward(
                h, in_metric, x0, step=1.0, metric=lambda x, _: majorant.expand_as(x), **o
            ),
            "douglas-rachford": lambda **o: douglas_rachford(box, quadratic, x0, step=0.5, relaxation=1.5, **o),
            "admm": lambda **o: admm(quadratic, box, x0, step=0.5, **o),
            "chambolle-pock": lambda **o: chambolle_pock(box, quadratic_prox(Q, b), x0, **o),
            "condat-vu": lambda **o: condat_vu(h, Reals(), box, x0, lipschitz=L, **o),
        },
        (b, Q, x0),
    )


def quadratic_prox(Q: Tensor, b: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The prox of x'Qx/2 - b'x for any step: Q's eigenvectors, entry by entry."""
    values, vectors = torch.linalg.eigh(Q)
    return lambda x, t: times(vectors, times(vectors.T, x + t * b) / (1 + t * values))


def proximal(z: Tensor, f: Any, g: Any, g_free: Any, metric: Tensor | None = None) -> dict[str, Run]:
    """All solvers of 1/2 ||x - z||^2 + f + g, L the identity; ``g_free`` is g for methods that have no metric in it."""
    near = with_distance(f, z, metric)
    h = Smooth(lambda x: ((1 if metric is None else metric) * (x - z).square()).flatten(1).sum(1) / 2)
    L = 1.0 if metric is None else metric.max().item()
    free = lambda x, t: f(x, t)  # noqa: E731
    return {
        "dual forward-backward": lambda **o: dual_forward_backward(f, g, z, metric=metric, step=1.5, **o),
        "accelerated dual": lambda **o: accelerated_dual_forward_backward(f, g, z, metric=metric, **o),
        "accelerated dual restarted": lambda **o: accelerated_dual_forward_backward(
            f, g, z, metric=metric, restart=True, **o
        ),
        "douglas-rachford": lambda **o: douglas_rachford(near, g_free, z, step=1 / L, **o),
        "admm": lambda **o: admm(near, g_free, z, step=1 / L, **o),
        "chambolle-pock": lambda **o: chambolle_pock(near, g_free, z, **o),
        "condat-vu": lambda **o: condat_vu(h, free, g_free, z, lipschitz=L, **o),
    }


def ball_and_box(dtype: torch.dtype, rows: Rows, spoil: Spoil) -> Known:
    """Projection on the intersection of a ball and a box, two of the library's sets."""
    z = (3 * numbers(BATCH, 2, 3, seed=8))[list(rows)].to(dtype)
    box, ball = Box(-0.3, 1.0), L2Ball(1.2)
    optimum = L2Ball(1.2, box=box).project(z)
    f = lambda x, t: spoil(ball.project(x))  # noqa: E731
    return Known(optimum, proximal(z, f, box, box), (z,), box)


def linf_in_box(dtype: torch.dtype, rows: Rows, spoil: Spoil, metric: bool = False) -> Known:
    """The prox of w ||.||_inf + box, against the exact operator, as in Sec. 5.5.1 of the thesis."""
    z = numbers(BATCH, 12, seed=9)[list(rows)].to(dtype)
    lower = -torch.rand(BATCH, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[list(rows)].to(
        dtype
    )
    w = torch.tensor([0.1, 0.5, 1.0, 3.0, 100.0], dtype=dtype)[list(rows)]
    s = (10 ** numbers(BATCH, 12, seed=10).clamp(-0.5, 0.5))[list(rows)].to(dtype) if metric else None
    box = Box(lower, lower + 1)
    norm = lambda x, t, metric=None: prox.linf(x, t.flatten() * w, metric=metric)  # noqa: E731
    f = lambda x, t, metric=None: spoil(box.project(x))  # noqa: E731
    optimum = prox.linf(z, w, lower=lower, upper=lower + 1, metric=s)
    return Known(optimum, proximal(z, f, norm, norm, s), (z, lower, w), norm)


def linf_in_metric(dtype: torch.dtype, rows: Rows, spoil: Spoil) -> Known:
    return linf_in_box(dtype, rows, spoil, metric=True)


def total_variation(dtype: torch.dtype, rows: Rows, spoil: Spoil) -> Known:
    """min ||x - z||^2/2 + w sum |x_i+1 - x_i|; the reference is the dual's bounded least squares, by an active set."""
    n = 20
    D = np.diff(np.eye(n), axis=0)
    signal = torch.where(torch.arange(n) < 9, 0.0, 1.0).double() + 0.3 * numbers(BATCH, n, seed=11)
    w = torch.tensor([0.05, 0.2, 0.5, 1.0, 0.1]).double()
    duals = [
        scipy.optimize.lsq_linear(D.T, z.numpy(), (-bound, bound), method="bvls", tol=1e-14).x
        for z, bound in zip(signal, w.tolist())
    ]
    optimum = (signal - torch.tensor(np.array(duals)) @ torch.tensor(D))[list(rows)].to(dtype)
    z, w = signal[list(rows)].to(dtype), w[list(rows)].to(dtype)
    g = lambda x, t: soft(x, t * column(w, x))  # noqa: E731
    clean = lambda x, t: spoil(x)  # noqa: E731
    h = Smooth(lambda x: (x - z).square().sum(1) / 2)
    difference = lambda x: x.diff(dim=1)  # noqa: E731
    back = LinearMap(difference, lambda u: -torch.nn.functional.pad(u, (1, 1)).diff(dim=1))
    inverse = torch.linalg.inv(torch.eye(n).double() + torch.tensor(D.T @ D)).to(dtype)
    least_squares = lambda v, t: spoil(times(inverse, z + back.transpose(v, z) / t))  # noqa: E731  (for step 1)
    near = with_distance(clean, z)
    return Known(
        optimum,
        {
            "dual forward-backward": lambda **o: dual_forward_backward(clean, g, z, linear=back, norm=2.0, **o),
            "accelerated dual": lambda **o: accelerated_dual_forward_backward(clean, g, z, linear=difference, **o),
            "accelerated dual restarted": lambda **o: accelerated_dual_forward_backward(
                clean, g, z, linear=back, restart=True, **o
            ),
            "admm": lambda **o: admm(least_squares, g, z, linear=back, **o),
            "chambolle-pock": lambda **o: chambolle_pock(near, g, z, linear=difference, step=1.0, norm=2.0, **o),
            "condat-vu": lambda **o: condat_vu(h, clean, g, z, linear=back, lipschitz=1.0, **o),
        },
        (z, w),
        g,
        difference,
    )


def weighted_total_variation(dtype: torch.dtype, rows: Rows, spoil: Spoil) -> Known:
    """The same with the distance in a metric s, one for all rows, and weight 0.3: L and a metric at once."""
    n = 20
    D = np.diff(np.eye(n), axis=0)
    s = 10 ** numbers(n, seed=16).clamp(-0.5, 0.5)
    root = s.sqrt().numpy()
    signal = numbers(BATCH, n, seed=17)
    duals = [
        scipy.optimize.lsq_linear(D.T / root[:, None], root * z.numpy(), (-0.3, 0.3), method="bvls", tol=1e-14).x
        for z in signal
    ]
    optimum = (signal - torch.tensor(np.array(duals) @ D / s.numpy()))[list(rows)].to(dtype)
    z, s = signal[list(rows)].to(dtype), s.to(dtype)
    g = lambda x, t: soft(x, 0.3 * t)  # noqa: E731
    clean = lambda x, t, metric=None: spoil(x)  # noqa: E731
    difference = lambda x: x.diff(dim=1)  # noqa: E731
    solvers = {"dual forward-backward": dual_forward_backward, "accelerated dual": accelerated_dual_forward_backward}
    return Known(
        optimum,
        {
            name: lambda solver=solver, **o: solver(clean, g, z, linear=difference, metric=s, **o)
            for name, solver in solvers.items()
        }
        | {"chambolle-pock": lambda **o: chambolle_pock(with_distance(clean, z, s), g, z, linear=difference, **o)},
        (z, s),
        g,
        difference,
    )


BUILD = {
    f.__name__: f
    for f in (
        lasso,
        box_quadratic,
        ball_and_box,
        linf_in_box,
        linf_in_metric,
        total_variation,
        weighted_total_variation,
    )
}
ALL = tuple(range(BATCH))
CASES = [(name, solver) for name, build in BUILD.items() for solver in build(torch.float64, (0,), lambda p: p).solvers]


def spoiled_after(count: int) -> Spoil:
    """From its ``count``-th call on, NaN in row 1."""
    calls = 0

    def spoil(p: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return p if calls < count else torch.where(column(torch.arange(len(p)) == 1, p), torch.nan, p)

    return spoil


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "solver"), CASES)
def test_the_known_optimum_is_reached(name, solver, dtype):
    tolerance, distance = DTYPES[dtype]
    known = BUILD[name](dtype, ALL, lambda p: p)
    before = [tensor.clone() for tensor in known.data]
    result = known.solvers[solver](tolerance=tolerance, max_iterations=4000)
    assert result.x.dtype == dtype and result.converged.all(), result
    assert (result.x - known.optimum).abs().max() <= distance, (result.x - known.optimum).abs().flatten(1).amax(1)
    assert (result.residual <= tolerance).all() and (result.iterations <= 4000).all()
    if known.g is not None and result.dual is not None:  # u is a subgradient of g at Lx
        image = known.linear(result.x)
        u = conjugate(known.g)(result.dual + image, 1.0)
        assert (u - result.dual).abs().max() <= 20 * distance
    assert all(torch.equal(old, new) for old, new in zip(before, known.data))
    assert all(result.x.data_ptr() != tensor.data_ptr() for tensor in known.data)


@pytest.mark.parametrize(("name", "solver"), CASES)
def test_rows_do_not_depend_on_each_other_nor_on_a_lost_one(name, solver):
    options = {"tolerance": 1e-5, "max_iterations": 100}
    whole = BUILD[name](torch.float64, ALL, lambda p: p).solvers[solver](**options)
    alone = BUILD[name](torch.float64, (3,), lambda p: p).solvers[solver](**options)
    lost = BUILD[name](torch.float64, ALL, spoiled_after(2)).solvers[solver](**options)
    others = [0, 2, 3, 4]
    for key in ("x", "dual", "residual", "iterations", "converged"):
        value = getattr(whole, key)
        if value is not None:
            assert torch.equal(value[3:4], getattr(alone, key)), key
            assert torch.equal(value[others], getattr(lost, key)[others]), key
    assert lost.x.isfinite().all() and (lost.dual is None or lost.dual.isfinite().all())
    assert not lost.converged[1] and lost.residual[1].isnan() and lost.iterations[1] <= 3


# ------------------------------------------------------------------------------------------- what each method promises


def ill_conditioned() -> tuple[Smooth, Callable[[Tensor, Tensor], Tensor], Tensor]:
    """h = sum q (x - 1)^2 / 2 with q from 1e-2 to 1, f = 1e-4 |x|_1."""
    q = torch.logspace(-2, 0, 20, dtype=torch.float64)
    return (
        Smooth(lambda x: (q * (x - 1).square()).sum(1) / 2),
        lambda x, t: soft(x, 1e-4 * t),
        torch.zeros(2, 20).double(),
    )


def test_acceleration_takes_fewer_iterations_and_restarts_fewer_still():
    h, f, x0 = ill_conditioned()
    options: dict[str, Any] = {"step": 1.0, "tolerance": 1e-7, "max_iterations": 5000}
    plain, fast = forward_backward(h, f, x0, **options), fista(h, f, x0, **options)
    restarted = fista(h, f, x0, restart=True, **options)
    assert plain.converged.all() and fast.converged.all() and restarted.converged.all()
    assert (plain.iterations > 1.5 * fast.iterations).all() and (fast.iterations > 1.5 * restarted.iterations).all(), (
        plain.iterations,
        fast.iterations,
        restarted.iterations,
    )


@pytest.mark.parametrize("solver", [forward_backward, fista])
def test_a_searched_step_recovers_from_far_too_large_ones_per_row(solver):
    q = torch.tensor([[1.0], [1e4]], dtype=torch.float64)
    h = lambda x: (q * (x - 1).square()).sum(1) / 2  # noqa: E731
    for initial in (1e8, torch.tensor([1e12, 1e3])):
        result = solver(h, Reals(), torch.zeros(2, 3).double(), step=Backtracking(initial))
        assert result.converged.all() and (result.x - 1).abs().max() < 1e-6
    overflow = solver(lambda x: x.exp().sum(1) - x.sum(1), Reals(), torch.full((1, 2), -5.0), step=Backtracking(1e3))
    assert overflow.converged.all() and overflow.x.abs().max() < 1e-3


def test_a_searched_step_does_not_collapse_where_values_are_noise():
    """h is 1e6 at the solution: in float32 its differences vanish long before the gradient does."""
    h = lambda x: 1e6 + (x - 3).square().sum(1) / 2  # noqa: E731
    result = forward_backward(h, Reals(), torch.zeros(1, 4), step=Backtracking(1.9))
    assert result.converged.all() and (result.x - 3).abs().max() < 1e-5


def test_rms_is_the_librarys_variable_metric_step():
    h, f, x0 = ill_conditioned()
    result = variable_metric_forward_backward(
        h, lambda x, t, metric: soft(x, 1e-4 * t / metric), x0, step=0.01, tolerance=0.0, max_iterations=30
    )
    step, x = VariableMetric(), x0
    state = step.init(x)
    for _ in range(30):
        size = torch.full((2, 1), 0.01, dtype=x.dtype)
        x, state = step.update(h.slope(x), state, x, size, lambda p, t, s: soft(p, 1e-4 * t / s), lambda p: (p, p))
    assert torch.allclose(result.x, x, rtol=1e-12, atol=0)
    assert not result.converged.any()


def test_a_fixed_step_in_the_rms_metric_circles_and_says_so():
    known = box_quadratic(torch.float64, ALL, lambda p: p)
    b, Q, x0 = known.data
    h = Smooth(gradient=lambda x: times(Q, x) - b)
    for step in (0.1, 0.01):
        result = variable_metric_forward_backward(h, Box(), x0, step=step, max_iterations=300)
        error = (result.x - known.optimum).abs().amax(1)
        assert not result.converged[0] and step / 10 < error[0] < step


def test_steps_per_row_are_those_of_the_rows_alone():
    h, f, x0 = ill_conditioned()
    steps = torch.tensor([1.0, 0.3], dtype=torch.float64)
    both = forward_backward(h, f, x0, step=steps, max_iterations=40)
    for i, step in enumerate((1.0, 0.3)):
        assert torch.equal(both.x[i], forward_backward(h, f, x0[i : i + 1], step=step, max_iterations=40).x[0])


# ----------------------------------------------------------------------------------------------------------- the loop


def test_what_did_not_converge_says_so():
    h, f, x0 = ill_conditioned()
    short = forward_backward(h, f, x0, step=1.0, max_iterations=3)
    assert not short.converged.any() and short.iterations.tolist() == [3, 3] and (short.residual > 1e-6).all()
    x = x0
    for _ in range(3):
        x = f(x - h.slope(x), torch.tensor(1.0))
    assert torch.allclose(short.x, x, rtol=1e-14)
    diverged = forward_backward(h, f, x0, step=1e3, max_iterations=1000)
    assert not diverged.converged.any() and diverged.residual.isnan().all() and diverged.x.isfinite().all()
    never = forward_backward(h, f, x0, step=Backtracking(1e30), max_iterations=5)
    assert not never.converged.any() and never.residual.isinf().all() and torch.equal(never.x, x0)


def test_finished_rows_are_frozen_and_looking_seldom_changes_nothing():
    known = linf_in_box(torch.float64, ALL, lambda p: p)
    results = [known.solvers["accelerated dual"](check_every=every) for every in (1, 7, 120)]
    assert len(set(results[0].iterations.tolist())) > 1
    for other in results[1:]:
        assert torch.equal(results[0].x, other.x) and torch.equal(results[0].iterations, other.iterations)
        assert torch.equal(results[0].residual, other.residual)


def test_the_units_of_a_problem_do_not_matter():
    z = numbers(3, 10, seed=12)
    iterations = []
    for unit in (1.0, 2.0**-30, 2.0**30):
        g = lambda x, t, unit=unit: prox.linf(x, unit * t)  # noqa: E731
        iterations.append(dual_forward_backward(Box(-unit / 2, unit / 2), g, unit * z).iterations)
    assert torch.equal(iterations[0], iterations[1]) and torch.equal(iterations[0], iterations[2])


def test_a_solution_at_zero_is_reached():
    result = forward_backward(lambda x: x.square().sum(1) / 2, Reals(), torch.ones(2, 3), step=0.5)
    assert result.converged.all() and result.x.abs().max() < 1e-10


def test_an_empty_batch_and_callers_gradients_pass():
    empty = dual_forward_backward(Box(), Reals(), torch.zeros(0, 3))
    assert empty.x.shape == (0, 3) and empty.converged.shape == (0,)
    z = torch.ones(1, 3, requires_grad=True)
    assert not douglas_rachford(with_distance(Box(), z), Reals(), z).x.requires_grad
    with torch.inference_mode():
        assert forward_backward(Smooth(gradient=lambda x: x), Box(), torch.ones(1, 2), step=1.0).converged.all()


# ----------------------------------------------------------------------------------------- operators and linear maps

NORMS = {"l1": prox.l1, "l2": prox.l2, "linf": prox.linf}
DUAL_BALLS = {
    "l1": lambda x: x.clamp(-1, 1),
    "l2": lambda x: prox.project_l2(x, 1.0),
    "linf": lambda x: prox.project_l1(x, 1.0),
}
SETS = {"box": Box(-0.5, 2.0), "l1": L1Ball(1.5), "l2": L2Ball(0.7), "simplex": Simplex(2.0)}


@st.composite
def points(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    seed, batch, n = draw(st.integers(0, 2**20)), draw(st.integers(1, 4)), draw(st.integers(1, 8))
    x = numbers(batch, n, seed=seed) * 10.0 ** draw(st.integers(-2, 2))
    return x, 10 ** numbers(batch, seed=seed + 1)


@settings(max_examples=60, deadline=None)
@given(points(), st.sampled_from(sorted(NORMS)))
def test_moreau_the_conjugate_of_a_norm_is_the_dual_ball(case, name):
    x, step = case
    assert torch.allclose(conjugate(NORMS[name])(x, step), DUAL_BALLS[name](x), rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(points(), st.sampled_from(sorted(NORMS)))
def test_moreau_in_a_metric(case, name):
    """prox(f) in S at x, plus the conjugate's in 1/S at S x / t, make up x; and f** = f."""
    x, step = case
    metric = 10 ** numbers(*x.shape, seed=5)
    p = NORMS[name](x, step, metric=metric)
    t = step[:, None]
    u = conjugate(NORMS[name])(metric * x / t, 1 / step, 1 / metric)
    assert torch.allclose(p + t * u / metric, x, rtol=1e-9, atol=1e-9 * x.abs().max().item())
    assert torch.allclose(u, DUAL_BALLS[name](u), rtol=1e-9, atol=1e-9)
    twice = conjugate(conjugate(NORMS[name]))(x, step, metric)
    assert torch.allclose(twice, p, rtol=1e-8, atol=1e-8 * x.abs().max().item())


@settings(max_examples=60, deadline=None)
@given(points(), st.sampled_from(sorted(SETS)))
def test_a_set_is_its_projection_and_its_conjugate_the_support_function(case, name):
    x, step = case
    t = step[:, None]
    u = conjugate(SETS[name])(x, step)
    nearest = SETS[name].project(x / t)
    assert torch.allclose(u + t * nearest, x, rtol=1e-9, atol=1e-9 * x.abs().max().item())
    other = SETS[name].project(numbers(*x.shape, seed=6))
    assert ((u * (other - nearest)).sum(1) <= 1e-9 * (1 + x.abs().max())).all()  # u is normal to the set there


@settings(max_examples=60, deadline=None)
@given(points(), st.sampled_from(sorted(NORMS)), st.booleans())
def test_the_distance_in_a_prox(case, name, weighted):
    """p = prox of f + ||. - z||^2/2 at x iff p = prox of f at x - t s (p - z)."""
    x, step = case
    z, metric = numbers(*x.shape, seed=7), 10 ** numbers(*x.shape, seed=8) if weighted else None
    p = with_distance(NORMS[name], z, metric)(x, step)
    expected = NORMS[name](x - step[:, None] * (1 if metric is None else metric) * (p - z), step)
    assert torch.allclose(p, expected, rtol=1e-8, atol=1e-8 * (1 + x.abs().max().item()))


def test_what_has_a_prox_is_taken_as_it_is():
    center = torch.zeros(2, 3)
    z = torch.tensor([[2.0, 1.0, -3.0], [0.1, 0.2, 0.3]])
    exact = prox.linf(z, 1.0, lower=-1.0, upper=1.0)
    term = NormAround("linf", center, -1.0, 1.0)
    for metric in (None, torch.ones(3)):
        assert torch.allclose(dual_forward_backward(term, Reals(), z, metric=metric).x, exact)
        assert torch.allclose(dual_forward_backward(Reals(), term, z, metric=metric).x, exact, atol=1e-5)


def test_norms_and_adjoints_of_linear_maps():
    A = numbers(2, 6, 4, seed=13)
    rows_ = LinearMap(lambda x: (A * x.unsqueeze(1)).sum(-1))
    x, u = numbers(2, 4, seed=14), numbers(2, 6, seed=15)
    assert torch.allclose(rows_.transpose(u, x), torch.einsum("bij,bi->bj", A, u))
    assert torch.allclose(operator_norm(rows_, x), torch.linalg.matrix_norm(A, 2), rtol=1e-3)
    zero = chambolle_pock(with_distance(Reals(), x), Box(), x, linear=lambda p: 0 * p)
    assert torch.allclose(zero.x, x)


# ------------------------------------------------------------------------------------------------------------- errors

X = torch.ones(2, 3)
H = lambda x: x.square().sum(1)  # noqa: E731
ERRORS: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "no prox": (TypeError, "g: takes prox", lambda: douglas_rachford(Box(), 3.0, X)),  # type: ignore[arg-type]
    "None": (TypeError, "pass Reals", lambda: dual_forward_backward(None, Box(), X)),  # type: ignore[arg-type]
    "no metric": (TypeError, "f: is called in a metric", lambda: dual_forward_backward(H, Box(), X, metric=X)),
    "ball in a metric": (TypeError, "L2Ball", lambda: dual_forward_backward(L2Ball(), Box(), X, metric=X)),
    "metric": (ValueError, "metric: entries", lambda: dual_forward_backward(Box(), Box(), X, metric=-X)),
    "metric's shape": (ValueError, "metric: shape", lambda: dual_forward_backward(Box(), Box(), X, metric=X[:, :2])),
    "step": (ValueError, "step: must be finite and > 0", lambda: forward_backward(H, Box(), X, step=0.0)),
    "step's shape": (ValueError, r"step: takes a number or \(batch,\)", lambda: fista(H, Box(), X, step=torch.ones(3))),
    "initial": (ValueError, "step.initial", lambda: fista(H, Box(), X, step=Backtracking(-1.0))),
    "shrink": (ValueError, "shrink", lambda: Backtracking(shrink=1.0)),
    "dual step": (ValueError, "step: must be at most 2", lambda: dual_forward_backward(Box(), Box(), X, step=2.1)),
    "accelerated": (ValueError, "at most 1", lambda: accelerated_dual_forward_backward(Box(), Box(), X, step=1.1)),
    "norm": (ValueError, "at most 2", lambda: dual_forward_backward(Box(), Box(), X, linear=lambda x: 3 * x, step=1.0)),
    "both steps": (ValueError, "1/step", lambda: chambolle_pock(Box(), Box(), X, step=2.0, dual_step=1.0)),
    "long step": (ValueError, "1/step", lambda: condat_vu(H, Box(), Box(), X, lipschitz=2.0, step=1.0)),
    "lipschitz": (ValueError, "lipschitz: needed", lambda: condat_vu(H, Box(), Box(), X)),
    "relaxation": (ValueError, "relaxation", lambda: douglas_rachford(Box(), Box(), X, relaxation=2.0)),
    "NaN": (ValueError, "x0: must be finite", lambda: forward_backward(H, Box(), X / 0)),
    "one problem": (ValueError, "unsqueeze", lambda: dual_forward_backward(Box(), Box(), X[0])),
    "integers": (TypeError, "floating", lambda: douglas_rachford(Box(), Box(), X.long())),
    "list": (TypeError, "got list", lambda: douglas_rachford(Box(), Box(), [[1.0]])),  # type: ignore[arg-type]
    "iterations": (ValueError, "max_iterations", lambda: douglas_rachford(Box(), Box(), X, max_iterations=0)),
    "tolerance": (ValueError, "tolerance", lambda: douglas_rachford(Box(), Box(), X, tolerance=-1.0)),
    "value's shape": (ValueError, "smooth: must return one", lambda: forward_backward(lambda x: x.sum(), Box(), X)),
    "no value": (ValueError, "needs its value", lambda: fista(Smooth(gradient=lambda x: x), Box(), X)),
    "neither": (ValueError, "neither", lambda: Smooth()),
    "no function": (TypeError, "smooth: takes", lambda: forward_backward(1.0, Box(), X)),  # type: ignore[arg-type]
    "prox's shape": (ValueError, "f: must return", lambda: forward_backward(H, lambda x, t: x[:, :2], X)),
    "prox's dtype": (ValueError, "f: must return", lambda: forward_backward(H, lambda x, t: x.double(), X)),
    "gradient's shape": (ValueError, "gradient", lambda: fista(Smooth(gradient=lambda x: x[0]), Box(), X, step=1.0)),
    "no map": (TypeError, "linear", lambda: admm(Box(), Box(), X, linear=3.0)),  # type: ignore[arg-type]
    "image": (ValueError, "linear: must map", lambda: chambolle_pock(Box(), Box(), X, linear=lambda x: x[0])),
    "adjoint": (
        ValueError,
        "differ",
        lambda: chambolle_pock(Box(), Box(), X, linear=LinearMap(lambda x: 2 * x, lambda u: u)),
    ),
    "no solver": (TypeError, "pass a solver", lambda: admm(Box(), Box(), X, linear=lambda x: x)),
    "solver's shape": (ValueError, "f: must", lambda: admm(lambda v, t: v[:, :1], Box(), X, linear=lambda x: 2 * x)),
    "rule": (TypeError, "metric: takes", lambda: variable_metric_forward_backward(H, Box(), X, step=1.0, metric=1)),  # type: ignore[arg-type]
    "smoothing": (ValueError, "smoothing", lambda: RMS(smoothing=1.0)),
    "floor": (ValueError, "floor", lambda: RMS(floor=0.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_named(name):
    kind, message, call = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()


def test_the_page_runs():
    page = (Path(__file__).parents[1] / "docs" / "splitting.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "docs/splitting.md", "exec"), {})
