"""The law of declarations: what a solver says it takes changes what it does, and what it does not say is refused."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from constropt.domain import Domain
from constropt.features import ANY_DOMAIN, Takes
from constropt.problem import ConstrainedProblem
from constropt.prox import NormAround
from constropt.solution import Solution
from constropt.solvers.base import Solver
from constropt.solving import solve

from .search import Counterexample

Problem = ConstrainedProblem[Any]


@dataclass(frozen=True)
class Probe:
    """A form of a problem that needs one ``feature``, whether it is ``taken``, and what shows that it is used."""

    feature: str
    taken: bool
    needing: Problem
    shows: Callable[[Solution], bool]


def check_declaration(solver: Solver[Any], problem: Problem, start: Tensor, *, steps: int = 100) -> None:
    """Whether the solver's declaration (:class:`constropt.Takes`) is true, on forms of ``problem``, which it takes.

    Each feature, on a form of the problem that needs it: declared, it changes the result; undeclared, it is refused
    with a ``ValueError`` before the model is called. A term that the solver says it differentiates must depend on x,
    else :func:`constropt.solve` says so; one that differentiates nothing spends no backward pass. (``alternatives`` is
    a hint that may stay unused.) Give a problem with one constraint, if the solver takes any. Raises ``LawViolation``
    (an AssertionError) naming the feature.
    """
    takes, where = solver.features(problem), str(solver)
    plain = solve(problem, solver, start, steps=steps)
    for probe in _probes(problem, takes, plain, start):
        if not probe.taken:
            if not _refused(probe.needing, solver, start, before=True):
                raise Counterexample("declaration", where, f"{probe.feature} is not declared, and not refused")
        elif not probe.shows(solve(probe.needing, solver, start, steps=steps)):
            what = f"{probe.feature} is declared, but a problem that needs it ends as if it were not there"
            raise Counterexample("declaration", where, what)
    for name, cut in _without_gradients(problem, takes):
        if not _refused(cut, solver, start, before=False):
            raise Counterexample("declaration", where, f"{name} does not depend on x, and nothing is said")
    if not takes.gradients and bool(plain.backwards.any()):
        raise Counterexample("declaration", where, f"declares no gradients, and takes {plain.backwards.tolist()}")


def _refused(problem: Problem, solver: Solver[Any], start: Tensor, *, before: bool) -> bool:
    """Whether the solver refuses, ``before`` the model is called or after."""
    calls = 0

    def forward(x: Tensor) -> Any:
        nonlocal calls
        calls += 1
        return problem.forward(x)

    try:
        solve(replace(problem, forward=forward), solver, start, steps=2)
    except ValueError:
        return calls == 0 or not before
    return False


def _probes(problem: Problem, takes: Takes, plain: Solution, start: Tensor) -> Iterator[Probe]:
    def differs(found: Solution) -> bool:
        return not torch.equal(plain.x, found.x) or not torch.equal(plain.feasible, found.feasible)

    def feasible(found: Solution) -> bool:
        return bool(found.feasible.any())

    def together(found: Solution) -> bool:
        return bool(found.feasible.all()) == bool(found.feasible.any())

    lower, upper = problem.domain.bounds(plain.x) or (-torch.inf, torch.inf)
    norm = NormAround("l1", torch.zeros_like(plain.x), lower, upper)
    yield Probe("nonsmooth", takes.nonsmooth, replace(problem, nonsmooth=norm), differs)
    yield Probe("one_problem", takes.one_problem, replace(problem, independent=False), together)
    yield Probe("domains", takes.domains is ANY_DOMAIN, replace(problem, domain=_Point(start)), differs)
    yield Probe("feasibility", takes.feasibility, replace(problem, objective=None), feasible)
    if takes.least:
        yield Probe("least", False, replace(problem, constraints=[]), differs)
    if not problem.constraints:
        return
    first = problem.constraints[0]
    with torch.no_grad():
        there = first.value(plain.x, problem.forward(plain.x))

    def beyond(x: Tensor, z: Any) -> Tensor:
        """What the point that was found misses."""
        return first.value(x, z) - there[: len(x)] + 0.05

    def half(x: Tensor, z: Any) -> Tensor:
        """Beside as many entries that are never met."""
        y = first.value(x, z).reshape(x.shape[0], -1)
        return torch.cat([y, 0 * y + 1], 1)

    bare = replace(first, alternatives=None, surrogate=None)
    second = replace(bare, name=f"{first.name}, and more", value=beyond)
    yield Probe("most", takes.most is None, replace(problem, constraints=[bare, second]), differs)
    yield Probe("equalities", takes.equalities, _with(problem, replace(bare, value=beyond, equality=True)), differs)
    hopeless = replace(bare, value=half, fraction=0.5, mask=None)
    yield Probe("fraction", takes.fraction, _with(problem, hopeless), feasible)
    yield Probe("shared", takes.shared, _with(problem, replace(bare, shared=(0,))), differs)
    # a value without a gradient: it is the surrogate's that leads to the solution
    blind = replace(bare, value=lambda x, z: first.value(x, z).detach(), surrogate=first.value)
    yield Probe("surrogate", takes.surrogate, _with(problem, blind), feasible)


def _with(problem: Problem, *constraints: Any) -> Problem:
    return replace(problem, constraints=list(constraints))


@dataclass(frozen=True, eq=False)
class _Point(Domain):
    """The start alone: no box and no ball."""

    point: Tensor

    def project(self, x: Tensor) -> Tensor:
        return self.point.to(x).expand_as(x)


def _without_gradients(problem: Problem, takes: Takes) -> Iterator[tuple[str, Problem]]:
    """The terms that the solver differentiates, each cut off from x in turn."""
    objective = problem.objective
    if takes.objective_gradient and objective is not None:
        yield "the objective", replace(problem, objective=lambda x, z: objective(x, z).detach())
    if takes.constraint_gradients and problem.constraints:
        first = problem.constraints[0]
        cut = replace(first, value=lambda x, z: first.value(x, z).detach(), alternatives=None, surrogate=None)
        yield f"constraint {first.name!r}", _with(problem, cut)
