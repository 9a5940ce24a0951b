"""Constraints on what a network puts out over a data set, and what training keeps of each in buffers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from constropt.checks import got, require_whole
from constropt.duals import Duals
from constropt.lagrangian import AugmentedLagrangian
from constropt.precision import at_least_float32

Value = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class TrainingConstraint:
    """A constraint on the outputs of a network, its multipliers shared by the samples.

    ``value(output, target)`` returns ``(*samples, *shape)``, met iff ``<= 0`` (``== 0`` for an equality); there is one
    multiplier for each entry of ``shape``, so ``(K,)`` makes them class-wise. What comes before, samples, pixels,
    tokens, is what is averaged over. ``mask``, a tensor or a function of ``(output, target)``, of shape ``(*samples,)``
    or one that broadcasts to the value, says which entries count. ``surrogate``, where given, is what training
    differentiates in place of ``value`` (a rate has no gradient): directions follow it, while feasibility and the
    multipliers follow ``value`` itself.

    With ``average`` the constraint is on the mean of the value over all samples that count (a rate, a mean loss), so
    P is taken of that mean; without, every sample has the constraint, and the mean of P over samples is taken.

    Unlike :class:`constropt.Constraint` it is a function of what a network puts out, not of ``(x, z)``, and its
    multipliers are those of a data set: a problem's ``shared``, ``fraction`` and ``alternatives`` have no meaning here.

    Raises ``TypeError`` for a ``value``, ``mask``, ``surrogate`` or ``name`` of another kind, ``ValueError`` for a
    ``shape`` that is none.
    """

    value: Value
    name: str = "constraint"
    mask: Value | Tensor | None = None
    equality: bool = False
    surrogate: Value | None = None
    shape: tuple[int, ...] = ()
    average: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name: a constraint is named by a string, got {type(self.name).__name__}")
        object.__setattr__(self, "shape", tuple(self.shape))
        require_whole(0, **{f"constraint {self.name!r}: shape[{i}]": size for i, size in enumerate(self.shape)})
        kinds = (("value", ()), ("mask", (Tensor, type(None))), ("surrogate", (type(None),)))
        for given, (field, others) in zip((self.value, self.mask, self.surrogate), kinds):
            if not callable(given) and not isinstance(given, others):
                takes = f"{'a tensor or ' if Tensor in others else ''}a callable of (output, target)"
                raise TypeError(f"constraint {self.name!r}: {field} must be {takes}, got {type(given).__name__}")

    def value_of(self, value: Value, output: Any, target: Any) -> Tensor:
        """What ``value``, the constraint's own or its surrogate, returns: checked, in float32 at least."""
        y = value(output, target)
        if not isinstance(y, Tensor) or not y.is_floating_point() or not self._fits(y):
            takes = f"a floating point tensor of shape (*samples, *shape) with shape = {self.shape}"
            raise ValueError(f"constraint {self.name!r}: value must return {takes}, got {got(y)}")
        return at_least_float32(y)

    def mask_of(self, y: Tensor, output: Any, target: Any, counted: Tensor | None = None) -> Tensor | None:
        """Which entries of the value ``y`` count (None: all), of the ``counted`` samples where these are given."""
        spread = None if counted is None else self.spread(counted, y)
        if self.mask is None:
            return spread
        mask = self.spread(self.mask if isinstance(self.mask, Tensor) else self.mask(output, target), y)
        return mask if spread is None else mask & spread

    def spread(self, mask: Tensor, y: Tensor) -> Tensor:
        """A mask of the samples, or of their entries, as booleans of the shape of ``y``."""
        samples = y.shape[: y.dim() - len(self.shape)]
        if mask.shape == samples:
            mask = mask.reshape(*samples, *(1 for _ in self.shape))
        try:
            return mask.to(device=y.device, dtype=torch.bool).expand_as(y)
        except RuntimeError:
            takes = f"of the shape of the samples, {tuple(samples)}, or broadcast to the value's {tuple(y.shape)}"
            raise ValueError(f"constraint {self.name!r}: mask must be {takes}, got {tuple(mask.shape)}") from None

    def count_of(self, mask: Tensor, counted: Tensor | None) -> Tensor:
        """How many entries of the mask of :meth:`mask_of` count over the samples, for each of ``shape`` or for all."""
        if self.mask is None and counted is not None:  # the same for all, and far fewer to add up
            return counted.sum()
        return mask.sum(self.sample_dims(mask))

    def sample_dims(self, y: Tensor) -> tuple[int, ...]:
        """The dimensions of a value that are samples: those before ``shape``."""
        return tuple(range(y.dim() - len(self.shape)))

    def samples_of(self, y: Tensor) -> int:
        """How many samples a value is of."""
        return math.prod(y.shape[: y.dim() - len(self.shape)])

    def _fits(self, y: Tensor) -> bool:
        return y.dim() > len(self.shape) and tuple(y.shape[y.dim() - len(self.shape) :]) == self.shape


