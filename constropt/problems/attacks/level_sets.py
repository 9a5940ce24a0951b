"""Attacks on level sets of the distance: DDN (Alg. 3.1), FMN (Alg. 1.6), sigma-zero (Cina et al., ICLR 2025)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.declared import MinimalPerturbation
from constropt.problems.attacks.method import AttackMethod, Prepared, following, order_of
from constropt.problems.attacks.recipe import MinimalRecipe
from constropt.solvers.level_sets.level_set import LevelSetProjection
from constropt.solvers.level_sets.minimum_norm import MinimumNorm
from constropt.solvers.level_sets.smoothed_l0 import SmoothedL0


@dataclass(frozen=True)
class DDN(AttackMethod):
    """The DDN attack: the l2 :class:`MinimalPerturbation`, or any problem, by projection on spheres.

    It follows the cross-entropy, or the constraint where a problem has one of its own. ``radius`` is the first norm,
    ``gamma`` its change per step; ``quantize=256`` makes every evaluated point, hence the result, an 8-bit image. For
    dense predictions the cross-entropies of all counted pixels are summed.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> solution = ddn(lambda x: x @ weight.T, torch.tensor([[0.75, 0.25]]), torch.tensor([0]), steps=100)
    >>> solution.feasible.tolist()
    [True]
    """

    gamma: float = 0.05
    radius: float = 1.0
    quantize: int | None = None

    distances: ClassVar[tuple[str, ...] | None] = ("l2",)
    dense: ClassVar[bool] = True

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        self.check_distance(problem)
        if isinstance(problem, MinimalPerturbation) and problem.constraint is None:
            problem = following(problem, "ce")
        return problem, LevelSetProjection(radius=self.radius, gamma=self.gamma, quantize=self.quantize)


# FMN's first step, in the l2 norm, for a single constraint a row and for dense predictions (Sec. 5.5.5.2).
ALPHA = {False: 1.0, True: 10.0}


@dataclass(frozen=True)
class FMN(AttackMethod):
    """The FMN attack, minimal in "linf", "l2", "l1" or "l0": :class:`MinimalPerturbation` by :class:`MinimumNorm`.

    ``alpha`` is the length of the first step in the l2 norm, in parts of the bounds' width: 1 by default, 10 for dense
    predictions, as published for images of half a million pixels; it decays to a hundredth. ``gamma`` is the change of
    the radius per step, decaying to 0.001. For dense predictions the loss is the mean logit difference of the counted
    pixels, and a row is taken for fooled when the fraction ``nu`` of them is (Sec. 5.5.5.2). ``steps`` is 100 by
    default, 500 for dense predictions. "l0" counts entries, so that a pixel of three channels may count three times.

    >>> import torch
    >>> solution = fmn(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
    """

    alpha: float | None = None
    gamma: float = 0.05

    distances: ClassVar[tuple[str, ...] | None] = ("l0", "l1", "l2", "linf")
    dense: ClassVar[bool] = True

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        attack = self.fitting(problem)
        alpha = ALPHA[attack.aim.dense] if self.alpha is None else self.alpha
        solver = MinimumNorm(p=order_of(attack), size=alpha * attack.width, gamma=self.gamma)
        return following(attack, "logit difference"), solver


@dataclass(frozen=True)
class SigmaZero(AttackMethod):
    """The sigma-zero attack: the l0 :class:`MinimalPerturbation`, on the logit difference, by :class:`SmoothedL0`.

    ``size`` is the length eta_0 of the first step, ``threshold`` the first tau, both in parts of the bounds' width;
    ``sigma``, in parts of its square, smooths the norm; ``rate``, t in the paper, is the change of tau relative to the
    step. Defaults are the published ones. "l0" counts entries: a pixel of three channels may count three times.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
    >>> solution = sigma_zero(lambda x: x @ weight.T, torch.tensor([[0.9, 0.2, 0.2]]), torch.tensor([0]), steps=100)
    >>> solution.feasible.tolist(), solution.objective.tolist()
    ([True], [1.0])
    """

    size: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    rate: float = 0.01

    distances: ClassVar[tuple[str, ...] | None] = ("l0",)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        attack = self.fitting(problem)
        width = attack.width
        solver = SmoothedL0(
            size=self.size * width,
            sigma=self.sigma * width**2,
            threshold=self.threshold * width,
            rate=self.rate,
            largest=width,
        )
        return following(attack, "logit difference"), solver


ddn = MinimalRecipe("ddn", DDN, without=("distance",), reference="Alg. 3.1; Rony et al., CVPR 2019")
fmn = MinimalRecipe("fmn", FMN, "linf", steps=None, reference="Alg. 1.6; Pintor et al., NeurIPS 2021")
sigma_zero = MinimalRecipe("sigma_zero", SigmaZero, "l0", steps=1000, reference="Cina et al., ICLR 2025")
