"""Projected steepest descent of fixed length on any domain, whose radius may grow as the steps go on."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from constropt.checks import given, got, require_positive, require_whole
from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.problem import ConstrainedProblem
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import normalised


@dataclass(frozen=True, eq=False)
class SteepestDescent(Solver[None]):
    """min g(x): ``x <- P(x - size d)``, d the sign of the gradient (``p=inf``) or the normalised gradient (``p=2``).

    ``size`` is in the units of x. With ``first``, the radius of the domain is at first that and grows by the factor
    ``growth`` every ``period`` steps: the domain must be a dataclass with a ``radius``, such as a ball, and the given
    one has to contain all of them. Rows stop at their first feasible point with ``stop``, so that ``first`` gives the
    smallest of these radii at which a row got there. Constraints are not followed. Rows without a gradient stay.

    Raises ``ValueError`` for values out of range, and with ``first`` for a domain without a radius.

    >>> from constropt import solve
    >>> problem = ConstrainedProblem(objective=lambda x, _: (x - 0.5).abs().sum(1))
    >>> solve(problem, SteepestDescent(size=0.25), torch.zeros(1, 2), steps=5).x
    tensor([[0.5000, 0.5000]])
    """

    takes = Takes(fraction=True, constraint_gradients=False)

    size: float = 0.1
    p: float = torch.inf
    first: float | None = None
    growth: float = 1.17
    period: int = 10
    stop: bool = False
    check_every: int = 10
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        require_positive("a step", " in the units of x", size=self.size)
        if self.p not in (2, torch.inf):
            raise ValueError(f"p: takes 2 or inf, got {self.p!r}")
        require_positive("a radius", ", or None", **given(first=self.first))
        if not self.growth > 1:
            raise ValueError(f"growth: takes a factor > 1, got {self.growth}")
        require_whole(period=self.period)

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        if self.first is not None and not hasattr(problem.domain, "radius"):
            grows = f"a radius that grows from first={self.first} needs a domain with a radius"
            raise ValueError(f"problem.domain: {grows}, got {got(problem.domain)}")

    def radius(self, step: int) -> float:
        """The radius that the point of ``step`` (1, 2, ...) was projected with; 0 for the start."""
        assert self.first is not None
        return self.first * self.growth ** ((step - 1) // self.period) if step > 0 else 0.0

    def init(self, run: Run, point: Evaluation) -> None:
        return None

    def step(self, run: Run, state: None, point: Evaluation, index: int) -> Proposal[None]:
        gradient = point.gradient(1.0, ())
        direction = gradient.sign() if self.p == torch.inf else normalised(gradient, 2)
        domain = run.problem.domain
        if self.first is not None:
            domain = replace(domain, radius=self.radius(index + 1))  # pyright: ignore[reportCallIssue, reportArgumentType]
        finished = point.violation() <= run.tolerance if self.stop else None
        return Proposal(domain.project(point.x.detach() - self.size * direction), None, finished=finished)
