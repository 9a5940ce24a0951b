"""A constrained problem as data: objective, constraints, domain, and one forward pass that they share.

    minimise  g(x) + r(x)   subject to   h_i(x) <= 0,  e_j(x) = 0,  x in C

Nothing here solves anything, and nothing here changes: multipliers, penalty parameters and iterates are a solver's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from constropt.domain import Domain, Reals
from constropt.masking import by_row, row_quantile

Z = TypeVar("Z")


class ProximableFunction(Protocol):
    """A nonsmooth term r(x), known through its value and its proximity operator."""

    def __call__(self, x: Tensor) -> Tensor:
        """r(x): ``(batch,)``."""
        ...

    def prox(self, x: Tensor, step: Tensor | float, metric: Tensor | None = None) -> Tensor:
        """argmin over p of ``step r(p) + ||p - x||^2 / 2``, the norm in the diagonal metric if one is given."""
        ...


@dataclass(frozen=True)
class Constraint(Generic[Z]):
    """One constraint, of any number of entries; built by :func:`inequality` or :func:`equality`.

    ``value(x, z)`` returns ``(batch, *dual)``, z being what ``problem.forward(x)`` returned; an entry is met iff it
    is ``<= 0`` (``== 0`` for an equality). ``mask``, of a shape that broadcasts to it, says which entries count.
    ``shared`` names the dimensions along which one multiplier is shared: ``(0,)`` gives class-wise multipliers over
    samples. ``fraction`` is nu, the fraction of a row's counted entries that must be met for the row to be feasible.
    ``surrogate``, where given, is what first-order *direction* methods differentiate in place of ``value`` (Cooper's
    vocabulary: ``value`` is the strict violation); feasibility is always judged by ``value``. ``alternatives(x, z)``,
    ``(batch, m)``, is for a constraint that is met iff *one* of m functions is ``<= 0`` (an attack may reach any
    class): what solvers that linearise choose among.
    """

    value: Callable[[Tensor, Z], Tensor]
    name: str
    mask: Callable[[Tensor, Z], Tensor] | Tensor | None = None
    shared: tuple[int, ...] = ()
    equality: bool = False
    surrogate: Callable[[Tensor, Z], Tensor] | None = None
    alternatives: Callable[[Tensor, Z], Tensor] | None = None
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"Constraint {self.name!r}: fraction, of the entries that must be met, must lie in (0, 1], got"
                f" {self.fraction}"
            )
        if not callable(self.value):
            raise TypeError(
                f"Constraint {self.name!r}: value must be a callable of (x, z), got {type(self.value).__name__}"
            )
        if not (self.mask is None or callable(self.mask) or isinstance(self.mask, Tensor)):
            raise TypeError(
                f"Constraint {self.name!r}: mask must be a tensor or a callable of (x, z), got"
                f" {type(self.mask).__name__}"
            )


def inequality(
    value: Callable[[Tensor, Any], Tensor],
    *,
    name: str = "inequality",
    mask: Callable[[Tensor, Any], Tensor] | Tensor | None = None,
    shared: tuple[int, ...] = (),
    surrogate: Callable[[Tensor, Any], Tensor] | None = None,
    alternatives: Callable[[Tensor, Any], Tensor] | None = None,
    fraction: float = 1.0,
) -> Constraint[Any]:
    """The constraint ``value(x, z) <= 0``, entry by entry (see :class:`Constraint`).

    >>> inequality(lambda x, _: x.norm(dim=1) - 1.0, name="ball").name
    'ball'
    """
    return Constraint(value, name, mask, tuple(shared), False, surrogate, alternatives, fraction)


def equality(
    value: Callable[[Tensor, Any], Tensor],
    *,
    name: str = "equality",
    mask: Callable[[Tensor, Any], Tensor] | Tensor | None = None,
    shared: tuple[int, ...] = (),
) -> Constraint[Any]:
    """The constraint ``value(x, z) == 0``, entry by entry (see :class:`Constraint`).

    >>> equality(lambda x, _: x.sum(1) - 1.0, name="sum").equality
    True
    """
    return Constraint(value, name, mask, tuple(shared), True, None)


@dataclass(frozen=True)
class Evaluation:
    """Objective and constraints at one ``x``, with the graph that gradients are taken through.

    ``objective`` is g, ``(batch,)``, ``nonsmooth`` r(x) or None, ``values`` one ``(batch, *dual)`` per constraint,
    ``masks`` what counts of each (None: all).
    """

    x: Tensor
    output: Any
    objective: Tensor
    values: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    constraints: tuple[Constraint[Any], ...]
    nonsmooth: Tensor | None = None

    @property
    def equalities(self) -> tuple[bool, ...]:
        """Which of the constraints are equalities."""
        return tuple(constraint.equality for constraint in self.constraints)

    def total(self) -> Tensor:
        """g(x) + r(x), ``(batch,)``, detached: what is minimised."""
        objective = self.objective.detach()
        return objective if self.nonsmooth is None else objective + self.nonsmooth

    def violations(self) -> tuple[Tensor, ...]:
        """Per constraint the detached amounts ``max(0, y)`` or ``|e|``, 0 where an entry does not count."""
        amounts = (v.detach().abs() if e else v.detach().clamp_min(0) for v, e in zip(self.values, self.equalities))
        return tuple(a if m is None else torch.where(m, a, 0) for a, m in zip(amounts, self.masks))

    def violation(self) -> Tensor:
        """``(batch,)``: the largest violation of a counted entry, beside those that ``fraction`` lets go; NaN when one
        is NaN. It is 0 iff the row is feasible. Cached.
        """
        return self._violation

    @cached_property
    def _violation(self) -> Tensor:
        worst = [
            by_row(amount).amax(1) if c.fraction == 1 else _allowing(amount, mask, c.fraction)
            for amount, mask, c in zip(self.violations(), self.masks, self.constraints)
            if amount.numel()
        ]
        return torch.stack(worst).amax(0) if worst else torch.zeros_like(self.objective.detach())

    def surrogate_gradient(self) -> Tensor:
        """The gradient, summed over entries, of the constraints' surrogates (their values where none is declared)."""
        with torch.enable_grad():
            surrogates = (
                value if constraint.surrogate is None else constraint.surrogate(self.x, self.output)
                for constraint, value in zip(self.constraints, self.values)
            )
            terms = [
                s if mask is None or mask.shape != s.shape else torch.where(mask, s, 0)
                for s, mask in zip(surrogates, self.masks)
                if s.requires_grad
            ]
        if not terms:
            return torch.zeros_like(self.x)
        (gradient,) = torch.autograd.grad([t.sum() for t in terms], self.x, allow_unused=True)
        return torch.zeros_like(self.x) if gradient is None else gradient

    def gradient(
        self, objective_weight: Tensor | float, weights: Sequence[Tensor], *, keep_graph: bool = False
    ) -> Tensor:
        """One vector-Jacobian product: ``objective_weight dg/dx + sum_i weights_i dy_i/dx``, shape of ``x``.

        With the multipliers as weights it is the gradient of the Lagrangian; with dP/dy, that of the augmented one.
        Terms that do not depend on x contribute 0.
        """
        outputs = [self.objective, *self.values]
        cotangents = [torch.as_tensor(objective_weight).to(self.objective).expand_as(self.objective), *weights]
        pairs = [(o, c.to(o).expand_as(o)) for o, c in zip(outputs, cotangents) if o.requires_grad]
        if not pairs:
            return torch.zeros_like(self.x)
        (gradient,) = torch.autograd.grad(
            [o for o, _ in pairs], self.x, [c for _, c in pairs], retain_graph=keep_graph, allow_unused=True
        )
        return torch.zeros_like(self.x) if gradient is None else gradient


