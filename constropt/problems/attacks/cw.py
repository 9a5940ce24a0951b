"""C&W (Eq. 1.10; Carlini & Wagner, IEEE S&P 2017): a penalty of searched weight, in l2, linf, l0 or any distance."""

from __future__ import annotations

from torch import Tensor

from constropt.checks import require_whole
from constropt.problems.attacks.arguments import Model
from constropt.problems.attacks.goals import logit_margin
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.distances import L0, with_gradient
from constropt.problems.distances.norms import DistanceLike
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.penalized.penalty_search import PenaltySearch, squared_distance
from constropt.solvers.penalized.weight_search import Bisection, ShrinkingSupport, ShrinkingTolerance
from constropt.solving import solve

# The first weight by distance; for linf and l0 also the largest, beyond which a row ends (the authors' code).
WEIGHTS = {"linf": 1e-5, "l0": 1e-3}
LARGEST = {"linf": 20.0, "l0": 2e6}


def CW(
    distance: str = "l2",
    *,
    searches: int = 9,
    size: float = 0.01,
    weight: float | None = None,
    factor: float | None = None,
    decrease: float = 0.9,
    abort_early: bool | None = None,
    width: float = 1.0,
) -> PenaltySearch:
    """The published hyper-parameters, for a :class:`MinimalPerturbation` in that distance, followed by its logits.

    The arguments are those of :func:`cw`; ``width`` is that of the inputs' bounds. "l2" is minimised by its square, as
    published, every distance that is not a norm as it is.
    """
    # the distance is in units of the inputs, squared for l2, the logits are not
    unit = width**2 if distance in ("l2", "l0") else width
    weight = unit * (WEIGHTS.get(distance, 1e-3) if weight is None else weight)
    if distance == "linf":
        rule = ShrinkingTolerance(
            weight=weight,
            factor=2.0 if factor is None else factor,
            largest=LARGEST[distance] * unit,
            start=width,
            decrease=decrease,
            least=width / 255,
            early=bool(abort_early),
        )
    elif distance == "l0":
        rule = ShrinkingSupport(
            weight=weight,
            factor=2.0 if factor is None else factor,
            largest=LARGEST[distance] * unit,
            negligible=1e-4 * width,
        )
    else:
        rule = Bisection(weight=weight, factor=10.0 if factor is None else factor)
    return PenaltySearch(
        size=size,
        searches=searches,
        rule=rule,
        surrogate=squared_distance if distance in ("l2", "l0") else None,
        tanh=True,
        abort=1e-4 if abort_early is not False and distance not in ("linf", "l0") else None,
    )


def cw(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    distance: DistanceLike = "l2",
    steps: int = 9000,
    searches: int | None = None,
    size: float = 0.01,
    weight: float | None = None,
    factor: float | None = None,
    confidence: float = 0.0,
    decrease: float = 0.9,
    abort_early: bool | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The C&W attack: :class:`MinimalPerturbation` by :class:`~constropt.solvers.PenaltySearch`.

    min ``D(x, inputs) + c max(z_y - max_{k != y} z_k + confidence, 0)`` by Adam of step ``size`` in the variable w of
    ``x = (tanh(w) + 1) / 2``. ``steps`` are those of all searches together, ``steps // searches`` for each: the
    published 9 x 1,000, or 90,000 for 9 x 10,000. One forward and one backward pass a step; rows end early.

    - "l2", squared, and any smooth ``distance`` (a name, a :class:`~constropt.problems.distances.Distance`, a callable
      ``(x, inputs) -> (batch,)``), as it is: c starts at ``weight`` (1e-3), grows by ``factor`` (10) until the row is
      fooled, and is then bisected; 9 ``searches``. ``abort_early`` (on by default) ends a search that makes no
      progress.
    - "linf": ``sum_i max(|delta_i| - tau, 0)`` in place of D, tau ``decrease`` times the largest change after each
      success, c doubled after each failure, from 1e-5 on. ``abort_early`` ends a search with its success, as
      the authors do (off by default: it saved a tenth of the passes and made the norms 8 % larger).
    - "l0": D = l2 on the entries that may change, fewer after each success; c doubled after each failure, from 1e-3 on.

    ``searches`` for the last two says how long a failing search is; 20 by default. ``factor``: with 2, which is
    published too, nine searches from 1e-3 do not take c far enough for l2. ``Solution.objective`` is the distance;
    ``Solution.feasible`` says which rows fool the model, by ``confidence`` if one is given.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for a negative ``confidence`` and other values
    out of range.

    >>> import torch
    >>> solution = cw(lambda x: x, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), steps=900)
    >>> solution.feasible.tolist(), round(solution.objective.item(), 2)
    ([True], 0.18)
    """
    problem = MinimalPerturbation(
        model,
        inputs,
        labels,
        distance=distance if distance in ("l0", L0) else with_gradient(distance),
        targets=targets,
        constraint=logit_margin(confidence),
        bounds=bounds,
    )
    name = problem.distance.name
    if searches is None:
        searches = 20 if name in WEIGHTS else 9
    require_whole(steps=steps, searches=searches)
    solver = CW(
        name,
        searches=searches,
        size=size,
        weight=weight,
        factor=factor,
        decrease=decrease,
        abort_early=abort_early,
        width=bounds[1] - bounds[0],
    )
    return solve(problem, solver, inputs, steps=steps, callback=callback)
