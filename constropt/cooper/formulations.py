"""A penalty P(y, rho, mu) as a formulation of Cooper: primal term P, dual steps towards dP/dy; and what Cooper lacks
around a constraint: multipliers of any shape, shared, safeguarded; entries that don't count."""

import copyreg
from abc import ABCMeta
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from cooper.constraints.constraint_state import ConstraintState
from cooper.formulations.formulations import ContributionStore, Formulation
from cooper.multipliers.multipliers import DenseMultiplier, ExplicitMultiplier, Multiplier
from cooper.penalty_coefficients.penalty_coefficients import PenaltyCoefficient
from cooper.utils.annotations import ConstraintType
from torch import Tensor

from constropt.checks import require_one_of
from constropt.duals import shared_mean
from constropt.lagrangian import AugmentedLagrangian, PenaltyLike
from constropt.penalties import Penalty, get

Dual = Literal["candidate", "violation"]


class ShapedMultiplier(DenseMultiplier):
    """Multipliers that start at ``init``, of any shape; Cooper's own are one-dimensional.

    A dimension of size one where the constraint's value has more, and leading dimensions that ``init`` does not have,
    share a multiplier: ``(1, K)`` or ``(K,)`` for a value ``(batch, K)`` is one multiplier per class. After each dual
    step they are clipped to ``[minimum, maximum]`` (those of equalities to ``[-maximum, maximum]``), as
    :class:`~constropt.MultiplierUpdate` does: most penalties never leave a multiplier of 0 again.

    The parameter ``weight`` is flat, as Cooper's is.

    >>> ShapedMultiplier(torch.ones(1, 3))().shape
    torch.Size([1, 3])
    """

    def __init__(self, init: Tensor, *, minimum: float = 1e-6, maximum: float = 1e12) -> None:
        if not 0 <= minimum <= maximum:
            raise ValueError(f"minimum and maximum: need 0 <= minimum <= maximum, got {minimum} and {maximum}")
        super().__init__(init=init.detach().flatten().clone(), device=init.device, dtype=init.dtype)
        self.shape = tuple(init.shape)
        self.minimum, self.maximum = minimum, maximum

    def forward(self) -> Tensor:
        """The multipliers, of the shape of ``init``."""
        return self.weight.view(self.shape).clone()

    @torch.no_grad()
    def post_step_(self) -> None:
        """The safeguards; Cooper calls it after every step of the dual optimizers."""
        equality = self.constraint_type == ConstraintType.EQUALITY
        self.weight.clamp_(-self.maximum if equality else self.minimum, self.maximum)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape})"


@dataclass
class MaskedState(ConstraintState):
    """A ``cooper.ConstraintState`` of which only the entries in ``mask`` count (None: all); the others are to be 0.

    ``weight``, which broadcasts to the violation, weighs the terms P of the primal Lagrangian (1 over the number of
    samples makes their sum a mean). It does not change the multipliers' targets.
    """

    mask: Tensor | None = None
    weight: Tensor | float = 1.0


class _Parametrised(ABCMeta):
    """The type of classes that :func:`formulation` makes: they are saved as the call that makes them."""


