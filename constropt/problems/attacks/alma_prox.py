"""ALMA prox (Alg. IV-2; Rony et al., CVPR 2023): minimal linf attacks by proximal splitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from constropt.domain import Box
from constropt.duals import MultiplierUpdate, PeriodicRho
from constropt.lagrangian import AugmentedLagrangian, PenaltyLike
from constropt.masking import ConstraintScale, QuantileMask
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.alma import ema_for
from constropt.problems.attacks.arguments import IGNORE_INDEX, Model
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.prox.norms import NormAround
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.first_order import FirstOrder
from constropt.solving import solve
from constropt.steps import StepSize, VariableMetric


@dataclass(frozen=True)
class GrowingStepSize(StepSize):
    """Step size per row: growing by ``growth`` up to ``largest`` until the row is first feasible, then decaying as 1/i.

    In the variable metric a forward step moves every entry by about the step size, whatever the model's gradient:
    growing it searches the scale of the answer, which no fixed size fits (1e-3 in 100 steps never reaches a robust
    MNIST net). ``until``: the part of the run after which rows that are not feasible stop growing and decay too.

    >>> import torch
    >>> GrowingStepSize(initial=1e-3, growth=2.0).at(torch.tensor([1e-3]), 3, 100, torch.tensor([-1]))
    tensor([0.0080])
    """

    final: float = 0.1
    growth: float = 1.25
    largest: float = 0.1
    until: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.final < 1 <= self.growth and self.largest > 0 and 0 < self.until <= 1):
            raise ValueError(
                "GrowingStepSize: needs 0 < final < 1, growth >= 1, largest > 0 and until in (0, 1],"
                f" got {self.final}, {self.growth}, {self.largest} and {self.until}"
            )

    def factor(self, index: int, steps: int, first: int) -> float:
        """See :meth:`StepSize.factor`."""
        last = int(self.until * steps)
        turned = min(index if first < 0 else first, last)  # where the size stops, or so far has not stopped, growing
        grown = min(self.growth**turned, self.largest / self.initial)
        if first < 0 and index <= last:
            return grown
        scale = self.final / (1 - self.final) * max(steps - turned, 1)
        return grown * scale / (index - turned + scale)


def ALMAProx(
    *, ema: float, steps: int, pixels: int | None = None, width: float = 1.0, penalty: PenaltyLike = "P2Floor"
) -> FirstOrder:
    """Forward-backward steps in a variable metric (Eq. 5.17) on the augmented Lagrangian, for :func:`linf_splitting`.

    ``ema`` is alpha, of the multiplier and the metric alike; ``width`` that of the inputs' bounds. With a single
    constraint a row (``pixels`` None) there is nothing to mask and nothing to balance, and rho starts at ALMA's 1.

    For dense predictions ``pixels`` is the number of a row's constraints: with the quantile mask (Eq. 5.6) and the
    scale w (Eq. 5.8), rho from 0.01 and growing again where a pixel is lost (Alg. IV-2). Four things are not the
    paper's, which fits its step size and weights to large models: multipliers start at 1 over the number of pixels, so
    that the sum of all weighs as much as the norm, and stay below 100 times that, rho below 0.1, since pixels that
    are hopeless would otherwise drive the norm to its limit; w is not held at 1, where it leaves runs just below the
    fraction that must be met, but at 10; and the step size grows from 1e-4 to at most 1e-2 in the first tenth of the
    steps.
    """
    if pixels is None:
        lagrangian = AugmentedLagrangian(
            penalty=penalty,
            multiplier=MultiplierUpdate(ema=ema, minimum=1e-12, maximum=1e12),
            schedule=PeriodicRho(every=10, factor=2.0, ratio=0.95),
            mu=width,  # the multiplier is in units of the distance
            rho=1.0,
        )
        size = GrowingStepSize(initial=1e-3 * width, largest=0.1 * width)
        return FirstOrder(lagrangian, primal=VariableMetric(smoothing=ema), size=size, tolerance=0.0)
    lagrangian = AugmentedLagrangian(
        penalty=penalty,
        multiplier=MultiplierUpdate(ema=ema, minimum=1e-12, maximum=100 * width / pixels),
        schedule=PeriodicRho(every=10, factor=2.0, ratio=0.95, maximum=0.1, recent=True),
        mu=width / pixels,
        rho=0.01,
    )
    part, reach = 0.1, 100.0
    size = GrowingStepSize(
        initial=1e-4 * width,
        growth=reach ** (1 / max(part * steps, 1)),
        largest=1e-4 * reach * width,
        until=part,
    )
    return FirstOrder(
        lagrangian,
        primal=VariableMetric(smoothing=ema),
        size=size,
        masking=QuantileMask(),
        scaling=ConstraintScale(maximum=10.0),
        tolerance=0.0,
    )


def alma_prox(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    nu: float | None = None,
    steps: int | None = None,
    penalty: PenaltyLike = "P2Floor",
    ema: float | None = None,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The ALMA prox attack: the linf :class:`MinimalPerturbation` of a classifier or dense prediction, by prox steps.

    The linf distance and the box are handled together by their exact prox, the constraints by ``penalty``
    (:func:`ALMAProx`).
    ``labels``, ``targets``, ``mask``, ``nu`` and ``ignore_index`` are those of :class:`MinimalPerturbation`: labels
    ``(batch,)``, or ``(batch, *pixels)`` for dense predictions, of which a row counts as fooled from ``nu = 0.99`` of
    its pixels on. ``steps`` is 100 by default, 500 for dense predictions; ``ema`` is
    :func:`~constropt.problems.attacks.alma.ema_for` the steps. The step size grows until the row
    is adversarial: none is to be chosen for a model. ``Solution.objective`` is the linf distance.
    One forward and one backward pass a step.

    Raises what :class:`MinimalPerturbation` raises.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> solution = alma_prox(lambda x: x @ weight.T, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), steps=200)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.13)
    """
    problem = MinimalPerturbation(
        model,
        inputs,
        labels,
        distance="linf",
        targets=targets,
        mask=mask,
        nu=nu,
        ignore_index=ignore_index,
        bounds=bounds,
    )
    pixels = labels[0].numel() if problem.aim.dense else None
    if steps is None:
        steps = 100 if pixels is None else 500
    ema = ema_for(steps) if ema is None else ema
    solver = ALMAProx(ema=ema, steps=steps, pixels=pixels, width=bounds[1] - bounds[0], penalty=penalty)
    return solve(linf_splitting(problem), solver, inputs, steps=steps, callback=callback)


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
