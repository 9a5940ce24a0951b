"""PDPGD and PDGD (Matyasko & Chau, 2021): primal-dual proximal gradient and primal-dual gradient attacks."""

from __future__ import annotations

from torch import Tensor

from constropt.domain import Box
from constropt.problems.attacks.arguments import IGNORE_INDEX, Model
from constropt.problems.attacks.losses import following
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import as_distance, with_gradient
from constropt.problems.distances.norms import DistanceLike
from constropt.prox.norms import NormAround
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.primal_dual import PrimalDual
from constropt.solving import solve


def PDGD(*, dense: bool, size: float | None = None, width: float = 1.0) -> PrimalDual:
    """The published hyper-parameters, for a single constraint a row and for dense predictions (Sec. IV.6.1).

    ``size`` is the primal step, in parts of ``width``, that of the inputs' bounds: 0.1, or 0.01 for dense predictions.
    The initial ratio of the distance's weight to the constraints' is 0.01, or 1; the dual step is 0.1.
    """
    if size is None:
        size = 0.01 if dense else 0.1
    ratio, limit = (1.0, 1e-12) if dense else (0.01, 1e-6)
    # the distance is in units of the inputs, the constraints are not
    return PrimalDual(size=size * width, ratio=ratio, unit=1 / width, limit=limit)


def pdpgd(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    nu: float | None = None,
    distance: DistanceLike = "linf",
    steps: int = 500,
    size: float | None = None,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The PDPGD attack: :class:`MinimalPerturbation` by :class:`PrimalDual`, the distance ("linf", "l2", "l1", "l0") by
    its prox.

    Norm and box are handled together by their exact prox in Adam's metric; for "l0" it is that of ``sum |.|^(2/3)``,
    which the authors prefer to the l0 norm's. ``size`` is the primal step in parts of the
    bounds' width, 0.1 by default and 0.01 for dense predictions. ``Solution.objective`` is the distance. The other
    arguments are those of :class:`MinimalPerturbation`.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for another distance.

    >>> import torch
    >>> solution = pdpgd(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.13)
    """
    measure = as_distance(distance, ("l0", "l1", "l2", "linf"))
    problem = MinimalPerturbation(
        model,
        inputs,
        labels,
        distance=measure,
        targets=targets,
        mask=mask,
        nu=nu,
        ignore_index=ignore_index,
        bounds=bounds,
    )
    assert isinstance(problem.domain, Box)
    norm = NormAround(
        measure.name,
        problem.inputs,
        problem.domain.lower,
        problem.domain.upper,
        relaxed="two-thirds" if measure.name == "l0" else None,
    )
    solver = PDGD(dense=problem.aim.dense, size=size, width=bounds[1] - bounds[0])
    return solve(following(problem, "logit difference", norm), solver, inputs, steps=steps, callback=callback)


def pdgd(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    nu: float | None = None,
    distance: DistanceLike = "l2",
    steps: int = 500,
    size: float | None = None,
    ignore_index: int = IGNORE_INDEX,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The PDGD attack: as :func:`pdpgd`, with the gradient of the distance in place of its prox.

    ``distance`` is one that is smooth away from the inputs: "l2", a :class:`~constropt.problems.distances.Distance` or
    a callable ``(x, inputs) -> (batch,)``. The other arguments are those of :func:`pdpgd`.

    >>> import torch
    >>> solution = pdgd(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.18)
    """
    problem = MinimalPerturbation(
        model,
        inputs,
        labels,
        distance=with_gradient(distance),
        targets=targets,
        mask=mask,
        nu=nu,
        ignore_index=ignore_index,
        bounds=bounds,
    )
    solver = PDGD(dense=problem.aim.dense, size=size, width=bounds[1] - bounds[0])
    return solve(following(problem, "logit difference"), solver, inputs, steps=steps, callback=callback)
