"""All constraint entries of a row as one row of a table, and the scaling that makes one default fit all problems.

In the scaled problem ``z = x / D``, the objective is ``w_f g(D z)`` and constraint entry i is ``w_i y_i(D z)``, with
weights such that no gradient at the start is longer than 1 (largest entry). A multiplier ``mu`` of the scaled problem
is ``w_i mu / w_f`` in the user's units.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from constropt.evaluation import Evaluation

# Up to this many constraint entries a row, one vectorised backward pass gives the gradient of each at the start.
JACOBIAN_ENTRIES = 64
WEIGHT_FLOOR = 1e-8


def row_max(table: Tensor) -> Tensor:
    """The largest absolute entry of every row, 0 for rows without entries: ``(batch, m) -> (batch,)``."""
    return table.abs().amax(1) if table.shape[1] else table.new_zeros(table.shape[0])


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each constraint stands in the table ``(batch, m)`` of all entries: inequalities first, then equalities.

    ``order`` lists the declared constraints in table order, ``shapes`` their ``(batch, *dual)`` and ``equalities``
    their kind as declared; the first ``inequalities`` of the ``entries`` columns are inequalities.
    """

    order: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    equalities: tuple[bool, ...]
    inequalities: int
    entries: int

    @classmethod
    def of(cls, point: Evaluation) -> Layout:
        """The layout of an evaluated point's constraints."""
        shapes = tuple(tuple(value.shape) for value in point.values)
        order = tuple(sorted(range(len(shapes)), key=lambda i: point.equalities[i]))
        sizes = [prod(shape[1:]) for shape in shapes]
        split = sum(size for size, equality in zip(sizes, point.equalities) if not equality)
        return cls(order, shapes, point.equalities, split, sum(sizes))

    def table(self, tensors: Sequence[Tensor], like: Tensor) -> Tensor:
        """One tensor per constraint, of its value's shape, as ``(batch, m)`` in the dtype of ``like``; detached."""
        columns = [tensors[i].detach().to(like).reshape(like.shape[0], prod(self.shapes[i][1:])) for i in self.order]
        return torch.cat(columns, 1) if columns else like.new_zeros(like.shape[0], 0)

    def counted(self, point: Evaluation) -> Tensor | None:
        """``(batch, m)`` booleans of the masks; None when every entry counts."""
        if all(mask is None for mask in point.masks):
            return None
        masks = [torch.ones_like(v, dtype=torch.bool) if m is None else m for v, m in zip(point.values, point.masks)]
        return torch.cat([masks[i].reshape(masks[i].shape[0], prod(self.shapes[i][1:])) for i in self.order], 1)

    def split(self, table: Tensor) -> tuple[Tensor, ...]:
        """The inverse of :meth:`table`: one tensor per constraint, as declared."""
        parts: dict[int, Tensor] = {}
        begin = 0
        for i in self.order:
            size = prod(self.shapes[i][1:])
            parts[i] = table[:, begin : begin + size].reshape(self.shapes[i])
            begin += size
        return tuple(parts[i] for i in range(len(self.order)))


