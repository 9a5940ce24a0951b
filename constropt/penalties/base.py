"""Penalty-Lagrangian functions P(y, rho, mu), and the one registry that names them.

`y` is the value of a constraint (met iff ``y <= 0``), ``rho > 0`` the penalty parameter and ``mu > 0`` the multiplier
(of any sign in an equality form). A penalty that plugs into the augmented Lagrangian satisfies four axioms (Birgin,
Castillo & Martinez, 2005), written here with P' = dP/dy, which exists and is continuous:

1. P' >= 0;
2. P'(0, rho, mu) = mu;
3. P' -> infinity as rho -> infinity, for y > 0 and mu in a bounded interval of positive numbers;
4. P' -> 0 as rho -> infinity, for y < 0 and mu in a bounded interval of positive numbers.

`constropt.testing.check_penalty` searches for a violation of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from constropt.checks import got
from constropt.near_names import near_names
from constropt.precision import at_least_float32

BIRGIN = (
    "Birgin, Castillo & Martinez, Numerical comparison of augmented Lagrangian algorithms for nonconvex problems, "
    "Comput. Optim. Appl. 31 (2005)"
)
RONY = "Rony, Optimization Problems for Deep Neural Networks, Ph.D. thesis, ETS Montreal, 2023"

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]
Number = float | Tensor


@dataclass(frozen=True, repr=False)
class Penalty:
    """One penalty-Lagrangian function: ``p(y, rho, mu)`` is P and ``p.derivative(y, rho, mu)`` is dP/dy, elementwise.

    Attributes:
        name: what `get` finds it by.
        value: P as a torch formula of three tensors, differentiable once in y by autograd.
        slope: dP/dy in closed form; None takes it by autograd.
        equality: the form for an equality constraint ``y = 0``, whose multiplier has any sign; None if there is none.
        reference: where it is published.
        formula: P in plain text, for tables and messages.
    """

    name: str
    value: Formula
    slope: Formula | None = None
    equality: Penalty | None = None
    reference: str = ""
    formula: str = ""

    def __post_init__(self) -> None:
        # help(get("PHR")) should show the formula of PHR rather than this class.
        documented = self.value.__doc__ or f"{self.name}: P(y, rho, mu) = {self.formula}\n\n{self.reference}\n"
        object.__setattr__(self, "__doc__", documented)

    def __repr__(self) -> str:
        return f"Penalty({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # a registered penalty is saved as its name: the families' formulas are closures, which can't be saved
        if _registry.get(self.name) is self:
            return get, (self.name,)
        return Penalty, tuple(getattr(self, field.name) for field in fields(self))

    def __call__(self, y: Tensor, rho: Number, mu: Number) -> Tensor:
        """P(y, rho, mu), of the broadcast shape of the three arguments and the dtype of y.

        Differentiable in y (and in rho and mu when they require a gradient). float16 and bfloat16 are computed in
        float32 and rounded once at the end. Raises ``TypeError`` for a y that is no floating-point tensor.
        """
        operands = _operands(y, rho, mu)
        if self.slope is not None and _in_y_alone(*operands):
            return _BySlope.apply(*operands, self.value, self.slope).to(y.dtype)
        return self.value(*operands).to(y.dtype)

    def derivative(self, y: Tensor, rho: Number, mu: Number) -> Tensor:
        """dP/dy, the first-order multiplier estimate: broadcast shape, dtype of y, and no graph attached.

        Grad mode does not matter and the caller's graph is left alone (for a derivative that is itself differentiable,
        call ``slope``). Raises ``TypeError`` for a y that is no floating-point tensor.
        """
        dtype = getattr(y, "dtype", None)
        with torch.no_grad():
            y, rho, mu = _operands(y, rho, mu)
            if self.slope is not None:
                return self.slope(y, rho, mu).to(dtype)
        return self.autograd_slope(y, rho, mu).to(dtype)

    def autograd_slope(self, y: Tensor, rho: Number, mu: Number) -> Tensor:
        """dP/dy by automatic differentiation of ``value``, whatever the grad mode; no graph attached."""
        y, rho, mu = _operands(y, rho, mu)
        shape = torch.broadcast_shapes(y.shape, rho.shape, mu.shape)
        # The clones leave inference mode: tensors made there can't be saved for a backward pass.
        with torch.inference_mode(False), torch.enable_grad():
            leaf = y.detach().expand(shape).clone().requires_grad_()
            P = self.value(leaf, rho.detach().clone(), mu.detach().clone())
            if not P.requires_grad:  # P does not depend on y at all
                return torch.zeros_like(leaf)
            (slope,) = torch.autograd.grad(P, leaf, torch.ones_like(P), materialize_grads=True)
        return slope


class _BySlope(torch.autograd.Function):
    """P, differentiated in y by its closed form: autograd keeps more tensors, and on a CPU the branches of its
    backward passes (maximum, clamp, where) take several times as long for a million entries."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, rho: Tensor, mu: Tensor, value: Formula, slope: Formula) -> Tensor:
        ctx.save_for_backward(y, rho, mu)
        ctx.slope = slope
        return value(y, rho, mu)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y, rho, mu = ctx.saved_tensors
        return (ctx.slope(y, rho, mu) * gradients[0]).sum_to_size(y.shape), None, None, None, None


