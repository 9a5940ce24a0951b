"""What solvers that follow a direction share: the surrogate of a problem's one inequality, and norms of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from constropt.problem import ConstrainedProblem, Evaluation

# The norm that is dual to the p-norm.
DUAL = {1.0: torch.inf, 2.0: 2.0, torch.inf: 1.0}


def require_one_inequality(problem: ConstrainedProblem[Any], solver: object) -> None:
    """``ValueError`` unless the problem has exactly one constraint, an inequality."""
    if len(problem.constraints) != 1 or problem.constraints[0].equality:
        raise ValueError(
            f"constraints: {type(solver).__name__} takes exactly one inequality; use solve(problem, None, ...) for"
            " others"
        )


def surrogate(point: Evaluation) -> Tensor:
    """What the one constraint asks to be differentiated in place of its value, of the same shape, with its graph."""
    constraint = point.constraints[0]
    if constraint.surrogate is None:
        return point.values[0]
    with torch.enable_grad():
        return constraint.surrogate(point.x, point.output)


def counted(point: Evaluation) -> Tensor:
    """Which entries of the one constraint count: booleans of the shape of its value."""
    mask = point.masks[0]
    return torch.ones_like(point.values[0], dtype=torch.bool) if mask is None else mask


def pull_back(point: Evaluation, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """One vector-Jacobian product: the gradient in x of ``sum_i (weights_i * output_i).sum()``; terms without a graph
    contribute 0.
    """
    pairs = [(output, weights.to(output)) for output, weights in terms if output.requires_grad]
    if not pairs:
        return torch.zeros_like(point.x)
    (gradient,) = torch.autograd.grad([o for o, _ in pairs], point.x, [w for _, w in pairs], allow_unused=True)
    return torch.zeros_like(point.x) if gradient is None else gradient


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """``(batch,)`` with trailing dimensions of size one, in the dtype of ``like``."""
    return values.to(like).view(-1, *[1] * (like.dim() - 1))


def row_norm(x: Tensor, p: float) -> Tensor:
    """The p-norm of each row, ``(batch,)``."""
    return torch.linalg.vector_norm(x.flatten(1), ord=p, dim=1)


def normalised(x: Tensor, p: float) -> Tensor:
    """Rows of unit p-norm; rows that are 0 stay 0, and NaN stays for the loop to notice."""
    length = per_row(row_norm(x, p), x)
    return torch.where(length == 0, 0, x / length)
