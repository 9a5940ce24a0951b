"""`check_domain`: a search for a violation of the laws of a set with a projection.

The laws of ``P = domain.project``, in the order in which they are searched, each to rounding in the dtype of x:

- *form*: P(x) has the shape, dtype and device of x, is finite where x is, and x is not modified;
- *feasible*: P(x) lies in the set, the sides of a box met exactly, measured in float64 by formulas of our own
  (of `Box`, the balls and `Simplex`) or by the caller's ``violation``;
- *idempotent*: P(P(x)) = P(x);
- *fixed*: points of the set (mixtures of projected points) stay where they are;
- *non-expansive*: |P(x) - P(x')| <= |x - x'|, far apart and close together;
- *optimal*: <x - P(x), z - P(x)> <= 0 for points z of the set: no point of the set is nearer;
- *rows independent*: a row's projection does not depend on what the other rows hold, be it NaN.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from constropt.checks import got
from constropt.domain import Box, Domain, L1Ball, L2Ball, LinfBall, Reals, Simplex

from .search import Counterexample as Counterexample
from .search import check_form, check_search, fail, rounding, search_settings

Violation = Callable[[Tensor], Tensor]
_unit = partial(rounding, 16)  # units in the last place


def check_domain(
    domain: Domain,
    shape: tuple[int, ...] = (3, 4),
    *,
    dtype: torch.dtype = torch.float64,
    max_examples: int = 25,
    scale: float = 1e3,
    violation: Violation | None = None,
) -> None:
    """Search for a violation of the laws of projections (see the module); return if none shows.

    Each example is a batch of points with entries up to ``scale``, some of them equal, zero or drawn for the law's
    weak spots. The search is deterministic.

    Args:
        domain: the set; sides, centres and radii that are tensors must fit ``shape``.
        shape: ``(batch, *event)`` of the points, batch at least 2.
        dtype: torch.float64 or torch.float32.
        max_examples: batches of points.
        scale: the largest absolute entry.
        violation: ``(batch, *event)`` in float64 -> ``(batch,)``, how far a point lies outside the set, in the
            variable's units; needed only where the set is not one of the library's, else feasibility is not judged.

    Raises ``LawViolation`` (an AssertionError) naming the law, the row and the numbers; ``ImportError`` where
    hypothesis is not installed; ``TypeError``, ``ValueError`` for arguments of another kind.
    """
    if not isinstance(domain, Domain):
        raise TypeError(f"domain: takes a Domain, got {got(domain)}")
    check_search(dtype, shape)
    settings = search_settings("check_domain", max_examples)
    from hypothesis import given
    from hypothesis import strategies as st

    number = st.floats(-scale, scale, allow_subnormal=False)

    @settings
    @given(st.integers(0, 2**31), st.floats(-3, 3), st.lists(number, min_size=1, max_size=4))
    def search(seed: int, log_spread: float, special: list[float]) -> None:
        generator = torch.Generator().manual_seed(seed)

        def points(spread: float) -> Tensor:
            values = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
            chosen = torch.tensor([*special, 0.0], dtype=torch.float64)
            chosen = chosen[torch.randint(len(chosen), shape, generator=generator)]
            mixed = torch.where(torch.rand(shape, generator=generator) < 0.3, chosen, values)
            return mixed.clamp(-scale, scale).to(dtype)

        _check(domain, points(min(10.0**log_spread, scale)), points, violation)

    search()


def _check(domain: Domain, x: Tensor, points: Callable[[float], Tensor], violation: Violation | None) -> None:
    before, p = x.clone(), domain.project(x)
    check_form(domain, x, p)
    if not torch.equal(x, before):
        raise Counterexample("form", domain, "the argument of project was modified")
    fail("form", domain, ~p.isfinite().flatten(1).all(1), ("not finite, P(x)", p), ("x", x))
    _feasible(domain, x, p, violation)

    def close(law: str, left: Tensor, right: Tensor) -> None:
        gap = (left - right).abs().flatten(1).amax(1)
        fail(law, domain, gap > _unit(left, right, x), ("difference", gap), ("x", x))

    close("idempotence", domain.project(p), p)

    others = [domain.project(points(spread)) for spread in (1.0, 30.0)]
    near = domain.project(p + 0.01 * points(1.0))
    inside = [p + share * (other - p) for other in others for share in (0.25, 0.75)]
    for point in inside:
        moved = (domain.project(point) - point).abs().flatten(1).amax(1)
        fail("points of the set stay", domain, moved > _unit(point, *others, p), ("moved by", moved), ("point", point))

    for other in (points(1.0), points(30.0), x + 1e-3 * points(1.0), x + (p - x) / 2):
        image, apart = _norm(domain.project(other) - p), _norm(other - x)
        bad = image > apart + _unit(other, x, p, domain.project(other))
        fail("non-expansiveness", domain, bad, ("|P(x) - P(x')|", image), ("|x - x'|", apart), ("x", x), ("x'", other))

    for z in (*others, near, *inside):
        product, lengths = ((x - p) * (z - p)).flatten(1).sum(1), _norm(x - p) + _norm(z - p)
        unit = _unit(x, z, p)
        bad = product > unit * (lengths + unit)
        fail("optimality", domain, bad, ("<x - P(x), z - P(x)>", product), ("x", x), ("z", z))

    for others_hold in (points(1.0), torch.full_like(x, torch.nan)):
        for row in range(x.shape[0]):
            mixed = others_hold.clone()
            mixed[row] = x[row]
            gap = (domain.project(mixed)[row] - p[row]).abs().amax().expand(x.shape[0])
            own = torch.arange(x.shape[0], device=x.device) == row
            bad = own & ~(gap <= _unit(x, p))
            fail("independence of rows", domain, bad, ("difference", gap), ("x", x), ("with the other rows", mixed))


def _feasible(domain: Domain, x: Tensor, p: Tensor, violation: Violation | None) -> None:
    amount = _outside(domain, p) if violation is None else violation(p.double())
    if amount is not None:
        fail("feasibility", domain, ~(amount <= _unit(p)), ("outside by", amount), ("P(x)", p), ("x", x))
    bounds = domain.bounds(p)
    if bounds is None and isinstance(domain, (L1Ball, L2Ball, LinfBall)) and domain.box is not None:
        bounds = domain.box.bounds(p)
    if bounds is not None:
        bad = ((p < bounds[0]) | (p > bounds[1])).flatten(1).any(1)
        fail("feasibility", domain, bad, ("the box is not met exactly, P(x)", p), ("x", x))


def _outside(domain: Domain, p: Tensor) -> Tensor | None:
    """``(batch,)`` in float64: by how much a point lies outside one of the library's sets; None for others."""
    wide = p.double()
    if isinstance(domain, (Reals, Box)):
        lower, upper = (side.double() for side in domain.bounds(p))
        return torch.maximum(lower - wide, wide - upper).clamp_min(0).flatten(1).amax(1)
    if isinstance(domain, Simplex):
        return torch.maximum((wide.flatten(1).sum(1) - domain.total).abs(), (-wide).flatten(1).amax(1))
    order = {L1Ball: 1.0, L2Ball: 2.0, LinfBall: torch.inf}.get(type(domain))
    if order is None:
        return None
    assert isinstance(domain, (L1Ball, L2Ball, LinfBall))
    center, radius = (torch.as_tensor(number).to(p).double() for number in (domain.center, domain.radius))
    return (torch.linalg.vector_norm((wide - center).flatten(1), order, dim=1) - radius.reshape(-1)).clamp_min(0)


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows.flatten(1), dim=1)
