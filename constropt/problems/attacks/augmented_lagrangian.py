"""Attacks by multipliers: ALMA (Alg. 4.2), ALMA prox (Alg. IV-2), and primal-dual gradients, PDGD and PDPGD."""

from dataclasses import dataclass
from math import log10
from typing import Any, ClassVar

from torch import Tensor

from constropt.duals import MultiplierUpdate, PeriodicRho
from constropt.lagrangian import AugmentedLagrangian, PenaltyLike
from constropt.masking import ConstraintScale, QuantileMask
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.declared import MinimalPerturbation, PerturbationProblem
from constropt.problems.attacks.method import AttackMethod, Prepared, following, split
from constropt.problems.attacks.recipe import MinimalRecipe
from constropt.prox import NormAround
from constropt.solution import Solution, best_of
from constropt.solvers.base import Loop
from constropt.solvers.first_order import FirstOrder
from constropt.solvers.primal_dual import PrimalDual
from constropt.steps import RMSPropMomentum, StepSize, VariableMetric

# How much longer than the first run's the first step of ALMA's second run is.
RESTART_STEP = 4.0


def ema_for(steps: int) -> float:
    """alpha by budget: 0.5 at 100 steps and 0.9 from 1,000 on, linear in the logarithm between (Sec. III.5)."""
    return min(0.9, max(0.5, 0.5 + 0.4 * (log10(max(steps, 1)) - 2)))


