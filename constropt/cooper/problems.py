"""Our problems as Cooper's: a declared problem over a tensor, and the loss of a constrained training."""

from typing import Any

import torch
from cooper.cmp import CMPState, ConstrainedMinimizationProblem
from cooper.constraints.constraint import Constraint as CooperConstraint
from cooper.penalty_coefficients.penalty_coefficients import DensePenaltyCoefficient
from cooper.utils.annotations import ConstraintType
from torch import Tensor

from constropt.checks import got
from constropt.constraint import Constraint
from constropt.cooper.formulations import Dual, MaskedState, ShapedMultiplier, formulation
from constropt.domain import Reals
from constropt.duals import Duals, MultiplierUpdate
from constropt.lagrangian import AugmentedLagrangian, PenaltyLike
from constropt.problem import ConstrainedProblem
from constropt.training import ConstrainedLoss, TrainingConstraint
from constropt.training.batches import means_of, objective_part, processes

AnyConstraint = Constraint[Any] | TrainingConstraint


class _CMP(ConstrainedMinimizationProblem):
    """What both problems share: multipliers from our duals, and copies and checkpoints that are whole."""

    def _declare(self, constraint: AnyConstraint, lagrangian: AugmentedLagrangian, duals: Duals, dual: Dual) -> None:
        limits = lagrangian.multiplier if isinstance(lagrangian.multiplier, MultiplierUpdate) else MultiplierUpdate()
        kind = ConstraintType.EQUALITY if constraint.equality else ConstraintType.INEQUALITY
        multiplier = ShapedMultiplier(duals.mu, minimum=limits.minimum, maximum=limits.maximum)
        rho, made = DensePenaltyCoefficient(duals.rho.flatten()), formulation(lagrangian.penalty, dual=dual)
        declared = CooperConstraint(kind, made, multiplier=multiplier, penalty_coefficient=rho)
        self._register_constraint(constraint.name, declared)

    def __getattr__(self, name: str) -> Any:
        if name == "_constraints":  # copy and pickle ask before it is there, and Cooper would recurse
            raise AttributeError(name)
        return super().__getattr__(name)

    def state_dict(self) -> dict[str, Any]:
        """Cooper's, with the initial penalty coefficients, to which its updaters return."""
        initial = {name: coefficient.init for name, coefficient in self.named_penalty_coefficients()}
        return {**super().state_dict(), "initial_penalty_coefficients": initial}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for name, coefficient in self.named_penalty_coefficients():
            coefficient.init = state_dict["initial_penalty_coefficients"][name]


