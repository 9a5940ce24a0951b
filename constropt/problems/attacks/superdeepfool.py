"""SuperDeepFool (Abroshan, Mahzoun, Moosavi-Dezfooli et al., 2023: "Revisiting DeepFool")."""

from __future__ import annotations

from torch import Tensor

from constropt.checks import require_whole
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.deepfool import others
from constropt.problems.attacks.log_outputs import LogOutputs
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.solution import Solution, best_of
from constropt.solvers.base import Callback
from constropt.solvers.linearized.class_projection import NearestProjection
from constropt.solvers.linearized.segment_search import SegmentSearch
from constropt.solving import solve


def superdeepfool(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    steps: int = 100,
    overshoot: float = 0.02,
    candidates: int | None = 10,
    accumulate: bool = False,
    search: int = 10,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The SuperDeepFool attack, l2: DeepFool whose result is projected on the normal of the boundary, repeatedly.

    :class:`MinimalPerturbation` by :class:`NearestProjection` with ``align``; then ``search`` bisections (0: none) on
    the way back to the inputs. With ``accumulate`` the projections are added up, as in the official code, instead of
    each starting from the inputs, as in the paper: a row then ends within about 15 iterations, but farther away. The
    other arguments are those of :func:`deepfool`. ``steps`` counts all iterations: those of DeepFool, ``candidates -
    1`` backward passes each, and the projections, which the batch computes at the same price.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for ``candidates < 2``.

    >>> import torch
    >>> solution = superdeepfool(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
    >>> solution.feasible.tolist(), round(solution.objective.item(), 3)
    ([True], 0.177)
    """
    require_whole(0, search=search)
    problem = MinimalPerturbation(LogOutputs(model), inputs, labels, distance="l2", targets=targets, bounds=bounds)
    solver = NearestProjection(overshoot=overshoot, candidates=others(candidates), align=True, accumulate=accumulate)
    found = solve(problem, solver, inputs, steps=steps, callback=callback)
    if not search:
        return found
    return best_of(found, solve(problem, SegmentSearch(found.x), inputs, steps=search + 1, callback=callback))