class ConstraintOptions(TypedDict, total=False):
    """The fields of a :class:`TrainingConstraint` beside its value and whether that is averaged."""

    shape: tuple[int, ...]
    name: str
    mask: Value | Tensor | None
    surrogate: Value | None
    equality: bool


def samplewise(value: Value, **options: Unpack[ConstraintOptions]) -> TrainingConstraint:
    """``value(output, target) <= 0`` for every sample (see :class:`TrainingConstraint`), one multiplier per entry.

    >>> logits_below_ten = samplewise(lambda logits, labels: logits / 10 - 1, shape=(3,), name="logits")
    >>> logits_below_ten.shape, logits_below_ten.average
    ((3,), False)
    """
    return TrainingConstraint(value, average=False, **options)


def on_average(value: Value, **options: Unpack[ConstraintOptions]) -> TrainingConstraint:
    """``mean of value(output, target) <= 0`` over the samples that count (see :class:`TrainingConstraint`).

    The false alarms of a detector, among the negatives, at most 5 %; a hinge is differentiated in place of the count:

    >>> false_alarms = on_average(
    ...     lambda score, label: (score > 0).float() - 0.05,
    ...     surrogate=lambda score, label: (1 + score).clamp_min(0) - 0.05,
    ...     mask=lambda score, label: label == 0,
    ...     name="false alarms",
    ... )
    >>> false_alarms.average
    True
    """
    return TrainingConstraint(value, average=True, **options)


class Sums(NamedTuple):
    """Sums over the counted entries of samples, each of the constraint's ``shape``; added up over batches and ranks."""

    candidate: Tensor
    level: Tensor
    count: Tensor


class DualState(nn.Module):
    """The multipliers ``mu`` and penalty parameters ``rho`` of one constraint, each of its ``shape``, as buffers.

    ``level`` is the mean value of the constraint in the last dual pass (NaN before the first). All of it is in the
    ``state_dict``: the sums of a pass that is under way and the initial values too, so that a run that is resumed
    equals one that was not interrupted bit for bit.
    """

    mu: Tensor
    rho: Tensor
    violation: Tensor
    met: Tensor
    level: Tensor
    sum_candidate: Tensor
    sum_level: Tensor
    count: Tensor

    def __init__(self, constraint: TrainingConstraint, lagrangian: AugmentedLagrangian) -> None:
        super().__init__()
        self.equality = constraint.equality
        duals = lagrangian.init(torch.zeros(constraint.shape), equality=constraint.equality)
        for name in ("mu", "rho", "violation", "met"):
            self.register_buffer(name, getattr(duals, name))
        self.register_buffer("level", torch.full(constraint.shape, torch.nan))
        # float64: float32 sums of a pass over a million pixels lose their last digits, and counts stop at 2^24
        for name in ("sum_candidate", "sum_level", "count"):
            self.register_buffer(name, torch.zeros(constraint.shape, dtype=torch.float64))
        self.initial = (float(duals.mu.flatten()[0]), float(duals.rho.flatten()[0])) if duals.mu.numel() else (0.0, 1.0)
        self.updates = 0

    def duals(self) -> Duals:
        return Duals(self.mu, self.rho, self.violation, self.met, self.updates, self.equality)

    def assign(self, duals: Duals, level: Tensor, allowed: Tensor) -> None:
        """Take new duals over, in place, where ``allowed`` (a scalar) is true."""
        for name in ("mu", "rho", "violation", "met"):
            mine, new = getattr(self, name), getattr(duals, name)
            if new is not mine:
                mine.copy_(torch.where(allowed, new, mine))
        self.level.copy_(torch.where(allowed, level.to(self.level), self.level))
        self.updates = duals.updates

    def add(self, sums: Sums, allowed: Tensor) -> None:
        """Add the sums of one batch where ``allowed`` (a scalar) is true."""
        for mine, new in zip(self.sums(), sums):
            mine += torch.where(allowed, new.to(mine), 0)

    def sums(self) -> Sums:
        """What has been added up since the last dual step."""
        return Sums(self.sum_candidate, self.sum_level, self.count)

    def clear(self) -> None:
        """Forget what has been added up."""
        for mine in self.sums():
            mine.zero_()

    def reset(self) -> None:
        """Back to the initial duals."""
        mu, rho = self.initial
        for name, value in (("mu", mu), ("rho", rho), ("violation", torch.inf), ("met", False), ("level", torch.nan)):
            getattr(self, name).fill_(value)
        self.updates = 0
        self.clear()

    def get_extra_state(self) -> Tensor:
        """The number of updates and the initial values, as a tensor: checkpoints stay loadable without code."""
        return torch.tensor([self.updates, *self.initial], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Of what :meth:`get_extra_state` returned."""
        updates, mu, rho = state.tolist()
        self.updates, self.initial = int(updates), (mu, rho)
