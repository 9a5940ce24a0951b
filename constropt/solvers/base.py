"""What a solver is: an object that proposes the next point; state outside, the loop is :func:`constropt.solve`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.problem import ConstrainedProblem
from constropt.solution import Solution, Status

State = TypeVar("State")


class Run:
    """One call of :func:`constropt.solve`: the problem, the budget, the start; evaluations, counted as they are made.

    ``forwards`` and ``backwards``, ``(batch,)``, are the passes of each row; ``taken`` the backward passes of the
    batch. ``rows`` are the rows at work, indices (None: all): the others, whose x does not change any more, are left
    out of the model's passes, and keep the output of the pass before.
    """

    def __init__(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int, tolerance: float) -> None:
        self.problem, self.x0, self.steps, self.tolerance = problem, x0, steps, tolerance
        self.forwards = torch.zeros(x0.shape[0], dtype=torch.long, device=x0.device)
        self.backwards = torch.zeros_like(self.forwards)
        self.taken = 0
        self.rows: Tensor | None = None
        self._output: Any = None

    def evaluate(self, x: Tensor, *, grad: bool = True) -> Evaluation:
        """The problem at ``x``: one forward pass of the rows at work; gradients taken there are counted too."""
        rows = self.rows
        others = None if rows is None else (rows, self._output)
        point = self.problem.evaluate(x, grad=grad, others=others, count=lambda passes: self._backward(passes, rows))
        self._add(self.forwards, 1, rows)
        if self.problem.rowwise and isinstance(point.output, Tensor):
            self._output = point.output.detach()
        return point

    def _backward(self, passes: int, rows: Tensor | None) -> None:
        self.taken += passes
        self._add(self.backwards, passes, rows)

    def _add(self, counts: Tensor, passes: int, rows: Tensor | None) -> None:
        if rows is None:
            counts += passes
        else:
            counts[rows] += passes


@dataclass(frozen=True, eq=False)
class Proposal(Generic[State]):
    """What one step returns.

    ``x`` is the next point to evaluate, ``state`` the solver's next state, ``multipliers`` the weights of the
    constraints at the point just seen (one tensor per constraint; None for a solver that has none). ``finished``
    ``(batch,)`` marks rows that need no further step and ``certified`` rows whose point just seen is a solution to be
    returned as it is; ``status`` holds their codes.
    """

    x: Tensor
    state: State
    multipliers: tuple[Tensor, ...] | None = None
    finished: Tensor | None = None
    certified: Tensor | None = None
    status: Tensor | None = None


class Solver(Generic[State]):
    """Subclass with ``takes``, :meth:`init` and :meth:`step`; both pure but for the evaluations that they ask ``run``.

    ``takes`` declares what of a problem the solver handles: :func:`constropt.solve` refuses the rest. One that declares
    nothing gets a smooth objective, inequalities that hold in full, and any domain, and nothing else. ``check_every``:
    after how many steps the loop looks whether all rows are finished (a host synchronisation); 0: never. ``tolerance``:
    violation up to which a row counts as feasible; ``None`` chooses by dtype. What :meth:`init` spends of backward
    passes is taken from the budget.
    """

    takes: ClassVar[Takes] = Takes()
    check_every: int = 0
    tolerance: float | None = None

    def features(self, problem: ConstrainedProblem[Any]) -> Takes:
        """What this solver takes; override it where that depends on its settings or on the problem."""
        return self.takes

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        """Raise ``ValueError`` for what is this solver's own to refuse, before the first model call."""

    def budget(self, steps: int) -> int:
        """How many of the steps are of use."""
        return steps

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
        """The estimates at ``point``, the last iterate, which no step follows; None: those of the last step."""
        return None

    def duals(self, state: State) -> Any:
        """The dual part of the state: what a warm start needs."""
        return None


def default_tolerance(dtype: torch.dtype) -> float:
    """What counts as 0 where nothing else is said: 1e-6 in float64, 1e-4 in float32, 1e-2 below."""
    return {torch.float64: 1e-6, torch.float32: 1e-4}.get(dtype, 1e-2)


def declared_solvers(base: type[Solver[Any]] = Solver) -> Iterator[tuple[str, Takes]]:
    """The solver classes that are imported, by name, with what they declare."""
    for kind in base.__subclasses__():
        yield kind.__name__, kind.takes
        yield from declared_solvers(kind)


class Loop(Protocol):
    """One call of :func:`constropt.solve` as a :class:`Method` sees it: its budget, and the loop to run solvers by.

    ``loop(problem, solver, x0, steps=...)`` is one run, with the tolerance, duals, trace and callback of the call.
    """

    @property
    def steps(self) -> int: ...

    @property
    def callback(self) -> Callback | None: ...

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

__all__ = ["Callback", "Loop", "Method", "Proposal", "Run", "Solver", "Status", "declared_solvers", "default_tolerance"]
