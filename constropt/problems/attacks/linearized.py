"""Attacks that linearise the decision boundary: ``minimal``, (Super)DeepFool, FAB, trust region, Brendel & Bethge."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.balls import BIM
from constropt.problems.attacks.declared import MaximalLoss
from constropt.problems.attacks.goals import misclassified
from constropt.problems.attacks.method import AttackMethod, Prepared, on_logarithms, order_of, with_goal
from constropt.problems.attacks.recipe import MinimalRecipe
from constropt.solution import Solution, best_of, continued
from constropt.solvers.base import Loop
from constropt.solvers.linearized.boundary_projection import BoundaryProjection
from constropt.solvers.linearized.boundary_walk import BoundaryWalk
from constropt.solvers.linearized.class_projection import NearestProjection
from constropt.solvers.linearized.linearized_projection import LinearizedProjection
from constropt.solvers.linearized.segment_search import SegmentSearch
from constropt.solvers.linearized.trust_region import TrustRegion
from constropt.solving import solve

# Of `minimal` beyond a tie, in parts of the spread of the logits: on small nets the rounding of another batch size is
# 2e-6 of it.
MARGIN = 1e-5
# How far `minimal` looks, by norm, in parts of the bounds' width.
REACH = {1.0: 10.0, 2.0: 1.0, torch.inf: 0.3}
# FAB's random restarts start within half this distance, in parts of the bounds' width (official code).
EPS = {1.0: 5.0, 2.0: 1.0, torch.inf: 0.3}
# The least and the greatest radius of the trust region, in parts of the bounds' width (official code).
RADII = {2.0: (0.0005, 0.05), torch.inf: (0.0001, 0.01)}
# Steps of Brendel & Bethge's search for starts: from one end of the bounds to the other in 1.25 / 10 of their width.
START_STEPS = 10


def others(candidates: int | None) -> int | None:
    """How many other classes there are among ``candidates`` classes, the label being one; ``ValueError`` below 2."""
    if candidates is None:
        return None
    require_whole(2, candidates=candidates)
    return candidates - 1


@dataclass(frozen=True)
class Minimal(AttackMethod):
    """The recommended minimal attack: by averaged cuts (:class:`~constropt.solvers.LinearizedProjection`).

    ``distance``: "l1", "l2" or "linf". Nothing to tune, no dependence on the logits' scale, and outputs that are
    probabilities are recognised (row by row: nonnegative, of sum 1) and their logarithm is attacked, with the same
    result. One forward and one backward pass a step, ``steps`` in all; in l2 and linf they are split into at most five
    runs of at least 25, from several starts, of four or five the last from the best point; in l1 into two from 200 on.

    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> solution = minimal(lambda x: x @ weight.T, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), distance="linf")
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
    """

    distances: ClassVar[tuple[str, ...] | None] = ("l1", "l2", "linf")

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        """A smaller margin than usual, on logarithms of probabilities."""
        attack = self.fitting(problem)
        p = order_of(attack)
        if attack.constraint is None:
            attack = replace(attack, constraint=misclassified(MARGIN))
        return on_logarithms(attack), LinearizedProjection(p=p, reach=REACH[p] * attack.width)


@dataclass(frozen=True)
class DeepFool(AttackMethod):
    """The DeepFool attack, "l2" or "linf": :class:`MinimalPerturbation` by :class:`NearestProjection`.

    Every step linearises the boundaries to the ``candidates - 1`` most likely other classes (None: all) and goes to the
    nearest one, ``overshoot`` times as far beyond. A row ends at its first point that is misclassified as it is
    returned, overshoot and clipping included. The paper knows no bounds: here every point is clipped to them, and with
    ``bounds=(-inf, inf)`` none. ``targets``, not in the paper, leave one boundary. Outputs that are probabilities are
    attacked through their logarithm. ``steps`` are iterations: one forward and ``candidates - 1`` backward passes each.

    >>> solution = deepfool(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), distance="linf")
    >>> solution.feasible.tolist(), round(solution.objective.item(), 4)
    ([True], 0.1276)
    """

    overshoot: float = 0.02
    candidates: int | None = 10

    distances: ClassVar[tuple[str, ...] | None] = ("l2", "linf")

    def __post_init__(self) -> None:
        others(self.candidates)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        attack = self.fitting(problem)
        solver = NearestProjection(p=order_of(attack), overshoot=self.overshoot, candidates=others(self.candidates))
        return on_logarithms(attack), solver


@dataclass(frozen=True)
class SuperDeepFool(DeepFool):
    """The SuperDeepFool attack, l2: DeepFool whose result is projected on the normal of the boundary, repeatedly.

    :class:`MinimalPerturbation` by :class:`NearestProjection` with ``align``; then ``search`` bisections (0: none) on
    the way back to the inputs. With ``accumulate`` the projections are added up, as in the official code, instead of
    each starting from the inputs, as in the paper: a row then ends within about 15 iterations, but farther away.
    ``overshoot`` and ``candidates`` are those of :func:`deepfool`. ``steps`` counts all iterations: those of DeepFool,
    ``candidates - 1`` backward passes each, and the projections, which the batch computes at the same price.

    >>> solution = superdeepfool(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.177)
    """

    accumulate: bool = False
    search: int = 10

    distances: ClassVar[tuple[str, ...] | None] = ("l2",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(0, search=self.search)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        """Before the search on the way back."""
        attack, solver = super().prepare(problem, x0, steps)
        assert isinstance(solver, NearestProjection)
        return attack, replace(solver, align=True, accumulate=self.accumulate)

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        attack, solver = self.prepare(problem, x0, loop.steps)
        found = loop(attack, solver, x0)
        if not self.search:
            return found
        return best_of(found, loop(attack, SegmentSearch(found.x), x0, steps=self.search + 1))


@dataclass(frozen=True)
class FAB(AttackMethod):
    """The FAB attack, "linf", "l2" or "l1": :class:`MinimalPerturbation` by :class:`BoundaryProjection`.

    ``restarts`` runs of ``steps`` iterations each, the first from the inputs, the others from a random point at most
    ``eps / 2`` away (by default ``eps`` is 0.3, 1 and 5 for linf, l2 and l1, in parts of the bounds' width). Every
    iteration linearises the boundaries to the other classes, all of them or those among the ``candidates`` most likely.
    ``by_class`` is FAB-T, for many classes: run r follows the boundary to the r-th most likely other class alone, and
    any other class counts as a success; AutoAttack makes ``restarts=9`` such runs. With ``targets`` the targets must be
    reached. ``search`` secant steps (0: none) towards the inputs end the attack.

    An iteration is two forward passes and as many backward passes as there are boundaries, one with ``by_class`` or
    ``targets``. Outputs that are probabilities are attacked through their logarithm.

    >>> solution = fab(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), distance="linf")
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
    """

    restarts: int = 1
    by_class: bool = False
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    eps: float | None = None
    candidates: int | None = None
    search: int = 3
    seed: int = 0

    distances: ClassVar[tuple[str, ...] | None] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        require_whole(restarts=self.restarts)
        require_whole(0, search=self.search)
        others(self.candidates)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        """All runs, before the last search."""
        attack = self.fitting(problem)
        p, candidates = order_of(attack), others(self.candidates)
        radius = EPS[p] * attack.width if self.eps is None else self.eps
        solver = BoundaryProjection(
            p=p,
            alpha=self.alpha_max,
            eta=self.eta,
            beta=self.beta,
            candidates=candidates,
            runs=self.restarts,
            radius=radius,
            single=self.by_class,
            seed=self.seed,
        )
        return on_logarithms(attack), solver

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        attack, solver = self.prepare(problem, x0, loop.steps)
        found = loop(attack, solver, x0, steps=self.restarts * loop.steps)
        if not self.search:
            return found
        return best_of(found, loop(attack, SegmentSearch(found.x, secant=True), x0, steps=self.search + 1))


@dataclass(frozen=True)
class TrustRegionAttack(AttackMethod):
    """The trust-region attack, "l2" or "linf": :class:`MinimalPerturbation` by :class:`TrustRegion`.

    The nearest boundary, by its linearisation at the inputs, of the ``candidates - 1`` most likely other classes (None:
    all) is approached by steps of at most the radius: ``eps`` first, then larger or smaller by the factor ``eta``,
    between ``eps_min`` and ``eps_max``, as the logit difference falls by more than ``sigma_high`` or less than
    ``sigma_low`` of what the gradient predicts. ``eta=1`` is the variant with a constant radius. All radii are in parts
    of the bounds' width; the limits are by default 0.0005 and 0.05 for l2, 0.0001 and 0.01 for linf. A row ends at its
    first point that is misclassified as it is returned. ``targets``, which are not in the paper, leave one boundary,
    that to the leading other class; where that changes often the radius shrinks, and ``eta=1`` gets farther.
    Outputs that are probabilities are attacked through their logarithm. ``steps`` are iterations: one forward and one
    backward pass each, the first ``candidates - 1`` backward passes.

    >>> solution = trust_region(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), distance="linf")
    >>> solution.feasible.tolist(), 0.125 < solution.objective.item() < 0.1276
    ([True], True)
    """

    eps: float = 0.001
    eps_min: float | None = None
    eps_max: float | None = None
    eta: float = 1.2
    sigma_low: float = 0.5
    sigma_high: float = 0.9
    overshoot: float = 0.02
    candidates: int | None = 10

    distances: ClassVar[tuple[str, ...] | None] = ("l2", "linf")

    def __post_init__(self) -> None:
        others(self.candidates)

    def prepare(self, problem: ConstrainedProblem[Any], x0: Tensor, steps: int) -> Prepared:
        attack = self.fitting(problem)
        p, width = order_of(attack), attack.width
        least, most = RADII[p]
        solver = TrustRegion(
            p=p,
            radius=self.eps * width,
            least=(min(least, self.eps) if self.eps_min is None else self.eps_min) * width,
            most=(max(most, self.eps) if self.eps_max is None else self.eps_max) * width,
            eta=self.eta,
            low=self.sigma_low,
            high=self.sigma_high,
            overshoot=self.overshoot,
            candidates=others(self.candidates),
        )
        return on_logarithms(attack), solver


@dataclass(frozen=True, eq=False)
class BrendelBethge(AttackMethod):
    """The Brendel & Bethge attack, minimal in "l0", "l1", "l2" or "linf", along the boundary by :class:`BoundaryWalk`.

    ``starts``: adversarial points to begin from, of the shape of ``inputs`` -- as published, for instance inputs that
    the model takes for another class (for the target). By default they are searched by :func:`bim` without a limit on
    the norm, on the logit difference, with 10 of the ``steps`` (a quarter of them, if that is less), so that a row's
    start depends on nothing but the row; noise, which the reference implementation begins from, is an input of one and
    the same class for most models. ``searches`` bisections lead from the starts to the boundary. ``radius`` is that of
    the first trust region in the l2 norm, in parts of the bounds' width, by default ``sqrt(n) / 3`` for inputs of n
    entries. That of the reference implementation is ``1e-3 n`` times the size of the batch: of a single input a walk
    of 100 steps ends before it has come near. It is multiplied by ``decay`` ``decays`` times. ``overshoot`` and
    ``momentum`` are those of the solver. "l0" counts entries, so that a pixel of three channels may count three times.
    ``ValueError``/``TypeError`` for ``starts`` of another shape or outside the bounds.

    >>> import torch
    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> x, labels = torch.tensor([[0.75, 0.5]]), torch.tensor([0])
    >>> solution = brendel_bethge(lambda x: x @ weight.T, x, labels, distance="linf", steps=40)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.125)
    """

    starts: Tensor | None = None
    radius: float | None = None
    decay: float = 0.5
    decays: int = 20
    overshoot: float = 1.1
    momentum: float = 0.8
    searches: int = 10

    distances: ClassVar[tuple[str, ...] | None] = ("l0", "l1", "l2", "linf")

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> Solution:
        """The search for starts, where none are given, and the walk."""
        attack = with_goal(self.fitting(problem), 0.0)
        width = attack.width
        solver = BoundaryWalk(
            p=order_of(attack),
            starts=self.starts,
            radius=None if self.radius is None else self.radius * width,
            decay=self.decay,
            decays=self.decays,
            overshoot=self.overshoot,
            momentum=self.momentum,
            searches=self.searches,
        )
        if self.starts is not None:
            return loop(attack, solver, x0)
        far = min(START_STEPS, max(loop.steps // 4, 1))
        inputs, aims = attack.inputs, {"targets": attack.targets, "bounds": attack.bounds}
        anywhere = MaximalLoss(attack.model, inputs, attack.labels, eps=width, loss="logit difference", **aims)
        search = solve(anywhere, BIM(), inputs, steps=far)
        walk = loop(attack, replace(solver, starts=search.x), x0, steps=max(loop.steps - far, 1))
        return continued(search, walk)


minimal = MinimalRecipe("minimal", Minimal, reference="averaged-cut projection on the decision boundary")
deepfool = MinimalRecipe("deepfool", DeepFool, steps=50, reference="Alg. 1.2; Moosavi-Dezfooli et al., CVPR 2016")
superdeepfool = MinimalRecipe(
    "superdeepfool", SuperDeepFool, without=("distance",), reference="Abroshan et al., 2023: Revisiting DeepFool"
)
fab = MinimalRecipe("fab", FAB, "linf", reference="Alg. 1.5; Croce & Hein, ICML 2020")
trust_region = MinimalRecipe("trust_region", TrustRegionAttack, reference="Alg. 1.3; Yao et al., CVPR 2019")
brendel_bethge = MinimalRecipe("brendel_bethge", BrendelBethge, steps=1000, reference="Brendel et al., NeurIPS 2019")