@dataclass(frozen=True, eq=False)
class Scaling:
    """``variables`` D ``(batch, n)``, ``objective`` w_f ``(batch,)``, ``constraints`` w ``(batch, m)``."""

    variables: Tensor
    objective: Tensor
    constraints: Tensor

    @classmethod
    def identity(cls, x: Tensor, entries: int) -> Scaling:
        """No scaling: all ones, for ``x`` of shape ``(batch, n)``."""
        return cls(torch.ones_like(x), x.new_ones(x.shape[0]), x.new_ones(x.shape[0], entries))

    @classmethod
    def at(cls, point: Evaluation, layout: Layout, x: Tensor, variables: Tensor) -> Scaling:
        """Weights ``1 / max(1, ||gradient||_inf)`` at an evaluated point, gradients taken in ``z = x / variables``.

        One vectorised backward pass; its graph is kept. With more than ``JACOBIAN_ENTRIES`` entries, or where an
        operation of the model cannot be vectorised, each constraint's entries share the weight of their root mean
        square gradient, from one backward pass per constraint.
        """
        few = layout.entries <= JACOBIAN_ENTRIES
        try:
            longest = _gradient_lengths(point, layout, x, variables) if few else None
        except RuntimeError:  # an operation without a vectorised derivative
            longest = None
        longest = _probed_lengths(point, layout, x, variables) if longest is None else longest
        longest = torch.where(longest.isfinite(), longest, 1)
        weights = longest.clamp_min(1).reciprocal().clamp_min(WEIGHT_FLOOR)
        return cls(variables, weights[:, 0].contiguous(), weights[:, 1:].contiguous())

    def multipliers(self, scaled: Tensor) -> Tensor:
        """Multipliers ``(batch, m)`` of the scaled problem in the units of the declared one."""
        return scaled * self.constraints / self.objective.unsqueeze(1)

    def scaled_multipliers(self, multipliers: Tensor) -> Tensor:
        """The inverse of :meth:`multipliers`."""
        return multipliers * self.objective.unsqueeze(1) / self.constraints

    def rho(self, scaled: Tensor) -> Tensor:
        """One rho per row of the scaled problem ``(batch,)`` as one per entry ``(batch, m)`` of the declared one."""
        return scaled.unsqueeze(1) * self.constraints.square() / self.objective.unsqueeze(1)

    def scaled_rho(self, rho: Tensor) -> Tensor:
        """The inverse of :meth:`rho`, the geometric mean where the entries differ."""
        return (rho * self.objective.unsqueeze(1) / self.constraints.square()).log().mean(1).exp()


def _gradient_lengths(point: Evaluation, layout: Layout, x: Tensor, variables: Tensor) -> Tensor:
    """``(batch, 1 + m)``: the infinity norm of the gradient of the objective and of every constraint entry."""
    batch, rows = x.shape[0], 1 + layout.entries
    outputs, cotangents = [], []
    if point.objective.requires_grad:
        outputs.append(point.objective)
        cotangents.append(torch.zeros(rows, batch, dtype=point.objective.dtype, device=x.device))
        cotangents[-1][0] = 1
    begin = 1
    for i in layout.order:
        size = prod(layout.shapes[i][1:])
        if point.values[i].requires_grad and size:
            unit = torch.zeros(rows, size, dtype=point.values[i].dtype, device=x.device)
            unit[begin : begin + size].fill_diagonal_(1)
            outputs.append(point.values[i])
            cotangents.append(unit.unsqueeze(1).expand(-1, batch, -1).reshape(rows, *layout.shapes[i]))
        begin += size
    if not outputs:
        return x.new_zeros(batch, rows)
    point.spend(1)  # a Jacobian, in one vectorised pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an operation that vectorises slowly is no news to the user of a solver
        (jacobian,) = torch.autograd.grad(
            outputs, point.x, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    if jacobian is None:
        return x.new_zeros(batch, rows)
    return (jacobian.detach().to(x).reshape(rows, batch, -1) * variables).abs().amax(2).T


def _probed_lengths(point: Evaluation, layout: Layout, x: Tensor, variables: Tensor) -> Tensor:
    """As :func:`_gradient_lengths`, but the entries of a constraint share an estimate.

    ``E ||J' s||^2 = ||J||_F^2`` for random signs s.
    """

    def length(objective: float, weights: list[Tensor]) -> Tensor:
        gradient = point.gradient(objective, weights, keep_graph=True).detach().to(x).reshape(x.shape)
        return gradient * variables

    silent = [torch.zeros_like(value) for value in point.values]
    lengths = [row_max(length(1.0, silent)).unsqueeze(1)]
    for i in layout.order:
        size = prod(layout.shapes[i][1:])
        # a fixed aperiodic sign pattern: the same for every row, batch and run
        signs = torch.where(torch.arange(size, device=x.device).mul(0.6180339887).frac() < 0.5, 1.0, -1.0)
        probe = signs.reshape(1, *layout.shapes[i][1:]).to(point.values[i]).expand(layout.shapes[i])
        gradient = length(0.0, [*silent[:i], probe, *silent[i + 1 :]])
        typical = (gradient.square().sum(1, keepdim=True) / max(size, 1)).sqrt()
        lengths.append(typical.expand(-1, size))
    return torch.cat(lengths, 1)
