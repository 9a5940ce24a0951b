"""ALMA prox (Alg. IV-2; Rony et al., CVPR 2023) for classifiers: minimal linf attacks by proximal splitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from constropt.domain import Box
from constropt.duals import MultiplierUpdate, PeriodicRho
from constropt.lagrangian import AugmentedLagrangian, PenaltyLike
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.alma import ema_for
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation, Model
from constropt.prox.norms import NormAround
from constropt.solution import Solution
from constropt.solve import solve
from constropt.solvers.base import Callback
from constropt.solvers.first_order import FirstOrder
from constropt.steps import StepSize, VariableMetric


@dataclass(frozen=True)
class GrowingStepSize(StepSize):
    """Step size per row: growing by ``growth`` up to ``largest`` until the row is first feasible, then decaying as 1/i.

    In the variable metric a forward step moves every entry by about the step size, whatever the model's gradient:
    growing it searches the scale of the answer, which no fixed size fits (1e-3 in 100 steps never reaches a robust
    MNIST net).

    >>> import torch
    >>> GrowingStepSize(initial=1e-3, growth=2.0).at(torch.tensor([1e-3]), 3, 100, torch.tensor([-1]))
    tensor([0.0080])
    """

    final: float = 0.1
    growth: float = 1.25
    largest: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.final < 1 <= self.growth and self.largest > 0):
            raise ValueError(
                "GrowingStepSize: needs 0 < final < 1, growth >= 1 and largest > 0,"
                f" got {self.final}, {self.growth} and {self.largest}"
            )

    def factor(self, index: int, steps: int, first: int) -> float:
        """See :meth:`StepSize.factor`."""
        grown = min(self.growth ** (index if first < 0 else first), self.largest / self.initial)
        scale = self.final / (1 - self.final) * max(steps - first, 1)
        return grown if first < 0 else grown * scale / (index - first + scale)


def alma_prox(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    steps: int = 100,
    penalty: PenaltyLike = "P2Floor",
    ema: float | None = None,
    growth: float = 1.25,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The ALMA prox attack on a classifier: forward-backward steps in a variable metric (Eq. 5.17).

    The linf distance and the box are handled together by their exact prox, the constraint by ``penalty``. ``ema`` is
    alpha, of the multiplier and the metric alike, by default :func:`~constropt.problems.attacks.alma.ema_for` the
    steps. The step size starts at 1e-3 of the bounds' width and grows by ``growth`` a step until a row is adversarial.
    ``Solution.objective`` is the linf distance. One forward and one backward pass a step.

    With a single constraint per row there is nothing to mask and nothing to balance: the quantile mask (Eq. 5.6) and
    the constraint scale (Eq. 5.8) are left out, and rho starts at ALMA's 1, not at the 0.01 meant for a million
    constraints.

    Raises what :class:`MinimalPerturbation` raises.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> solution = alma_prox(lambda x: x @ weight.T, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), steps=200)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.13)
    """
    problem = linf_splitting(
        MinimalPerturbation(model, inputs, labels, distance="linf", targets=targets, bounds=bounds)
    )
    ema = ema_for(steps) if ema is None else ema
    width = bounds[1] - bounds[0]
    solver = FirstOrder(
        lagrangian=AugmentedLagrangian(
            penalty=penalty,
            multiplier=MultiplierUpdate(ema=ema, minimum=1e-12, maximum=1e12),
            schedule=PeriodicRho(every=10, factor=2.0, ratio=0.95),
            mu=width,  # the multiplier is in units of the distance
            rho=1.0,
        ),
        primal=VariableMetric(smoothing=ema),
        size=GrowingStepSize(initial=1e-3 * width, growth=growth, largest=0.1 * width),
        tolerance=0.0,
    )
    return solve(problem, solver, inputs, steps=steps, callback=callback)


def linf_splitting(problem: MinimalPerturbation) -> ConstrainedProblem[Any]:
    """The same problem with its linf distance, and the box, as the nonsmooth term (Eq. 5.5)."""
    box = problem.domain
    assert isinstance(box, Box)
    return ConstrainedProblem(
        objective=lambda x, z: x.new_zeros(x.shape[0]),
        constraints=problem.constraints,
        forward=problem.forward,
        domain=box,
        nonsmooth=NormAround("linf", problem.inputs, box.lower, box.upper),
    )
