"""Greedy moves of single entries to a side of the box, the most salient first: JSMA (Alg. 1.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constropt.checks import require_within
from constropt.evaluation import Evaluation
from constropt.features import BOX, Takes
from constropt.problem import ConstrainedProblem
from constropt.solvers.base import Proposal, Run, Solver

# The pairs of entries that are compared at once, and the most entries of a row of which all pairs are compared.
PAIRS_AT_ONCE, MOST_ENTRIES = 2**24, 2**14

# An entry that has less than this fraction of a move to go is not worth one.
NO_ROOM = 0.01

Outputs = Callable[[Evaluation], Tensor]


@dataclass(frozen=True, eq=False)
class Saliency(Solver[Tensor]):
    """min ||x - x0||_0  s.t.  h(x) <= 0,  x in a box, greedily (Alg. 1.1; Papernot et al., 2016).

    a is the gradient of what has to rise, b that of what has to fall: ``outputs(point)``, ``(batch, 2)``, returns the
    two; None stands for the opposite of the constraint's surrogate and the surrogate itself. Among the entries that the
    box still lets move, by more than a hundredth of ``size`` -- upwards; downwards if it is negative, the signs of a
    and b then being changed -- the one of largest ``max(0, a_j) max(0, -b_j)`` is moved, or with ``pairs`` the two of
    largest ``(a_i + a_j) (-b_i - b_j)``, both factors positive. A row ends when it is feasible, when no entry is
    salient, or when the next step would change more than the fraction ``limit`` of the entries.

    One forward pass a step, and one backward pass (two with ``outputs``, in one batched call).

    Raises ``ValueError`` unless the problem has exactly one constraint, an inequality, and a box; for values out of
    range; and for ``pairs`` with ``outputs`` where a row has more than 16,384 entries, all pairs of which are compared.
    """

    takes = Takes(least=1, most=1, fraction=True, surrogate=True, domains=BOX, objective_gradient=False)

    outputs: Outputs | None = None
    size: float = 1.0
    pairs: bool = False
    limit: float = 1.0
    tolerance: float | None = 0.0
    check_every: int = 1

    def __post_init__(self) -> None:
        if not self.size != 0:
            raise ValueError(f"size: takes the change of an entry, positive or negative, got {self.size}")
        require_within("(0, 1]", "takes the fraction", " of the entries that may change", limit=self.limit)

    def check(self, problem: ConstrainedProblem[Any], x0: Tensor) -> None:
        if self.pairs and self.outputs is not None and x0[0].numel() > MOST_ENTRIES:
            takes = f"compares all pairs of at most {MOST_ENTRIES} entries a row"
            raise ValueError(f"pairs: {takes}, got {x0[0].numel()}; use pairs=False, or outputs=None")

    def init(self, run: Run, point: Evaluation) -> Tensor:
        return torch.zeros(len(point.x), dtype=torch.bool, device=point.x.device)

    def step(self, run: Run, state: Tensor, point: Evaluation, index: int) -> Proposal[Tensor]:
        x = point.x.detach()
        flat, count = x.flatten(1), 1 + self.pairs
        feasible = point.violation() <= run.tolerance
        changed = (x != run.x0).flatten(1).sum(1)
        full = changed + count > self.limit * flat.shape[1]
        ended = state | feasible | full
        if bool(ended.all()):  # the loop looks at every step in any case: the last points need no gradients
            return Proposal(x=x, state=ended, finished=ended)
        bounds = run.problem.domain.bounds(x)
        assert bounds is not None
        lower, upper = (side.flatten(1) for side in bounds)
        room = upper - flat if self.size > 0 else flat - lower
        movable = room > NO_ROOM * abs(self.size)
        chosen, salient, lost = self._chosen(point, movable)
        done = ended | ~salient.any(1) & ~lost
        move = torch.zeros_like(flat).scatter_add(1, chosen, self.size * salient.to(flat))
        move = move.masked_fill(lost.unsqueeze(1), torch.nan)  # for the loop to notice
        return Proposal(x=run.problem.domain.project(x + move.view_as(x)), state=done, finished=done)

    def _chosen(self, point: Evaluation, movable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The entries to be moved, ``(batch, 1 or 2)``, which of them are salient, and the rows with a NaN gradient."""
        sign = 1 if self.size > 0 else -1
        if self.outputs is None:
            value = point.direction(0)
            rise = point.pull_back((value, torch.full_like(value, -sign))).flatten(1)
            # b = -a: the largest a are the largest saliency, and no square underflows
            rank = torch.where(movable, rise, -torch.inf).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
            top, chosen = rank.topk(min(1 + self.pairs, rank.shape[1]), dim=1)
            return chosen, top > 0, rise.isnan().any(1)
        with torch.enable_grad():
            outputs = self.outputs(point)
        gradients = torch.cat([block for _, block in point.jacobian_blocks(outputs)])
        rise, fall = (sign * gradient.flatten(1) for gradient in gradients)
        # a scale of its own for each row, so that no product underflows
        rise, fall = (g / g.abs().amax(1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny) for g in (rise, fall))
        lost = (rise + fall).isnan().any(1)
        if self.pairs:
            parts = zip(*(t.split(max(PAIRS_AT_ONCE // rise.shape[1] ** 2, 1)) for t in (rise, fall, movable)))
            best, pair = (torch.cat(part) for part in zip(*(_best_pair(*part) for part in parts)))
            chosen = torch.stack([pair // rise.shape[1], pair % rise.shape[1]], 1)
            return chosen, (best > 0).unsqueeze(1).expand_as(chosen), lost
        rank = torch.where(movable, rise.clamp_min(0) * (-fall).clamp_min(0), -torch.inf)
        best, chosen = rank.max(1, keepdim=True)
        return chosen, best > 0, lost


def _best_pair(rise: Tensor, fall: Tensor, movable: Tensor) -> tuple[Tensor, Tensor]:
    """The largest saliency of two different movable entries of each row, and the pair as ``i n + j``."""
    size = rise.shape[1]
    # NaN loses every comparison
    rise, fall = torch.where(movable, rise, -torch.inf), torch.where(movable, fall, torch.inf)
    a = (rise.unsqueeze(2) + rise.unsqueeze(1)).clamp_min_(0)
    b = (fall.unsqueeze(2) + fall.unsqueeze(1)).neg_().clamp_min_(0)
    score = a.mul_(b).nan_to_num_(nan=0.0)
    score.diagonal(dim1=1, dim2=2).zero_()
    best, pair = score.view(-1, size * size).max(1)
    return best, pair