class ProblemCMP(_CMP):
    """A :class:`~constropt.ConstrainedProblem` over the parameter ``x``; made by :func:`cmp`."""

    def __init__(
        self, problem: ConstrainedProblem[Any], x0: Tensor, lagrangian: AugmentedLagrangian, dual: Dual
    ) -> None:
        super().__init__()
        self.problem = problem
        self.x = torch.nn.Parameter(problem.domain.project(x0.detach()).clone())
        evaluation = problem.evaluate(self.x, grad=False)
        for constraint, y in zip(problem.constraints, evaluation.values):
            if constraint.surrogate is not None:
                _check_shape(constraint, constraint.surrogate(evaluation.x, evaluation.output), y)
            duals = lagrangian.init(y, equality=constraint.equality, shared=constraint.shared)
            self._declare(constraint, lagrangian, duals, dual)

    def point(self) -> Tensor:
        """``x`` in the problem's domain, which the optimizer's last step may have left; detached."""
        return self.problem.domain.project(self.x.detach()).clone()

    def compute_cmp_state(self) -> CMPState:
        """Objective, summed over rows, and constraints by one forward pass; ``x`` is put back into the domain first."""
        x = self.x
        if not isinstance(self.problem.domain, Reals):
            with torch.no_grad():
                x.copy_(self.problem.domain.project(x))
        point = self.problem.evaluate(x, grad=torch.is_grad_enabled(), detach=False)
        states = {}
        for constraint, y, mask in zip(point.constraints, point.values, point.masks):
            surrogate = None if constraint.surrogate is None else constraint.surrogate(x, point.output)
            states[getattr(self, constraint.name)] = _state(y, surrogate, mask)
        return CMPState(point.objective.sum(), states)

    def state_dict(self) -> dict[str, Any]:
        """Duals and ``x``."""
        return {**super().state_dict(), "x": self.x.detach()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        with torch.no_grad():
            self.x.copy_(state_dict["x"])


class LossCMP(_CMP):
    """A :class:`~constropt.training.ConstrainedLoss` with Cooper's duals; made by :func:`cmp_from_loss`."""

    def __init__(self, criterion: ConstrainedLoss, dual: Dual) -> None:
        super().__init__()
        self.criterion = criterion
        for constraint in criterion.constraints:
            self._declare(constraint, criterion.lagrangian, criterion.state_of(constraint).duals(), dual)

    def compute_cmp_state(self, output: Any, target: Any = None, *, primal: bool = True, dual: bool = True) -> CMPState:
        """Loss and constraints of one batch.

        ``output`` is the model's, or a function without arguments that computes it, for optimizers that evaluate more
        than once per step (extragradient, primal before dual). ``dual=False`` leaves the multipliers alone (training
        data), ``primal=False`` the model (held-out data).
        """
        output = output() if callable(output) else output
        criterion = self.criterion
        counted = None if criterion.counted is None else criterion.counted(output, target)
        loss = None
        if primal:
            (loss,) = means_of([objective_part(criterion.objective(output, target), counted)])
        states = {}
        for constraint in criterion.constraints:
            state = self._observe(constraint, output, target, counted)
            state.contributes_to_primal_update, state.contributes_to_dual_update = primal, dual
            states[getattr(self, constraint.name)] = state
        return CMPState(loss, states)

    def _observe(self, constraint: TrainingConstraint, output: Any, target: Any, counted: Tensor | None) -> MaskedState:
        y = constraint.value_of(constraint.value, output, target)
        surrogate = None
        if constraint.surrogate is not None:
            surrogate = constraint.value_of(constraint.surrogate, output, target)
            _check_shape(constraint, surrogate, y)
        mask = constraint.mask_of(y, output, target, counted)
        samples = constraint.sample_dims(y)
        everything = torch.ones((), dtype=torch.bool, device=y.device).expand_as(y) if mask is None else mask
        count = everything.sum(samples)
        entries = max(1, count.numel()) if self.criterion.reduction == "mean" else 1
        if not constraint.average:
            return _state(y, surrogate, mask, weight=1 / (count.clamp_min(1) * entries))

        def mean(value: Tensor) -> Tensor:
            return torch.where(everything, value, 0).sum(samples) / count.clamp_min(1)

        return _state(mean(y), None if surrogate is None else mean(surrogate), count > 0, weight=1 / entries)


def _state(
    y: Tensor, surrogate: Tensor | None, mask: Tensor | None = None, weight: Tensor | float = 1.0
) -> MaskedState:
    """Values (and what is differentiated in their place) as Cooper's state; 0 where the mask excludes them."""
    if mask is not None:
        y = torch.where(mask, y, 0)
        surrogate = None if surrogate is None else torch.where(mask, surrogate, 0)
    if surrogate is None:
        return MaskedState(y, mask=mask, weight=weight)
    return MaskedState(surrogate, strict_violation=y.detach(), mask=mask, weight=weight)


def _check_shape(constraint: AnyConstraint, surrogate: Tensor, y: Tensor) -> None:
    if surrogate.shape != y.shape:
        takes = f"its surrogate must have the shape of its value, {tuple(y.shape)}, to share its multipliers"
        raise ValueError(f"constraint {constraint.name!r}: {takes}, got {tuple(surrogate.shape)}")


def cmp(
    problem: ConstrainedProblem[Any],
    x0: Tensor,
    lagrangian: AugmentedLagrangian | PenaltyLike = "PHR",
    *,
    dual: Dual = "candidate",
) -> ProblemCMP:
    """A problem over x, from ``x0`` of shape ``(batch, *event)``, as a problem of Cooper.

    ``lagrangian`` brings the penalty, the initial ``mu`` and ``rho`` and the safeguards of the multipliers; the rate of
    Cooper's dual optimizer stands for its ``ema`` (see :func:`formulation`, also for ``dual``), and rho stays
    constant. Constraints of any shape, their ``mask``, ``shared`` and ``surrogate`` are respected; rows are added up,
    so that their gradients stay independent. The parameter to optimise is ``.x``, put back into the domain before each
    evaluation; read the result from ``.point()``.

    ``TypeError`` for something else than a problem, ``ValueError`` for one with a nonsmooth term (Cooper's steps know
    no prox), for an ``x0`` that is not finite, and for equalities under a penalty without an equality form.

    >>> import cooper
    >>> from constropt import inequality
    >>> problem = ConstrainedProblem(  # the point nearest to 2 with x <= 1
    ...     objective=lambda x, _: (x - 2).square().sum(1), constraints=[inequality(lambda x, _: x - 1, name="cap")]
    ... )
    >>> capped = cmp(problem, torch.zeros(1, 1), "P3")
    >>> optimizer = cooper.optim.AlternatingDualPrimalOptimizer(
    ...     capped,
    ...     torch.optim.SGD([capped.x], lr=0.1),
    ...     torch.optim.SGD(capped.dual_parameters(), lr=0.5, maximize=True),
    ... )
    >>> for _ in range(100):
    ...     _ = optimizer.roll()
    >>> print(f"x {capped.point().item():.3f}, multiplier {capped.cap.multiplier().item():.3f}")
    x 1.000, multiplier 2.000
    """
    if not isinstance(problem, ConstrainedProblem):
        raise TypeError(f"problem: must be a ConstrainedProblem, got {got(problem)}")
    if problem.nonsmooth is not None:
        cure = "use constropt.solve, or write it as a constraint"
        raise ValueError(f"problem: Cooper takes gradient steps, a nonsmooth term is known by its prox; {cure}")
    if not isinstance(x0, Tensor) or not x0.is_floating_point() or not bool(x0.isfinite().all()):
        raise ValueError("x0: must be a finite floating point tensor of shape (batch, *event)")
    lagrangian = lagrangian if isinstance(lagrangian, AugmentedLagrangian) else AugmentedLagrangian(lagrangian)
    return ProblemCMP(problem, x0, lagrangian, dual)


def cmp_from_loss(criterion: ConstrainedLoss, *, dual: Dual = "candidate") -> LossCMP:
    """The problem of a :class:`~constropt.training.ConstrainedLoss`, for Cooper's optimizers.

    Its multipliers start where the criterion's are, and are Cooper's from there on; the criterion's stay as they are.
    The primal Lagrangian of a batch is what ``criterion(output, target)`` is with the same multipliers. ``dual``: see
    :func:`formulation`. Multipliers follow single batches, not a pass over a data set.

    ``TypeError`` for something else, ``ValueError`` for a criterion with a dual ``rule`` of its own or in a run of
    several processes, whose multipliers would part.

    >>> from constropt.training import on_average
    >>> below = on_average(lambda output, target: output - 0.5, name="below")
    >>> problem = cmp_from_loss(ConstrainedLoss(lambda output, target: (output - 1).square(), [below]))
    >>> output = torch.full((4,), 0.75, requires_grad=True)
    >>> problem.compute_cmp_state(output).observed_constraints[problem.below].violation.item()
    0.25
    """
    if not isinstance(criterion, ConstrainedLoss):
        raise TypeError(f"criterion: must be a ConstrainedLoss, got {got(criterion)}")
    if criterion.rule is not None:
        raise ValueError("criterion: its rule replaces the dual update, and so do Cooper's optimizers; leave one out")
    if processes() > 1:
        cure = "run one, or use the criterion"
        raise ValueError(f"criterion: Cooper's multipliers are not reduced over processes; {cure}")
    return LossCMP(criterion, dual)
