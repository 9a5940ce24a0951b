"""Greedy attacks: DAG (Alg. IV-1; Xie et al.), ASMA (Ozbulak et al.) and JSMA (Alg. 1.1; Papernot et al.)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from constropt.evaluation import Evaluation
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.aim import Aim
from constropt.problems.attacks.method import AttackMethod, Prepared, following, on_logarithms, order_of
from constropt.problems.attacks.recipe import MinimalRecipe
from constropt.problems.model_calls import of_label
from constropt.solvers.greedy import GreedyAccumulation
from constropt.solvers.saliency import Outputs, Saliency


@dataclass(frozen=True)
class DAG(AttackMethod):
    """The DAG attack: :class:`MinimalPerturbation` by :class:`GreedyAccumulation`, on the pixels that are still right.

    Every step has length ``size`` in ``distance``, "linf" or "l2", in parts of the bounds' width, along the gradient of
    the logit differences of the counted pixels (a classifier: one a row) that are not yet fooled; a row ends at its
    first feasible point. Published sizes are 0.003 and, for smaller perturbations and more failures, 0.001, for linf
    (Sec. 5.5.5.1); an l2 step of the same effect is larger by about the root of the number of entries.

    >>> solution = dag(lambda x: x, torch.tensor([[[0.75], [0.5]]]), torch.tensor([[0]]))
    >>> solution.feasible.tolist(), solution.backwards.tolist(), round(solution.objective.item(), 3)
    ([True], [42], 0.126)
    """

    size: float = 0.003

    distances: ClassVar[tuple[str, ...] | None] = ("l2", "linf")
    dense: ClassVar[bool] = True

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        attack = self.fitting(problem)
        solver = GreedyAccumulation(size=self.size * attack.width, p=order_of(attack))
        return following(attack, "logit difference"), solver


@dataclass(frozen=True)
class ASMA(AttackMethod):
    """The ASMA attack: the targets' logits of the pixels not yet there are raised, an l2 perturbation accumulates.

    Each step adds ``beta IoU + tau`` times the gradient of ``sum z_t - ||delta||_2^2``, the sum over counted pixels
    that have not reached their target, IoU the mean over classes of the prediction's overlap with the targets. The
    gradient is not normalised: ``tau`` and ``beta``, here the published ones, have to fit the model's logits and the
    number of pixels: larger by orders of magnitude for small networks. Units are those of inputs in [0, 1], whatever
    the ``bounds``. The nearest point that reaches the fraction ``nu`` is returned. ``ValueError`` without targets.

    >>> x, labels = torch.tensor([[[0.75], [0.5]]]), torch.tensor([[0]])
    >>> solution = asma(lambda x: x, x, labels, targets=torch.tensor([[1]]), tau=0.01, steps=100)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.25)
    """

    tau: float = 1e-7
    beta: float = 1e-6

    distances: ClassVar[tuple[str, ...] | None] = ("l2",)
    dense: ClassVar[bool] = True

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        attack = self.fitting(problem)
        if attack.aim.targets is None:
            raise ValueError("targets: ASMA is a targeted attack, give the problem the classes to be reached")
        targets, counted, square = attack.aim.targets, attack.aim.counted, attack.width**2

        def size(point: Evaluation) -> Tensor:
            logits = point.output.detach()
            return square * (self.beta * mean_iou(logits.argmax(1), targets, counted, logits.shape[1]) + self.tau)

        solver = GreedyAccumulation(size=size, p=None, pull=2 / square, stop=False)
        return following(attack, lambda logits, aim: of_label(logits, targets)), solver


def mean_iou(predicted: Tensor, targets: Tensor, counted: Tensor | None, classes: int) -> Tensor:
    """Intersection over union of each row, the mean over the classes that occur in it, ``(batch,)``.

    >>> mean_iou(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]), None, 3)
    tensor([0.5833])
    """
    rows = predicted.shape[0]
    weight = torch.ones_like(targets) if counted is None else counted.long()

    def count(labels: Tensor, entries: Tensor) -> Tensor:
        return entries.new_zeros(rows, classes).scatter_add_(1, labels.reshape(rows, -1), entries.reshape(rows, -1))

    both = count(targets, weight * (predicted == targets))
    union = count(targets, weight) + count(predicted, weight) - both
    return (both / union.clamp_min(1)).sum(1) / (union > 0).sum(1).clamp_min(1)


@dataclass(frozen=True)
class JSMA(AttackMethod):
    """The JSMA attack, l0: :class:`MinimalPerturbation` by :class:`Saliency`, entry by entry or in ``pairs``.

    The saliency map is the product of the derivative of the target's probability and the opposite of the sum of those
    of the other probabilities (Alg. 1.1), or of the same with ``logits``, as in most implementations. Probabilities sum
    to 1, so that the two factors are equal and one backward pass a step gives the map; logits take two. The chosen
    entry, or pair of entries as published, changes by ``theta`` in parts of the bounds' width, downwards if negative,
    and may be chosen again until it meets the bounds. A row ends when it has reached its target, or when more than the
    fraction ``gamma`` of its entries would change, 14.5 % in the paper, where it fails. Without ``targets`` the label's
    probability is to fall (non-targeted JSMA: Wiyatno & Xu, 2018). ``steps``: by default as many as ``gamma`` allows.
    ``ValueError`` for ``pairs`` with ``logits`` where the inputs have more than 16,384 entries.

    >>> x, weight = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 0.0, 2.0]])
    >>> model = lambda x: x @ weight.T - torch.tensor([0.0, 4.0])
    >>> jsma(model, x, torch.tensor([0]), targets=torch.tensor([1]), gamma=0.5).x
    tensor([[0., 1., 0., 1.]])
    """

    theta: float = 1.0
    gamma: float = 0.145
    pairs: bool = False
    logits: bool = False

    distances: ClassVar[tuple[str, ...] | None] = ("l0",)

    def __post_init__(self) -> None:
        if not self.theta:
            raise ValueError("theta: takes the change of an entry in parts of the width of the bounds, not 0")

    def default_steps(self, problem: Any) -> int:
        moves = max(math.ceil(1 / abs(self.theta)), 1)
        return max(math.ceil(self.gamma * problem.inputs[0].numel() / (1 + self.pairs)), 1) * moves

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        attack = self.fitting(problem)
        outputs = _logits(attack.aim) if self.logits else None
        solver = Saliency(outputs=outputs, size=self.theta * attack.width, pairs=self.pairs, limit=self.gamma)
        return following(on_logarithms(attack), "ce"), solver


def _logits(aim: Aim) -> Outputs:
    """The logit that has to rise and the sum of the others, which has to fall; without targets the label's falls."""

    def outputs(point: Evaluation) -> Tensor:
        one = of_label(point.output, aim.labels if aim.targets is None else aim.targets)
        rest = point.output.sum(1) - one
        return torch.stack([rest, one] if aim.targets is None else [one, rest], 1)

    return outputs


dag = MinimalRecipe("dag", DAG, "linf", steps=500, reference="Alg. IV-1; Xie et al., ICCV 2017")
asma = MinimalRecipe(
    "asma", ASMA, steps=1000, without=("distance",), targeted="required", reference="Ozbulak et al., MICCAI 2019"
)
jsma = MinimalRecipe(
    "jsma", JSMA, "l0", steps=None, without=("distance",), reference="Alg. 1.1; Papernot et al., EuroS&P 2016"
)