@dataclass(frozen=True)
class ConstrainedProblem(Generic[Z]):
    """Minimise ``objective`` subject to ``constraints`` over ``domain``, every row of ``x`` a problem of its own.

    ``forward(x)`` is called once per evaluation and its result z handed to all terms: put the model there.
    ``objective(x, z)`` returns ``(batch,)``; each constraint ``(batch, *dual)``. ``nonsmooth`` is a term r(x) known
    by its prox, which has to take the domain in. ``independent=False`` declares that the rows are *one* problem
    (training), so that solvers with per-row decisions refuse it.

    >>> a = torch.tensor([[2.0, 2.0]])
    >>> problem = ConstrainedProblem(
    ...     forward=lambda x: None,
    ...     objective=lambda x, _: (x - a).square().sum(1),
    ...     constraints=[inequality(lambda x, _: x.norm(dim=1) - 1.0, name="ball")],
    ... )
    >>> problem.evaluate(torch.zeros(1, 2)).objective.tolist()
    [8.0]
    """

    objective: Callable[[Tensor, Z], Tensor]
    constraints: Sequence[Constraint[Z]] = ()
    forward: Callable[[Tensor], Z] = field(default=lambda x: None)  # type: ignore[assignment]
    domain: Domain = field(default_factory=Reals)
    nonsmooth: ProximableFunction | None = None
    independent: bool = True

    def __post_init__(self) -> None:
        for name in ("objective", "forward"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name}: must be a callable, got {type(getattr(self, name)).__name__}")
        if not isinstance(self.domain, Domain):
            raise TypeError(f"domain: must be a Domain such as Box(0.0, 1.0), got {type(self.domain).__name__}")
        if not isinstance(self.constraints, Sequence):
            raise TypeError(
                f"constraints: must be a sequence of constraints, got {type(self.constraints).__name__}; put it"
                " in a list"
            )
        for constraint in self.constraints:
            if not isinstance(constraint, Constraint):
                raise TypeError(
                    f"constraints: every entry must be a Constraint, got {type(constraint).__name__}; build it"
                    " with inequality(...) or equality(...)"
                )
        names = [constraint.name for constraint in self.constraints]
        if len(set(names)) != len(names):
            raise ValueError(
                f"constraints: names must differ, got {names}; pass name=... to inequality(...) or equality(...)"
            )

    def evaluate(self, x: Tensor, *, grad: bool = True, detach: bool = True) -> Evaluation:
        """Objective and constraints at ``x`` by one forward pass; with ``grad`` the result can be differentiated in
        x.

        The evaluation's ``x`` is a leaf of its own unless ``detach=False``: then it is the given tensor, and gradients
        flow on to where that came from.

        Raises ``ValueError`` when the objective is not ``(batch,)`` or a constraint's leading dimension is not the
        batch.
        """
        with torch.set_grad_enabled(grad):
            x = x.detach().requires_grad_(grad) if detach else x
            z = self.forward(x)
            objective = self.objective(x, z)
            values = tuple(constraint.value(x, z) for constraint in self.constraints)
        batch = x.shape[0]
        if not isinstance(objective, Tensor) or objective.shape != (batch,):
            got = tuple(objective.shape) if isinstance(objective, Tensor) else type(objective).__name__
            raise ValueError(
                f"objective: must return a tensor of shape (batch,) = ({batch},), one value a row, got {got}"
            )
        for constraint, value in zip(self.constraints, values):
            if not isinstance(value, Tensor) or value.dim() < 1 or value.shape[0] != batch:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"constraint {constraint.name!r}: must return a tensor of shape (batch, ...) with batch ="
                    f" {batch}, got {got}"
                )
            if any(not -value.dim() <= dim < value.dim() for dim in constraint.shared):
                raise ValueError(
                    f"constraint {constraint.name!r}: shared must name dimensions of its value, whose shape is "
                    f"{tuple(value.shape)}, got {constraint.shared}"
                )
        masks = tuple(_mask(constraint, value, x, z) for constraint, value in zip(self.constraints, values))
        nonsmooth = None if self.nonsmooth is None else self.nonsmooth(x.detach())
        return Evaluation(x, z, objective, values, masks, tuple(self.constraints), nonsmooth)


def _allowing(amount: Tensor, mask: Tensor | None, fraction: float) -> Tensor:
    """The violation of rows of which only a ``fraction`` of the counted entries must be met; NaN when one is NaN."""
    lost = by_row(amount).isnan().any(1)
    return row_quantile(amount, mask, fraction, fraction).clamp_min(0).masked_fill(lost, torch.nan)


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
        raise ValueError(
            f"constraint {constraint.name!r}: mask of shape {tuple(mask.shape)} does not broadcast to the value's"
            f" {tuple(value.shape)}"
        ) from None
