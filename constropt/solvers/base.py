"""What a solver is: an object that proposes the next point; its state is outside it, the loop is
:func:`constropt.solve`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from constropt.problem import ConstrainedProblem, Evaluation
from constropt.solution import Solution, Status

State = TypeVar("State")


class Run:
    """One call of :func:`constropt.solve`: the problem, the budget, the start, and counted evaluations."""

    def __init__(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int, tolerance: float) -> None:
        self.problem, self.x0, self.steps, self.tolerance = problem, x0, steps, tolerance
        self.forwards = torch.zeros(x0.shape[0], dtype=torch.long, device=x0.device)
        self.backwards = torch.zeros_like(self.forwards)
        self._last: Tensor | int = 0

    def evaluate(self, x: Tensor, *, grad: bool = True, rows: Tensor | None = None) -> Evaluation:
        """The problem at ``x``; counts one forward (and, with ``grad``, one backward) for the ``rows`` still at"
        " work."""
        point = self.problem.evaluate(x, grad=grad)
        spent = 1 if rows is None else rows.to(self.forwards)
        self.forwards += spent
        if grad:
            self.backwards += spent
            self._last = spent
        return point

    def spare_gradient(self) -> None:
        """Say that no gradient was taken at the point evaluated last: its backward pass is counted no more."""
        self.backwards -= self._last
        self._last = 0


@dataclass(frozen=True)
class Proposal(Generic[State]):
    """What one step returns.

    ``x`` is the next point to evaluate, ``state`` the solver's next state, ``multipliers`` the weights of the
    constraints at the point just seen (one tensor per constraint). ``finished`` ``(batch,)`` marks rows that need no
    further step and ``certified`` rows whose point just seen is a solution to be returned as it is; ``status`` holds
    their codes.
    """

    x: Tensor
    state: State
    multipliers: tuple[Tensor, ...]
    finished: Tensor | None = None
    certified: Tensor | None = None
    status: Tensor | None = None


class Solver(Generic[State]):
    """Subclass with :meth:`init` and :meth:`step`; both pure but for the evaluations that they ask of ``run``.

    ``check_every``: after how many steps the loop looks whether all rows are finished (a host synchronisation); 0:
    never. ``tolerance``: violation up to which a row counts as feasible; ``None`` chooses by dtype. ``start_passes``:
    backward passes that :meth:`init` spends of the budget. ``gradients``: whether it asks for any; without, points are
    evaluated by forward passes alone.
    """

    check_every: int = 0
    tolerance: float | None = None
    start_passes: ClassVar[int] = 0
    gradients: ClassVar[bool] = True

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        """Raise ``ValueError`` for a problem that this solver cannot handle, before the first model call."""

    def init(self, run: Run, point: Evaluation) -> State:
        """The state at the start; ``point`` is the first evaluation, which the first :meth:`step` gets too."""
        raise NotImplementedError  # abstract

    def resume(self, run: Run, point: Evaluation, duals: Any) -> State:
        """The state at a warm start from ``Solution.duals``; ``ValueError`` where the solver has none."""
        raise ValueError(f"duals: {type(self).__name__} has no warm start; leave duals out")

    def step(self, run: Run, state: State, point: Evaluation, index: int) -> Proposal[State]:
        """From the evaluated ``point`` of step ``index`` (0, 1, ...) to the next one, by one backward pass."""
        raise NotImplementedError  # abstract

    def multipliers(self, state: State, point: Evaluation) -> tuple[Tensor, ...] | None:
        """The multiplier estimates at ``point``, the last iterate, which no step follows; None: those of the last
        step.
        """
        return None

    def duals(self, state: State) -> Any:
        """The dual part of the state: what a warm start needs."""
        return None


def refuse_fractions(problem: ConstrainedProblem[Any], solver: Solver[Any]) -> None:
    """``ValueError`` for a constraint of which only a fraction has to hold, which is not known in advance: a solver
    that treats every entry as binding would solve another problem.
    """
    for constraint in problem.constraints:
        if constraint.fraction < 1:
            raise ValueError(
                f"constraint {constraint.name!r}: fraction={constraint.fraction}, but {type(solver).__name__} takes"
                " constraints that must all hold; use FirstOrder (with masking=QuantileMask()), or fraction=1"
            )


class Loop(Protocol):
    """One call of :func:`constropt.solve` as a :class:`Method` sees it: its budget, and the loop to run solvers by.

    ``loop(problem, solver, x0, steps=...)`` is one run, with the tolerance, duals, trace and callback of the call.
    """

    @property
    def steps(self) -> int: ...

    def __call__(
        self, problem: ConstrainedProblem[Any], solver: Solver[Any], x0: Tensor, *, steps: int | None = None
    ) -> Solution: ...


class Method:
    """A published method: its hyper-parameters, and which solver they make on which form of the problem.

    What :func:`constropt.solve` takes in place of a solver where that depends on the problem or the budget, or where
    there are several runs. Subclass as a frozen dataclass of the hyper-parameters, with :meth:`prepare`; or with
    :meth:`run`, for a method of several runs.
    """

    def prepare(
        self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int
    ) -> tuple[ConstrainedProblem[Any], Solver[Any]]:
        """What one run solves, and by what; raises for a problem that the method is not for."""
        raise NotImplementedError  # abstract

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        """The whole method: one run of what :meth:`prepare` returns, unless overridden."""
        prepared, solver = self.prepare(problem, x0, loop.steps)
        return loop(prepared, solver, x0)


Callback = Callable[[int, Evaluation, Proposal[Any]], None]

__all__ = ["Callback", "Loop", "Method", "Proposal", "Run", "Solver", "Status", "refuse_fractions"]
