"""`check_solver`: what every solver of constrained problems owes, on convex problems whose optimum is known.

The laws, in the order in which they are searched:

- *optimum*: every row ends feasible, and as near to the optimum as asked;
- *inputs*: x0 and the tensors of the problem are not modified, and the global random state is not touched;
- *claims*: objective, violation and feasibility are those of one clean evaluation of the returned x;
- *same seed, same result*: two runs are equal bit for bit;
- *rows independent*: a row alone ends where it ends in the batch, and so does a batch in another order;
- *declaration*: what the solver says it takes changes what it does, what it does not say is refused
  (:func:`check_declaration`);
- *a lost row*: a row whose objective is NaN, from the start or from a later step on, is not claimed as converged,
  returns a finite x, and leaves the other rows as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from constropt.constraint import Constraint, equality, inequality
from constropt.domain import Box, Domain, Reals
from constropt.lagrangian import AugmentedLagrangian
from constropt.problem import ConstrainedProblem
from constropt.solution import Solution, Status
from constropt.solvers.base import Method, Solver
from constropt.solvers.projected_lbfgs.solver import ProjectedLBFGS
from constropt.solving import solve

from .declaration import check_declaration
from .search import Counterexample, fail

AnySolver = Solver | Method | AugmentedLagrangian | None


@dataclass(frozen=True, eq=False)
class KnownProblem:
    """Rows of a convex problem: ``build(*data)`` declares it for any rows of the ``data``, all ``(batch, ...)``.

    ``start`` is the x0 of each row and ``optimum`` its solution, ``(batch, *event)``.
    """

    name: str
    build: Callable[..., ConstrainedProblem]
    data: tuple[Tensor, ...]
    start: Tensor
    optimum: Tensor

    def take(self, rows: Tensor) -> KnownProblem:
        """The same problem with these rows only."""
        return replace(self, data=tuple(d[rows] for d in self.data), start=self.start[rows], optimum=self.optimum[rows])

    def problem(self) -> ConstrainedProblem:
        return self.build(*self.data)


def known_problems(dtype: torch.dtype = torch.float64, *, equalities: bool = True) -> tuple[KnownProblem, ...]:
    """Projections with closed forms: on a half-space, a ball in a box, a plane (an equality)."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    normal = [[0.6, 0.0, 0.8], [1.0, 0.0, 0.0], [0.0, -0.6, 0.8], [0.5, 0.5, 0.5**0.5]]
    normal = torch.tensor(normal, dtype=torch.float64)
    above = (a * normal).sum(1, keepdim=True) + torch.tensor([[0.5], [1.0], [0.2], [-0.5]], dtype=torch.float64)
    distance = ((a * normal).sum(1, keepdim=True) + above).clamp_min(0)
    half = KnownProblem("half-space", _half_space, (a, normal, -above), torch.zeros_like(a), a - distance * normal)

    outside = torch.tensor([[2.0, 1.0, -1.0], [0.9, 1.2, 0.8], [0.3, 0.2, -0.4], [0.0, 3.0, 0.5]], dtype=torch.float64)
    kept = outside.clamp_min(0)  # no entry of the projection reaches 1: the ball binds first
    kept = kept / kept.norm(dim=1, keepdim=True).clamp_min(1)
    ball = KnownProblem("ball in a box", _ball, (outside,), torch.full_like(outside, 0.2), kept)

    flat = KnownProblem("plane", _plane, (a,), torch.zeros_like(a), a - (a.sum(1, keepdim=True) - 1) / 3)
    return tuple(
        replace(p, data=tuple(d.to(dtype) for d in p.data), start=p.start.to(dtype), optimum=p.optimum.to(dtype))
        for p in ((half, ball, flat) if equalities else (half, ball))
    )


def check_solver(
    solver: AnySolver,
    *,
    problems: Sequence[KnownProblem] | None = None,
    steps: int = 1000,
    accuracy: float = 1e-3,
    dtype: torch.dtype = torch.float64,
    equalities: bool | None = None,
) -> None:
    """Search for a violation of what every solver owes (see the module); return if none shows.

    Args:
        solver: what :func:`constropt.solve` takes.
        problems: in place of :func:`known_problems`, for solvers that take a special form.
        steps: the budget of every run.
        accuracy: the largest distance of a row to its optimum, in the variable's units.
        dtype: of x; torch.float64 or torch.float32.
        equalities: whether problems with equalities are among them; by default where the solver declares to take them.

    Raises ``LawViolation`` (an AssertionError) naming the law, the problem, the row and the numbers.
    """
    declared = ProjectedLBFGS() if solver is None or isinstance(solver, AugmentedLagrangian) else solver
    if problems is None:
        first = known_problems(dtype)[0].problem()
        taken = not isinstance(declared, Solver) or declared.features(first).equalities
        problems = known_problems(dtype, equalities=taken if equalities is None else equalities)
    for known in problems:
        _check(solver, known, steps, accuracy)
    if isinstance(declared, Solver) and problems:  # a method's solvers are checked where they are declared
        check_declaration(declared, problems[0].problem(), problems[0].start, steps=min(steps, 100))


