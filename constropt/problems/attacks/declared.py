"""Problems declared by a model and inputs: minimal perturbations (Eq. 4.2, 4.5, 5.1), budgeted attacks (Eq. 0.3)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from constropt.constraint import Constraint, inequality
from constropt.domain import Box, Domain, L1Ball, L2Ball, LinfBall, Reals
from constropt.modes import normal, normal_mode
from constropt.precision import at_least_float32
from constropt.problem import ConstrainedProblem, ProximableFunction
from constropt.problems.attacks.aim import IGNORE_INDEX, Aim, check_inputs
from constropt.problems.attacks.goals import GoalLike, Loss, as_constraint, as_loss
from constropt.problems.distances import Distance, DistanceLike, Norm, as_distance
from constropt.problems.model_calls import Model, ModelCall
from constropt.rows import per_row

Z = TypeVar("Z")


@dataclass(frozen=True, eq=False)
class Terms(Generic[Z]):
    """The terms of a problem that are made of its declaration."""

    objective: Callable[[Tensor, Z], Tensor]
    constraint: Constraint[Z]
    forward: Callable[[Tensor], Z]
    domain: Domain


def _missing(*_: Any) -> Any:
    raise NotImplementedError  # takes the place of a term until there is one


# What a problem is given where it is to make a term itself.
MISSING: Terms[Any] = Terms(_missing, inequality(_missing), _missing, Reals())


@dataclass(frozen=True, eq=False)
class DeclaredProblem(ConstrainedProblem[Z]):
    """A problem whose objective, constraint, forward and domain are made of what its subclass declares.

    ``dataclasses.replace`` takes both: a declared field, from which the terms are made anew, and a term, which is kept
    as given then and in later replacements. ``terms`` are those that the problem made itself: what is none of them was
    given. Subclasses make them in ``make``, in normal mode: a problem made in inference mode is like any other.
    """

    objective: Callable[[Tensor, Z], Tensor] | None = field(default=MISSING.objective, kw_only=True, repr=False)
    constraints: Sequence[Constraint[Z]] = field(default=(MISSING.constraint,), kw_only=True, repr=False)
    forward: Callable[[Tensor], Z] = field(default=MISSING.forward, kw_only=True, repr=False)
    domain: Domain = field(default=MISSING.domain, kw_only=True)
    nonsmooth: ProximableFunction | None = field(default=None, kw_only=True)
    independent: bool = field(default=True, kw_only=True)
    rowwise: bool = field(init=False, default=False, repr=False)
    model: Model
    inputs: Tensor
    bounds: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)
    terms: Terms[Z] = field(default=MISSING, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        with normal_mode():
            old, new = self.terms, self.make()
        self._set(
            objective=new.objective if self.objective is old.objective else self.objective,
            forward=new.forward if self.forward is old.forward else self.forward,
            domain=new.domain if self.domain is old.domain else self.domain,
            terms=new,
        )
        # a network computes row by row; a function, or a forward that was given, may look at the whole batch
        self._set(rowwise=isinstance(self.forward, ModelCall) and self.forward.network)
        if isinstance(self.constraints, Sequence):
            made = (new.constraint if given is old.constraint else given for given in self.constraints)
            self._set(constraints=tuple(made))
        super().__post_init__()

    @property
    def width(self) -> float:
        """The width of the bounds, in parts of which published lengths are; 1, as of images, where there are none."""
        width = self.bounds[1] - self.bounds[0]
        return width if width < math.inf else 1.0

    def make(self) -> Terms[Z]:
        """Check what is declared and make the terms of it; fields may be completed by ``_set``."""
        raise NotImplementedError  # abstract

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class PerturbationProblem(DeclaredProblem[Z]):
    """min D(x, inputs) over ``bounds`` under a constraint on what ``model`` returns, which subclasses declare."""

    distance: DistanceLike = field(default="l2", kw_only=True)
    measure: Distance = field(init=False, repr=False)

    def make_from(
        self, constraint: Constraint[Z], forward: Callable[[Tensor], Z], inputs: Tensor, measure: Distance
    ) -> Terms[Z]:
        """The terms, with the distance to ``inputs`` as objective; both are kept as they will be used."""
        to_inputs = measure.bind(inputs, self.bounds)
        self._set(inputs=inputs, distance=measure, measure=measure)
        return Terms(lambda x, z: to_inputs(x), constraint, forward, Box(*self.bounds))


@dataclass(frozen=True, eq=False)
class MinimalPerturbation(PerturbationProblem[Tensor]):
    """min D(x, inputs)  s.t.  DLR+(model(x), labels) <= 0 (tDLR+ with ``targets``),  x in [lower, upper].

    ``model``: any callable to logits ``(batch, K)`` (an output object with ``.logits`` is accepted); ``inputs``:
    ``(batch, *event)`` within ``bounds``; ``labels``: the true classes, ``(batch,)`` int64; ``targets``: classes to be
    reached instead of merely left; ``distance``: a name (:func:`constropt.problems.distances.names`), a
    :class:`Distance`, which prepares the inputs once, or a callable ``(x, inputs) -> (batch,)``; ``constraint``: what
    has to be reached in place of another class, a :class:`~constropt.problems.attacks.Goal`. Modules in training mode
    are run in evaluation mode, and put back. ``dataclasses.replace`` takes all of these, and the terms of a problem.

    Dense predictions: ``labels`` (and ``targets``) of shape ``(batch, *pixels)`` make every pixel a constraint, on
    logits ``(batch, K, *pixels)`` (:class:`constropt.problems.adapters.DenseLogits` brings other outputs to this form).
    Pixels labelled ``ignore_index``, or out of ``mask`` (booleans, same shape), do not count. A row is feasible when
    the fraction ``nu`` (0.99) of its counted pixels is met: the attack pixel success rate (APSR, Eq. 5.19).

    Raises ``ValueError``/``TypeError``, before any model call, for inputs outside the bounds or not finite, labels,
    targets or a mask of a wrong shape, dtype or sign, targets equal to labels, rows of which no pixel counts, and
    inputs that the distance does not take; at the first call for labels that are no classes of the model.

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
    aim: Aim = field(init=False, repr=False)

    def make(self) -> Terms[Tensor]:
        """The distance, the goal of the logits, and the model."""
        check_inputs(self.inputs, self.bounds)
        aim = Aim.of(self.inputs, self.labels, self.targets, self.mask, self.ignore_index, self.nu)
        self._set(aim=aim, labels=normal(self.labels))
        goal, forward = as_constraint(self.constraint, aim), ModelCall(self.model, check=aim.check)
        return self.make_from(goal, forward, normal(self.inputs), as_distance(self.distance))


_BALLS = {"l1": L1Ball, "l2": L2Ball, "linf": LinfBall}


@dataclass(frozen=True, eq=False)
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
    aim: Aim = field(init=False, repr=False)
    measure: Norm = field(init=False, repr=False)
    radius: Tensor = field(init=False, repr=False)

    def make(self) -> Terms[Tensor]:
        """The opposite of the mean loss, the constraint of every attack, the model and the ball."""
        check_inputs(self.inputs, self.bounds)
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
        """Points uniform in the ball, projected on the box: one draw a seed, for every row, batch and device."""
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
