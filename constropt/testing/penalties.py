"""`check_penalty`: a search for a violation of the laws of a penalty-Lagrangian function P(y, rho, mu).

The laws, in the order in which they are searched, with P' = ``p.derivative``:

- *elementwise*: P and P' have the broadcast shape of (y, rho, mu) and each entry depends on its own arguments only;
- *closed form*: P' equals the derivative of P by autograd;
- *Axiom 2*, P'(0) = mu; *finite*: no NaN, and no infinity where y <= 0; *Axiom 1*, *Axiom 3*, *Axiom 4* (see
  `constropt.penalties.base`);
- *continuity of P* and *continuity of P'*, in particular where the formula changes;
- for the equality form, with mu of any sign: P'(0) = mu, P' -> +-infinity with rho for y > 0 and y < 0, and the others
  but the axioms.

A limit can't be observed. For Axioms 3 and 4, rho runs through a sequence in which each term is the square of the one
before, up to about 1e129 in float64: a derivative that tends to infinity, even like log rho or log log rho, gains at
least as much in each step as before, while a bounded one stops gaining; likewise one that tends to 0 keeps shrinking
by a factor (1/2 for 1/log rho), while one that tends to anything else stops.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from constropt.penalties.base import Penalty, get

from .search import LawViolation, check_search, search_settings

Law = Callable[[Penalty, Tensor, float, float], None]
RANGE = 6.0  # |rho y| goes up to 10^RANGE


def check_penalty(p: str | Penalty | Callable, *, dtype: torch.dtype = torch.float64, max_examples: int = 20) -> None:
    """Search for a violation of the four axioms, of continuity, and of agreement with autograd; return if none shows.

    Each example of the search is a (rho, mu) with rho in [1e-3, 1e6] and mu in [1e-4, 1e4], and a few y with
    |rho y| <= 1e6 besides a fixed grid of them. The search is deterministic.

    Args:
        p: a penalty, the name of one, or a function ``(y, rho, mu)``; its equality form, if any, is checked too.
        dtype: torch.float64 or torch.float32.
        max_examples: examples per law (a quarter for the laws of continuity, which search every cell of the grid).

    Raises ``LawViolation`` (an AssertionError) naming the law, the point and the numbers; ``ImportError`` where
    hypothesis is not installed; ``ValueError`` for another dtype.
    """
    check_search(dtype)
    p = get(p)
    for law in (elementwise, closed_form, axiom_2, finite, axiom_1, axiom_3, axiom_4, continuous, smooth):
        _search(law, p, dtype, _examples(law, max_examples), signed=False)
    if p.equality is not None:
        for law in (elementwise, closed_form, axiom_2, finite, two_sided, continuous, smooth):
            _search(law, p.equality, dtype, _examples(law, max_examples), signed=True)


def _examples(law: Law, max_examples: int) -> int:
    # Each example of these two bisects every cell of the grid: it costs, and finds, as much as several of the others.
    return max(1, max_examples // 4) if law in (continuous, smooth) else max_examples


def _search(law: Law, p: Penalty, dtype: torch.dtype, max_examples: int, *, signed: bool) -> None:
    settings = search_settings("check_penalty", max_examples)
    from hypothesis import given
    from hypothesis import strategies as st

    numbers = st.floats(-(10**RANGE), 10**RANGE, allow_subnormal=False)
    signs = st.sampled_from([1.0, -1.0] if signed else [1.0])

    # without shrinking: the simplest example (rho = mu = 1) comes first, and `_fail` reports the y nearest to 0
    @settings
    @given(st.floats(-3, 6), st.floats(-4, 4), signs, st.lists(numbers, max_size=4))
    def search(log_rho: float, log_mu: float, sign: float, z: list[float]) -> None:
        rho, mu = 10**log_rho, sign * 10**log_mu
        law(p, _points(z, rho, mu, dtype), rho, mu)

    search()


def _points(z: list[float], rho: float, mu: float, dtype: torch.dtype) -> Tensor:
    """Sorted values of y: 0, the vertex -mu/rho of PHR, both signs of rho y on a logarithmic grid, and those drawn."""
    grid = torch.logspace(-4, RANGE, 81, dtype=torch.float64)
    drawn = torch.tensor([*z, 0.0, -mu, mu], dtype=torch.float64)
    return (torch.cat([grid, -grid, drawn]) / rho).to(dtype).unique()


def _fail(law: str, p: Penalty, y: Tensor, rho: float, mu: float, bad: Tensor, *numbers: tuple[str, Tensor]) -> None:
    """Raise for the entry of y, among those that are bad, that is nearest to 0; pass if none is."""
    if not bad.any():
        return
    i = int(torch.where(bad, y.abs(), torch.inf).argmin())
    what = ", ".join(f"{name} = {values[i].item()!r}" for name, values in numbers)
    raise LawViolation(law, p.name, y[i].item(), rho, mu, what)


def _tolerance(dtype: torch.dtype) -> float:
    return math.sqrt(torch.finfo(dtype).eps)


# ------------------------------------------------------------------------------------------------------------- laws


def elementwise(p: Penalty, y: Tensor, rho: float, mu: float) -> None:
    few = y[:: max(1, len(y) // 7)]
    for name, f in (("P", p), ("P'", p.derivative)):
        together, alone = f(few, rho, mu), torch.stack([f(one, rho, mu) for one in few])
        if together.shape != few.shape:
            what = f"{name} of shape {tuple(together.shape)} for y of shape {tuple(few.shape)}"
            raise LawViolation("elementwise", p.name, few[0].item(), rho, mu, what)
        # Vectorised and scalar kernels round differently, and P may be a difference of large numbers: a wide tolerance.
        near = torch.isclose(together, alone, rtol=1e-3, atol=1e-3 * abs(mu) * min(1.0, 1 / rho), equal_nan=True)
        _fail("elementwise", p, few, rho, mu, ~near, (f"{name} in a batch", together), (f"{name} alone", alone))


def closed_form(p: Penalty, y: Tensor, rho: float, mu: float) -> None:
    if p.slope is None:
        return
    closed, auto = p.derivative(y, rho, mu), p.autograd_slope(y, rho, mu)
    # Where an autograd gradient is the difference of two numbers of the size of mu, their rounding is no error.
    tolerance = _tolerance(y.dtype) * (closed.abs() + auto.abs() + abs(mu))
    bad = ((closed - auto).abs() > tolerance) & (closed != auto)  # NaN is the law of finite values
    _fail("closed form", p, y, rho, mu, bad, ("closed form of P'", closed), ("P' by autograd", auto))


def axiom_1(p: Penalty, y: Tensor, rho: float, mu: float) -> None:
    slope = p.derivative(y, rho, mu)
    rounding = 16 * torch.finfo(y.dtype).eps * mu
    _fail("Axiom 1", p, y, rho, mu, slope < -rounding, ("P' >= 0 fails: P'", slope))


def axiom_2(p: Penalty, y: Tensor, rho: float, mu: float) -> None:
    zero = y.new_zeros(1)
    slope = p.derivative(zero, rho, mu)
    bad = ~((slope - mu).abs() <= _tolerance(y.dtype) * abs(mu))
    _fail("Axiom 2", p, zero, rho, mu, bad, ("P'(0) = mu fails: P'(0)", slope))


def axiom_3(p: Penalty, y: Tensor, rho: float, mu: float) -> None:
    _grows("Axiom 3", p, y.new_tensor([0.01, 0.1, 1.0, 10.0]), rho, mu, 1)


def axiom_4(p: Penalty, y: Tensor, rho: float, mu: float) -> None:
    y = y.new_tensor([-0.01, -0.1, -1.0, -10.0])
    rhos = _rhos(y, rho)
    slopes = p.derivative(y, rhos, mu).abs()
    last, before = slopes[-1], slopes[-2]
    shrinks = (last <= 0.75 * before) | (last <= torch.finfo(y.dtype).eps ** 2 * mu)
    what = f"P' -> 0 fails: P' at rho = {rhos[-1].item():.3g}", f"P' at rho = {rhos[-2].item():.3g}"
    _fail("Axiom 4", p, y, rho, mu, ~shrinks, (what[0], last), (what[1], before))


def two_sided(p: Penalty, y: Tensor, rho: float, mu: float) -> None:
    """Equality form: P' -> +infinity for y > 0 and -infinity for y < 0."""
    up = y.new_tensor([0.01, 0.1, 1.0, 10.0])
    _grows("two-sided growth", p, up, rho, mu, 1)
    _grows("two-sided growth", p, -up, rho, mu, -1)


