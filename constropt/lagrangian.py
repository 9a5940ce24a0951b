"""The augmented Lagrangian, of a penalty, a multiplier update and a rho schedule: pure functions of (y, duals)."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from constropt.checks import given, require_positive
from constropt.duals import Duals, MultiplierUpdate, ProgressRho, RhoSchedule, advance
from constropt.penalties import Penalty, get

PenaltyLike = str | Penalty | Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AugmentedLagrangian:
    """g(x) + sum_i P(h_i(x), rho_i, mu_i), with mu_i <- P'(h_i(x), rho_i, mu_i) (Alg. 4.1, 6.1; Birgin et al. 2005).

    ``penalty`` is a registered name, a :class:`~constropt.penalties.Penalty` or a function ``(y, rho, mu)``. ``mu``
    and ``rho`` are initial values; ``None`` leaves them to the solver (1 where nothing better is known). Frozen: the
    state is in the :class:`~constropt.duals.Duals` that :meth:`init` makes and :meth:`update` replaces.

    As the ``solver`` of :func:`constropt.solve` it means the default loop around it
    (:class:`constropt.solvers.ProjectedLBFGS`). In a loop of one's own:

    >>> lagrangian = AugmentedLagrangian(penalty="PHR", mu=1.0, rho=2.0)
    >>> y = torch.tensor([[0.5, -2.0]])
    >>> duals = lagrangian.init(y)
    >>> lagrangian.term(y, duals)
    tensor([[ 0.7500, -0.2500]])
    >>> lagrangian.update(y, duals).mu
    tensor([[2.0000e+00, 1.0000e-06]])
    """

    penalty: PenaltyLike = "PHR"
    multiplier: MultiplierUpdate = field(default_factory=MultiplierUpdate)
    schedule: RhoSchedule = field(default_factory=ProgressRho)
    mu: float | None = None
    rho: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", get(self.penalty))
        require_positive("an initial value", **given(mu=self.mu, rho=self.rho))

    def form(self, equality: bool) -> Penalty:
        """The penalty in its form for inequalities or equalities; ``ValueError`` where it has no equality form."""
        penalty = get(self.penalty)
        if not equality:
            return penalty
        if penalty.equality is None:
            cure = "use 'PHR', or write e = 0 as e <= 0 and -e <= 0"
            raise ValueError(f"penalty: {penalty.name!r} has no form for equality constraints; {cure}")
        return penalty.equality

    def init(self, y: Tensor, *, equality: bool = False, shared: tuple[int, ...] = ()) -> Duals:
        """The initial duals for values like ``y``: one multiplier per entry, but along the ``shared`` dimensions."""
        self.form(equality)
        shape = [1 if dim in {d % y.dim() for d in shared} else size for dim, size in enumerate(y.shape)]

        def full(value: float) -> Tensor:
            # half precision would lose the small steps of an average and the large values of rho
            return y.new_full(shape, value, dtype=torch.promote_types(y.dtype, torch.float32))

        mu, rho = self.mu if self.mu is not None else (0.0 if equality else 1.0), 1.0 if self.rho is None else self.rho
        met = torch.zeros(shape, dtype=torch.bool, device=y.device)
        return Duals(full(mu), full(rho), full(torch.inf), met, equality=equality, shared=tuple(shared))

    def term(self, y: Tensor, duals: Duals) -> Tensor:
        """P(y, rho, mu), elementwise: the part of the loss that stands for the constraint."""
        return self.form(duals.equality)(y, duals.rho, duals.mu)

    def candidate(self, y: Tensor, duals: Duals) -> Tensor:
        """dP/dy, the first-order multiplier estimate, of the shape of ``y``; detached."""
        return self.form(duals.equality).derivative(y.detach(), duals.rho, duals.mu)

    def update(self, y: Tensor, duals: Duals, mask: Tensor | None = None) -> Duals:
        """The duals after ``y``: mu towards the candidate, rho by its schedule; masked entries keep theirs."""
        return advance(y.detach(), self.candidate(y, duals), duals, self.multiplier, self.schedule, mask)
