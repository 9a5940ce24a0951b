"""A problem evaluated at one point, and every gradient that is taken there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from constropt.checks import got
from constropt.constraint import Constraint
from constropt.gradients import jacobian_blocks
from constropt.masking import row_quantile
from constropt.rows import by_row

# An output with a graph, and the weights of its entries.
Term = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Objective and constraints at one ``x``, with the graph that gradients are taken through.

    ``objective`` is g, ``(batch,)``, 0 where there is none (``has_objective``), ``nonsmooth`` r(x) or None, ``values``
    one ``(batch, *dual)`` per constraint, ``masks`` what counts of each (None: all). ``independent``: whether rows are
    problems of their own. ``count``, where given, is told of every backward pass when it is made.
    """

    x: Tensor
    output: Any
    objective: Tensor
    values: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    constraints: tuple[Constraint[Any], ...]
    nonsmooth: Tensor | None = None
    independent: bool = True
    has_objective: bool = True
    count: Callable[[int], None] | None = field(default=None, repr=False)

    @property
    def equalities(self) -> tuple[bool, ...]:
        """Which of the constraints are equalities."""
        return tuple(constraint.equality for constraint in self.constraints)

    # ------------------------------------------------------------------------------------------------- judging

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
        is NaN. It is 0 iff the row is feasible; of rows that are one problem, iff all are. Cached."""
        return self._violation

    @cached_property
    def _violation(self) -> Tensor:
        worst = [
            by_row(amount).amax(1) if c.fraction == 1 else _allowing(amount, mask, c.fraction)
            for amount, mask, c in zip(self.violations(), self.masks, self.constraints)
            if amount.numel()
        ]
        amount = torch.stack(worst).amax(0) if worst else torch.zeros_like(self.objective.detach())
        return amount if self.independent else amount.amax().expand_as(amount)

    # ----------------------------------------------------------------------------------------------- gradients

    def counted(self, index: int) -> Tensor:
        """Which entries of a constraint count: booleans of the shape of its value."""
        mask = self.masks[index]
        return torch.ones_like(self.values[index], dtype=torch.bool) if mask is None else mask

    def direction(self, index: int) -> Tensor:
        """What a constraint asks to be differentiated, with its graph: its surrogate, or its value where it has none.

        Of the shape of the value; ``ValueError`` for a surrogate of another.
        """
        constraint, value = self.constraints[index], self.values[index]
        if constraint.surrogate is None:
            return value
        with torch.enable_grad():
            surrogate = constraint.surrogate(self.x, self.output)
        if not isinstance(surrogate, Tensor) or surrogate.shape != value.shape:
            takes = f"surrogate must have the shape of the value, {tuple(value.shape)}"
            raise ValueError(f"constraint {constraint.name!r}: {takes}, got {got(surrogate)}")
        return surrogate

    def alternatives(self, index: int) -> Tensor | None:
        """The functions of which one suffices, ``(batch, m)``, with their graph; None where none are declared."""
        alternatives = self.constraints[index].alternatives
        with torch.enable_grad():
            return None if alternatives is None else alternatives(self.x, self.output)

    def pull_back(self, *terms: Term, keep_graph: bool = False) -> Tensor:
        """One vector-Jacobian product: the gradient in x of ``sum_i (weights_i * output_i).sum()``, shape of ``x``.

        One backward pass. Terms that do not depend on x contribute 0.
        """
        pairs = [(output, weights.to(output).expand_as(output)) for output, weights in terms if output.requires_grad]
        if not pairs:
            return torch.zeros_like(self.x)
        self.spend(1)
        (gradient,) = torch.autograd.grad(
            [o for o, _ in pairs], self.x, [w for _, w in pairs], retain_graph=keep_graph, allow_unused=True
        )
        return torch.zeros_like(self.x) if gradient is None else gradient

    def gradient(
        self, objective_weight: Tensor | float, weights: Sequence[Tensor], *, keep_graph: bool = False
    ) -> Tensor:
        """``objective_weight dg/dx + sum_i weights_i dy_i/dx`` by one backward pass, shape of ``x``; of a constraint
        with a surrogate, that one's derivative.

        With the multipliers as weights it is the gradient of the Lagrangian; with dP/dy, that of the augmented one.
        """
        weight = torch.as_tensor(objective_weight, device=self.objective.device)
        terms = ((self.direction(index), weight) for index, weight in enumerate(weights))
        return self.pull_back((self.objective, weight), *terms, keep_graph=keep_graph)

    def jacobian_blocks(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """:func:`~constropt.gradients.jacobian_blocks` of ``values``, ``(batch, m)``: m backward passes."""
        for first, block in jacobian_blocks(values, self.x):
            self.spend(len(block) if values.requires_grad else 0)
            yield first, block

    def spend(self, passes: int) -> None:
        """Count backward passes that are made here."""
        if self.count is not None and passes:
            self.count(passes)


def _allowing(amount: Tensor, mask: Tensor | None, fraction: float) -> Tensor:
    """The violation of rows of which only a ``fraction`` of the counted entries must be met; NaN when one is NaN."""
    lost = by_row(amount).isnan().any(1)
    return row_quantile(amount, mask, fraction, fraction).clamp_min(0).masked_fill(lost, torch.nan)
