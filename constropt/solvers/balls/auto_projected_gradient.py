"""Projected gradient with an automatic step size on a norm ball: APGD in l2 and linf, and its sparse form in l1."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from constropt.checks import given, require_within
from constropt.domain import L1Ball, L2Ball, LinfBall
from constropt.evaluation import Evaluation
from constropt.features import NORM_BALL, Takes
from constropt.rows import beside, per_row
from constropt.solvers.balls.projected_gradient import radii, signs_from
from constropt.solvers.base import Proposal, Run, Solver
from constropt.solvers.directions import normalised


@dataclass(frozen=True, eq=False)
class AutoStepState:
    """What the next step needs; ``(batch,)`` unless said otherwise.

    ``size``: the step in radii; ``previous`` and ``best``: the last point and the one of the lowest objective, with its
    ``gradient``, of the shape of x; ``value`` and ``best_value``: their objectives. Since the last checkpoint:
    ``falls``, how often the objective fell, ``checked``, its best value then, ``halved``, whether the size was halved.
    For l1: ``support``, the number of entries in which ``best`` differed from the centre, ``density``, the fraction of
    entries that a step moves.
    """

    size: Tensor
    previous: Tensor
    best: Tensor
    gradient: Tensor
    value: Tensor
    best_value: Tensor
    falls: Tensor
    checked: Tensor
    halved: Tensor
    support: Tensor
    density: Tensor


@dataclass(frozen=True, eq=False)
class AutoProjectedGradient(Solver[AutoStepState]):
    """min g(x) over a ball, with no step size to choose: APGD (Croce & Hein, 2020) and l1-APGD (Croce & Hein, 2021).

    l2 and linf, d being the normalised gradient or its sign, P the exact projection on ball and box, a = ``momentum``:
    ``z = P(x - eta d)``, ``x <- P(x + a (z - x) + (1 - a) (x - x_previous))``. eta starts at two radii. At checkpoints,
    ``p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)`` of the steps with ``p_1 = 0.22``, a row's eta is halved and the
    row goes back to its best point when g fell in less than ``rho`` of the steps since the last checkpoint, or when
    then eta was kept and the best g has not improved since.

    l1: ``x <- P(x - eta d)``, d the signs of the largest entries of the gradient, of unit l1 norm; eta starts at one
    radius, and d moves the fraction ``density`` of the entries. Every 4 % of the steps d takes two thirds as many
    entries as the best point differs in from the centre; where that number fell by more than 5 %, eta is reset and the
    row goes back to its best point; elsewhere eta is divided by 1.5, down to a tenth of the radius. ``density=None``
    takes two thirds of what the start differs in: for a start that is itself the result of a run.

    Constraints are not followed: they only say which points are feasible, and the best of those is returned. Rows
    without a gradient stay. All decisions are per row.

    Raises ``ValueError`` for a domain that is no ball, and for values out of range.

    >>> from constropt import ConstrainedProblem, solve
    >>> center = torch.zeros(1, 2)
    >>> problem = ConstrainedProblem(objective=lambda x, _: x @ torch.tensor([3.0, -4.0]), domain=L2Ball(5.0, center))
    >>> solve(problem, AutoProjectedGradient(), center, steps=10).x
    tensor([[-3.,  4.]])
    """

    takes = Takes(fraction=True, domains=NORM_BALL, constraint_gradients=False)

    momentum: float = 0.75
    rho: float = 0.75
    density: float | None = 0.2
    tolerance: float | None = 0.0

    def __post_init__(self) -> None:
        weight, fraction = "takes the weight of the new direction", "takes the fraction of entries"
        require_within("(0, 1]", weight, " (1 is without momentum)", momentum=self.momentum)
        require_within("[0, 1]", "takes the fraction of steps", " that have to improve", rho=self.rho)
        require_within("(0, 1]", fraction, " that an l1 step moves, or None", **given(density=self.density))

    def init(self, run: Run, point: Evaluation) -> AutoStepState:
        domain, x = run.problem.domain, point.x.detach()
        # counts of entries do not fit into shorter floats
        ones = torch.ones(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        infinite, none = torch.full_like(point.total(), torch.inf), torch.zeros_like(ones, dtype=torch.bool)
        size, support, density = 2 * ones, ones, ones
        if isinstance(domain, L1Ball):
            event = x[0].numel()
            size, support = ones, _moved(x, domain) if self.density is None else event * ones
            density = _density(support, event) if self.density is None else self.density * ones
        zero = torch.zeros_like(x)
        return AutoStepState(size, x, x, zero, -infinite, infinite, 0 * ones, infinite, none, support, density)

    def step(self, run: Run, state: AutoStepState, point: Evaluation, index: int) -> Proposal[AutoStepState]:
        domain = run.problem.domain
        assert isinstance(domain, LinfBall | L2Ball | L1Ball)
        x, gradient, value = point.x.detach(), point.gradient(1.0, ()), point.total()
        better, falls = value < state.best_value, state.falls + (value < state.value)
        rows, least = beside(better, x), torch.where(better, value, state.best_value)
        best, steepest = torch.where(rows, x, state.best), torch.where(rows, gradient, state.gradient)
        state = replace(state, best=best, gradient=steepest, best_value=least, falls=falls)
        back = None
        if isinstance(domain, L1Ball):
            if index and index % max(int(0.04 * run.steps), 1) == 0:
                state, back = self._sparser(state, domain)
        elif index in (spans := checkpoints(run.steps)):
            state, back = self._shorter(state, spans[index])
        if back is not None:
            rows = beside(back, x)
            x = torch.where(rows, state.best, x)
            gradient = torch.where(rows, state.gradient, gradient)
            value = torch.where(back, state.best_value, value)
        size = per_row(state.size * radii(domain, x), x)
        if isinstance(domain, L1Ball):
            following = domain.project(x - size * _sparse_sign(gradient, state.density))
        else:
            direction = gradient.sign() if isinstance(domain, LinfBall) else normalised(gradient, 2)
            following = domain.project(x - size * direction)
            if index:
                blend = self.momentum * (following - x) + (1 - self.momentum) * (x - state.previous)
                following = domain.project(x + blend)
        return Proposal(x=following, state=replace(state, previous=x, value=value))

    def _shorter(self, state: AutoStepState, span: int) -> tuple[AutoStepState, Tensor]:
        """The checkpoint of l2 and linf, ``span`` steps after the last one: the state, and which rows go back."""
        oscillates = state.falls < self.rho * span
        stuck = ~state.halved & (state.best_value >= state.checked)
        halve, none = oscillates | stuck, torch.zeros_like(state.falls)
        size = torch.where(halve, state.size / 2, state.size)
        return replace(state, size=size, halved=halve, checked=state.best_value, falls=none), halve

    def _sparser(self, state: AutoStepState, domain: L1Ball) -> tuple[AutoStepState, Tensor]:
        """The checkpoint of l1: the state, and which rows go back."""
        support = _moved(state.best, domain)
        shrank = support < 0.95 * state.support
        size = torch.where(shrank, 1.0, (state.size / 1.5).clamp_min(0.1))
        state = replace(state, size=size, support=support, density=_density(support, state.best[0].numel()))
        return state, shrank


def checkpoints(steps: int) -> dict[int, int]:
    """The checkpoints of APGD among ``steps`` steps, each with the number of steps since the one before.

    >>> list(checkpoints(100))
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    found: dict[int, int] = {}
    last, p, gap = 0, 0.22, 0.22
    while p < 1:
        # 1e-9: sums of these decimals round up to just above a whole number
        index = math.ceil(p * steps - 1e-9)
        if index > last:
            found[index] = index - last
            last = index
        gap = max(gap - 0.03, 0.06)
        p += gap
    return found


def _moved(x: Tensor, domain: L1Ball) -> Tensor:
    """How many entries of each row differ from the centre, ``(batch,)``."""
    center = domain.center.to(x) if isinstance(domain.center, Tensor) else domain.center
    return (x != center).flatten(1).sum(1).to(torch.promote_types(x.dtype, torch.float32))


def _density(support: Tensor, event: int) -> Tensor:
    """The fraction of entries that a step moves: two thirds of the support, at least one entry."""
    return (support / (1.5 * event)).clamp(1 / event, 1.0)


def _sparse_sign(gradient: Tensor, density: Tensor) -> Tensor:
    """Of each row the signs of the fraction ``density`` of entries of the largest gradient, at unit l1 norm."""
    amount = gradient.abs().flatten(1)
    count = (density * amount.shape[1]).long().clamp(1, amount.shape[1])
    least = amount.sort(dim=1, descending=True).values.gather(1, count.unsqueeze(1) - 1).squeeze(1)
    return signs_from(gradient, least)
