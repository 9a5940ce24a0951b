"""What budgeted attacks ascend, by name: one value per entry, larger where the model is more fooled.

Every loss is called ``loss(logits, aim)`` with logits ``(batch, K)`` or ``(batch, K, *pixels)`` and returns
``(batch,)`` or ``(batch, *pixels)``: untargeted it rises away from the true classes, targeted towards the targets.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from constropt.checks import got
from constropt.problem import ProximableFunction
from constropt.problems.attacks.aim import Aim
from constropt.problems.attacks.constraints import class_dlr, cross_entropy, dlr, logit_difference, targeted_dlr
from constropt.problems.attacks.declared import MinimalPerturbation

Loss = Callable[[Tensor, Aim], Tensor]


def _cross_entropy(logits: Tensor, aim: Aim) -> Tensor:
    """Cross-entropy (Goodfellow et al., 2015; Madry et al., 2018), its opposite towards targets."""
    return cross_entropy(logits, aim.labels) if aim.targets is None else -cross_entropy(logits, aim.targets)


def _dlr(logits: Tensor, aim: Aim) -> Tensor:
    """DLR (Croce & Hein, 2020), invariant to the logits' shift and scale."""
    return -(dlr(logits, aim.labels) if aim.targets is None else targeted_dlr(logits, aim.targets))


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


def following(problem: MinimalPerturbation, loss: str | Loss) -> MinimalPerturbation:
    """The same problem with the opposite of ``loss`` as its constraint's surrogate, which direction methods descend."""
    per_entry = as_loss(loss, problem.aim)
    fooled, *others = problem.constraints
    return replace(problem, constraints=(replace(fooled, surrogate=lambda x, z: -per_entry(z)), *others))


def split(problem: MinimalPerturbation, nonsmooth: ProximableFunction) -> MinimalPerturbation:
    """The same problem with ``nonsmooth``, for methods that need its prox, in the place of the distance (Eq. 5.5)."""
    return replace(problem, objective=None, nonsmooth=nonsmooth)