class PenaltyFormulation(Formulation, metaclass=_Parametrised):
    """The formulation of one penalty; :func:`formulation` makes its subclasses.

    An entry that is not finite, or that the state's mask excludes (:class:`MaskedState`), contributes nothing: its
    multiplier stays, and so does what depends on the other entries.
    """

    expects_multiplier = True
    expects_penalty_coefficient = True
    penalty: ClassVar[Penalty]
    dual: ClassVar[Dual]

    def __init__(self, constraint_type: ConstraintType) -> None:
        super().__init__(constraint_type)
        AugmentedLagrangian(self.penalty).form(self.equality)  # raises where there is none

    @property
    def equality(self) -> bool:
        """Whether it is of an equality constraint."""
        return self.constraint_type == ConstraintType.EQUALITY

    @property
    def form(self) -> Penalty:
        """The penalty in its form for this kind of constraint; not kept, since some forms can't be pickled."""
        return (self.penalty.equality or self.penalty) if self.equality else self.penalty

    def sanity_check_multiplier(self, multiplier: Multiplier | None) -> None:
        """There must be one, and it must not start where P can't take it away from."""
        super().sanity_check_multiplier(multiplier)
        if self.equality or not isinstance(multiplier, ExplicitMultiplier):
            return
        violated = self.form.derivative(torch.ones(()), 1.0, 0.0)
        if violated == 0 and bool((multiplier.weight == 0).any()):
            cure = "start from values > 0, such as init=torch.ones(n)"
            raise ValueError(f"multiplier: an initial value of 0 stays 0 under {self.penalty.name!r}; {cure}")

    def sanity_check_penalty_coefficient(self, penalty_coefficient: PenaltyCoefficient | None) -> None:
        """There must be one, and positive."""
        super().sanity_check_penalty_coefficient(penalty_coefficient)
        if penalty_coefficient is not None and not bool((penalty_coefficient.value > 0).all()):
            cure = "for no penalty term use Cooper's Lagrangian"
            raise ValueError(f"penalty_coefficient: rho must be > 0 in every entry; {cure}")

    def compute_contribution_to_primal_lagrangian(
        self, constraint_state: ConstraintState, multiplier: Multiplier, penalty_coefficient: PenaltyCoefficient
    ) -> ContributionStore | None:
        """The sum of P(y, rho, mu) over the entries that count, differentiable in the violation y alone."""
        if not constraint_state.contributes_to_primal_update:
            return None
        y, rho, mu, counted = self._operands(constraint_state, multiplier, penalty_coefficient, "primal")
        terms = torch.where(counted, self.form(y, rho, mu.detach()), 0)
        weight = constraint_state.weight if isinstance(constraint_state, MaskedState) else 1.0
        return ContributionStore((weight * terms).sum(), mu, rho)

    def compute_contribution_to_dual_lagrangian(
        self, constraint_state: ConstraintState, multiplier: Multiplier, penalty_coefficient: PenaltyCoefficient
    ) -> ContributionStore | None:
        """The sum of ``mu * (dP/dy - mu)``, or of ``mu * y``; the second factor a constant, at the strict violation."""
        if not constraint_state.contributes_to_dual_update:
            return None
        y, rho, mu, counted = self._operands(constraint_state, multiplier, penalty_coefficient, "dual")
        with torch.no_grad():
            change = y
            if self.dual == "candidate":
                change = self.form.derivative(y, rho, mu) - mu
                counted = counted & change.isfinite()
            shared = tuple(d for d, (kept, size) in enumerate(zip(mu.shape, y.shape)) if kept != size)
            change = shared_mean(torch.where(counted, change, 0), shared, counted, change.new_zeros(()))
        return ContributionStore((mu * change).sum(), mu, rho)

    def _operands(
        self, state: ConstraintState, multiplier: Any, coefficient: Any, which: Literal["primal", "dual"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y (0 where it does not count), rho and mu, which broadcast to it at its rank, and which entries count."""
        y, mu, rho = self._prepare_kwargs_for_lagrangian_contribution(state, multiplier, coefficient, which)
        assert mu is not None and rho is not None
        dtype = torch.promote_types(y.dtype, mu.dtype)
        y, mu = y.to(dtype), mu.to(dtype)
        mu = mu.view(_layout(mu, y, isinstance(multiplier, ShapedMultiplier)))
        if rho.numel() == mu.numel():
            rho = rho.reshape(mu.shape)
        elif rho.shape != y.shape:  # Cooper has expanded a scalar
            takes = f"takes one value, or one per multiplier ({mu.numel()})"
            raise ValueError(f"penalty_coefficient: {takes}, got {rho.numel()}")
        counted = y.detach().isfinite()
        if isinstance(state, MaskedState) and state.mask is not None:
            counted = counted & state.mask
        return torch.where(counted, y, 0), rho, mu, counted


def _layout(mu: Tensor, y: Tensor, shares: bool) -> tuple[int, ...]:
    """The shape in which multipliers broadcast to y, at its rank; sharing only where it was asked for."""
    shape = (1,) * (y.dim() - mu.dim()) + tuple(mu.shape)
    if shares and len(shape) == y.dim() and all(kept in (1, size) for kept, size in zip(shape, y.shape)):
        return shape
    if not shares and mu.numel() == y.numel():
        return tuple(y.shape)
    wrong = f"multipliers of shape {tuple(mu.shape)} do not fit a violation of shape {tuple(y.shape)}"
    cure = "share them along dimensions by constropt.cooper.ShapedMultiplier(torch.ones(1, K)), of size one there"
    raise ValueError(f"multiplier: {wrong}; give one per entry, or {cure}")


def formulation(penalty: PenaltyLike = "PHR", *, dual: Dual = "candidate") -> type[PenaltyFormulation]:
    """A ``formulation_type`` for ``cooper.Constraint``, in which the constraint contributes P(y, rho, mu).

    ``penalty`` is a registered name, a :class:`~constropt.penalties.Penalty` or a function ``(y, rho, mu)``; mu is the
    multiplier, rho the penalty coefficient of the constraint. ``dual`` says what the dual optimizer follows:

    - ``"candidate"``: the gradient in mu is ``dP/dy - mu``, so that ``SGD(lr=1 - alpha, maximize=True)`` is exactly
      ``mu <- alpha mu + (1 - alpha) dP/dy`` (Eq. 4.8 of the thesis), and a rate of 1 the exact update;
    - ``"violation"``: it is y, as in Cooper's formulations, for steps whose size does not depend on rho.

    A violation may have any shape; Cooper's own multipliers must then have one per entry (:class:`ShapedMultiplier`
    for others). Equality constraints need a penalty with an equality form; ``ValueError`` from ``cooper.Constraint``
    otherwise, and where rho, or a multiplier that the penalty could not raise again, starts at 0.

    >>> import cooper
    >>> constraint = cooper.Constraint(
    ...     cooper.ConstraintType.INEQUALITY,
    ...     formulation("P2"),
    ...     multiplier=cooper.multipliers.DenseMultiplier(init=torch.ones(3)),
    ...     penalty_coefficient=cooper.penalty_coefficients.DensePenaltyCoefficient(torch.tensor(1.0)),
    ... )
    >>> state = cooper.CMPState(torch.zeros(()), {constraint: ConstraintState(torch.zeros(3))})
    >>> float(state.compute_primal_lagrangian().lagrangian)
    0.0
    """
    require_one_of("dual", dual, ("candidate", "violation"))
    return _formulation(get(penalty), dual)


@cache
def _formulation(penalty: Penalty, dual: Dual) -> type[PenaltyFormulation]:
    class Made(PenaltyFormulation):
        __doc__ = f"P = {penalty.name}; the dual optimizer follows the {dual}."

    Made.penalty, Made.dual = penalty, dual
    Made.__name__ = Made.__qualname__ = f"{penalty.name}Formulation"
    return Made


def _saved(made: _Parametrised) -> Any:
    if "penalty" in vars(made):
        return _formulation, (vars(made)["penalty"], vars(made)["dual"])
    return made.__qualname__


copyreg.pickle(_Parametrised, _saved)
