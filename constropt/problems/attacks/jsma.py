"""JSMA (Alg. 1.1; Papernot et al., EuroS&P 2016): the Jacobian saliency map attack."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from constropt.evaluation import Evaluation
from constropt.problems.attacks.arguments import Aim, Model, width_of
from constropt.problems.attacks.constraints import logit_of
from constropt.problems.attacks.log_outputs import LogOutputs
from constropt.problems.attacks.losses import following
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.solution import Solution
from constropt.solvers.base import Callback
from constropt.solvers.saliency import Outputs, Saliency
from constropt.solving import solve


def jsma(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    steps: int | None = None,
    theta: float = 1.0,
    gamma: float = 0.145,
    pairs: bool = False,
    logits: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> Solution:
    """The JSMA attack, l0: :class:`MinimalPerturbation` by :class:`Saliency`, entry by entry or in ``pairs``.

    The saliency map is the product of the derivative of the target's probability and the opposite of the sum of those
    of the other probabilities (Alg. 1.1), or of the same with ``logits``, as in most implementations. Probabilities sum
    to 1, so that the two factors are equal and one backward pass a step gives the map; logits take two. The chosen
    entry, or pair of entries as published, changes by ``theta`` in parts of the bounds' width, downwards if negative,
    and may be chosen again until it meets the bounds. A row ends when it has reached its target, or when more than the
    fraction ``gamma`` of its entries would change, 14.5 % in the paper, where it fails. Without ``targets`` the label's
    probability is to fall (non-targeted JSMA: Wiyatno & Xu, 2018). ``steps``: by default as many as ``gamma`` allows.

    Raises what :class:`MinimalPerturbation` raises, and ``ValueError`` for values out of range, and for ``pairs`` with
    ``logits`` where the inputs have more than 16,384 entries.

    >>> import torch
    >>> x, weight = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 0.0, 2.0]])
    >>> model = lambda x: x @ weight.T - torch.tensor([0.0, 4.0])
    >>> jsma(model, x, torch.tensor([0]), targets=torch.tensor([1]), gamma=0.5).x
    tensor([[0., 1., 0., 1.]])
    """
    problem = MinimalPerturbation(LogOutputs(model), inputs, labels, distance="l0", targets=targets, bounds=bounds)
    width = width_of(bounds)
    outputs = _logits(problem.aim) if logits else None
    if not theta:
        raise ValueError("theta: takes the change of an entry in parts of the width of the bounds, not 0")
    solver = Saliency(outputs=outputs, size=theta * width, pairs=pairs, limit=gamma)
    if steps is None:
        moves = max(math.ceil(1 / abs(theta)), 1)
        steps = max(math.ceil(gamma * inputs[0].numel() / (1 + pairs)), 1) * moves
    return solve(following(problem, "ce"), solver, inputs, steps=steps, callback=callback)


def _logits(aim: Aim) -> Outputs:
    """The logit that has to rise and the sum of the others, which has to fall; without targets the label's falls."""

    def outputs(point: Evaluation) -> Tensor:
        one = logit_of(point.output, aim.labels if aim.targets is None else aim.targets)
        rest = point.output.sum(1) - one
        return torch.stack([rest, one] if aim.targets is None else [one, rest], 1)

    return outputs
