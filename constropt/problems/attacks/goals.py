"""What an attack has to reach: goals, met iff <= 0; and what budgeted attacks ascend: losses, the model being fooled.

Both are called with logits ``(batch, K, *pixels)`` and the aim, and return one value per label, ``(batch, *pixels)``:
a loss rises away from the true classes or, with targets, towards these.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from constropt.checks import got, require_number, require_whole
from constropt.constraint import Constraint, inequality
from constropt.problems.attacks.aim import Aim
from constropt.problems.attacks.constraints import (
    MARGIN,
    below_largest,
    class_dlr,
    class_gaps,
    cross_entropy,
    dlr,
    logit_difference,
    margin_for,
    target_gap,
    targeted_dlr,
    tie_margin,
)

# What goals are made of, and losses are.
Measure = Callable[[Tensor, Aim], Tensor]
Loss = Measure


@dataclass(frozen=True, eq=False)
class Goal:
    """``value(logits, aim)``, ``(batch, *pixels)``: met iff ``<= 0``.

    ``surrogate`` is what direction methods differentiate in its place. ``alternatives(logits, aim)``, ``(batch, m)``,
    for classifiers, says that it is met iff one of them is (:class:`constropt.Constraint`).

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
    return Goal("misclassified", partial(_aimed_dlr, margin=margin), alternatives=partial(_gaps, margin=margin))


def _aimed_dlr(logits: Tensor, aim: Aim, margin: float = MARGIN) -> Tensor:
    if aim.targets is None:
        return dlr(logits, aim.labels, margin=margin)
    return targeted_dlr(logits, aim.targets, margin=margin)


def _gaps(logits: Tensor, aim: Aim, margin: float = MARGIN) -> Tensor:
    if aim.targets is None:
        return class_gaps(logits, aim.labels, margin=margin)
    return target_gap(logits, aim.targets, margin=margin)


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

    return Goal(f"logit difference {confidence:g}", value, alternatives=lambda z, aim: _gaps(z, aim) + confidence)


def cross_entropy_level(level: float) -> Goal:
    """Cross-entropy above a level, ``level + log softmax(z)_y <= 0``; of the targets, below it.

    In nats: a level of ``-log p`` leaves the label a probability of at most p, or gives the target at least p. The
    label is surely not predicted from ``log K`` on, the target is below ``log 2``. ``ValueError`` unless in (0, inf).
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


def _cross_entropy(logits: Tensor, aim: Aim) -> Tensor:
    """Cross-entropy (Goodfellow et al., 2015; Madry et al., 2018), its opposite towards targets."""
    return cross_entropy(logits, aim.labels) if aim.targets is None else -cross_entropy(logits, aim.targets)


def _dlr(logits: Tensor, aim: Aim) -> Tensor:
    """DLR (Croce & Hein, 2020), invariant to the logits' shift and scale."""
    return -_aimed_dlr(logits, aim)


def _targeted_dlr(logits: Tensor, aim: Aim) -> Tensor:
    """The targeted DLR (Croce & Hein, 2020), of the labels and the targets, or the best other classes without any."""
    if aim.targets is not None:
        return -class_dlr(logits, aim.labels, aim.targets)
    return towards(leading_classes(logits, aim.labels, 1).squeeze(1))(logits, aim)


def towards(classes: Tensor) -> Loss:
    """The targeted DLR towards one class per label, for attacks that may reach any: ``classes`` of the labels' shape.

    >>> aim = Aim.of(torch.rand(1, 2), torch.tensor([0]), None, None, 255)
    >>> towards(torch.tensor([2]))(torch.tensor([[3.0, 1.0, -1.0]]), aim)
    tensor([-1.0001])
    """
    return lambda logits, aim: -class_dlr(logits, aim.labels, classes)


def leading_classes(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The ``count`` classes (or all) of the largest logits beside the label, in order, ``(batch, count, *pixels)``.

    >>> leading_classes(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), 9)
    tensor([[2, 1]])
    """
    others = logits.detach().scatter(1, labels.unsqueeze(1), -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


def _logit_difference(logits: Tensor, aim: Aim) -> Tensor:
    """The logit difference (Carlini & Wagner, 2017)."""
    return -logit_difference(logits, aim.labels) if aim.targets is None else logit_difference(logits, aim.targets)


def houdini(logits: Tensor, aim: Aim) -> Tensor:
    """Houdini (Cisse et al., 2017): ``P[z_y - z_k < gamma] l(k, y)``, gamma standard normal, l the 0-1 loss per entry.

    Targeted, y is the target and k the prediction, so that an entry that has reached its target contributes nothing;
    the opposite is returned. Untargeted, y is the label and k the best *other* class: the prediction itself has no
    task loss, hence no gradient, until the model errs. Bounded in [0, 1], so no entry dominates the mean; in float32
    the gradient is 0 where ``|z_y - z_k|`` exceeds 18.

    >>> aim = Aim.of(torch.rand(1, 2), torch.tensor([0]), None, None, 255)
    >>> houdini(torch.tensor([[2.0, 2.0, 0.0]]), aim)
    tensor([0.5000])
    """
    if aim.targets is None:
        return torch.special.ndtr(-logit_difference(logits, aim.labels))
    missed = logits.detach().argmax(1) != aim.targets
    return -torch.special.ndtr(-logit_difference(logits, aim.targets)) * missed


LOSSES: dict[str, Loss] = {
    "ce": _cross_entropy,
    "dlr": _dlr,
    "targeted dlr": _targeted_dlr,
    "logit difference": _logit_difference,
    "houdini": houdini,
}


def as_loss(loss: str | Loss, aim: Aim) -> Callable[[Tensor], Tensor]:
    """``logits -> loss`` per entry for an aim, from a name of :data:`LOSSES` or a callable ``(logits, aim)``.

    Entries that do not count see logits of 0: whatever the model returns there, even NaN, reaches no gradient.
    ``ValueError`` for an unknown name and, when called, a loss of another shape than the labels; else ``TypeError``.
    """
    function = LOSSES.get(loss) if isinstance(loss, str) else loss
    if function is None or not callable(function):
        kind, found = (ValueError, repr(loss)) if isinstance(loss, str) else (TypeError, got(loss))
        raise kind(f"loss: takes one of {list(LOSSES)} or a callable (logits, aim), got {found}")

    def per_entry(logits: Tensor) -> Tensor:
        if aim.counted is not None:
            logits = torch.where(aim.counted.unsqueeze(1), logits, 0)
        return aim.per_label(function(logits, aim), "loss")

    return per_entry
