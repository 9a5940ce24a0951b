"""Checks of arguments, what errors say of them, and optional dependencies."""

import math
from collections.abc import Iterable
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def got(value: object) -> str:
    """What an argument is, for messages: dtype and shape of a tensor, else its type.

    >>> import torch
    >>> got(torch.zeros(2, 3)), got("text")
    ('float32 of shape (2, 3)', 'str')
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__


def require_number(least: float = 0.0, below: float = math.inf, /, **values: float) -> None:
    """``ValueError`` that names the first of ``values`` that is no number from ``least`` to under ``below``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < below:
            raise ValueError(f"{name}: takes a number >= {least:g} and < {below:g}, got {value!r}")


def require_whole(least: int = 1, /, **values: int) -> None:
    """``ValueError`` that names the first of ``values`` that is no whole number from ``least``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: takes a whole number >= {least}, got {value!r}")


def require_positive(what: str = "a number", rest: str = "", /, **values: float) -> None:
    """``ValueError`` that names the first of ``values`` that is not > 0, and ``what`` it takes, to the ``rest``.

    >>> require_positive(margin=0.5, weight=1)
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: takes {what} > 0{rest}, got {value!r}")


def require_within(interval: str, what: str = "must lie", rest: str = "", /, **values: float) -> None:
    """``ValueError`` that names the first of ``values`` outside the ``interval``; ``what`` and ``rest`` surround it.

    >>> require_within("[0, 1)", "takes a weight", " (0 forgets at once)", ema=1.0)
    Traceback (most recent call last):
    ValueError: ema: takes a weight in [0, 1) (0 forgets at once), got 1.0
    """
    low, high = (float(side) for side in interval[1:-1].split(","))
    for name, value in values.items():
        if not low <= value <= high or value == low and interval[0] == "(" or value == high and interval[-1] == ")":
            raise ValueError(f"{name}: {what} in {interval}{rest}, got {value!r}")


def given(**values: T | None) -> dict[str, T]:
    """Those that are not None: ``require_positive(**given(size=None))`` takes None as well."""
    return {name: value for name, value in values.items() if value is not None}


def require_one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """``ValueError`` that names the argument and the ``choices`` unless ``value`` is one of them.

    >>> require_one_of("norm", "l1", ("l1", "l2"))
    """
    if value not in (choices := tuple(choices)):
        raise ValueError(f"{name}: takes one of {', '.join(choices)}, got {value!r}")


def require_below(count: int, values: Tensor, what: str, cure: str = "") -> None:
    """``ValueError`` unless all ``values`` lie in ``0 .. count - 1``: ``what`` begins the message, ``cure`` ends it.

    >>> require_below(3, torch.tensor([0, 2]), "labels: takes classes")
    >>> require_below(3, torch.tensor([-1, 2]), "labels: takes classes")
    Traceback (most recent call last):
    ValueError: labels: takes classes 0 to 2, got -1 to 2
    """
    low, high = (int(values.min()), int(values.max())) if values.numel() else (0, count - 1)
    if low < 0 or high >= count:
        raise ValueError(f"{what} 0 to {count - 1}, got {low} to {high}{cure}")


def are_whole(values: Any) -> TypeGuard[Tensor]:
    """Whether these are a tensor of whole numbers, of any integer dtype; booleans are none.

    >>> are_whole(torch.tensor([1])), are_whole(torch.tensor([True]))
    (True, False)
    """
    if not isinstance(values, Tensor) or values.dtype == torch.bool:
        return False
    return not values.is_floating_point() and not values.is_complex()


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def require_rows(fits: Tensor, what: str, cure: str = "leave these rows out") -> None:
    """``ValueError`` that names the first rows where ``fits``, ``(batch,)``, is false: ``what`` begins the message.

    >>> require_rows(torch.tensor([True, False]), "flips: mark no label")
    Traceback (most recent call last):
    ValueError: flips: mark no label in rows [1]; leave these rows out
    """
    if not bool(fits.all()):
        raise ValueError(f"{what} in rows {(~fits).nonzero().flatten().tolist()[:5]}; {cure}")