def _check(solver: AnySolver, known: KnownProblem, steps: int, accuracy: float) -> None:
    data, start, state = tuple(d.clone() for d in known.data), known.start.clone(), torch.get_rng_state()
    solution = solve(known.problem(), solver, known.start, steps=steps)
    where = f"{solver} on {known.name!r}"

    distance = (solution.x - known.optimum).flatten(1).norm(dim=1)
    fail("optimum", where, ~solution.feasible, ("not feasible, violation", solution.violation))
    reached = ("distance", distance), ("x", solution.x), ("optimum", known.optimum)
    fail("optimum", where, ~(distance <= accuracy), *reached)

    if not torch.equal(known.start, start) or not all(torch.equal(d, b) for d, b in zip(known.data, data)):
        raise Counterexample("inputs", where, "x0 or a tensor of the problem was modified")
    if not torch.equal(torch.get_rng_state(), state):
        raise Counterexample("inputs", where, "the global random state was used")

    _claims(solution, where)
    again = solve(known.problem(), solver, known.start, steps=steps)
    for name in ("x", "objective", "violation", "status", "forwards", "backwards", "first_feasible"):
        if not torch.equal(getattr(again, name), getattr(solution, name)):
            raise Counterexample("same seed, same result", where, f"{name} differs between two runs")

    batch = torch.arange(len(known.start))
    for rows in (*batch.split(1), batch.flip(0)):
        part = known.take(rows)
        gap = (solve(part.problem(), solver, part.start, steps=steps).x - solution.x[rows]).abs().flatten(1).amax(1)
        fail("independence of rows", f"{where}, rows {rows.tolist()}", ~(gap <= _same(solution)), ("difference", gap))

    for late in (False, True):
        _lost(solver, known, steps, solution, where, late)


def _claims(solution: Solution, where: str) -> None:
    point = solution.problem.evaluate(solution.x, grad=False)
    for name, value in (("objective", point.total()), ("violation", point.violation())):
        if not torch.equal(getattr(solution, name), value):
            what = f"{name} = {getattr(solution, name).tolist()}, an evaluation of x gives {value.tolist()}"
            raise Counterexample("claims", where, what)
    certain = ~solution.feasible & (solution.violation == 0)
    fail("claims", where, certain, ("called infeasible with violation", solution.violation))


def _lost(solver: AnySolver, known: KnownProblem, steps: int, solution: Solution, where: str, late: bool) -> None:
    """The objective of one row becomes NaN, at once or after three evaluations; the others must not notice."""
    row, problem = len(known.start) - 1, known.problem()
    own = torch.arange(len(known.start)) == row
    calls = 0

    def poisoned(x: Tensor, z: object) -> Tensor:
        nonlocal calls
        calls += 1
        factor = torch.where(own, torch.nan, 1.0) if calls > 3 or not late else torch.ones(len(own))
        assert problem.objective is not None
        return problem.objective(x, z) * factor.to(x)

    hurt = solve(replace(problem, objective=poisoned), solver, known.start, steps=steps)
    where = f"{where}, row {row} NaN {'later' if late else 'from the start'}"
    gap = (hurt.x - solution.x).abs().flatten(1).amax(1)
    fail("a lost row", where, ~own & ~(gap <= _same(solution)), ("another row moved by", gap))
    fail("a lost row", where, ~hurt.x.isfinite().flatten(1).all(1), ("x", hurt.x))
    claimed = own & ((hurt.status == Status.CONVERGED) | hurt.feasible)
    fail("a lost row", where, claimed, ("claimed as a solution, status", hurt.status))
    for multiplier in hurt.multipliers:
        broken = ~own & ~multiplier.isfinite().reshape(len(multiplier), -1).all(1)
        fail("a lost row", where, broken, ("multipliers of another row", multiplier))


def _same(solution: Solution) -> float:
    """Rounding that the batch size may bring in: kernels of other shapes add in another order."""
    return torch.finfo(solution.x.dtype).eps ** 0.5


def _half_space(a: Tensor, normal: Tensor, level: Tensor) -> ConstrainedProblem:
    return _nearest(a, inequality(lambda x, _: (x * normal).sum(1, keepdim=True) - level, name="half-space"))


def _ball(a: Tensor) -> ConstrainedProblem:
    return _nearest(a, inequality(lambda x, _: (x.square().sum(1) - 1) / 2, name="ball"), Box(0.0, 1.0))


def _plane(a: Tensor) -> ConstrainedProblem:
    return _nearest(a, equality(lambda x, _: (x.sum(1) - 1) / 3**0.5, name="sum"))


def _nearest(a: Tensor, constraint: Constraint, domain: Domain | None = None) -> ConstrainedProblem:
    """The point nearest to a."""
    return ConstrainedProblem(lambda x, _: (x - a).square().sum(1) / 2, [constraint], domain=domain or Reals())
