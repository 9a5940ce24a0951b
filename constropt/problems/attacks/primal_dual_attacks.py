"""PDPGD and PDGD (Matyasko & Chau, 2021): primal-dual proximal gradient and primal-dual gradient attacks."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.losses import following, split
from constropt.problems.attacks.method import AttackMethod, Prepared
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.attacks.recipe import MinimalRecipe
from constropt.prox import NormAround
from constropt.solvers.primal_dual import PrimalDual


@dataclass(frozen=True)
class PDGD(AttackMethod):
    """The PDGD attack: as :func:`pdpgd`, with the gradient of the distance in place of its prox.

    ``distance`` is one that is smooth away from the inputs: "l2", a :class:`~constropt.problems.distances.Distance` or
    a callable ``(x, inputs) -> (batch,)``. ``size`` is the primal step, in parts of the bounds' width: 0.1 by default,
    or 0.01 for dense predictions. The initial ratio of the distance's weight to the constraints' is 0.01, or 1; the
    dual step is 0.1 (Sec. IV.6.1).

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
    """The PDPGD attack: :class:`MinimalPerturbation` by :class:`PrimalDual`, the distance ("linf", "l2", "l1", "l0") by
    its prox.

    Norm and box are handled together by their exact prox in Adam's metric; for "l0" it is that of ``sum |.|^(2/3)``,
    which the authors prefer to the l0 norm's. ``size`` is that of :func:`pdgd`.

    >>> import torch
    >>> solution = pdpgd(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.13)
    """

    distances: ClassVar[tuple[str, ...] | None] = ("l0", "l1", "l2", "linf")

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        """The logit difference is followed, and the distance is the nonsmooth term."""
        attack = self.fitting(problem)
        name = attack.measure.name
        norm = NormAround(name, attack.inputs, *attack.bounds, relaxed="two-thirds" if name == "l0" else None)
        return split(following(attack, "logit difference"), norm), self._solver(attack)


pdgd = MinimalRecipe("pdgd", PDGD, steps=500, reference="Matyasko & Chau, 2021")
pdpgd = MinimalRecipe("pdpgd", PDPGD, "linf", steps=500, reference="Matyasko & Chau, 2021")