def _grows(law: str, p: Penalty, y: Tensor, rho: float, mu: float, sign: int) -> None:
    rhos = _rhos(y, rho)
    slopes = sign * p.derivative(y, rhos, mu)
    gains = slopes.diff(dim=0)
    grows = (gains[-1] > 0) & (gains[-1] >= 0.5 * gains[:-1].amax(0))
    # An exponential overflows on the way: infinity is what the axiom asks for, and what comes after it is nothing.
    grows |= (slopes == torch.inf).any(0)
    what = f"|P'| -> infinity fails: |P'| at rho = {rhos[-1].item():.3g}", f"|P'| at rho = {rhos[-2].item():.3g}"
    _fail(law, p, y, rho, mu, ~grows, (what[0], slopes[-1]), (what[1], slopes[-2]))


def _rhos(y: Tensor, rho: float) -> Tensor:
    """(8, 1): each the square of the one before; the last depends on rho a little, and its square does not overflow."""
    top = 0.42 * math.log10(torch.finfo(y.dtype).max) + 0.05 * math.log10(rho)
    exponents = top * 0.5 ** torch.arange(7, -1, -1, dtype=torch.float64)
    return (10**exponents).to(y.dtype).unsqueeze(1)


def finite(p: Penalty, y: Tensor, rho: float, mu: float) -> None:
    for name, f in (("P", p), ("P'", p.derivative), ("P' by autograd", p.autograd_slope)):
        values = f(y, rho, mu)
        _fail("finite", p, y, rho, mu, values.isnan() | values.isinf() & (y <= 0), (name, values))


