"""L-BFGS (Szegedy et al., ICLR 2014): the first attack, box-constrained L-BFGS and a line search on the weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.constraints import cross_entropy
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.attacks.remeasured import remeasured
from constropt.solution import Solution, best_of
from constropt.solvers.base import Callback
from constropt.solvers.penalized.penalty_search import squared_distance
from constropt.solvers.penalized.weight_search import Bisection, Trial
from constropt.solvers.projected_lbfgs.solver import ProjectedLBFGS
from constropt.solving import solve


def lbfgs_attack(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    steps: int = 900,
    searches: int = 9,
    weight: float = 1e-2,
    factor: float = 10.0,
    memory: int = 20,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The L-BFGS attack, minimal in l2: min ``||delta||_2^2 + c loss(x)`` in the box, for c searched in every row.

    The loss is the cross-entropy of the targets; without targets, ``-log(1 - p_y)``, that of all other classes
    together, which the paper does not have. Each of ``searches`` weights gets ``steps // searches`` steps of the
    library's :class:`~constropt.solvers.ProjectedLBFGS` (rows end earlier where they converge); c, the inverse of the
    paper's, starts at ``weight``, grows by ``factor`` until the row is fooled and is then bisected. The minimiser of
    each search counts, and no point on the way to it. ``Solution.objective`` is the distance.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for values out of range, and for a batch whose
    labels are not one per row.

    >>> import torch
    >>> solution = lbfgs_attack(lambda x: 4 * x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.18)
    """
    require_whole(steps=steps, searches=searches, memory=memory)
    problem = MinimalPerturbation(model, inputs, labels, targets=targets, bounds=bounds)
    if problem.aim.dense:
        raise ValueError(f"labels: lbfgs_attack takes one per row, got shape {tuple(labels.shape)}; use alma_prox")
    rule = Bisection(weight=weight * (bounds[1] - bounds[0]) ** 2, factor=factor)
    solver = ProjectedLBFGS(memory=memory)
    state, best = rule.init(problem.inputs), None
    for _ in range(searches):
        penalised = _penalised(problem, state.weight)
        inner = solve(penalised, solver, problem.inputs, steps=max(steps // searches, 1), callback=callback)
        found = remeasured(inner, problem)
        if best is None:  # inputs that are fooled already need no perturbation
            none = torch.zeros_like(inner.forwards)
            unmoved = replace(inner, x=problem.inputs, forwards=none, backwards=none)
            best = remeasured(unmoved, problem)
        best = best_of(best, found)
        trial = Trial(found.feasible, found.objective, found.x, ~found.feasible, torch.zeros_like(found.x))
        state = rule.update(state, trial, problem.inputs)[0]
    assert best is not None
    return best


def other_than(logits: Tensor, labels: Tensor) -> Tensor:
    """``-log(1 - p_y)``, ``(batch,)``: the cross-entropy of not being the label.

    >>> other_than(torch.tensor([[0.0, 0.0]]), torch.tensor([0])).round(decimals=4)
    tensor([0.6931])
    """
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return logits.logsumexp(1) - others.logsumexp(1)


def _penalised(problem: MinimalPerturbation, weight: Tensor) -> ConstrainedProblem[Any]:
    """The problem without its constraint, a loss of a weight per row in its place."""
    labels, targets = problem.aim.labels, problem.aim.targets

    def objective(x: Tensor, z: Tensor) -> Tensor:
        loss = other_than(z, labels) if targets is None else cross_entropy(z, targets)
        return squared_distance(x, problem.inputs) + weight * loss

    return ConstrainedProblem(objective=objective, forward=problem.forward, domain=problem.domain)
