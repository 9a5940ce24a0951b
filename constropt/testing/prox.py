"""`check_prox`: a search for a violation of the laws of a proximity operator.

The operator is called as ``prox(x, step, lower=, upper=, metric=, warm=, out=)`` and stands for

    argmin over p   1/2 sum_i s_i (p_i - x_i)^2 + step f(p)   subject to   lower <= p <= upper,

row by row. The laws, in the order in which they are searched, to rounding where nothing else is said:

- *form*: the result has the shape, dtype and device of x and is finite; arguments are not modified;
- *ownership*: the result shares no memory with an argument or with an earlier result; ``out`` is written and returned;
- *feasibility*: the box is met exactly, in the dtype of the result;
- *optimality*: no point of the box, near or far, has a lower objective (with ``function``); for a projection,
  ``<x - p, z - p> <= 0`` for the points z that it gives, and it leaves its results where they are (*idempotence*);
- *firm non-expansiveness* in the metric: ``|p - p'|^2 <= <p - p', x - x'>``;
- *scaling*: ``prox(7 s, 7 step) = prox(s, step)``; *oddness* and *symmetry* (under permutations), where asked for;
- *independence of rows*: what a row gets does not depend on the other rows, be they NaN;
- *warm start*: a guess changes nothing; *half precision*: what float32 gives, rounded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from .search import Counterexample, check_form, check_search, fail, rounding, search_settings

_ROUNDING = 32  # units in the last place
_ALL = ("lower", "upper", "metric", "warm", "out")


@dataclass(frozen=True)
class Laws:
    """What is known of f, and so the laws that hold.

    ``convex``: firm non-expansiveness is a law of convex functions only, and of a nonconvex one several minimisers are
    taken for equal if ``function`` says so. ``projection``: f is the indicator of a convex set, so that the step does
    not matter. ``odd``: ``f(-p) = f(p)``. ``symmetric``: f stays the same when entries change places.
    """

    convex: bool = True
    projection: bool = False
    odd: bool = False
    symmetric: bool = False


class LawOptions(TypedDict, total=False):
    """:class:`Laws` as keywords."""

    convex: bool
    projection: bool
    odd: bool
    symmetric: bool


def check_prox(
    prox: Callable[..., Tensor],
    shape: tuple[int, ...] = (3, 5),
    *,
    function: Callable[[Tensor], Tensor] | None = None,
    takes: tuple[str, ...] = _ALL,
    dtype: torch.dtype = torch.float64,
    max_examples: int = 25,
    scale: float = 100.0,
    **laws: Unpack[LawOptions],
) -> None:
    """Search for a violation of the laws of proximity operators (see the module); return if none shows.

    Each example is a batch of points with entries up to ``scale``, some of them equal or 0, a step per row, some of
    them 0, a box that contains 0 or none, some of its sides 0, and a metric or none. The search is deterministic.

    Args:
        prox: the operator, with the signature of those in `constropt.prox`.
        shape: ``(batch, *event)`` of the points, batch at least 2.
        function: ``(batch, *event)`` in float64 -> ``(batch,)``, the f above; without it, optimality is not judged.
        takes: the keywords that the operator knows; laws about others are skipped.
        dtype: torch.float64 or torch.float32.
        max_examples: batches of points.
        scale: the largest absolute entry.
        laws: what is known of f, the fields of :class:`Laws`.

    Raises ``LawViolation`` (an AssertionError) naming the law, the row and the numbers; ``ImportError`` where
    hypothesis is not installed; ``ValueError`` for arguments out of range.

    >>> from constropt import prox
    >>> check_prox(prox.l1, function=lambda p: p.abs().flatten(1).sum(1), odd=True, max_examples=2)
    """
    check_search(dtype, shape)
    if unknown := set(takes) - set(_ALL):
        raise ValueError(f"takes: knows {list(_ALL)}, got {sorted(unknown)}")
    judged = Laws(**laws)
    settings = search_settings("check_prox", max_examples)
    from hypothesis import given
    from hypothesis import strategies as st

    @settings
    @given(st.integers(0, 2**31), st.floats(-2, 2), st.booleans(), st.booleans())
    def search(seed: int, log_spread: float, boxed: bool, weighted: bool) -> None:
        generator = torch.Generator().manual_seed(seed)

        def points(spread: float = min(10.0**log_spread, scale)) -> Tensor:
            values = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
            special = torch.tensor([0.0, spread, -spread, 1.0], dtype=torch.float64)
            special = special[torch.randint(4, shape, generator=generator)]
            chosen = torch.rand(shape, generator=generator) < 0.3
            return torch.where(chosen, special, values).clamp(-scale, scale).to(dtype)

        arguments: dict[str, Any] = {}
        if boxed:
            arguments = {"lower": points().clamp_max(0), "upper": points().clamp_min(0)}
        if weighted:
            arguments["metric"] = 10 ** points(1.0).clamp(-1, 1)
        arguments = {name: value for name, value in arguments.items() if name in takes}
        step = points().flatten(1).abs().sum(1) * torch.rand(shape[0], generator=generator).to(dtype)
        _Check(prox, points, step * (step > 0.01), arguments, takes, function, judged).run()

    search()


@dataclass(eq=False)
class _Check:
    """One example: x, step and the other arguments, the result p, and the laws about it."""

    prox: Callable[..., Tensor]
    points: Callable[..., Tensor]
    step: Tensor
    arguments: dict[str, Any]
    takes: tuple[str, ...]
    function: Callable[[Tensor], Tensor] | None
    laws: Laws

    def __post_init__(self) -> None:
        self.x = self.points()
        metric = self.arguments.get("metric")
        self.metric = torch.ones_like(self.x) if metric is None else metric
        self.p = self.form()

    def run(self) -> None:
        self.ownership()
        self.feasibility()
        self.optimality()
        if self.laws.projection:
            self.same("idempotence", self.at(self.p), self.p)
        if self.laws.convex:
            self.firm()
        self.equivariance()
        self.rows()
        if "warm" in self.takes:
            size = self.p.abs().flatten(1).amax(1)
            for guess in (1.01 * size, torch.zeros_like(size), size + 1e6, size * torch.nan):
                self.same("warm start", self.at(self.x, warm=guess), self.p, ("warm", guess))
        self.half()

    def at(self, x: Tensor, step: Tensor | None = None, **changes: Any) -> Tensor:
        return self.prox(x, self.step if step is None else step, **{**self.arguments, **changes})

    def form(self) -> Tensor:
        given = {"x": self.x, "step": self.step, **self.arguments}
        before = {name: value.clone() for name, value in given.items()}
        p = self.at(self.x)
        check_form(self.prox, self.x, p)
        for name, value in given.items():
            if not torch.equal(value, before[name]):
                raise Counterexample("form", self.prox, f"{name} was modified")
        self.fail("form", ~p.isfinite().flatten(1).all(1), ("not finite, p", p))
        return p

    def ownership(self) -> None:
        kept, first = self.p.clone(), self.p
        second = self.at(self.points())
        places = {"an earlier result": second, "x": self.x, **self.arguments}
        for name, other in places.items():
            if first.untyped_storage().data_ptr() == other.untyped_storage().data_ptr():
                raise Counterexample("ownership", self.prox, f"the result shares memory with {name}")
        if not torch.equal(first, kept):
            raise Counterexample("ownership", self.prox, "a later call changed the result")
        if "out" in self.takes:
            out = torch.full_like(self.x, torch.nan)
            if self.at(self.x, out=out) is not out:
                raise Counterexample("ownership", self.prox, "out is not what is returned")
            self.same("ownership", out, self.p)

    def feasibility(self) -> None:
        lower, upper = self.sides()
        self.fail("feasibility", ((self.p < lower) | (self.p > upper)).flatten(1).any(1), ("p", self.p))

    def sides(self) -> tuple[Any, Any]:
        return self.arguments.get("lower", -torch.inf), self.arguments.get("upper", torch.inf)

    def objective(self, p: Tensor) -> Tensor:
        assert self.function is not None
        distance = (self.metric.double() * (p.double() - self.x.double()).square()).flatten(1).sum(1) / 2
        return distance + self.step.double() * self.function(p.double())

    def optimality(self) -> None:
        if self.laws.projection:
            for z in (self.at(self.points()), self.at(self.points(0.1))):
                pull = (self.metric * (self.x - self.p) * (z - self.p)).flatten(1).sum(1)
                lengths = (self.metric * ((self.x - self.p).abs() + (z - self.p).abs())).flatten(1).sum(1)
                unit = self.unit(self.x, z, self.p)
                self.fail("optimality", pull > unit * (lengths + unit), ("<x - p, z - p>", pull), ("z", z))
        if self.function is None:
            return
        lower, upper = self.sides()
        least = self.objective(self.p)
        size = (self.metric * self.x.square()).flatten(1).sum(1) + least.to(self.x)
        slack = _ROUNDING * torch.finfo(self.x.dtype).eps * (1 + size).double()
        moves = [torch.zeros_like(self.p), self.x, 0.9 * self.p, self.points(), self.points(0.1)]
        moves += [self.p + share * self.points(1.0) for share in (1.0, 0.1, 1e-2, 1e-3, 1e-4)]
        moves += [self.p + share * (self.x - self.p) for share in (0.5, 0.1, 1e-2)]
        for q in (move.maximum(torch.as_tensor(lower)).minimum(torch.as_tensor(upper)).to(self.x) for move in moves):
            value = self.objective(q)
            self.fail("optimality", value < least - slack, ("objective", least), ("lower", value), ("at", q))

    def firm(self) -> None:
        for other in (self.points(), self.x + 1e-3 * self.points(1.0)):
            q = self.at(other)
            apart = (self.metric * (self.p - q).square()).flatten(1).sum(1)
            along = (self.metric * (self.p - q) * (self.x - other)).flatten(1).sum(1)
            lengths = (self.metric * ((self.p - q).abs() + (self.x - other).abs())).flatten(1).sum(1)
            unit = self.unit(self.x, other, self.p, q)
            bad = apart > along + unit * (lengths + unit)
            self.fail("firm non-expansiveness", bad, ("|p - p'|^2", apart), ("<p - p', x - x'>", along), ("x'", other))

    def equivariance(self) -> None:
        if "metric" in self.takes:
            self.same("scaling", self.at(self.x, 7 * self.step, metric=7 * self.metric), self.p)
        if self.laws.odd:
            sides = {"lower": "upper", "upper": "lower"}
            turned = {name: -self.arguments[other] for name, other in sides.items() if other in self.arguments}
            self.same("oddness", -self.at(-self.x, **turned), self.p)
        if self.laws.symmetric:
            order = torch.randperm(self.x[0].numel(), generator=torch.Generator().manual_seed(0))

            def shuffled(values: Tensor) -> Tensor:
                return values.flatten(1)[:, order].view_as(values)

            arguments = {name: shuffled(value) for name, value in self.arguments.items()}
            self.same("symmetry", self.at(shuffled(self.x), **arguments), shuffled(self.p))

    def rows(self) -> None:
        for others in (self.points(), torch.full_like(self.x, torch.nan)):
            for row in range(self.x.shape[0]):
                mixed = others.clone()
                mixed[row] = self.x[row]
                result = self.p.clone()
                result[row] = self.at(mixed)[row]
                self.same("independence of rows", result, self.p, ("with the other rows", mixed))

    def half(self) -> None:
        for dtype in (torch.float16, torch.bfloat16):
            rounded = {name: value.to(dtype) for name, value in self.arguments.items()}
            wide = {name: value.float() for name, value in rounded.items()}
            x, step = self.x.to(dtype), self.step.to(dtype).float()
            got: Any = self.prox(x, step, **rounded)
            expected = self.prox(x.float(), step, **wide).to(dtype)
            if not isinstance(got, Tensor) or got.dtype != dtype:
                raise Counterexample("half precision", self.prox, f"{dtype} gives {getattr(got, 'dtype', type(got))}")
            gap = (got.float() - expected.float()).abs().flatten(1).amax(1)
            size = expected.float().abs().flatten(1).amax(1)
            bad = ~(gap <= torch.finfo(dtype).eps * size)
            self.fail("half precision", bad, ("p", got), ("float32, rounded", expected), ("x", x))

    def same(self, law: str, got: Tensor, expected: Tensor, *numbers: tuple[str, Tensor]) -> None:
        gap = (got - expected).abs().flatten(1).amax(1)
        bad = ~(gap <= self.unit(self.x, expected) * self.condition())
        if not self.laws.convex and self.function is not None and law in ("scaling", "warm start"):
            bad &= (self.objective(got) - self.objective(expected)).abs() > self.unit(self.x) * (1 + self.step)
        self.fail(law, bad, ("difference", gap), ("p", expected), ("got", got), *numbers)

    def condition(self) -> Tensor:
        """How much the metric may enlarge the rounding of sums."""
        rows = self.metric.flatten(1)
        return rows.amax(1) / rows.amin(1)

    def unit(self, *tensors: Tensor) -> Tensor:
        """``(batch,)``: what counts as rounding for numbers of that size."""
        return rounding(_ROUNDING, *tensors)

    def fail(self, law: str, bad: Tensor, *numbers: tuple[str, Tensor]) -> None:
        """Raise for the first row that is bad; pass if none is."""
        fail(law, self.prox, bad, *numbers, ("x", self.x), ("step", self.step), *self.arguments.items())
