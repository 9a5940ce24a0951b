"""The budgeted attack (Eq. 0.3): within a ball around the inputs, the point where a model errs most."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from constropt.domain import Box, L1Ball, L2Ball, LinfBall
from constropt.modes import normal
from constropt.precision import at_least_float32
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.aim import IGNORE_INDEX, Aim, check_inputs
from constropt.problems.attacks.declared import DeclaredProblem, Terms
from constropt.problems.attacks.goals import as_constraint
from constropt.problems.attacks.losses import Loss, as_loss
from constropt.problems.distances import DistanceLike, Norm, as_distance
from constropt.problems.model_calls import ModelCall
from constropt.rows import per_row

_BALLS = {"l1": L1Ball, "l2": L2Ball, "linf": LinfBall}


@dataclass(frozen=True)
class MaximalLoss(DeclaredProblem[Tensor]):
    """max mean of ``loss`` over each row's counted entries  s.t.  ``||x - inputs|| <= eps``,  x in [lower, upper].

    ``objective`` is the opposite of that mean, ``(batch,)``. The constraint is that of every attack (DLR+ <= 0), so
    that ``Solution.feasible`` says which rows fool the model, at a fraction ``nu`` of their counted pixels; among
    points that do, the largest loss is kept. ``eps``: a number or ``(batch,)``, in the units of the inputs;
    ``distance``: "linf", "l2" or "l1"; ``loss``: "ce", "dlr", "targeted dlr", "logit difference", "houdini", or a
    callable ``(logits, aim)`` to one value per label. The other arguments are those of
    :class:`~constropt.problems.attacks.MinimalPerturbation`.

    Raises what :class:`~constropt.problems.attacks.MinimalPerturbation` raises, and ``ValueError`` for a negative or
    infinite ``eps``, one of another shape, and an unknown loss, all before any model call.

    >>> x, labels = torch.tensor([[0.75, 0.25]]), torch.tensor([0])
    >>> problem = MaximalLoss(lambda x: x, x, labels, eps=0.5, loss="logit difference")
    >>> problem.evaluate(torch.tensor([[0.5, 1.0]])).objective.tolist()
    [-0.5]
    """

    labels: Tensor
    eps: float | Tensor = field(kw_only=True)
    distance: DistanceLike = field(default="linf", kw_only=True)
    loss: str | Loss = field(default="ce", kw_only=True)
    targets: Tensor | None = field(default=None, kw_only=True)
    mask: Tensor | None = field(default=None, kw_only=True)
    nu: float | None = field(default=None, kw_only=True)
    ignore_index: int = field(default=IGNORE_INDEX, kw_only=True)
    aim: Aim = field(init=False, repr=False, compare=False)
    measure: Norm = field(init=False, repr=False, compare=False)
    radius: Tensor = field(init=False, repr=False, compare=False)

    def make(self) -> Terms[Tensor]:
        """The opposite of the mean loss, the constraint of every attack, the model and the ball."""
        check_inputs(self.model, self.inputs, self.bounds)
        aim = Aim.of(self.inputs, self.labels, self.targets, self.mask, self.ignore_index, self.nu)
        inputs, measure = normal(self.inputs), as_distance(self.distance, tuple(_BALLS))
        assert isinstance(measure, Norm)
        radius = radius_of(self.eps, inputs)
        mean, per_entry = row_mean(aim.counted), as_loss(self.loss, aim)
        self._set(inputs=inputs, labels=normal(self.labels), eps=radius, distance=measure)
        self._set(aim=aim, measure=measure, radius=radius)
        ball = _BALLS[measure.name](radius, inputs, Box(*self.bounds))
        goal, forward = as_constraint(None, aim), ModelCall(self.model, check=aim.check)
        return Terms(lambda x, z: -mean(per_entry(z)), goal, forward, ball)

    def minimal(self) -> ConstrainedProblem[Tensor]:
        """The same inputs with the distance as objective and only the box as domain."""
        box = Box(*self.bounds)
        return ConstrainedProblem(lambda x, z: self.measure(x, self.inputs), self.constraints, self.forward, box)

    def random_start(self, seed: int) -> Tensor:
        """Points of the domain, uniform in the ball and then projected on the box; the same draw in every row.

        From a generator of its own: one seed gives one start, on every device, whatever the batch is.
        """
        generator = torch.Generator().manual_seed(seed)
        size = self.inputs.shape[1:].numel()
        if self.measure.name == "linf":
            draw = 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1
        else:
            # a direction of the norm's sphere, at the radius that makes the ball uniform
            draw = torch.randn(size, generator=generator, dtype=torch.float64)
            if self.measure.name == "l1":
                draw = draw.sign() * torch.empty_like(draw).exponential_(generator=generator)
            depth = torch.rand((), generator=generator, dtype=torch.float64) ** (1 / size)
            draw = draw * (depth / torch.linalg.vector_norm(draw, ord=self.measure.p))
        draw = draw.to(self.inputs).view(1, *self.inputs.shape[1:])
        return self.domain.project(self.inputs + per_row(self.radius, self.inputs) * draw)


def row_mean(counted: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The mean over each row's counted entries, ``(batch, *pixels) -> (batch,)``; in float32 for shorter floats."""
    count = None if counted is None else counted.flatten(1).sum(1)

    def mean(value: Tensor) -> Tensor:
        # a sum over millions of half-precision entries overflows
        value = at_least_float32(value)
        return value if count is None or counted is None else torch.where(counted, value, 0).flatten(1).sum(1) / count

    return mean


def radius_of(eps: float | Tensor, inputs: Tensor) -> Tensor:
    """``eps`` as ``(batch,)`` of the inputs' dtype."""
    rows = inputs.shape[0]
    try:
        radius = normal(torch.as_tensor(eps, dtype=inputs.dtype, device=inputs.device))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"eps: takes a number or a tensor of shape ({rows},), got {type(eps).__name__}") from None
    radius = radius.expand(rows) if radius.dim() == 0 else radius
    if radius.shape != (rows,):
        raise ValueError(f"eps: takes a number or one value per row, ({rows},), got shape {tuple(radius.shape)}")
    if not bool((radius.isfinite() & (radius >= 0)).all()):
        raise ValueError(f"eps: takes finite radii >= 0, in the units of the inputs, got {eps}")
    return radius
