"""ALMA (Alg. 4.2; Rony et al., ICCV 2021): augmented Lagrangian minimal attacks, for any smooth distance."""

from __future__ import annotations

from math import log10

from torch import Tensor

from constropt.duals import MultiplierUpdate, PeriodicRho
from constropt.lagrangian import AugmentedLagrangian, PenaltyLike
from constropt.problems.attacks.arguments import IGNORE_INDEX, Model
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import with_gradient
from constropt.problems.distances.norms import DistanceLike
from constropt.solution import Solution, best_of
from constropt.solvers.base import Callback
from constropt.solvers.first_order import FirstOrder
from constropt.solving import solve
from constropt.steps import RMSPropMomentum, StepSize


def ALMA(
    *,
    penalty: PenaltyLike = "P2",
    ema: float = 0.9,
    increase: float = 0.1,
    final: float = 0.01,
    rho_every: int = 10,
    rho_factor: float = 1.2,
    rho_ratio: float = 0.95,
) -> FirstOrder:
    """The joint loop with ALMA's published hyper-parameters (Sec. 4.4), for any :class:`MinimalPerturbation`.

    ``ema`` is alpha, for the multiplier, RMSProp and the momentum alike: 0.5 at 100 steps to 0.9 at 1,000.
    ``increase`` is epsilon, the distance reached by the first step (Table III-1: 0.1 for l2, 0.5 for l1). The step
    size decays from the first success to ``final`` times itself. The other three are M, gamma and tau of Alg. 4.2.
    """
    return FirstOrder(
        lagrangian=AugmentedLagrangian(
            penalty=penalty,
            multiplier=MultiplierUpdate(ema=ema, minimum=1e-6, maximum=1e12),
            schedule=PeriodicRho(every=rho_every, factor=rho_factor, ratio=rho_ratio),
            mu=1.0,
            rho=1.0,
        ),
        primal=RMSPropMomentum(smoothing=ema, momentum=ema),
        size=StepSize(increase=increase, final=final),
        explore_first=True,
        tolerance=0.0,
    )


# From how many steps on `alma` spends them on two runs, and how much longer the second one's first step is.
RESTART_AFTER, RESTART_STEP = 800, 4.0


def ema_for(steps: int) -> float:
    """alpha by budget: the paper's 0.5 at 100 steps and 0.9 from 1,000 on, linear in the logarithm between (Sec.
    III.5).
    """
    return min(0.9, max(0.5, 0.5 + 0.4 * (log10(max(steps, 1)) - 2)))


def alma(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    nu: float | None = None,
    distance: DistanceLike = "l2",
    steps: int = 100,
    penalty: PenaltyLike = "P2",
    ema: float | None = None,
    increase: float | None = None,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The ALMA attack: :class:`MinimalPerturbation` solved by :func:`ALMA`.

    ``distance``: "l1", "l2", "ssim", "ms_ssim", "ciede2000", "lpips", "wasserstein", a
    :class:`~constropt.problems.distances.Distance` (``SSIM(window=7)``) or a callable ``(x, inputs) -> (batch,)``.
    ``ema`` defaults to :func:`ema_for` the steps, ``increase`` to the distance's ``first_step`` (Table III-1).
    ``Solution.objective`` is the distance of each row; ``Solution.feasible`` says which rows fool the model. One
    forward and one backward pass a step.

    From 800 steps on they are two runs, the second with a first step four times as long, and the better result of
    each row is returned (``Solution.duals`` are the first run's): what a row ends at is decided by the basin that its
    first steps choose, and polishing one basin longer gives nothing (with a published 1,000 steps in one run: pass
    :func:`ALMA` to :func:`constropt.solve`).

    The other arguments are those of :class:`MinimalPerturbation`, which raises for what does not fit; for dense
    predictions :func:`alma_prox` is made.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> solution = alma(lambda x: x @ weight.T, torch.tensor([[0.75, 0.25]]), torch.tensor([0]), steps=100)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.35)
    """
    problem = MinimalPerturbation(
        model,
        inputs,
        labels,
        distance=with_gradient(distance),
        targets=targets,
        mask=mask,
        nu=nu,
        ignore_index=ignore_index,
        bounds=bounds,
    )
    increase = problem.distance.first_step if increase is None else increase
    runs = min(1 + steps // RESTART_AFTER, 2)

    def run(number: int) -> Solution:
        spent = (steps + number) // runs
        solver = ALMA(
            penalty=penalty, ema=ema_for(spent) if ema is None else ema, increase=increase * RESTART_STEP**number
        )
        return solve(problem, solver, inputs, steps=spent, callback=callback)

    return best_of(*(run(number) for number in range(runs)))