def continuous(p: Penalty, y: Tensor, rho: float, mu: float) -> None:
    def both(y: Tensor) -> Tensor:
        return torch.stack([p(y, rho, mu), p.derivative(y, rho, mu)])

    def unexplained(lo: Tensor, hi: Tensor, at_lo: Tensor, at_hi: Tensor) -> Tensor:  # by the mean of the two slopes
        return (at_hi[0] - at_lo[0] - (hi - lo) * (at_lo[1] + at_hi[1]) / 2).abs()

    lo, hi, (left, _), (right, _), jump = _close_in(both, unexplained, y)
    rounding = 64 * torch.finfo(y.dtype).eps / rho * (1 + abs(mu))
    scale = left.abs() + right.abs() + abs(mu) * (lo.abs() + 1 / rho)
    bad = jump > _tolerance(y.dtype) * scale + rounding
    _fail("continuity of P", p, lo, rho, mu, bad, ("P", left), ("next y", hi), ("P there", right))


def smooth(p: Penalty, y: Tensor, rho: float, mu: float) -> None:
    def slope(y: Tensor) -> Tensor:
        return p.derivative(y, rho, mu)

    def change(lo: Tensor, hi: Tensor, at_lo: Tensor, at_hi: Tensor) -> Tensor:
        return (at_hi - at_lo).abs()

    lo, hi, left, right, jump = _close_in(slope, change, y)
    bad = jump > _tolerance(y.dtype) * (left.abs() + right.abs() + abs(mu))
    _fail("continuity of P'", p, lo, rho, mu, bad, ("P'", left), ("next y", hi), ("P' there", right))


def _close_in(f: Callable[[Tensor], Tensor], gap: Callable[..., Tensor], y: Tensor) -> tuple[Tensor, ...]:
    """Bisect every cell of the grid y towards its largest gap: (lo, hi, f(lo), f(hi), the gap that is left there).

    A gap that keeps on shrinking (a steep slope, or the cube root at 0) counts as 0: a jump stays what it is.
    """
    at = f(y)
    lo, hi, at_lo, at_hi = y[:-1], y[1:], at[..., :-1], at[..., 1:]
    earlier = left = gap(lo, hi, at_lo, at_hi)
    for step in range(44):
        middle = lo + (hi - lo) / 2
        at_middle = f(middle)
        gap_left, gap_right = gap(lo, middle, at_lo, at_middle), gap(middle, hi, at_middle, at_hi)
        go_left = gap_left >= gap_right
        lo, at_lo = torch.where(go_left, lo, middle), torch.where(go_left, at_lo, at_middle)
        hi, at_hi = torch.where(go_left, middle, hi), torch.where(go_left, at_middle, at_hi)
        left = torch.where(go_left, gap_left, gap_right)
        if step == 27:
            earlier = left
    return lo, hi, at_lo, at_hi, torch.where((left > 0.5 * earlier) & left.isfinite(), left, 0.0)
