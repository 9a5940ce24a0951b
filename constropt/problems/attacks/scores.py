"""Minimal perturbations of models that are no classifiers: multi-label, regression, detection, any score."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from constropt.checks import got, require_one_of, require_rows
from constropt.constraint import Constraint, inequality
from constropt.modes import normal
from constropt.problems.attacks.aim import check_inputs
from constropt.problems.attacks.constraints import margin_for
from constropt.problems.attacks.declared import PerturbationProblem, Terms
from constropt.problems.distances import as_distance
from constropt.problems.model_calls import ModelCall, unwrapped


@dataclass(frozen=True, eq=False)
class ScorePerturbation(PerturbationProblem[Any]):
    """min D(x, inputs)  s.t.  constraint(model(x)) <= 0,  x in [lower, upper], for any output of a model.

    ``constraint``: what :func:`labels_flipped`, :func:`regression_error` or :func:`scores_below` make, any other
    :class:`constropt.Constraint` on the model's output, or a callable from that output to ``(batch, *dual)``, met iff
    all are ``<= 0``. The output is handed over as the model returned it. There are no labels here: what is true, and
    what is to be reached, the constraint knows. The other arguments, and the solvers, are those of
    :class:`~constropt.problems.attacks.MinimalPerturbation`.

    Before any model call, raises ``TypeError``/``ValueError`` for bad inputs and a constraint that is none.

    >>> from constropt import solve
    >>> from constropt.solvers.linearized.linearized_projection import LinearizedProjection
    >>> x = torch.tensor([[0.5, 0.5]])
    >>> problem = ScorePerturbation(lambda x: x.sum(1), x, regression_error(torch.tensor([1.0]), 0.25), distance="linf")
    >>> round(solve(problem, LinearizedProjection(p=torch.inf), x, steps=20).objective.item(), 3)
    0.125
    """

    constraint: Constraint[Any] | Callable[[Any], Tensor]
    rowwise: bool = field(default=False, kw_only=True)

    def make(self) -> Terms[Any]:
        """The distance, the constraint, and the model, whose output is handed over as it is."""
        check_inputs(self.inputs, self.bounds)
        constraint = self.constraint
        if not isinstance(constraint, Constraint):
            if not callable(constraint):
                takes = (
                    "a Constraint, such as regression_error(y, 0.5), or a callable from the model's output to values"
                )
                raise TypeError(f"constraint: takes {takes} <= 0 where met, got {got(constraint)}")
            function = constraint
            constraint = inequality(lambda x, z: function(z), name=getattr(function, "__name__", "score"))
        forward = ModelCall(self.model, unwrap=False)
        return self.make_from(constraint, forward, normal(self.inputs), as_distance(self.distance))


def labels_flipped(labels: Tensor, flips: Tensor, *, keep: bool = False) -> Constraint[Any]:
    """Multi-label classifiers: the labels that ``flips`` marks change, one constraint each: ``(2 y - 1) z <= 0``.

    ``labels``: the true ones, 0 or 1, and ``flips``, booleans, both ``(batch, K)``; z are the logits, ``(batch, K)``,
    that predict a label where they are positive. With ``keep`` the others must stay what they are in ``labels``. Values
    have a margin beyond the tie. Raises ``TypeError``/``ValueError`` for other shapes or values, and rows with none.

    >>> constraint = labels_flipped(torch.tensor([[1, 0]]), torch.tensor([[True, False]]))
    >>> constraint.value(torch.zeros(1, 1), torch.tensor([[2.0, -1.0]]))[0, 0].round(decimals=2)
    tensor(2.)
    """
    if not isinstance(flips, Tensor) or flips.dtype != torch.bool or flips.dim() != 2:
        raise TypeError("flips: takes booleans of shape (batch, K), the labels to be changed")
    if not isinstance(labels, Tensor) or labels.shape != flips.shape or not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"labels: takes 0 and 1 of the shape of flips, {tuple(flips.shape)}")
    require_rows(flips.any(1), "flips: mark no label")
    wanted = (labels.detach() != 0) ^ flips.detach()

    def value(x: Tensor, output: Any) -> Tensor:
        logits = unwrapped(output)
        if not isinstance(logits, Tensor) or logits.shape != wanted.shape:
            raise ValueError(f"model: must return logits of the labels' shape {tuple(wanted.shape)}, got {got(logits)}")
        margin = margin_for(logits.dtype) * logits.detach().abs().amax(1, keepdim=True)
        # where all are 0 there is no scale, and a tie all the same
        margin = margin.clamp_min(torch.finfo(logits.dtype).tiny)
        return torch.where(wanted, -logits, logits) + margin

    return inequality(value, name="labels flipped", mask=None if keep else flips)


def regression_error(references: Tensor, least: float | Tensor, *, direction: str = "any") -> Constraint[Any]:
    """Regression: an error of at least ``least`` against ``references`` in some output, ``least - |f(x) - y| <= 0``.

    ``references``: y, ``(batch,)`` or ``(batch, d)``, what the model returns, in its units; ``least``: a number or
    ``(batch,)``. ``direction``: "up" counts only predictions above y, "down" those below. Any single output suffices.
    ``TypeError``/``ValueError`` for references that are not finite floats, ``least`` not positive, another direction.

    >>> regression_error(torch.tensor([1.0]), 0.5).value(torch.zeros(1, 1), torch.tensor([1.25]))
    tensor([0.2500])
    """
    if not isinstance(references, Tensor) or not references.is_floating_point() or references.dim() not in (1, 2):
        raise TypeError("references: takes a floating point tensor of shape (batch,) or (batch, d)")
    if not bool(references.isfinite().all()):
        raise ValueError("references: takes finite values")
    require_one_of("direction", direction, ("any", "up", "down"))
    threshold = torch.as_tensor(least, dtype=references.dtype, device=references.device).detach()
    if threshold.dim() > 1 or threshold.dim() == 1 and threshold.shape != references.shape[:1]:
        takes = f"a number or one per row, ({references.shape[0]},)"
        raise ValueError(f"least: takes {takes}, got {tuple(threshold.shape)}")
    if not bool(((threshold > 0) & threshold.isfinite()).all()):
        raise ValueError(f"least: takes errors > 0 in the units of the output, got {least}")
    threshold = threshold.expand(references.shape[0]).unsqueeze(1)

    def gaps(x: Tensor, output: Any) -> Tensor:
        """``(batch, m)``: what is missing in each output and direction."""
        if not isinstance(output, Tensor) or output.shape not in (references.shape, (*references.shape, 1)):
            takes = f"one value per reference, {tuple(references.shape)}"
            raise ValueError(f"model: must return {takes}, got {got(output)}")
        error = (output.reshape(references.shape) - references).reshape(references.shape[0], -1)
        sides = {"any": (error, -error), "up": (error,), "down": (-error,)}[direction]
        return threshold - torch.cat(sides, 1)

    return inequality(
        # the first of equals has the gradient, so that an exact prediction has a way out
        lambda x, z: (g := gaps(x, z)).gather(1, g.detach().argmin(1, keepdim=True)).squeeze(1),
        name="regression error",
        alternatives=gaps,
    )


def scores_below(scores: Callable[[Any], Tensor], threshold: float, *, fraction: float = 1.0) -> Constraint[Any]:
    """Detection and the like: every score that the user's callable takes from the output falls to ``threshold``.

    ``scores(output)``: ``(batch, *entries)``, such as the confidences of the boxes that cover an object; each is a
    constraint ``score - threshold <= 0``. What does not matter in a row, the callable gives any value below the
    threshold. ``fraction`` of them has to be met. Raises ``TypeError`` for ``scores`` that is no callable and
    ``ValueError`` for a threshold that is not finite.

    >>> scores_below(lambda boxes: boxes[:, :, 4], 0.5).value(torch.zeros(1, 1), torch.ones(1, 3, 5))
    tensor([[0.5000, 0.5000, 0.5000]])
    """
    if not callable(scores):
        raise TypeError(f"scores: takes a callable from the model's output to scores, got {type(scores).__name__}")
    if not math.isfinite(threshold):
        raise ValueError(f"threshold: takes a finite score, got {threshold}")
    return inequality(lambda x, z: scores(z) - threshold, name="scores below", fraction=fraction)
