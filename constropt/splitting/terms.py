"""The terms of a splitting as the solvers call them: convex ones by their prox, smooth ones by value and gradient.

    prox(x, step, metric) = argmin over p of  step f(p) + 1/2 ||p - x||_M^2,   M = diag(metric), the identity if None

Inside this package ``step`` reaches an operator as a tensor ``(batch, 1, ...)`` of the dimensions of ``x``, so that
the operators of :mod:`constropt.prox`, which take one entry per row, and plain formulas, which broadcast, both work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union, cast

import torch
from torch import Tensor

from constropt.checks import got
from constropt.domain import Domain
from constropt.problem import ProximableFunction

from .loop import spread

Step = float | Tensor
Prox = Callable[..., Tensor]  # (x, step) -> p or (x, step, metric) -> p, what users write
Proximable = Prox | ProximableFunction | Domain  # what the solvers take
Operator = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # what the solvers call
Function = Callable[[Tensor], Tensor]  # h, (batch, *event) -> (batch,), or a linear map of rows
SmoothLike = Union["Smooth", Function]

# --------------------------------------------------------------------------------------------- terms by their prox


def as_operator(name: str, function: Proximable, *, metric: bool = False) -> Operator:
    """The operator of a term given as ``prox(x, step)``, ``prox(x, step, metric)``, an object with ``.prox`` or a set.

    ``name`` is the argument's, for messages; ``metric`` says that the operator will be called with one. Raises
    ``TypeError`` for what has no prox, or none in a metric where one is needed.
    """
    if isinstance(function, Domain):
        return _projection(name, function)
    given = getattr(function, "prox", function)
    if not callable(given):
        takes = f"{name}: takes prox(x, step), an object with .prox(x, step, metric=None) or a Domain"
        raise TypeError(f"{takes}, got {got(function)}; for no term pass Reals()")
    call = cast("Callable[..., Any]", given)  # what has a prox and is callable itself is narrowed to its value
    keyword, positional = _takes_metric(call)
    if metric and not (keyword or positional):
        raise TypeError(f"{name}: is called in a metric, as prox(x, step, metric), and takes none; give it one")

    def operator(x: Tensor, step: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None:
            return checked(name, call(x, step), x)
        return checked(name, call(x, step, metric=weights) if keyword else call(x, step, weights), x)

    return operator


def _projection(name: str, domain: Domain) -> Operator:
    def operator(x: Tensor, step: Tensor, weights: Tensor | None) -> Tensor:
        # a box is separable: its projection is the same in every diagonal metric
        if weights is not None and domain.bounds(x) is None:
            known = f"{name}: the projection on a {got(domain)} is known without a metric only"
            raise TypeError(f"{known}; a Box has one in every metric")
        return domain.project(x)

    return operator


def _takes_metric(call: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether a callable takes ``metric`` by name, and whether it takes a third argument by position."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature
        return False, True
    named = any(p.name == "metric" or p.kind is p.VAR_KEYWORD for p in parameters)
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return named, len(places) > 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def conjugate(prox: Proximable) -> Prox:
    """The prox of the convex conjugate f*, by Moreau's identity, with the signature ``(x, step, metric=None)``.

        prox(f*)(x, t) = x - t W prox(f)(x / (t W), 1/t, metric=W),   W = 1 / metric   (W = 1 without a metric)

    ``step`` > 0: a number, ``(batch,)`` or ``(batch, 1, ...)``. The conjugate of a norm is the indicator of the dual
    ball, that of the indicator of a set its support function. Moreau (1965); in a metric, Combettes & Vu (2014).

    >>> l1 = lambda x, step: x.sign() * (x.abs() - step).clamp_min(0)
    >>> conjugate(l1)(torch.tensor([[3.0, -0.5]]), 2.0)
    tensor([[ 1.0000, -0.5000]])
    """
    operator = conjugate_operator(as_operator("prox", prox))
    return lambda x, step, metric=None: operator(x, per_row("step", step, x), metric)


def conjugate_operator(operator: Operator) -> Operator:
    """:func:`conjugate` of what :func:`as_operator` returned, as it returns it."""

    def of_conjugate(x: Tensor, step: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None:
            return x - step * operator(x / step, 1 / step, None)
        scale = step / weights
        return x - scale * operator(x / scale, 1 / step, 1 / weights)

    return of_conjugate


def with_distance(prox: Proximable, z: Tensor, metric: Tensor | None = None) -> Prox:
    """The prox of ``f + 1/2 ||x - z||^2``, the norm in the diagonal ``metric`` if given (f's prox has to take it).

    What turns Douglas-Rachford, ADMM and Chambolle-Pock, which minimise f + g, into solvers for the prox of f + g.

    >>> l1 = lambda x, step: x.sign() * (x.abs() - step).clamp_min(0)
    >>> with_distance(l1, torch.tensor([[3.0]]))(torch.tensor([[0.0]]), 1.0)
    tensor([[1.]])
    """
    operator = as_operator("prox", prox, metric=metric is not None)

    def prox_of_sum(x: Tensor, step: Step) -> Tensor:
        step = per_row("step", step, x)
        if metric is None:
            return operator((x + step * z) / (1 + step), step / (1 + step), None)
        weights = 1 + step * metric
        return operator((x + step * metric * z) / weights, step, weights)

    return prox_of_sum


# ----------------------------------------------------------------------------------------- terms by their gradient


@dataclass(frozen=True, eq=False)
class Smooth:
    """h by ``value``, ``(batch, *event) -> (batch,)``, or by ``gradient``, ``(batch, *event)``, or both.

    Without ``gradient`` the value is differentiated; without ``value`` no step can be searched. Rows have to be
    independent: the value of a row depends on that row alone.

    >>> h = Smooth(lambda x: x.square().sum(1) / 2)
    >>> h.at(torch.tensor([[3.0, 4.0]]))
    (tensor([12.5000]), tensor([[3., 4.]]))
    """

    value: Function | None = None
    gradient: Function | None = None

    def __post_init__(self) -> None:
        if self.value is None and self.gradient is None:
            raise ValueError("Smooth: takes a value, a gradient or both, got neither")

    def slope(self, x: Tensor) -> Tensor:
        """The gradient alone."""
        return self.at(x)[1] if self.gradient is None else checked("smooth.gradient", self.gradient(x), x)

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient; ``ValueError`` if there is no value or it is not ``(batch,)``."""
        if self.gradient is not None:
            return self.level(x), self.slope(x)
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            level = self.level(point)
            if not level.requires_grad:
                return level, torch.zeros_like(x)
            (gradient,) = torch.autograd.grad(level.sum(), point, allow_unused=True)
        return level.detach(), torch.zeros_like(x) if gradient is None else gradient

    def level(self, x: Tensor) -> Tensor:
        """h(x), ``(batch,)``."""
        if self.value is None:
            raise ValueError("smooth: to search a step, h needs its value: Smooth(value, gradient), or a fixed step")
        level = self.value(x)
        if not isinstance(level, Tensor) or level.shape != x.shape[:1]:
            raise ValueError(f"smooth: must return one value a row, (batch,) = ({x.shape[0]},), got {got(level)}")
        return level

    @staticmethod
    def of(smooth: SmoothLike) -> Smooth:
        """A callable is h's value. Raises ``TypeError`` for anything else."""
        if isinstance(smooth, Smooth):
            return smooth
        if not callable(smooth):
            raise TypeError(f"smooth: takes h(x) -> (batch,) or Smooth(value, gradient), got {got(smooth)}")
        return Smooth(smooth)


# --------------------------------------------------------------------------------------------- checks of arguments


def per_row(name: str, step: Step, x: Tensor) -> Tensor:
    """A number or one entry per row, as ``(batch, 1, ...)`` in the dtype of x; ``ValueError`` for other shapes."""
    step = torch.as_tensor(step, dtype=x.dtype, device=x.device)
    if step.numel() not in (1, x.shape[0]):
        raise ValueError(f"{name}: takes a number or (batch,) = ({x.shape[0]},), got the shape {tuple(step.shape)}")
    return spread(step.reshape(-1), x).expand(x.shape[0], *[1] * (x.dim() - 1))


def positive(name: str, step: Step, x: Tensor) -> Tensor:
    """:func:`per_row`, with a ``ValueError`` for what is not a finite number > 0."""
    step = per_row(name, step, x)
    if not bool(((step > 0) & step.isfinite()).all()):
        raise ValueError(f"{name}: must be finite and > 0, got {step.flatten().tolist()}")
    return step


def rows(name: str, x: Tensor) -> Tensor:
    """``x`` itself, or what is wrong with it as a batch of rows to start from."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name}: takes a tensor of floating-point numbers, got {got(x)}")
    if x.dim() < 2:
        found = f"got {tuple(x.shape)}; for one problem, unsqueeze(0)"
        raise ValueError(f"{name}: takes (batch, *event), rows being problems, {found}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name}: must be finite, got NaN or infinity; replace them, or drop the row")
    return x


def diagonal(name: str, metric: Tensor, x: Tensor) -> Tensor:
    """A diagonal metric in the shape and dtype of x; ``ValueError`` if it does not broadcast or is not > 0."""
    try:
        metric = torch.as_tensor(metric, dtype=x.dtype, device=x.device).expand_as(x)
    except RuntimeError:
        raise ValueError(f"{name}: shape {tuple(metric.shape)} does not broadcast to x, {tuple(x.shape)}") from None
    if not bool(((metric > 0) & metric.isfinite()).all()):
        raise ValueError(f"{name}: entries must be finite and > 0, got a least entry of {metric.min().item()}")
    return metric


def checked(name: str, result: Any, x: Tensor) -> Tensor:
    """What a caller's function returned, if it has the shape and dtype of x."""
    if not isinstance(result, Tensor) or result.shape != x.shape or result.dtype != x.dtype:
        raise ValueError(f"{name}: must return a tensor like x, {got(x)}, got {got(result)}")
    return result
