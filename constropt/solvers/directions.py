"""What solvers that follow a direction share: norms of rows, rows of unit norm, and how their steps decay."""

import math

import torch
from torch import Tensor

from constropt.rows import per_row

# The norm that is dual to the p-norm.
DUAL = {1.0: torch.inf, 2.0: 2.0, torch.inf: 1.0}


def row_norm(x: Tensor, p: float) -> Tensor:
    """The p-norm of each row, ``(batch,)``."""
    return torch.linalg.vector_norm(x.flatten(1), ord=p, dim=1)


def normalised(x: Tensor, p: float) -> Tensor:
    """Rows of unit p-norm; rows that are 0 stay 0, and NaN stays for the loop to notice."""
    length = per_row(row_norm(x, p), x)
    return torch.where(length == 0, 0, x / length)


def cosine(first: float, last: float, index: int, steps: int) -> float:
    """From ``first`` at step 0 to ``last`` at step ``steps``, along a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * index / steps)) / 2
