"""What an attack on a classifier has to reach beside misclassification: constraints by choice, met iff <= 0."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from constropt.checks import got, require_number, require_whole
from constropt.constraint import Constraint, inequality
from constropt.problems.attacks.aim import Aim
from constropt.problems.attacks.constraints import (
    MARGIN,
    below_largest,
    class_gaps,
    cross_entropy,
    dlr,
    logit_difference,
    margin_for,
    target_gap,
    targeted_dlr,
    tie_margin,
)

# What a goal is made of: logits (batch, K, *pixels) and the aim to one value per label, (batch, *pixels).
Measure = Callable[[Tensor, Aim], Tensor]


@dataclass(frozen=True)
class Goal:
    """``value(logits, aim)``, ``(batch, *pixels)``: met iff ``<= 0``.

    ``surrogate`` is what direction methods differentiate in its place. ``alternatives(logits, aim)``, ``(batch, m)``,
    for classifiers, says that it is met iff one of them is (:class:`constropt.Constraint`).

    >>> import torch
    >>> aim = Aim.of(torch.zeros(1, 2), torch.tensor([0]), None, None, 255)
    >>> outside_top(2).value(torch.tensor([[1.0, 3.0, -1.0]]), aim)
    tensor([0.5001])
    """

    name: str
    value: Measure
    surrogate: Measure | None = None
    alternatives: Measure | None = None


GoalLike = Goal | Measure | None


def misclassified(margin: float = MARGIN) -> Goal:
    """DLR+ <= 0, or tDLR+ <= 0 with targets: the goal of every attack that has no other.

    ``margin``, beyond a tie, is in parts of the spread of the logits, ``ValueError`` if negative. The usual 1e-4 is
    what solvers tolerate in float32; less, for one that tolerates nothing, shows where inputs lie next to the boundary.
    """
    require_number(0, margin=margin)

    def value(logits: Tensor, aim: Aim) -> Tensor:
        if aim.targets is None:
            return dlr(logits, aim.labels, margin=margin)
        return targeted_dlr(logits, aim.targets, margin=margin)

    def gaps(logits: Tensor, aim: Aim) -> Tensor:
        if aim.targets is None:
            return class_gaps(logits, aim.labels, margin=margin)
        return target_gap(logits, aim.targets, margin=margin)

    return Goal("misclassified", value, alternatives=gaps)


def logit_margin(confidence: float = 0.0) -> Goal:
    """The logit difference with confidence kappa (Carlini & Wagner, 2017), in the units of the logits.

    ``z_y - max_{k != y} z_k + kappa <= 0``, with targets ``max_{k != t} z_k - z_t + kappa <= 0``, and a margin for
    rounding. ``ValueError`` for a ``confidence`` that is negative or infinite.
    """
    require_number(0, confidence=confidence)

    def value(logits: Tensor, aim: Aim) -> Tensor:
        if aim.targets is None:
            return logit_difference(logits, aim.labels, confidence=confidence) + tie_margin(logits, 3).squeeze(1)
        return confidence - logit_difference(logits, aim.targets) + tie_margin(logits, 4).squeeze(1)

    def gaps(logits: Tensor, aim: Aim) -> Tensor:
        gaps = class_gaps(logits, aim.labels) if aim.targets is None else target_gap(logits, aim.targets)
        return gaps + confidence

    return Goal(f"logit difference {confidence:g}", value, alternatives=gaps)


def cross_entropy_level(level: float) -> Goal:
    """Cross-entropy above a level, ``level + log softmax(z)_y <= 0``; of the targets, below it.

    In nats: a level of ``-log p`` leaves the label a probability of at most p, or gives the target at least p. The
    label is certainly not predicted from ``log K`` on, the target certainly is below ``log 2``. ``ValueError`` unless
    positive and finite.
    """
    if not 0 < level < math.inf:
        raise ValueError(f"level: takes a cross-entropy > 0 in nats, such as 0.69 = -log(1 / 2), got {level}")

    def value(logits: Tensor, aim: Aim) -> Tensor:
        if aim.targets is None:
            return level - cross_entropy(logits, aim.labels)
        return cross_entropy(logits, aim.targets) - level

    return Goal(f"cross-entropy {level:g}", value)


def outside_top(k: int) -> Goal:
    """Top-k misclassification: the label is not among the k largest logits; with targets, the target is among them.

    Scaled as DLR+ is, so that k = 1 without targets is the usual constraint. ``ValueError`` for ``k < 1``, and at the
    first call for a k that is not below the number of classes.
    """
    require_whole(k=k)

    def value(logits: Tensor, aim: Aim) -> Tensor:
        if aim.targets is None:
            return below_largest(logits, aim.labels, k)
        # the margin of the ratio is on the other side of the opposite
        return 2 * margin_for(logits.dtype) - below_largest(logits, aim.targets, k)

    return Goal(f"top {k}", value)


def as_constraint(goal: GoalLike, aim: Aim) -> Constraint[Tensor]:
    """The constraint of a goal, entry by entry: met in a row when the fraction ``aim.nu`` of its counted entries is.

    A callable ``(logits, aim)`` to one value per label is a goal too; None is :func:`misclassified`. ``TypeError`` for
    anything else; ``ValueError``, when called, for values of another shape than the labels.
    """
    if goal is not None and not callable(goal) and not isinstance(goal, Goal):
        takes = "a Goal, such as logit_margin(5.0), or a callable (logits, aim) to one value per label"
        raise TypeError(f"constraint: takes {takes}, got {got(goal)}")
    goal = misclassified() if goal is None else goal
    made = goal if isinstance(goal, Goal) else Goal(getattr(goal, "__name__", type(goal).__name__), goal)
    surrogate, alternatives = made.surrogate, None if aim.dense else made.alternatives
    return inequality(
        lambda x, z: aim.per_label(made.value(z, aim), "constraint"),
        name=made.name,
        mask=aim.counted,
        surrogate=None if surrogate is None else lambda x, z: surrogate(z, aim),
        alternatives=None if alternatives is None else lambda x, z: alternatives(z, aim),
        fraction=aim.nu,
    )
