"""What of a problem a solver takes, declared once and checked in one place: what is not used is refused."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constropt.constraint import Constraint
from constropt.domain import Domain, L1Ball, L2Ball, LinfBall
from constropt.problem import ConstrainedProblem


@dataclass(frozen=True)
class DomainKind:
    """Domains that a solver takes: ``holds(domain, x0)`` says whether one is of the kind, ``words`` describe it."""

    words: str
    holds: Callable[[Domain, Tensor], bool]


def is_finite_box(domain: Domain, x: Tensor) -> bool:
    """Whether the domain is a box, and all its sides are finite."""
    bounds = domain.bounds(x)
    return bounds is not None and bool(torch.stack(bounds).isfinite().all())


ANY_DOMAIN = DomainKind("takes any domain", lambda domain, x: True)
BOX = DomainKind("needs a Box", lambda domain, x: domain.bounds(x) is not None)
FINITE_BOX = DomainKind("needs a finite Box", is_finite_box)
NORM_BALL = DomainKind(
    "takes a ball, of whose radius its steps are a part",
    lambda domain, x: isinstance(domain, LinfBall | L2Ball | L1Ball),
)


@dataclass(frozen=True)
class Takes:
    """What a solver handles; what is left False is refused by :func:`constropt.solve`, with the feature's name.

    ``least`` and ``most`` (None: any number): how many constraints. ``equalities``; ``shared``: multipliers shared over
    dimensions; ``fraction``: constraints of which a fraction must hold; ``nonsmooth``: a term r with a prox;
    ``surrogate``: directions follow a constraint's surrogate; ``alternatives``: this hint is used (others may ignore
    it); ``one_problem``: rows that are one problem (``independent=False``); ``feasibility``: no objective
    (``objective=None``). ``domains``: the kind of domain. ``objective_gradient`` and ``constraint_gradients``: whether
    they are differentiated, so that they must depend on x; without either only forward passes are made.

    :func:`constropt.testing.check_solver` verifies a declaration.
    """

    least: int = 0
    most: int | None = None
    equalities: bool = False
    shared: bool = False
    fraction: bool = False
    nonsmooth: bool = False
    surrogate: bool = False
    alternatives: bool = False
    one_problem: bool = False
    feasibility: bool = False
    domains: DomainKind = ANY_DOMAIN
    objective_gradient: bool = True
    constraint_gradients: bool = True

    @property
    def gradients(self) -> bool:
        """Whether any backward pass is made."""
        return self.objective_gradient or self.constraint_gradients


@dataclass(frozen=True)
class Feature:
    """A field of :class:`Takes`: what of a problem ``asks`` for it, in words, what a solver does ``without`` it."""

    name: str
    asks: Callable[[ConstrainedProblem[Any]], str | None]
    without: str
    taken: Callable[[Takes], bool]


def _if(
    holds: Callable[[ConstrainedProblem[Any]], bool], words: str
) -> Callable[[ConstrainedProblem[Any]], str | None]:
    return lambda problem: words if holds(problem) else None


def _of(uses: Callable[[Constraint[Any]], bool], words: str) -> Callable[[ConstrainedProblem[Any]], str | None]:
    """The first constraint that ``uses`` the feature, and ``words`` with its fields."""
    return lambda p: next((f"constraint {c.name!r}: {words.format(c)}" for c in p.constraints if uses(c)), None)


_dropped = "follows the values themselves (replace(constraint, surrogate=None) drops it)"
_no_objective = _if(lambda p: p.objective is p.nonsmooth is None, "objective: is None, and there is no nonsmooth term")
_one_problem = _if(lambda p: not p.independent, "problem: its rows are one problem (independent=False)")
_shared = _of(lambda c: bool(c.shared), "shares multipliers along dims {0.shared}")
_fraction = _of(lambda c: c.fraction < 1, "fraction={0.fraction}")
_nonsmooth = _if(lambda p: p.nonsmooth is not None, "problem: has a nonsmooth term")
_surrogate = _of(lambda c: c.surrogate is not None, "has a surrogate")
_equality = _of(lambda c: c.equality, "is an equality")

FEATURES = (
    Feature("equalities", _equality, "takes inequalities alone", lambda t: t.equalities),
    Feature("shared", _shared, "shares none", lambda t: t.shared),
    Feature("fraction", _fraction, "takes constraints that must all hold", lambda t: t.fraction),
    Feature("surrogate", _surrogate, _dropped, lambda t: t.surrogate),
    Feature("nonsmooth", _nonsmooth, "would ignore it; use a proximal solver", lambda t: t.nonsmooth),
    Feature("one_problem", _one_problem, "takes independent rows", lambda t: t.one_problem),
    Feature("feasibility", _no_objective, "needs one to minimise", lambda t: t.feasibility),
)


def require_features(
    problem: ConstrainedProblem[Any], takes: Takes, x0: Tensor, solver: str, others: Iterable[tuple[str, Takes]]
) -> None:
    """``ValueError`` for the first feature of ``problem`` that ``takes`` lacks, naming it and ``others`` that do."""
    others = list(others)

    def having(has: Callable[[Takes], bool]) -> str:
        names = sorted({name for name, declared in others if has(declared)})
        return f"; these take it: {', '.join(names)}" if names else ""

    number = len(problem.constraints)
    equal = any(constraint.equality for constraint in problem.constraints) and not takes.equalities
    single = (takes.least, takes.most) == (1, 1)
    if number < takes.least or takes.most is not None and number > takes.most or single and equal:
        kinds = ["equality" if constraint.equality else "inequality" for constraint in problem.constraints]
        cure = "use solve(problem, None, ...) for others"
        raise ValueError(f"constraints: {solver} takes {_number(takes)}, got {', '.join(kinds) or 'none'}; {cure}")
    for feature in FEATURES:
        asked = feature.asks(problem)
        if asked is not None and not feature.taken(takes):
            raise ValueError(f"{asked}, but {solver} {feature.without}{having(feature.taken)}")
    if not takes.domains.holds(problem.domain, x0):
        cure = having(lambda declared: declared.domains.holds(problem.domain, x0))
        raise ValueError(f"problem.domain: {solver} {takes.domains.words}, got {problem.domain}{cure}")


def _number(takes: Takes) -> str:
    kind = "constraint" if takes.equalities else "inequality"
    if (takes.least, takes.most) == (1, 1):
        return f"exactly one {kind}"
    return f"{takes.least} to {takes.most} constraints" if takes.most is not None else f"at least {takes.least}"
