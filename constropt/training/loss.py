"""``ConstrainedLoss``: the augmented Lagrangian of a training problem as a loss module, in a loop of one's own."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from constropt.checks import got, require_one_of
from constropt.duals import Duals, ProgressRho, advance
from constropt.lagrangian import AugmentedLagrangian
from constropt.modes import evaluating
from constropt.training.batches import (
    Part,
    Predict,
    is_violated,
    means_of,
    objective_part,
    predict_pair,
    requires_gradient,
    summed,
    warn_of_constraint,
    warn_of_objective,
)
from constropt.training.constraints import DualState, Sums, TrainingConstraint

# PHR from almost no multipliers, rho growing slowly where a constraint does not get better (Table V-4)
TRAINING = AugmentedLagrangian("PHR", schedule=ProgressRho(factor=1.2, ratio=0.9, every=10), mu=1e-6, rho=1.0)


class DualRule(Protocol):
    """The next duals from means over a data set: ``(level, candidate, duals, present) -> duals``.

    ``level`` is the mean value (or violation), ``candidate`` the mean dP/dy, ``present`` which entries had samples at
    all: the others must keep their state.
    """

    def __call__(self, level: Tensor, candidate: Tensor, duals: Duals, present: Tensor) -> Duals: ...


class ConstrainedLoss(nn.Module):
    """The loss ``g + sum_i P(y_i, rho_i, mu_i)`` of training under constraints, and the dual steps on held-out data.

    Approximately solves ``minimise E[g(output, target)]`` over the parameters of a network ``subject to`` constraints
    on its outputs (Alg. 6.1 and 6.2 of the thesis): training minimises the loss with the duals fixed, a pass over
    held-out data updates them, ``mu <- mean dP/dy``.

    ``objective(output, target)`` returns the loss, a scalar or one per sample, ``(*samples,)``; ``constraints`` come
    from :func:`samplewise` and :func:`on_average`; ``lagrangian`` brings penalty, multiplier update, rho schedule and
    initial values. ``counted(output, target)``, ``(*samples,)``, says which samples count at all (padding, pixels
    without a label). ``reduction`` adds the entries of a constraint's multipliers up ("sum", the Lagrangian) or
    averages them ("mean", so that the weight does not depend on their number). ``measure`` is what the rho schedule
    sees: the mean of the value, "signed", or of its violation. ``rule`` replaces the dual update of ``lagrangian``.

    >>> from constropt.training import on_average
    >>> below = on_average(lambda output, target: output - 0.5, name="mean below a half")
    >>> criterion = ConstrainedLoss(lambda output, target: (output - target).square(), [below])
    >>> model = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> x, y = torch.zeros(8, 1), torch.ones(8)
    >>> for epoch in range(200):
    ...     criterion(model(x), y).backward()
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    ...     criterion.update_duals(model, [(x, y)])
    >>> print(f"output {model(x).mean():.2f}, multiplier {criterion.multipliers:.2f}")  # 1 is the slope of (1 - o)^2
    output 0.50, multiplier 1.00

    State is in buffers: ``state_dict``, ``deepcopy``, ``.to(device)`` take it along. The forward pass changes none of
    it, so closures (LBFGS), gradient accumulation and ``torch.compile`` need nothing special. In a distributed run
    sums and counts are added over the processes, not means: training and dual steps equal those of one process with
    all the data, however unequal the shards (under ``DistributedDataParallel``, which averages gradients).
    """

    def __init__(
        self,
        objective: Callable[[Any, Any], Tensor],
        constraints: Sequence[TrainingConstraint],
        *,
        lagrangian: AugmentedLagrangian = TRAINING,
        counted: Callable[[Any, Any], Tensor] | None = None,
        reduction: str = "sum",
        measure: str = "signed",
        rule: DualRule | None = None,
    ) -> None:
        super().__init__()
        if not callable(objective):
            takes = "a callable of (output, target) such as nn.CrossEntropyLoss()"
            raise TypeError(f"objective: takes {takes}, got {got(objective)}")
        for constraint in constraints:
            if not isinstance(constraint, TrainingConstraint):
                takes = f"every entry must be a TrainingConstraint, got {got(constraint)}"
                raise TypeError(f"constraints: {takes}; build it with samplewise(...) or on_average(...)")
        names = [constraint.name for constraint in constraints]
        if len(set(names)) != len(names) or any("." in name or not name for name in names):
            raise ValueError(f"constraints: names must differ, and be without dots, got {names}")
        require_one_of("reduction", reduction, ("sum", "mean"))
        require_one_of("measure", measure, ("signed", "violation"))
        self.objective, self.constraints = objective, tuple(constraints)
        self.lagrangian, self.rule = lagrangian, rule
        self.counted, self.reduction, self.measure = counted, reduction, measure
        self.duals = nn.ModuleDict({c.name: DualState(c, lagrangian) for c in self.constraints})
        self.observed = 0
        self._warned: set[str | None] = set()  # the constraints that a missing gradient was said of; None: objective
        # the batch, among those observed since the last step, whose values were not finite; -1: none
        self.refused: Tensor
        self.register_buffer("refused", torch.full((), -1))

    # ------------------------------------------------------------------------------------------------- the loss

    def forward(self, output: Any, target: Any = None) -> Tensor:
        """The loss of one batch, a scalar: mean objective plus penalty terms, duals fixed.

        Warns (``UserWarning``), once for each, of a violated constraint and of an objective that give no gradient in
        training, that is where gradients are enabled and the output or the objective requires one.
        """
        counted = None if self.counted is None else self.counted(output, target)
        parts = [objective_part(self.objective(output, target), counted)]
        parts += [self._constraint_part(constraint, output, target, counted) for constraint in self.constraints]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._warn_without_gradient(parts, output, target, counted)
        objective, *means = means_of(parts)
        loss = objective.sum()
        for constraint, mean, (_, count) in zip(self.constraints, means, parts[1:]):
            if constraint.average:
                term = self._penalty(constraint, mean)
                if isinstance(count, Tensor):  # without a sample there is no mean to penalise
                    term = torch.where(count > 0, term, 0)
            else:
                term = mean
            entries = max(1, self.state_of(constraint).mu.numel())
            loss = loss + (term.sum() / entries if self.reduction == "mean" else term.sum())
        return loss

    def _constraint_part(
        self, constraint: TrainingConstraint, output: Any, target: Any, counted: Tensor | None
    ) -> Part:
        """What is summed for a constraint, and over how many: P of samplewise ones, the value of averaged ones."""
        y = constraint.value_of(constraint.surrogate or constraint.value, output, target)
        samples = constraint.sample_dims(y)
        terms = y if constraint.average else self._penalty(constraint, y)
        if constraint.mask is None and not constraint.average:
            # entries of one sample are added up at once: all have the same count
            if counted is None:
                return terms.sum(), constraint.samples_of(y)
            terms = terms.sum(tuple(range(len(samples), y.dim()))) if constraint.shape else terms
            return objective_part(terms, counted)
        mask = constraint.mask_of(y, output, target, counted)
        if mask is None:
            return terms.sum(samples), constraint.samples_of(y)
        return torch.where(mask, terms, 0).sum(samples), constraint.count_of(mask, counted)

    def _warn_without_gradient(self, parts: list[Part], output: Any, target: Any, counted: Tensor | None) -> None:
        """Warn of what the loss contains but does not train; values are looked at only where a gradient is missing."""
        trained = [total.requires_grad for total, _ in parts]
        if all(trained) or not (any(trained) or requires_gradient(output)):
            return
        if not trained[0] and None not in self._warned and bool((parts[0][0] != 0).any()):
            self._warned.add(None)
            warn_of_objective()
        for constraint, has_gradient in zip(self.constraints, trained[1:]):
            silent = has_gradient or constraint.name in self._warned
            if not silent and is_violated(constraint, output, target, counted):
                self._warned.add(constraint.name)
                warn_of_constraint(constraint)

    def _penalty(self, constraint: TrainingConstraint, y: Tensor) -> Tensor:
        state = self.state_of(constraint)
        return self.lagrangian.form(constraint.equality)(y, state.rho, state.mu)

    # ------------------------------------------------------------------------------------------------ dual steps

    @torch.inference_mode(False)  # it turns gradients on, which no_grad turns off again: normal tensors in the buffers
    @torch.no_grad()
    def observe(self, output: Any, target: Any = None) -> None:
        """Add what a batch says about the duals to the sums of the next :meth:`step`; nothing waits for the device.

        A batch with a value that is not finite adds nothing, and :meth:`step` will refuse it by its number.
        """
        counted = None if self.counted is None else self.counted(output, target)
        gathered = [self._sums(constraint, output, target, counted) for constraint in self.constraints]
        finite = torch.ones((), dtype=torch.bool, device=self.refused.device)
        for sums in gathered:
            finite = finite & (sums.candidate.isfinite().all() & sums.level.isfinite().all()).to(finite.device)
        for constraint, sums in zip(self.constraints, gathered):
            self.state_of(constraint).add(sums, finite)
        self.refused.copy_(torch.where(finite | (self.refused >= 0), self.refused, self.observed))
        self.observed += 1

    def _sums(self, constraint: TrainingConstraint, output: Any, target: Any, counted: Tensor | None) -> Sums:
        y = constraint.value_of(constraint.value, output, target)
        mask = constraint.mask_of(y, output, target, counted)
        state = self.state_of(constraint)
        form = self.lagrangian.form(constraint.equality)
        candidate = y if constraint.average else form.derivative(y, state.rho, state.mu)
        level = y if self.measure == "signed" or constraint.average else state.duals().violated(y)
        samples = constraint.sample_dims(y)
        if mask is None:
            count = y.new_full(constraint.shape, constraint.samples_of(y), dtype=torch.float64)
        else:
            candidate, level = torch.where(mask, candidate, 0), torch.where(mask, level, 0)
            count = constraint.count_of(mask, counted).double().expand(constraint.shape)
        return Sums(candidate.sum(samples, dtype=torch.float64), level.sum(samples, dtype=torch.float64), count)

    @torch.inference_mode(False)
    @torch.no_grad()
    def step(self, *, check: bool = True) -> None:
        """Update the duals from what was observed since the last step, added up over all processes; then forget it.

        Entries without a sample keep their multiplier. In place, as an optimizer's step: call ``backward`` first.
        Raises ``ValueError``, with the duals unchanged, when nothing was observed or a batch had values that are not
        finite (naming the first). ``check=False`` leaves the errors, and with them the one wait for the device, out: a
        step with such a batch then changes no dual.
        """
        states = [self.state_of(constraint) for constraint in self.constraints]
        flags = torch.stack([self.refused >= 0, torch.full_like(self.refused, self.observed > 0)]).double()
        totals = summed([flags, *(part for state in states for part in state.sums())])
        refused, seen = totals[0]
        if check:
            self._refuse(bool(refused), bool(seen))
        allowed = (refused == 0) & (seen > 0)
        for index, (constraint, state) in enumerate(zip(self.constraints, states)):
            self._advance(constraint, state, Sums(*totals[1 + 3 * index : 4 + 3 * index]), allowed)
        self._forget()

    def _refuse(self, refused: bool, seen: bool) -> None:
        """Raise if the duals can't be updated from what was observed, and forget it."""
        if not refused and seen:
            return
        batch = int(self.refused)
        self._forget()
        if not seen:
            why = "the validation loader is empty, or observe(output, target) was not called before step()"
            raise ValueError(f"nothing was observed: {why}")
        where = f"batch {batch} (counted from 0)" if batch >= 0 else "a batch of another process"
        why = "has constraint values that are not finite (NaN or infinite outputs?)"
        raise ValueError(f"{where} {why}: it is refused, and the duals are unchanged")

    def _advance(self, constraint: TrainingConstraint, state: DualState, sums: Sums, allowed: Tensor) -> None:
        present = sums.count > 0
        level = (sums.level / sums.count.clamp_min(1)).to(state.mu.dtype)
        if constraint.average:
            candidate = self.lagrangian.form(constraint.equality).derivative(level, state.rho, state.mu)
        else:
            candidate = (sums.candidate / sums.count.clamp_min(1)).to(state.mu.dtype)
        rule = self.rule or self._lagrangian_rule
        state.assign(rule(level, candidate, state.duals(), present), torch.where(present, level, state.level), allowed)

    def _lagrangian_rule(self, level: Tensor, candidate: Tensor, duals: Duals, present: Tensor) -> Duals:
        return advance(level, candidate, duals, self.lagrangian.multiplier, self.lagrangian.schedule, present)

    def _forget(self) -> None:
        for constraint in self.constraints:
            self.state_of(constraint).clear()
        self.refused.fill_(-1)
        self.observed = 0

    @torch.inference_mode(False)
    @torch.no_grad()
    def update_duals(self, model: Any, loader: Iterable[Any], *, predict: Predict | None = None) -> None:
        """One dual step from a pass over ``loader``: held-out data, in evaluation mode, without gradients.

        ``predict(model, batch) -> (output, target)`` says how a batch is handled; by default a batch is a pair
        ``(inputs, target)``, moved to the device of the model. Every module is put back into the mode it was in. In a
        distributed run every process passes over its own shard. Sums left over from :meth:`observe` are dropped. The
        result is the same in every grad mode of the caller, ``torch.inference_mode()`` included.

        Raises ``ValueError`` for an empty loader and for a batch with values that are not finite, duals unchanged.
        """
        model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        self._forget()
        with evaluating(model):
            for batch in loader:
                self.observe(*(predict or predict_pair)(model, batch))
        self.step()

    # ---------------------------------------------------------------------------------------------------- state

    def state_of(self, constraint: TrainingConstraint) -> DualState:
        """The buffers of one constraint."""
        return self.duals[constraint.name]  # type: ignore[return-value]

    @property
    def multipliers(self) -> Any:
        """``mu``: the buffer where there is one constraint, else a dictionary by name."""
        return self._buffers_of("mu")

    @property
    def rho(self) -> Any:
        """The penalty parameters, as :attr:`multipliers`."""
        return self._buffers_of("rho")

    @property
    def levels(self) -> Any:
        """The mean value (or violation) of each constraint in the last dual pass, NaN before the first."""
        return self._buffers_of("level")

    def _buffers_of(self, name: str) -> Any:
        found = {c.name: getattr(self.state_of(c), name) for c in self.constraints}
        return next(iter(found.values())) if len(found) == 1 else found

    def get_extra_state(self) -> Tensor:
        """How many batches of a pass that is under way were observed."""
        return torch.tensor(self.observed)

    def set_extra_state(self, state: Tensor) -> None:
        """Of what :meth:`get_extra_state` returned."""
        self.observed = int(state)

    @torch.inference_mode(False)
    @torch.no_grad()
    def reset(self) -> None:
        """The duals back to their initial values."""
        self._forget()
        for constraint in self.constraints:
            self.state_of(constraint).reset()

    def extra_repr(self) -> str:
        """Constraints and penalty, for ``repr``."""
        shapes = ", ".join(f"{c.name}{list(c.shape)}" for c in self.constraints)
        return f"constraints: {shapes}; penalty={self.lagrangian.form(False).name}, reduction={self.reduction!r}"
