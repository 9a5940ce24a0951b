"""Constraints on what a network puts out over a data set, for training in a loop of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from constropt.checks import require_whole
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
                takes = "a tensor or a callable" if Tensor in others else "a callable"
                raise TypeError(
                    f"constraint {self.name!r}: {field} must be {takes} of (output, target), got {type(given).__name__}"
                )

    def value_of(self, value: Value, output: Any, target: Any) -> Tensor:
        """What ``value``, the constraint's own or its surrogate, returns: checked, in float32 at least."""
        y = value(output, target)
        if not isinstance(y, Tensor) or not y.is_floating_point() or not self._fits(y):
            got = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"constraint {self.name!r}: value must return a floating point tensor of shape (*samples, *shape) with"
                f" shape = {self.shape}, got {got}"
            )
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
            raise ValueError(
                f"constraint {self.name!r}: mask must be of the shape of the samples, {tuple(samples)}, or broadcast to"
                f" the value's {tuple(y.shape)}, got {tuple(mask.shape)}"
            ) from None

    def count_of(self, mask: Tensor, counted: Tensor | None) -> Tensor:
        """How many entries of the mask of :meth:`mask_of` count, over the samples: for each entry of ``shape``, or one
        number for all of them.
        """
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
    """``value(output, target) <= 0`` for every sample, with one multiplier for each entry of ``shape`` (see
    :class:`TrainingConstraint`).

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
