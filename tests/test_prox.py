"""Laws of the proximity operators, against references by sorting or by brute force in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from constropt import prox

OPERATORS = {"linf": prox.linf, "l1": prox.l1, "l2": prox.l2, "l0": prox.l0}
CONVEX = ["linf", "l1", "l2"]
NORMS = {"linf": torch.inf, "l1": 1, "l2": 2, "l0": 0}


def reference_beta(x: Tensor, step: float, low: Tensor, high: Tensor, s: Tensor) -> float:
    """The largest entry of the linf prox of one float64 row, by a sort of all breakpoints and a scan."""
    inside = x.clamp(low, high)
    m, a = inside.abs(), torch.where(inside < 0, -x, x)

    def h(beta: float, strict: bool) -> float:
        beyond = m > beta if strict else m >= beta
        return (s * (a - beta))[beyond].sum().item()

    floor = max(torch.maximum(low, -high).clamp_min(0).max().item(), 0.0)
    if h(floor, True) <= step:
        return floor
    for breakpoint_ in sorted({floor, *[v for v in m.tolist() if v > floor]}, reverse=True):
        if h(breakpoint_, True) >= step:  # the root is on the piece above this point
            beyond = m > breakpoint_
            return ((s * a)[beyond].sum().item() - step) / s[beyond].sum().item() if beyond.any() else breakpoint_
        if h(breakpoint_, False) >= step:  # the jump at it
            return breakpoint_
    return floor


@st.composite
def rows(draw: st.DrawFn, box_has_zero: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, step, lower, upper, metric: ties, zeros, zero-width sides, steps of 0, metrics over 12 orders."""
    batch, n = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    x = torch.randn(batch, n, generator=generator, dtype=torch.float64) * 10 ** draw(st.integers(-2, 2))
    if draw(st.booleans()):
        x = x.round()  # ties
    kind = draw(st.sampled_from(["none", "box", "thin"]))
    low, high = torch.full_like(x, -torch.inf), torch.full_like(x, torch.inf)
    if kind != "none":
        low, high = (
            -torch.rand(x.shape, generator=generator).double(),
            torch.rand(x.shape, generator=generator).double(),
        )
        if kind == "thin":
            low, high = (
                low * (torch.rand(x.shape, generator=generator) > 0.5),
                high * (torch.rand(x.shape, generator=generator) > 0.5),
            )
        if not box_has_zero and draw(st.booleans()):
            low, high = low + 1.5, high + 1.5
    orders = draw(st.sampled_from([0, 2, 6]))
    metric = 10 ** (orders * (2 * torch.rand(x.shape, generator=generator).double() - 1))
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 10.0]))
    return (
        x,
        torch.rand(batch, generator=generator).double() * scale * metric.amax(1) * x.abs().amax(1),
        low,
        high,
        metric,
    )


@settings(max_examples=150, deadline=None)
@given(rows(box_has_zero=False))
def test_linf_is_the_sorted_reference(case):
    x, step, low, high, metric = case
    p = prox.linf(x, step, lower=low, upper=high, metric=metric)
    for i in range(x.shape[0]):
        beta = reference_beta(x[i], step[i].item(), low[i], high[i], metric[i])
        expected = x[i].clamp(low[i], high[i]).clamp(-beta, beta)
        torch.testing.assert_close(p[i], expected, rtol=1e-6, atol=1e-9 * max(1.0, x[i].abs().max().item()))


def value(name: str, p: Tensor, x: Tensor, step: Tensor, metric: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(p, ord=NORMS[name], dim=-1)
    return (metric * (p - x).square()).sum(-1) / 2 + step * norm


@settings(max_examples=60, deadline=None)
@given(rows(), st.sampled_from(list(OPERATORS)))
def test_no_point_of_the_box_is_better(case, name):
    x, step, low, high, metric = case
    p = OPERATORS[name](x, step, lower=low, upper=high, metric=metric)
    assert bool(((p >= low) & (p <= high)).all())
    best = value(name, p, x, step, metric)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-6, 1e-3, 0.1, 1.0):
        noise = torch.randn(64, *x.shape, generator=generator, dtype=x.dtype) * scale * (1 + x.abs())
        noise = noise * (torch.rand(noise.shape, generator=generator) > 0.5)
        for q in ((p + noise).clamp(low, high), p * (1 - scale), torch.zeros_like(p), x.clamp(low, high)):
            assert bool((value(name, q, x, step, metric) >= best - 1e-9 * (1 + best.abs())).all())


