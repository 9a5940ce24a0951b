"""The minimal perturbation problem (Eq. 4.2, 4.5, 5.1): the nearest input, in a distance, that a model takes for
another.
"""

from dataclasses import dataclass, field

from torch import Tensor

from constropt.modes import normal
from constropt.problems.attacks.aim import IGNORE_INDEX, Aim, check_inputs
from constropt.problems.attacks.declared import PerturbationProblem, Terms
from constropt.problems.attacks.goals import GoalLike, as_constraint
from constropt.problems.distances import as_distance
from constropt.problems.model_calls import ModelCall


@dataclass(frozen=True)
class MinimalPerturbation(PerturbationProblem[Tensor]):
    """min D(x, inputs)  s.t.  DLR+(model(x), labels) <= 0 (tDLR+ with ``targets``),  x in [lower, upper].

    ``model``: any callable to logits ``(batch, K)`` (an output object with ``.logits`` is accepted); ``inputs``:
    ``(batch, *event)`` within ``bounds``; ``labels``: the true classes, ``(batch,)`` int64; ``targets``: classes to be
    reached instead of merely left; ``distance``: a name (:func:`constropt.problems.distances.names`), a
    :class:`Distance`, which prepares the inputs once, or a callable ``(x, inputs) -> (batch,)``; ``constraint``: what
    has to be reached in place of another class, a :class:`~constropt.problems.attacks.Goal`. Modules in training mode
    are run in evaluation mode, and put back. ``dataclasses.replace`` takes all of these, and the terms of a problem.

    Dense predictions: ``labels`` (and ``targets``) of shape ``(batch, *pixels)`` make every pixel a constraint, on
    logits ``(batch, K, *pixels)`` (:class:`constropt.problems.adapters.DenseLogits` brings other outputs to this
    form). Pixels labelled ``ignore_index``, or out of ``mask`` (booleans, same shape), do not count. A row is feasible
    when the fraction ``nu`` of its counted pixels is met: the attack pixel success rate (APSR, Eq. 5.19), 0.99 by
    default.

    Raises ``ValueError``/``TypeError``, before any model call, for inputs outside the bounds or not finite, labels,
    targets or a mask of a wrong shape, dtype or sign, targets equal to labels, rows of which no pixel counts, and
    inputs that the distance does not take; at the first call for labels that are no classes of the model.

    >>> import torch
    >>> model = torch.nn.Linear(2, 3)
    >>> problem = MinimalPerturbation(model, torch.full((1, 2), 0.5), torch.tensor([0]), distance="l1")
    >>> problem.evaluate(torch.full((1, 2), 0.5)).objective.tolist()
    [0.0]
    """

    labels: Tensor
    targets: Tensor | None = field(default=None, kw_only=True)
    mask: Tensor | None = field(default=None, kw_only=True)
    nu: float | None = field(default=None, kw_only=True)
    constraint: GoalLike = field(default=None, kw_only=True)
    ignore_index: int = field(default=IGNORE_INDEX, kw_only=True)
    aim: Aim = field(init=False, repr=False, compare=False)

    def make(self) -> Terms[Tensor]:
        """The distance, the goal of the logits, and the model."""
        check_inputs(self.model, self.inputs, self.bounds)
        aim = Aim.of(self.inputs, self.labels, self.targets, self.mask, self.ignore_index, self.nu)
        self._set(aim=aim, labels=normal(self.labels))
        goal, forward = as_constraint(self.constraint, aim), ModelCall(self.model, check=aim.check)
        return self.make_from(goal, forward, normal(self.inputs), as_distance(self.distance))
