"""Attacks by a penalty of searched weight: C&W (Eq. 1.10), EAD (Eq. 1.11), StrAttack and the first L-BFGS attack."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from constropt.checks import require_number, require_one_of, require_whole
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.constraints import cross_entropy
from constropt.problems.attacks.declared import MinimalPerturbation
from constropt.problems.attacks.method import AttackMethod, Prepared, remeasured, with_goal
from constropt.problems.attacks.recipe import MinimalRecipe
from constropt.problems.distances import L0, L1, Distance, DistanceLike, as_distance
from constropt.prox import GroupSparsity, NormAround, Scaled, patches
from constropt.solution import Solution, best_of
from constropt.solvers.base import Loop
from constropt.solvers.penalized.penalty_search import PenaltySearch, square_root, squared_distance
from constropt.solvers.penalized.penalty_steps import ShrinkageThresholding
from constropt.solvers.penalized.weight_search import Bisection, ShrinkingSupport, ShrinkingTolerance, Trial
from constropt.solvers.projected_lbfgs.solver import ProjectedLBFGS

# C&W's first weight by distance; for linf and l0 also the largest, beyond which a row ends (the authors' code).
WEIGHTS = {"linf": 1e-5, "l0": 1e-3}
LARGEST = {"linf": 20.0, "l0": 2e6}


@dataclass(frozen=True)
class CW(AttackMethod):
    """The C&W attack: :class:`MinimalPerturbation` by :class:`~constropt.solvers.PenaltySearch`.

    min ``D(x, inputs) + c max(z_y - max_{k != y} z_k + confidence, 0)`` by Adam of step ``size`` in the variable w of
    ``x = (tanh(w) + 1) / 2``. ``steps`` are those of all searches together, ``steps // searches`` for each: the
    published 9 x 1,000, or 90,000 for 9 x 10,000. One forward and one backward pass a step; rows end early.

    - "l2", squared, as published, and any smooth ``distance`` (a name, a
      :class:`~constropt.problems.distances.Distance`, a callable ``(x, inputs) -> (batch,)``), as it is: c starts at
      ``weight`` (1e-3), grows by ``factor`` (10) until the row is fooled, and is then bisected; 9 ``searches``.
      ``abort_early`` (on by default) ends a search that makes no progress.
    - "linf": ``sum_i max(|delta_i| - tau, 0)`` in place of D, tau ``decrease`` times the largest change after each
      success, c doubled after each failure, from 1e-5 on. ``abort_early`` ends a search with its success, as
      the authors do (off by default: it saved a tenth of the passes and made the norms 8 % larger).
    - "l0": D = l2 on the entries that may change, fewer after each success; c doubled after each failure, from 1e-3 on.

    ``searches`` for the last two says how long a failing search is; 20 by default. ``factor``: with 2, which is
    published too, nine searches from 1e-3 do not take c far enough for l2. Rows count as fooled by ``confidence``, if
    one is given; ``ValueError`` for a negative one. A problem's own ``constraint`` is kept.

    >>> solution = cw(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), steps=900)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.18)
    """

    searches: int | None = None
    size: float = 0.01
    weight: float | None = None
    factor: float | None = None
    confidence: float = 0.0
    decrease: float = 0.9
    abort_early: bool | None = None

    def __post_init__(self) -> None:
        require_whole(searches=1 if self.searches is None else self.searches)

    @classmethod
    def measured(cls, distance: DistanceLike) -> Distance:
        """Any with a gradient, and "l0"."""
        return as_distance(distance) if distance in ("l0", L0) else super().measured(distance)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        """On the logit difference, unless the problem has a goal of its own."""
        attack = self.fitting(problem)
        name, width = attack.measure.name, attack.width
        # the distance is in units of the inputs, squared for l2, the logits are not
        unit = width**2 if name in ("l2", "l0") else width
        weight = unit * (WEIGHTS.get(name, 1e-3) if self.weight is None else self.weight)
        doubling = 2.0 if self.factor is None else self.factor
        largest = LARGEST.get(name, torch.inf) * unit
        if name == "linf":
            least, early = width / 255, bool(self.abort_early)
            rule = ShrinkingTolerance(weight, doubling, largest, width, self.decrease, least=least, early=early)
        elif name == "l0":
            rule = ShrinkingSupport(weight, doubling, largest, negligible=1e-4 * width)
        else:
            rule = Bisection(weight=weight, factor=10.0 if self.factor is None else self.factor)
        solver = PenaltySearch(
            size=self.size,
            searches=(20 if name in WEIGHTS else 9) if self.searches is None else self.searches,
            rule=rule,
            surrogate=squared_distance if name in ("l2", "l0") else None,
            tanh=True,
            abort=1e-4 if self.abort_early is not False and name not in WEIGHTS else None,
        )
        return with_goal(attack, self.confidence), solver


@dataclass(frozen=True)
class EAD(AttackMethod):
    """The elastic-net attack: :class:`MinimalPerturbation` by a proximal :class:`~constropt.solvers.PenaltySearch`.

    min ``||delta||_2^2 + beta ||delta||_1 + c max(z_y - max_{k != y} z_k + confidence, 0)`` by FISTA
    (``accelerated=False``: ISTA) with steps ``size sqrt(1 - progress)``; c starts at ``weight``, grows by ``factor``
    until the row is fooled, and is then bisected, in ``searches`` of ``steps // searches`` steps: the published 9 x
    1,000. ``abort_early``, which the authors' code has and the text has not, ends a search that makes no progress: a
    third of the passes for l1 norms some 5 to 15 % larger.

    A larger ``beta`` suits perturbations of large entries: with 0.01, Foolbox' default, l1 norms were a quarter smaller
    than with the published 1e-3 on two small networks, and a quarter larger on a ResNet, in few steps.

    ``rule`` is the published decision rule, which says what is best among the points that fool the model, and what
    ``Solution.objective`` is: "EN", the elastic-net distance ``||delta||_2^2 + beta ||delta||_1``, or "l1". The
    published threshold is beta itself, which makes the weight of the l1 norm ``beta / size`` and more;
    ``threshold="exact"`` makes it beta, as the formula says.

    One forward and one backward pass a step: of FISTA's two points the model sees the one where the gradient is taken,
    within the bounds. ``ValueError`` for an unknown rule or threshold. A problem's own ``constraint`` is kept.

    >>> solution = ead(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), rule="l1", steps=900)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.25)
    """

    rule: str = "EN"
    beta: float = 1e-3
    searches: int = 9
    size: float = 0.01
    weight: float = 1e-3
    factor: float = 10.0
    confidence: float = 0.0
    accelerated: bool = True
    threshold: str = "published"
    abort_early: bool = False

    distances: ClassVar[tuple[str, ...] | None] = ("l1",)

    def __post_init__(self) -> None:
        require_one_of("rule", self.rule, ("l1", "EN"))
        require_one_of("threshold", self.threshold, ("published", "exact"))
        require_whole(searches=self.searches)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        """On the logit difference and, by the rule "EN", in the elastic-net distance."""
        attack = with_goal(self.fitting(problem), self.confidence)
        width, l1_weight = attack.width, self.beta * attack.width

        def elastic_net(x: Tensor, reference: Tensor) -> Tensor:
            return squared_distance(x, reference) + l1_weight * L1(x, reference)

        if self.rule == "EN":
            attack = replace(attack, distance=Distance("elastic net", elastic_net))
        threshold = 1.0 if self.threshold == "published" else None
        solver = PenaltySearch(
            primal=ShrinkageThresholding(accelerated=self.accelerated, threshold=threshold),
            size=self.size,
            decay=square_root,
            searches=self.searches,
            # the distance is in squared units of the inputs, the logits are not
            rule=Bisection(weight=self.weight * width**2, factor=self.factor),
            surrogate=squared_distance,
            nonsmooth=Scaled(NormAround("l1", attack.inputs, *attack.bounds), l1_weight),
            abort=1e-4 if self.abort_early else None,
        )
        return attack, solver


@dataclass(frozen=True, eq=False)
class StrAttack(AttackMethod):
    """StrAttack's problem: min ``gamma ||delta||_2^2 + tau sum_g ||delta_g||_2`` over what fools the model.

    By a proximal :class:`~constropt.solvers.PenaltySearch`. ``groups``: the side of square patches of pixels, all
    channels together, or group numbers of the shape of one input; groups do not overlap. The model's part is ``c
    max(z_y - max_{k != y} z_k + confidence, 0)``, c searched from ``weight`` on, times ``factor`` until the row is
    fooled, then bisected. ``tau`` and ``gamma`` are the published weights. The groups' norms and the box are handled
    together by their exact prox, in FISTA with steps ``size sqrt(1 - progress)``, where the paper splits them into the
    variables of an ADMM: the problem is the same. ``Solution.objective`` is that objective, at one forward and one
    backward pass a step. ``ValueError`` for groups of another shape. A problem's own ``constraint`` is kept.

    >>> x = torch.tensor([[0.75, 0.5, 0.5, 0.5]])
    >>> weight = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.5]])
    >>> model, groups = lambda x: x @ weight.T, torch.tensor([0, 0, 1, 1])
    >>> solution = str_attack(model, x, torch.tensor([0]), groups=groups, steps=900)
    >>> ((solution.x - x)[:, 2:].abs() < 1e-6).all().item(), solution.feasible.tolist()
    (True, [True])
    """

    groups: int | Tensor = 2
    tau: float = 2.0
    gamma: float = 1.0
    searches: int = 9
    size: float = 0.01
    weight: float = 1.0
    factor: float = 5.0
    confidence: float = 0.0

    distances: ClassVar[tuple[str, ...] | None] = ("l2",)

    def __post_init__(self) -> None:
        require_whole(searches=self.searches)
        require_number(0, tau=self.tau, gamma=self.gamma)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        """The squared l2 norm as the distance, the groups as the nonsmooth term."""
        attack = with_goal(self.fitting(problem), self.confidence)
        width, inputs, gamma = attack.width, attack.inputs, self.gamma
        numbers = self.groups if isinstance(self.groups, Tensor) else patches(inputs.shape[1:], self.groups)
        sparse = replace(
            attack,
            distance=Distance("squared l2", lambda x, reference: gamma * squared_distance(x, reference)),
            nonsmooth=Scaled(GroupSparsity(numbers, inputs, *attack.bounds), self.tau * width),
        )
        solver = PenaltySearch(
            primal=ShrinkageThresholding(),
            size=self.size,
            decay=square_root,
            searches=self.searches,
            rule=Bisection(weight=self.weight * width**2, factor=self.factor),
        )
        return sparse, solver


@dataclass(frozen=True)
class LBFGSAttack(AttackMethod):
    """The L-BFGS attack, minimal in l2: min ``||delta||_2^2 + c loss(x)`` in the box, for c searched in every row.

    The loss is the cross-entropy of the targets; without targets, ``-log(1 - p_y)``, that of all other classes
    together, which the paper does not have. Each of ``searches`` weights gets ``steps // searches`` steps of the
    library's :class:`~constropt.solvers.ProjectedLBFGS` (rows end earlier where they converge); c, the inverse of the
    paper's, starts at ``weight``, grows by ``factor`` until the row is fooled and is then bisected. The minimiser of
    each search counts, and no point on the way to it.

    ``ValueError`` for values out of range, and for a batch whose labels are not one per row.

    >>> solution = lbfgs_attack(lambda x: 4 * x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.18)
    """

    searches: int = 9
    weight: float = 1e-2
    factor: float = 10.0
    memory: int = 20

    distances: ClassVar[tuple[str, ...] | None] = ("l2",)

    def __post_init__(self) -> None:
        require_whole(searches=self.searches, memory=self.memory)

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        attack = self.fitting(problem)
        if attack.aim.dense:
            found = tuple(attack.labels.shape)
            raise ValueError(f"labels: lbfgs_attack takes one per row, got shape {found}; use alma_prox")
        rule = Bisection(weight=self.weight * attack.width**2, factor=self.factor)
        solver, steps = ProjectedLBFGS(memory=self.memory), max(loop.steps // self.searches, 1)
        state, best = rule.init(attack.inputs), None
        for _ in range(self.searches):
            inner = loop(_penalised(attack, state.weight), solver, x0, steps=steps)
            found = remeasured(inner, attack)
            if best is None:  # inputs that are fooled already need no perturbation
                none = torch.zeros_like(inner.forwards)
                best = remeasured(replace(inner, x=attack.inputs, forwards=none, backwards=none), attack)
            best = best_of(best, found)
            trial = Trial(found.feasible, found.objective, found.x, ~found.feasible, torch.zeros_like(found.x))
            state = rule.update(state, trial, attack.inputs)[0]
        assert best is not None
        return best


def other_than(logits: Tensor, labels: Tensor) -> Tensor:
    """``-log(1 - p_y)``, ``(batch,)``: the cross-entropy of not being the label.

    >>> other_than(torch.tensor([[0.0, 0.0]]), torch.tensor([0])).round(decimals=4)
    tensor([0.6931])
    """
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return logits.logsumexp(1) - others.logsumexp(1)


def _penalised(problem: MinimalPerturbation, weight: Tensor) -> ConstrainedProblem[Any]:
    """The problem without its constraint, a loss of a weight per row in its place."""
    labels, targets = problem.aim.labels, problem.aim.targets

    def objective(x: Tensor, z: Tensor) -> Tensor:
        loss = other_than(z, labels) if targets is None else cross_entropy(z, targets)
        return squared_distance(x, problem.inputs) + weight * loss

    return ConstrainedProblem(objective=objective, forward=problem.forward, domain=problem.domain)


cw = MinimalRecipe("cw", CW, steps=9000, reference="Eq. 1.10; Carlini & Wagner, IEEE S&P 2017")
ead = MinimalRecipe("ead", EAD, "l1", steps=9000, without=("distance",), reference="Eq. 1.11; Chen et al., AAAI 2018")
str_attack = MinimalRecipe("str_attack", StrAttack, steps=9000, without=("distance",), reference="Xu et al., ICLR 2019")
lbfgs_attack = MinimalRecipe(
    "lbfgs_attack", LBFGSAttack, steps=900, without=("distance",), reference="Szegedy et al., ICLR 2014"
)
