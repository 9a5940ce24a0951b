"""What is said of each sample, from clean forward passes on the inputs and on what a recipe returned."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from constropt.problems.dense_metrics import apsr, confusion
from constropt.problems.model_calls import logits_of
from constropt.solution import Solution, Status

LEVELS = 255


def round_to_8_bits(x: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """``x`` on the 256 levels between the bounds that an 8-bit image can hold: multiples of 1/255 within (0, 1), exact
    for inputs that were bytes divided by 255. Halves go to the even level, as ``torch.round`` does.

    >>> round_to_8_bits(torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0])).mul(255).tolist()
    [0.0, 0.0, 1.0, 255.0]
    """
    low, high = bounds
    level = ((x - low) * (LEVELS / (high - low))).round().clamp(0, LEVELS)
    if (low, high) == (0.0, 1.0):
        return level / LEVELS  # the very division that makes [0, 1] of bytes
    return (low + level * ((high - low) / LEVELS)).clamp(low, high)


TOLERANCE = 1e-6  # of the bounds, input units: rounding of a projection, far below any perturbation that matters
NORMS = ("l0", "l1", "l2", "linf")


@dataclass(frozen=True)
class Measure:
    """How a batch is judged: the name of the distance, the bounds, and for dense labels ``nu`` and what is ignored."""

    distance_name: str
    bounds: tuple[float, float]
    nu: float
    ignore_index: int


def norms_of(delta: Tensor) -> dict[str, Tensor]:
    """The norms of ``delta`` ``(batch, *event)`` per row, in double precision; l0 counts the entries that are not 0.

    >>> {name: norm.item() for name, norm in norms_of(torch.tensor([[3.0, 0.0, -4.0]])).items()}
    {'l0': 2.0, 'l1': 7.0, 'l2': 5.0, 'linf': 4.0}
    """
    delta = delta.flatten(1).double()
    size = delta.abs()
    return {"l0": (delta != 0).sum(1).double(), "l1": size.sum(1), "l2": delta.norm(dim=1), "linf": size.amax(1)}


@torch.no_grad()
def verified(
    model: Callable[[Tensor], Any], solution: Solution, inputs: Tensor, labels: Tensor, targets: Tensor | None,
    measure: Measure,
) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:  # fmt: skip
    """The columns of a batch, and for dense predictions the confusion counts ``clean`` and ``adversarial``.

    Dense ``labels`` ``(batch, *pixels)``: a sample is a success when the fraction ``nu`` of its counted pixels is, and
    clean-correct when the input itself is none. The columns that end in ``_8bit`` are of the two images as saved: both
    rounded, the perturbed one sent through the model again.
    """
    bounds, nu, ignore_index = measure.bounds, measure.nu, measure.ignore_index
    x = solution.x.detach()
    finite = x.isfinite().flatten(1)
    inside = (finite & (x >= bounds[0] - TOLERANCE).flatten(1) & (x <= bounds[1] + TOLERANCE).flatten(1)).all(1)
    saved, rounded = round_to_8_bits(x.nan_to_num(bounds[0]), bounds), round_to_8_bits(inputs, bounds)
    logits = [logits_of(model(batch)) for batch in (inputs, x, saved)]
    clean, *perturbed = (z.argmax(1) for z in logits)
    norms, saved_norms = norms_of(x - inputs), norms_of(saved - rounded)
    columns: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    if labels.dim() == 1:
        columns |= {"label": labels, "prediction": perturbed[0], "clean_prediction": clean}
        columns["clean_correct"] = clean == labels
        changed, saved_changed = (p != labels if targets is None else p == targets for p in perturbed)
        if targets is not None:
            columns["target"] = targets
    else:
        mask = labels != ignore_index
        if targets is not None:
            mask &= targets != ignore_index
        before, after, saved_after = (apsr(p, labels, targets=targets, mask=mask) for p in (clean, *perturbed))
        enough = nu - 1e-9  # 0.99 is not a binary fraction
        columns |= {"apsr": after, "clean_apsr": before, "clean_correct": before < enough}
        changed, saved_changed = after >= enough, saved_after >= enough
        for name, predictions in (("clean", clean), ("adversarial", perturbed[0])):
            counts[name] = confusion(predictions, labels, logits[0].shape[1], ignore_index=ignore_index).cpu()
    columns |= {
        "success": changed & inside, "success_8bit": saved_changed & finite.all(1), "claimed": solution.feasible,
        "distance": norms.get(measure.distance_name, solution.objective.detach().double()),
        "distance_8bit": saved_norms[measure.distance_name] if measure.distance_name in norms
        else _own_distance(solution, saved, rounded),
        **norms, **{f"{name}_8bit": norm for name, norm in saved_norms.items()}, "forwards": solution.forwards,
        "backwards": solution.backwards, "first_feasible": solution.first_feasible,
    }  # fmt: skip
    arrays = {name: value.cpu().numpy() for name, value in columns.items()}
    arrays["status"] = np.array([Status(code).message for code in solution.status.tolist()])
    return arrays, counts


def own_distance_of(solution: Solution) -> Any:
    """The distance that the problem of a solution minimises or bounds, if it says so; else ``None``."""
    return getattr(solution.problem, "distance", None)


def _own_distance(solution: Solution, x: Tensor, inputs: Tensor) -> Tensor:
    """The recipe's own distance between two batches, NaN where its problem does not hold one."""
    distance: Any = own_distance_of(solution)
    value: Any = distance(x, inputs) if callable(distance) else torch.full((len(x),), torch.nan)
    return value.detach().double()
