"""What is said of each sample, from clean forward passes on the inputs and on what a recipe returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from constropt.evaluation.counting import logits_of
from constropt.evaluation.segmentation import apsr, confusion
from constropt.solution import Solution, Status

TOLERANCE = 1e-6  # of the bounds, input units: rounding of a projection, far below any perturbation that matters


@torch.no_grad()
def verified(
    model: Callable[[Tensor], Any],
    solution: Solution,
    inputs: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    bounds: tuple[float, float],
    distance_name: str,
    nu: float,
    ignore_index: int,
) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
    """The columns of a batch, and for dense predictions the confusion counts ``clean`` and ``adversarial``.

    Dense ``labels`` ``(batch, *pixels)``: a sample is a success when the fraction ``nu`` of its counted pixels is, and
    clean-correct when the input itself is none.
    """
    x = solution.x.detach()
    logits = [logits_of(model(batch)) for batch in (inputs, x)]
    clean, prediction = (z.argmax(1) for z in logits)
    flat = x.flatten(1)
    inside = (flat.isfinite() & (flat >= bounds[0] - TOLERANCE) & (flat <= bounds[1] + TOLERANCE)).all(1)
    delta = (x - inputs).flatten(1).double()
    norms = {
        "l0": (delta != 0).sum(1).double(),
        "l1": delta.abs().sum(1),
        "l2": delta.norm(dim=1),
        "linf": delta.abs().amax(1),
    }
    columns: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    if labels.dim() == 1:
        columns |= {"label": labels, "prediction": prediction, "clean_prediction": clean}
        columns["clean_correct"] = clean == labels
        changed = prediction != labels if targets is None else prediction == targets
        if targets is not None:
            columns["target"] = targets
    else:
        mask = labels != ignore_index
        if targets is not None:
            mask &= targets != ignore_index
        before, after = (apsr(p, labels, targets=targets, mask=mask) for p in (clean, prediction))
        columns |= {"apsr": after, "clean_apsr": before, "clean_correct": before < nu - 1e-9}
        changed = after >= nu - 1e-9  # 0.99 is not a binary fraction
        for name, predictions in (("clean", clean), ("adversarial", prediction)):
            counts[name] = confusion(predictions, labels, logits[0].shape[1], ignore_index=ignore_index).cpu()
    columns |= {
        "success": changed & inside,
        "claimed": solution.feasible,
        "distance": norms.get(distance_name, solution.objective.detach().double()),
        **norms,
        "forwards": solution.forwards,
        "backwards": solution.backwards,
        "first_feasible": solution.first_feasible,
    }
    arrays = {name: value.cpu().numpy() for name, value in columns.items()}
    arrays["status"] = np.array([Status(code).message for code in solution.status.tolist()])
    return arrays, counts