@dataclass(frozen=True, eq=False)
class ALMA(AttackMethod):
    """The ALMA attack (Sec. 4.4): :class:`MinimalPerturbation`, or any problem, by the joint loop.

    ``distance``: "l1", "l2", "ssim", "ms_ssim", "ciede2000", "lpips", "wasserstein", a
    :class:`~constropt.problems.distances.Distance` (``SSIM(window=7)``) or a callable ``(x, inputs) -> (batch,)``.
    ``ema`` is alpha, for the multiplier, RMSProp and the momentum alike, by default :func:`ema_for` the steps of a run.
    ``increase`` is epsilon, the distance reached by the first step, by default the distance's ``first_step`` (Table
    III-1: 0.1 for l2, 0.5 for l1), or 0.1 for a problem without a distance. The step size decays from the first success
    to ``final`` times itself. ``rho_every``, ``rho_factor`` and ``rho_ratio`` are M, gamma and tau of Alg. 4.2. One
    forward and one backward pass a step.

    From ``restart_after`` steps on (None: never, which is the published form) they are two runs, the second with a
    first step four times as long, and the better result of each row is returned (``Solution.duals`` are the first
    run's): what a row ends at is decided by the basin that its first steps choose, and polishing one basin longer gives
    nothing. For dense predictions :func:`alma_prox` is made.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> solution = alma(lambda x: x @ weight.T, torch.tensor([[0.75, 0.25]]), torch.tensor([0]), steps=100)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.35)
    """

    penalty: PenaltyLike = "P2"
    ema: float | None = None
    increase: float | None = None
    final: float = 0.01
    rho_every: int = 10
    rho_factor: float = 1.2
    rho_ratio: float = 0.95
    restart_after: int | None = 800

    dense: ClassVar[bool] = True

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        return problem, self._solver(problem, steps)

    def _solver(self, problem: ConstrainedProblem[Any], steps: int, longer: float = 1.0) -> FirstOrder:
        self.check_distance(problem)
        ema = ema_for(steps) if self.ema is None else self.ema
        increase = self.increase
        if increase is None:
            increase = problem.measure.first_step if isinstance(problem, PerturbationProblem) else 0.1
        multiplier = MultiplierUpdate(ema=ema, minimum=1e-6, maximum=1e12)
        schedule = PeriodicRho(every=self.rho_every, factor=self.rho_factor, ratio=self.rho_ratio)
        return FirstOrder(
            AugmentedLagrangian(self.penalty, multiplier, schedule, mu=1.0, rho=1.0),
            primal=RMSPropMomentum(smoothing=ema, momentum=ema),
            size=StepSize(increase=increase * longer, final=self.final),
            explore_first=True,
            tolerance=0.0,
        )

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        runs = 1 if self.restart_after is None or loop.steps < self.restart_after else 2
        steps = [(loop.steps + number) // runs for number in range(runs)]
        solvers = [self._solver(problem, spent, RESTART_STEP**number) for number, spent in enumerate(steps)]
        return best_of(*(loop(problem, solver, x0, steps=spent) for solver, spent in zip(solvers, steps)))


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
            found = f"{self.final}, {self.growth}, {self.largest} and {self.until}"
            needs = "0 < final < 1, growth >= 1, largest > 0 and until in (0, 1]"
            raise ValueError(f"GrowingStepSize: needs {needs}, got {found}")

    def factor(self, index: int, steps: int, first: int) -> float:
        """See :meth:`StepSize.factor`."""
        last = int(self.until * steps)
        turned = min(index if first < 0 else first, last)  # where the size stops, or so far has not stopped, growing
        grown = min(self.growth**turned, self.largest / self.initial)
        if first < 0 and index <= last:
            return grown
        scale = self.final / (1 - self.final) * max(steps - turned, 1)
        return grown * scale / (index - turned + scale)


@dataclass(frozen=True, eq=False)
class ALMAProx(AttackMethod):
    """The ALMA prox attack: the linf :class:`MinimalPerturbation` of a classifier or dense prediction, by prox steps.

    Forward-backward steps in a variable metric (Eq. 5.17) on the augmented Lagrangian: the linf distance and the box
    are handled together by their exact prox (Eq. 5.5), the constraints by ``penalty``. ``ema`` is alpha, of the
    multiplier and the metric alike, by default :func:`ema_for` the steps. The step size grows until the row is
    adversarial: none is to be chosen for a model. With a single constraint a row there is nothing to mask or balance,
    and rho starts at ALMA's 1. ``steps``: 100, or 500 for dense predictions. One forward and one backward pass a step.

    For dense predictions, of which a row counts as fooled from ``nu = 0.99`` of its pixels on, it is with the quantile
    mask (Eq. 5.6) and the scale w (Eq. 5.8), and rho from 0.01 and growing again where a pixel is lost (Alg. IV-2).
    Four things are not the paper's, which fits its step size and weights to large models: multipliers start at 1 over
    the number of pixels, so that the sum of all weighs as much as the norm, and stay below 100 times that, rho below
    0.1, since pixels that are hopeless would otherwise drive the norm to its limit; w is not held at 1, where it leaves
    runs just below the fraction to be met, but at 10; the step size grows from 1e-4 to 1e-2 in a tenth of the steps.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> solution = alma_prox(lambda x: x @ weight.T, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), steps=200)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.13)
    """

    penalty: PenaltyLike = "P2Floor"
    ema: float | None = None

    distances: ClassVar[tuple[str, ...] | None] = ("linf",)
    dense: ClassVar[bool] = True

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        """The distance and the box as the nonsmooth term."""
        linf = self.fitting(problem)
        return split(linf, NormAround("linf", linf.inputs, *linf.bounds)), self._solver(linf, steps)

    def _solver(self, problem: MinimalPerturbation, steps: int) -> FirstOrder:
        ema = ema_for(steps) if self.ema is None else self.ema
        width = problem.width  # the multiplier is in units of the distance
        if not problem.aim.dense:
            multiplier = MultiplierUpdate(ema=ema, minimum=1e-12, maximum=1e12)
            schedule = PeriodicRho(every=10, factor=2.0, ratio=0.95)
            lagrangian = AugmentedLagrangian(self.penalty, multiplier, schedule, mu=width, rho=1.0)
            size = GrowingStepSize(initial=1e-3 * width, largest=0.1 * width)
            return FirstOrder(lagrangian, primal=VariableMetric(smoothing=ema), size=size, tolerance=0.0)
        pixels = problem.aim.labels[0].numel()
        multiplier = MultiplierUpdate(ema=ema, minimum=1e-12, maximum=100 * width / pixels)
        schedule = PeriodicRho(every=10, factor=2.0, ratio=0.95, maximum=0.1, recent=True)
        lagrangian = AugmentedLagrangian(self.penalty, multiplier, schedule, mu=width / pixels, rho=0.01)
        part, reach = 0.1, 100.0
        size = GrowingStepSize(
            initial=1e-4 * width, growth=reach ** (1 / max(part * steps, 1)), largest=1e-4 * reach * width, until=part
        )
        return FirstOrder(
            lagrangian,
            primal=VariableMetric(smoothing=ema),
            size=size,
            masking=QuantileMask(),
            scaling=ConstraintScale(maximum=10.0),
            tolerance=0.0,
        )


@dataclass(frozen=True)
class PDGD(AttackMethod):
    """The PDGD attack: as :func:`pdpgd`, with the gradient of the distance in place of its prox.

    ``distance`` is one that is smooth away from the inputs: "l2", a :class:`~constropt.problems.distances.Distance` or
    a callable ``(x, inputs) -> (batch,)``. ``size`` is the primal step, in parts of the bounds' width: 0.1, or 0.01 for
    dense predictions. The distance's weight to the constraints' is 0.01 first, or 1; the dual step 0.1 (Sec. IV.6.1).

    >>> import torch
    >>> solution = pdgd(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.18)
    """

    size: float | None = None

    dense: ClassVar[bool] = True

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        attack = self.fitting(problem)
        return following(attack, "logit difference"), self._solver(attack)

    def _solver(self, problem: MinimalPerturbation) -> PrimalDual:
        dense, width, size = problem.aim.dense, problem.width, self.size
        if size is None:
            size = 0.01 if dense else 0.1
        ratio, limit = (1.0, 1e-12) if dense else (0.01, 1e-6)
        # the distance is in units of the inputs, the constraints are not
        return PrimalDual(size=size * width, ratio=ratio, unit=1 / width, limit=limit)


@dataclass(frozen=True)
class PDPGD(PDGD):
    """The PDPGD attack: :class:`MinimalPerturbation` in "linf", "l2", "l1" or "l0", by its prox in :class:`PrimalDual`.

    Norm and box are handled together by their exact prox in Adam's metric; for "l0" it is that of ``sum |.|^(2/3)``,
    which the authors prefer to the l0 norm's. ``size`` is that of :func:`pdgd`.

    >>> import torch
    >>> solution = pdpgd(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.13)
    """

    distances: ClassVar[tuple[str, ...] | None] = ("l0", "l1", "l2", "linf")

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        """Along the logit difference, the distance as the nonsmooth term."""
        attack = self.fitting(problem)
        name = attack.measure.name
        norm = NormAround(name, attack.inputs, *attack.bounds, relaxed="two-thirds" if name == "l0" else None)
        return split(following(attack, "logit difference"), norm), self._solver(attack)


alma = MinimalRecipe("alma", ALMA, reference="Alg. 4.2; Rony et al., ICCV 2021")
alma_prox = MinimalRecipe(
    "alma_prox", ALMAProx, "linf", steps=None, without=("distance",), reference="Alg. IV-2; Rony et al., CVPR 2023"
)
pdgd = MinimalRecipe("pdgd", PDGD, steps=500, reference="Matyasko & Chau, 2021")
pdpgd = MinimalRecipe("pdpgd", PDPGD, "linf", steps=500, reference="Matyasko & Chau, 2021")