@settings(max_examples=60, deadline=None)
@given(rows(), st.sampled_from(CONVEX))
def test_convex_laws(case, name):
    x, step, low, high, metric = case
    operator = OPERATORS[name]
    p = operator(x, step, lower=low, upper=high, metric=metric)
    size = 1 + x.abs().max()
    # firmly non-expansive in the metric
    other = x.flip(1) + 0.5
    q = operator(other, step, lower=low, upper=high, metric=metric)
    lhs = (metric * (p - q).square()).sum(1)
    rhs = (metric * (p - q) * (x - other)).sum(1)
    assert bool((lhs <= rhs + 1e-7 * (metric.amax(1) * size**2)).all())
    # scaling of metric and step together
    torch.testing.assert_close(
        operator(x, 7 * step, lower=low, upper=high, metric=7 * metric), p, rtol=1e-6, atol=1e-8 * size.item()
    )
    # sign and permutation equivariance
    torch.testing.assert_close(
        operator(-x, step, lower=-high, upper=-low, metric=metric), -p, rtol=1e-6, atol=1e-8 * size.item()
    )
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = operator(x[:, order], step, lower=low[:, order], upper=high[:, order], metric=metric[:, order])
    torch.testing.assert_close(shuffled, p[:, order], rtol=1e-6, atol=1e-8 * size.item())


@settings(max_examples=40, deadline=None)
@given(rows(), st.sampled_from([0.0, 0.3, 1e6]))
def test_linf_warm_start_and_monotony(case, guess):
    x, step, low, high, metric = case
    p = prox.linf(x, step, lower=low, upper=high, metric=metric)
    warm = prox.linf(x, step, lower=low, upper=high, metric=metric, warm=torch.full_like(step, guess))
    torch.testing.assert_close(warm, p, rtol=1e-8, atol=1e-9 * (1 + x.abs().max().item()))
    larger = prox.linf(x, 2 * step, lower=low, upper=high, metric=metric)
    assert bool((larger.abs().amax(1) <= p.abs().amax(1) * (1 + 1e-9) + 1e-12).all())


def test_linf_moreau_without_a_box():
    x = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = prox.linf(x, 5.0)
    torch.testing.assert_close((x - p).abs().sum(1), torch.full((8,), 5.0, dtype=torch.float64))
    torch.testing.assert_close(x - p, prox.project_l1(x, 5.0))


@pytest.mark.parametrize("name", OPERATORS)
def test_rows_do_not_touch_each_other(name):
    operator = OPERATORS[name]
    x = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1))
    kept = x.clone()
    alone = torch.cat([operator(row, 0.7, lower=-0.8, upper=0.9) for row in x.split(1)])
    x[1, 0, 0] = torch.nan
    with_nan = operator(x, 0.7, lower=-0.8, upper=0.9)
    assert bool(with_nan[1].isnan().all())
    torch.testing.assert_close(with_nan[[0, 2]], alone[[0, 2]])
    assert x[1, 0, 0].isnan() and torch.equal(x[[0, 2]], kept[[0, 2]])
    x[1, 0, 0] = torch.inf
    assert bool(operator(x, 0.7, lower=-0.8, upper=0.9).isfinite().all())


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_float32(name, dtype):
    x = torch.randn(2, 300, generator=torch.Generator().manual_seed(2)).to(dtype)
    expected = OPERATORS[name](x.float(), 0.3, upper=1.0).to(dtype)
    result = OPERATORS[name](x, 0.3, upper=1.0)
    assert result.dtype == dtype
    assert torch.equal(result, expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_step_forms_out_and_errors(name):
    operator = OPERATORS[name]
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    out = torch.empty_like(x)
    assert operator(x, torch.full((3,), 0.5), out=out) is out
    assert torch.equal(out, operator(x, 0.5))
    assert torch.equal(operator(x, 0.0, lower=-0.5, upper=0.5), x.clamp(-0.5, 0.5))
    with pytest.raises(ValueError, match="step"):
        operator(x, -1.0)
    with pytest.raises(ValueError, match="step"):
        operator(x, torch.ones(2))
    with pytest.raises(ValueError, match="broadcast"):
        operator(x, 1.0, metric=torch.ones(3))


def test_large_rows_of_images():
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    metric = torch.rand(x.shape, generator=torch.Generator().manual_seed(6)) + 1e-8
    p = prox.linf(delta, 800.0, lower=-x, upper=1 - x, metric=metric)
    rows64 = [t.flatten(1).double() for t in (delta, -x, 1 - x, metric)]
    for i in range(2):
        beta = reference_beta(rows64[0][i], 800.0, rows64[1][i], rows64[2][i], rows64[3][i])
        assert abs(p[i].abs().max().item() - beta) <= 1e-6 * max(beta, 1e-3)
