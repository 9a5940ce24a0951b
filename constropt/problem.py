"""A constrained problem as data: objective, constraints, domain, and one forward pass that they share.

    minimise  g(x) + r(x)   subject to   h_i(x) <= 0,  e_j(x) = 0,  x in C

Nothing here solves anything, and nothing here changes: multipliers, penalty parameters and iterates are a solver's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol

import torch
from torch import Tensor

from constropt.checks import got
from constropt.constraint import Constraint, Z
from constropt.domain import Domain, Reals
from constropt.evaluation import Evaluation
from constropt.modes import normal, normal_mode


class ProximableFunction(Protocol):
    """A nonsmooth term r(x), known through its value and its proximity operator."""

    def __call__(self, x: Tensor) -> Tensor:
        """r(x): ``(batch,)``."""
        ...

    def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor:
        """argmin over p of ``step r(p) + ||p - x||^2 / 2``, the norm in the diagonal metric if one is given."""
        ...


@dataclass(frozen=True)
class ConstrainedProblem(Generic[Z]):
    """Minimise ``objective`` subject to ``constraints`` over ``domain``, every row of ``x`` a problem of its own.

    ``forward(x)`` is called once per evaluation and its result z handed to all terms: put the model there.
    ``objective(x, z)`` returns ``(batch,)``, and is None where any feasible point will do; each constraint ``(batch,
    *dual)``. ``nonsmooth`` is a term r(x) known by its prox, which has to take the domain in. ``independent=False``
    declares that the rows are *one* problem (training): it is feasible where all rows are. ``rowwise`` declares that
    ``forward`` takes any rows of x, returns a tensor with a row for each, and computes a row from that row alone: rows
    that are finished are then left out.

    >>> from constropt import inequality
    >>> a = torch.tensor([[2.0, 2.0]])
    >>> problem = ConstrainedProblem(
    ...     forward=lambda x: None,
    ...     objective=lambda x, _: (x - a).square().sum(1),
    ...     constraints=[inequality(lambda x, _: x.norm(dim=1) - 1.0, name="ball")],
    ... )
    >>> problem.evaluate(torch.zeros(1, 2)).objective.tolist()
    [8.0]
    """

    objective: Callable[[Tensor, Z], Tensor] | None
    constraints: Sequence[Constraint[Z]] = ()
    forward: Callable[[Tensor], Z] = field(default=lambda x: None)  # type: ignore[assignment]
    domain: Domain = field(default_factory=Reals)
    nonsmooth: ProximableFunction | None = None
    independent: bool = True
    rowwise: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not (self.objective is None or callable(self.objective)):
            raise TypeError(f"objective: must be a callable or None, got {got(self.objective)}")
        if not callable(self.forward):
            raise TypeError(f"forward: must be a callable, got {got(self.forward)}")
        if not isinstance(self.domain, Domain):
            raise TypeError(f"domain: must be a Domain such as Box(0.0, 1.0), got {got(self.domain)}")
        if not isinstance(self.constraints, Sequence):
            takes = "must be a sequence of constraints"
            raise TypeError(f"constraints: {takes}, got {got(self.constraints)}; put it in a list")
        for constraint in self.constraints:
            if not isinstance(constraint, Constraint):
                cure = "build it with inequality(...) or equality(...)"
                raise TypeError(f"constraints: every entry must be a Constraint, got {got(constraint)}; {cure}")
        names = [constraint.name for constraint in self.constraints]
        if len(set(names)) != len(names):
            cure = "pass name=... to inequality(...) or equality(...)"
            raise ValueError(f"constraints: names must differ, got {names}; {cure}")

    def evaluate(
        self,
        x: Tensor,
        *,
        grad: bool = True,
        detach: bool = True,
        others: tuple[Tensor, Any] | None = None,
        count: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Objective and constraints at ``x`` by one forward pass, differentiable in x with ``grad``, whatever the mode.

        The evaluation's ``x`` is a leaf of its own unless ``detach=False``: then it is the given tensor, and gradients
        flow on to where that came from. ``others``, for ``rowwise`` problems, are the indices of rows that ``forward``
        sees and an earlier output, which stays that of the other rows. ``count`` is told of every backward pass.

        Raises ``ValueError`` when the objective is not ``(batch,)`` or a constraint's first dimension not the batch.
        """
        with normal_mode(), torch.set_grad_enabled(grad):
            x = normal(x).requires_grad_(grad) if detach else x
            z: Any = self.forward(x) if others is None else _replaced(others[1], others[0], self.forward(x[others[0]]))
            objective = x.new_zeros(x.shape[0]) if self.objective is None else self.objective(x, z)
            values = tuple(constraint.value(x, z) for constraint in self.constraints)
        batch = x.shape[0]
        if not isinstance(objective, Tensor) or objective.shape != (batch,):
            takes = f"a tensor of shape (batch,) = ({batch},), one value a row"
            raise ValueError(f"objective: must return {takes}, got {got(objective)}")
        for constraint, value in zip(self.constraints, values):
            name = f"constraint {constraint.name!r}"
            if not isinstance(value, Tensor) or value.dim() < 1 or value.shape[0] != batch:
                takes = f"a tensor of shape (batch, ...) with batch = {batch}"
                raise ValueError(f"{name}: must return {takes}, got {got(value)}")
            if any(not -value.dim() <= dim < value.dim() for dim in constraint.shared):
                takes = f"dimensions of its value, whose shape is {tuple(value.shape)}"
                raise ValueError(f"{name}: shared must name {takes}, got {constraint.shared}")
        masks = tuple(_mask(constraint, value, x, z) for constraint, value in zip(self.constraints, values))
        r, given = None if self.nonsmooth is None else self.nonsmooth(x.detach()), self.objective is not None
        return Evaluation(x, z, objective, values, masks, tuple(self.constraints), r, self.independent, given, count)


def _replaced(earlier: Any, rows: Tensor, z: Any) -> Tensor:
    """The earlier output with the given rows new."""
    if not isinstance(z, Tensor) or not isinstance(earlier, Tensor) or z.shape != (len(rows), *earlier.shape[1:]):
        raise ValueError(f"forward: with rowwise=True must return a tensor with a row for each of x, got {got(z)}")
    return earlier.index_copy(0, rows, z)


def _mask(constraint: Constraint[Any], value: Tensor, x: Tensor, z: Any) -> Tensor | None:
    """The constraint's mask as booleans of the shape of its value."""
    mask: Callable[[Tensor, Any], Tensor] | Tensor | None = constraint.mask
    if mask is None:
        return None
    if callable(mask) and not isinstance(mask, Tensor):
        with torch.no_grad():
            mask = mask(x, z)
    try:
        return mask.to(device=value.device, dtype=torch.bool).expand_as(value)
    except RuntimeError:
        wrong = f"mask of shape {tuple(mask.shape)} does not broadcast to the value's {tuple(value.shape)}"
        raise ValueError(f"constraint {constraint.name!r}: {wrong}") from None
