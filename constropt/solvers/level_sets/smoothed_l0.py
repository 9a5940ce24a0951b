"""Gradient descent on a smooth l0 norm, small entries pruned by a threshold that feasibility drives: sigma-zero."""

from dataclasses import dataclass

import torch
from torch import Tensor

from constropt.checks import require_positive
from constropt.evaluation import Evaluation
from constropt.features import Takes
from constropt.rows import by_row, per_row
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import cosine, normalised


@dataclass(frozen=True, eq=False)
class SmoothedL0State:
    """Adam's two ``moments``, of the shape of x and at least float32, and ``threshold``, one a row, ``(batch,)``."""

    moments: tuple[Tensor, Tensor]
    threshold: Tensor


@dataclass(frozen=True, eq=False)
class SmoothedL0(Solver[SmoothedL0State]):
    """min ``||x - x0||_0`` s.t. h(x) <= 0, by sigma-zero (Cina et al., 2025): rows of n entries, delta = x - x0.

    Adam's step of length ``size`` (along a cosine to ``final`` times itself) on ``s(x) + 1/n sum delta^2 / (delta^2 +
    sigma)``, whose gradient is scaled to unit linf norm; s is the sum of the constraint's surrogate over the entries
    that are not met, by the number of those that count. After the projection on the domain, entries below the row's
    threshold are set to 0. It starts at ``threshold``, grows by ``rate`` times the present step length where the row
    was feasible, shrinks as much where not, and stays within 0 and ``largest``. ``size``, ``threshold`` and ``largest``
    are in the input's units, ``sigma`` in their square.

    Raises ``ValueError`` unless the problem has exactly one constraint, an inequality, and for values out of range.

    >>> from constropt import ConstrainedProblem, Box, inequality, solve
    >>> weight = torch.tensor([1.0, 4.0, 2.0])
    >>> problem = ConstrainedProblem(
    ...     objective=lambda x, _: x.count_nonzero(1).float(),
    ...     constraints=[inequality(lambda x, _: 3.0 - x @ weight)],
    ...     domain=Box(),
    ... )
    >>> solve(problem, SmoothedL0(), torch.zeros(1, 3), steps=100).objective
    tensor([1.])
    """

    takes = Takes(least=1, most=1, fraction=True, surrogate=True, objective_gradient=False)

    size: float = 1.0
    final: float = 0.1
    sigma: float = 1e-3
    threshold: float = 0.3
    rate: float = 0.01
    largest: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        require_positive(size=self.size, sigma=self.sigma, rate=self.rate, largest=self.largest)
        if not 0 <= self.threshold <= self.largest:
            raise ValueError(f"threshold: must lie in [0, largest] = [0, {self.largest}], got {self.threshold}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: Adam's two averages must lie in [0, 1), got {self.betas}")

    def init(self, run: Run, point: Evaluation) -> SmoothedL0State:
        # squares of small gradients are below the range of half precision
        zeros = torch.zeros_like(run.x0, dtype=torch.promote_types(run.x0.dtype, torch.float32))
        return SmoothedL0State((zeros, zeros), zeros.new_full((run.x0.shape[0],), self.threshold))

    def step(self, run: Run, state: SmoothedL0State, point: Evaluation, index: int) -> Proposal[SmoothedL0State]:
        size = self.size * cosine(1, self.final, index, run.steps)
        delta = (point.x.detach() - run.x0).to(state.threshold)
        square = delta.square()
        sparse = 2 * self.sigma * delta / ((square + self.sigma).square() * delta[0].numel())
        gradient = normalised(self._unmet(point).to(delta) + sparse, torch.inf)

        first, second = self.betas
        mean = torch.lerp(gradient, state.moments[0], first)
        variance = torch.lerp(gradient.square(), state.moments[1], second)
        scale = (variance / (1 - second ** (index + 1))).sqrt() + 1e-8
        delta = delta - size / (1 - first ** (index + 1)) * mean / scale
        delta = run.problem.domain.project((run.x0 + delta).to(run.x0)) - run.x0

        change = torch.where(point.violation() <= run.tolerance, self.rate * size, -self.rate * size)
        threshold = (state.threshold + change).clamp(0, self.largest)
        kept = torch.where(delta.abs() < per_row(threshold, delta), 0, delta)
        return Proposal(run.problem.domain.project(run.x0 + kept), SmoothedL0State((mean, variance), threshold))

    def _unmet(self, point: Evaluation) -> Tensor:
        """The gradient of the surrogate's sum over the entries that are not met, by the number of those that count."""
        value, counts = point.direction(0), point.counted(0)
        number = per_row(by_row(counts).sum(1).clamp_min(1), value)
        # "not met" rather than "> 0": NaN passes, for the loop to notice
        return point.pull_back((value, (counts & ~(point.values[0] <= 0)) / number))
