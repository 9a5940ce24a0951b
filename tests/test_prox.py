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


def sorted_beta(x: Tensor, step: float, low: Tensor, high: Tensor, s: Tensor) -> float:
    """The largest entry of the linf prox of one row, in float64, by sorting all its entries."""
    x, low, high, s = (t.double() for t in (x, low, high, s))
    inside = x.clamp(low, high)
    m, order = inside.abs().sort(descending=True)
    a, s = torch.where(inside < 0, -x, x)[order], s[order]
    floor = max(torch.maximum(low, -high).max().item(), 0.0)
    if step == 0:
        return max(m[0].item(), floor)
    # just below the k-th entry, and down to the next one, the k largest count
    weight, level = s.cumsum(0), (s * a).cumsum(0)
    bottom = torch.cat([m[1:], m.new_zeros(1)])
    reached = level - bottom * weight >= step
    if not reached.any():
        return floor
    k = int(reached.to(torch.int8).argmax())
    return max(((level[k] - step) / weight[k]).clamp(bottom[k], m[k]).item(), floor)


def hard_cases(n: int) -> dict[str, tuple[Tensor, float, Tensor, Tensor, Tensor]]:
    """x, step, lower, upper, metric of float32 rows: what has broken such operators, and the thesis' own setting."""
    generator = torch.Generator().manual_seed(n)

    def uniform() -> Tensor:
        return torch.rand(n, generator=generator)

    def normal() -> Tensor:
        return torch.randn(n, generator=generator)

    def full(value: float) -> Tensor:
        return torch.full((n,), value)

    image, ones, free = uniform(), full(1.0), full(torch.inf)
    spikes, block, comb = torch.zeros(3, n).unbind()
    spikes[[1, n // 2]] = torch.tensor([5.0, -4.0])
    block[: n // 20] = normal()[: n // 20]
    comb[::64] = 1.0
    far = normal()
    far[0] = 1000.0
    orders = 10 ** (12 * uniform() - 6)
    pull = (normal().abs() * orders).double().sum().item()
    cases = {
        "thesis 0.01": (0.01 * normal(), 10.0, -image, 1 - image, uniform() + 1e-8),
        "thesis 0.1": (0.1 * normal(), 100.0, -image, 1 - image, uniform() + 1e-8),
        "thesis 1": (normal(), 1.0, -image, 1 - image, uniform() + 1e-8),
        "no box": (normal(), 30.0, -free, free, ones),
        "step 0": (normal(), 0.0, -image, 1 - image, uniform()),
        "beta 0": (normal(), 1e9, -image, 1 - image, uniform()),
        "ties": ((3 * normal()).round(), 30.0, -free, free, ones),
        "ties at the box": ((3 * normal()).round(), 30.0, full(-2.0), full(2.0), ones),
        "a jump across the step": ((3 * normal()).round(), 0.5 * n, full(-2.0), full(2.0), uniform()),
        "a jump of one entry": (far, 500.0, full(-0.5), full(0.5), ones),
        "all equal": (full(0.3), 0.14 * n, -free, free, full(0.7)),
        "all equal, beta tiny": (full(0.3), 0.2099 * n, -free, free, full(0.7)),
        "x far outside": (100 * normal(), 10.0 * n, -image, 1 - image, uniform()),
        "sides of width 0": (normal(), 0.1 * n, -image * (uniform() > 0.5), (1 - image) * (uniform() > 0.5), uniform()),
        "nothing may move": (normal(), 5.0, full(0.0), full(0.0), uniform()),
        "metric over 12 orders": (normal(), 0.1 * pull, -image, 1 - image, orders),
        "metric over 12 orders, little": (normal(), 1e-6 * pull, -image, 1 - image, orders),
        "two spikes": (spikes, 0.5, -free, free, ones),
        "a block": (block, 30.0, -free, free, ones),
        "a comb": (comb + 0.01 * normal(), 3.0, -free, free, ones),
        "0 outside the box": (normal(), 5.0, image + 0.5, image + 1, uniform()),
        "0 outside some sides": (normal(), 5.0, 0.02 - image, 1 - image, uniform()),
        "0 above the box": (normal(), 5.0, -image - 1, -image - 0.5, uniform()),
        "large": (1e36 * normal(), 1e38, -free, free, ones),
        "small": (1e-30 * normal(), 1e-28, -free, free, ones),
        "heavy tails": (normal() / normal(), 2.0 * n, -free, free, uniform()),
    }
    for share in (0.5, 0.9, 0.999, 0.99999):  # of what makes beta 0
        x, s = normal(), uniform()
        total = (x.double() * s.double()).abs().sum().item()
        cases[f"nearly beta 0, {share}"] = (x, share * total, -free, free, s)
    return cases


# short rows are sorted, longer ones bracketed, long ones searched from a sample
@pytest.mark.parametrize("n", [100, 3000, 20001, 300_000])
def test_linf_on_hard_cases(n):
    for name, (x, step, low, high, metric) in hard_cases(n).items():
        boxes = {} if low.isinf().all() and high.isinf().all() else {"lower": low[None], "upper": high[None]}
        beta = sorted_beta(x, step, low, high, metric)
        inside = x.clamp(low, high).double()
        for warm in (None, torch.tensor([1.01 * beta]), torch.tensor([3.0 * beta + 1])):
            p = prox.linf(x[None], step, metric=metric[None], warm=warm, **boxes)[0].double()
            gap = (p - inside.clamp(-beta, beta)).abs().max().item()
            assert gap <= 1e-6 * min(beta, inside.abs().max().item()) + 1e-45, (name, warm, beta, gap)


@pytest.mark.parametrize("n", [100, 3000, 40_000])
def test_linf_is_optimal_by_subgradients(n):
    for name, (x, step, low, high, metric) in hard_cases(n).items():
        x, low, high, metric = (t.double() for t in (x, low, high, metric))
        boxes = {} if low.isinf().all() and high.isinf().all() else {"lower": low[None], "upper": high[None]}
        p = prox.linf(x[None], step, metric=metric[None], **boxes)[0]
        beta, pull = p.abs().max(), metric * (x - p)
        slack = 1e-9 * metric * (x.abs() + p.abs())
        below = p.abs() < beta
        # an entry below the largest is where its pull vanishes or the box stops it
        assert bool((~below | (pull <= slack) | (p == high)).all()), name
        assert bool((~below | (pull >= -slack) | (p == low)).all()), name
        # at the largest ones, what the box does not take must be able to amount to the step
        outward = torch.where(p < 0, -pull, pull)[~below]
        side = torch.where(p < 0, p == low, p == high)[~below]
        most = outward.clamp_min(0).sum()
        least = torch.where(side, 0, outward).sum()
        rounding = slack.sum() + 1e-9 * step
        assert most >= step - rounding or beta == 0 or bool((torch.maximum(low, -high) == beta).any()), name
        assert least <= step + rounding, name


@pytest.mark.parametrize("n", [50, 2000, 17_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_linf_rows_are_the_same_alone_bit_by_bit(n, dtype):
    generator = torch.Generator().manual_seed(n)
    x = (torch.randn(6, n, generator=generator) * torch.logspace(-2, 1, 6).unsqueeze(1)).to(dtype)
    image = torch.rand(6, n, generator=generator).to(dtype)
    arguments = {"lower": -image, "upper": 1 - image, "metric": image + 0.1}
    step = torch.logspace(-1, 3, 6)
    together = prox.linf(x, step, **arguments)
    for i in range(6):
        alone = prox.linf(x[i : i + 1], step[i : i + 1], **{k: v[i : i + 1] for k, v in arguments.items()})
        assert torch.equal(alone[0], together[i])
    others = [0, 2, 3, 4, 5]
    for value in (torch.nan, torch.inf):
        broken = x.clone()
        broken[1, n // 2] = value
        result = prox.linf(broken, step, **arguments)
        assert torch.equal(result[others], together[others])
        assert bool(result[1].isnan().all()) if value != value else bool(result[1].isfinite().all())


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


def test_results_belong_to_the_caller():
    x = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(7))
    kept = x.clone()
    first = prox.linf(x, 3.0, upper=1.0)
    copy = first.clone()
    prox.linf(x + 1, 5.0, upper=1.0)
    assert torch.equal(first, copy) and torch.equal(x, kept)
    strided = torch.empty(20_000, 2).t()
    assert torch.equal(prox.linf(x, 3.0, upper=1.0, out=strided), copy)
    assert prox.linf(x, 3.0, upper=1.0, out=x) is x
    assert torch.equal(x, copy)
    with pytest.raises(ValueError, match="out"):
        prox.linf(kept, 3.0, out=torch.empty(20_000))


def test_arguments_that_broadcast_are_not_copied_wrongly():
    x = torch.randn(3, 2, 10_000, generator=torch.Generator().manual_seed(8))
    upper, metric = torch.rand(10_000), torch.rand(1, 2, 1) + 0.1
    expected = prox.linf(x, 4.0, lower=-0.3, upper=upper.expand_as(x), metric=metric.expand_as(x).clone())
    assert torch.equal(prox.linf(x, 4.0, lower=torch.tensor(-0.3), upper=upper, metric=metric), expected)
    assert prox.linf(torch.zeros(0, 3), 1.0).shape == (0, 3)
    assert prox.linf(torch.zeros(2, 0), 1.0).shape == (2, 0)
    assert torch.equal(prox.linf(torch.tensor([1.0, -2.0]), 0.5), torch.tensor([0.5, -1.5]))


@pytest.mark.parametrize("boxed", [False, True])
def test_l2_is_the_fixed_point(boxed):
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(4, 3000, generator=generator, dtype=torch.float64)
    metric = 10 ** (2 * torch.rand(x.shape, generator=generator).double() - 1)
    low, high = (-0.5, 0.7) if boxed else (None, None)
    step = torch.tensor([0.0, 1.0, 60.0, 1e6]).double()
    p = prox.l2(x, step, lower=low, upper=high, metric=metric)
    r = p.norm(dim=1, keepdim=True)
    fixed = metric * r * x / (metric * r + step.unsqueeze(1)).clamp_min(1e-300)
    torch.testing.assert_close(p, fixed.clamp(low, high) if boxed else fixed, rtol=1e-10, atol=1e-12)
    assert bool((p[3] == 0).all()) and bool((p[2] != 0).any())
    narrow = prox.l2(x.float(), step.float(), lower=low, upper=high, metric=metric.float())
    torch.testing.assert_close(narrow.double(), p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 7, 5000, 50_000])
def test_simplex_by_sorting(n):
    generator = torch.Generator().manual_seed(n)
    for scale in (1e-3, 1.0, 1e6):
        for total in (0.0, 1.0, 0.3 * n * scale):
            d = torch.randn(3, n, generator=generator, dtype=torch.float64) * scale
            d[1] = d[1].round()
            d[2] = 0.3 * scale
            ordered = d.sort(dim=1, descending=True).values
            excess = ordered.cumsum(1) - total
            counts = torch.arange(1, n + 1)
            k = (ordered * counts > excess).sum(1, keepdim=True).clamp_min(1)
            expected = (d - excess.gather(1, k - 1) / k).clamp_min(0)
            p = prox.project_simplex(d, total)
            torch.testing.assert_close(p, expected, rtol=1e-9, atol=1e-9 * max(scale, total / n))
            narrow = prox.project_simplex(d.float(), total).double()
            torch.testing.assert_close(narrow, expected, rtol=1e-5, atol=2e-6 * max(scale, total))


def test_simplex_has_a_gradient():
    d = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_(True)
    assert torch.autograd.gradcheck(prox.project_simplex, d)


def test_large_rows_of_images():
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    metric = torch.rand(x.shape, generator=torch.Generator().manual_seed(6)) + 1e-8
    p = prox.linf(delta, 800.0, lower=-x, upper=1 - x, metric=metric)
    rows64 = [t.flatten(1).double() for t in (delta, -x, 1 - x, metric)]
    for i in range(2):
        beta = reference_beta(rows64[0][i], 800.0, rows64[1][i], rows64[2][i], rows64[3][i])
        assert abs(p[i].abs().max().item() - beta) <= 1e-6 * max(beta, 1e-3)