def _in_y_alone(y: Tensor, rho: Tensor, mu: Tensor) -> bool:
    """Whether P will be differentiated in y alone, by plain autograd: a compiler fuses the passes itself, and the
    transforms of torch.func (vmap, jvp) take no function like the above."""
    return (
        y.requires_grad
        and torch.is_grad_enabled()
        and not (rho.requires_grad or mu.requires_grad)
        and not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
    )


def _operands(y: Tensor, rho: Number, mu: Number) -> tuple[Tensor, Tensor, Tensor]:
    """The three arguments as tensors of one dtype and device, float32 at least."""
    if not isinstance(y, Tensor) or not y.is_floating_point():
        raise TypeError(f"y: a penalty takes a floating-point tensor of constraint values, got {got(y)}")
    # rho * y and mu leave the range of half precision long before they stop being meaningful
    y = at_least_float32(y)
    return y, _like(rho, y), _like(mu, y)


def _like(number: Number, y: Tensor) -> Tensor:
    # new_full fills on the device; as_tensor would copy from the host and wait for it.
    return number.to(y) if isinstance(number, Tensor) else y.new_full((), float(number))


# --------------------------------------------------------------------------------------------------------- registry

_registry: dict[str, Penalty] = {}
_shipped: set[str] = set()


def names() -> tuple[str, ...]:
    """The registered names, sorted."""
    return tuple(sorted(_registry))


def get(name: str | Penalty | Callable[..., Any]) -> Penalty:
    """The penalty of that name; a `Penalty` is returned as it is, and a function ``(y, rho, mu)`` is wrapped.

    Raises ``ValueError`` for an unknown name (the message lists the near ones), ``TypeError`` for none of the three.
    """
    if isinstance(name, Penalty):
        return name
    if isinstance(name, str):
        if name in _registry:
            return _registry[name]
        near = near_names(name, _registry, "did you mean {}?", cutoff=0.5, count=5)
        raise ValueError(f"penalty: no penalty is named {name!r}; {near or 'known: ' + ', '.join(names())}")
    if callable(name):
        return Penalty(getattr(name, "__name__", type(name).__name__), name)
    raise TypeError(f"penalty: takes a name, a Penalty or a function (y, rho, mu), got {got(name)}")


def register(p: Penalty, *, shipped: bool = False) -> Penalty:
    """Put p in the registry and return it. A user may redefine their own names; ``ValueError`` for a shipped one."""
    if p.name in _shipped:
        raise ValueError(f"name: {p.name!r} is a penalty of constropt and can't be redefined; choose another name")
    if shipped:
        _shipped.add(p.name)
    _registry[p.name] = p
    return p


def penalty(
    name: str,
    *,
    derivative: Callable[..., Tensor] | None = None,
    equality: Penalty | Callable[..., Tensor] | None = None,
    reference: str = "",
    formula: str = "",
) -> Callable[[Callable[..., Tensor]], Penalty]:
    """Decorator: turn a function ``(y, rho, mu)`` of three tensors into a registered `Penalty`.

    ::

        @penalty(name="mine")
        def mine(y, rho, mu):
            return mu / rho * torch.expm1(rho * y)

    Args:
        name: the name for `get`, and for ``AugmentedLagrangian(penalty=name)``.
        derivative: dP/dy in closed form, a function of the same arguments; autograd if None.
        equality: the form for equality constraints, where mu has any sign (a function or a `Penalty`).
        reference, formula: for tables and messages.

    Raises ``ValueError`` for the name of a shipped penalty, ``TypeError`` for one that is no string (the decorator was
    written without its parentheses).
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f'name: write @penalty(name="...") with a non-empty name, got {name!r}')

    def wrap(value: Callable[..., Tensor]) -> Penalty:
        form = None if equality is None else get(equality)
        return register(Penalty(name, value, derivative, form, reference, formula))

    return wrap
