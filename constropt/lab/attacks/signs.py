"""Signs that the figures of an evaluation do not mean what they seem to: masked gradients, a model that is not itself.
Each function looks for one of them and returns a :class:`Sign` or ``None``. None proves that a model is robust.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.lab.attacks.columns import norms_of
from constropt.problems.model_calls import logits_of

Model = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Sign:
    """Something that a reader of the figures must know: what was seen (``name``), on which model, in words."""

    name: str
    model: str
    message: str

    def __str__(self) -> str:
        return f"{self.model}: {self.message}" if self.model else self.message


def left_in_training_mode(model: Model, name: str = "") -> Sign | None:
    """Modules of ``model`` in training mode: Dropout draws, and BatchNorm looks at the rest of the batch.

    >>> left_in_training_mode(nn.Sequential(nn.Linear(2, 2), nn.Dropout())).message.split(";")[0]
    'is in training mode (Dropout among it)'
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    training = [module for module in modules if module.training]
    if not training:
        return None
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    matter = dict.fromkeys(type(module).__name__ for module in training if isinstance(module, kinds))
    what = "is" if len(training) == len(modules) else f"has {len(training)} of {len(modules)} modules"
    among = f" ({', '.join(matter)} among it)" if matter else ""
    return Sign("training mode", name, f"{what} in training mode{among}; evaluated in evaluation mode")


def outside_bounds(inputs: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Sign | None:
    """Inputs that are no images within ``bounds``: normalised outside the model, or bytes that were not divided.

    >>> print(outside_bounds(torch.tensor([[0.5, 3.0]])))
    1 of 1 inputs leave [0, 1] (values from 0.5 to 3): put the normalisation into the model, divide bytes by 255
    """
    low, high = float(inputs.min()), float(inputs.max())
    if low >= bounds[0] and high <= bounds[1]:
        return None
    flat = inputs.flatten(1)
    rows = int((~((flat >= bounds[0]) & (flat <= bounds[1])).all(1)).sum())
    seen = f"{rows} of {len(inputs)} inputs leave [{bounds[0]:g}, {bounds[1]:g}] (values from {low:.4g} to {high:.4g})"
    return Sign("inputs", "", f"{seen}: put the normalisation into the model, divide bytes by 255")


@torch.no_grad()
def stochastic(model: Model, inputs: Tensor, name: str = "") -> Sign | None:
    """Two forward passes on the same inputs that differ by more than rounding."""
    first, second = logits_of(model(inputs)), logits_of(model(inputs))
    spread = float((first.max() - first.min()).abs())
    gap = float((first - second).abs().max())
    if gap <= 1e-4 * spread:
        return None
    flips = float((first.argmax(1) != second.argmax(1)).double().mean())
    seen = f"two passes on the same inputs differ by up to {gap:.3g} and in {flips:.1%} of the predictions"
    cure = "a success may not repeat, and attacks need the mean over draws"
    return Sign("stochastic", name, f"answers at random: {seen}; {cure}")


@torch.no_grad()
def probabilities(model: Model, inputs: Tensor, name: str = "") -> Sign | None:
    """Outputs that are >= 0 and sum to one: probabilities, whose gradients vanish where the model is confident."""
    outputs = logits_of(model(inputs))
    if outputs.min() < 0 or not bool((outputs.sum(1) - 1).abs().max() < 1e-2):
        return None
    cure = "attacks on the cross-entropy then apply a softmax twice; return the logits"
    return Sign("probabilities", name, f"returns probabilities, not logits: {cure}")


def zero_gradients(
    model: Model, inputs: Tensor, labels: Tensor, name: str = "", *, threshold: float = 0.01
) -> Sign | None:
    """Inputs, correctly classified, where the gradient of the cross-entropy is 0 or not finite: masked gradients; a
    sign beyond the fraction ``threshold``. The gradient of the logit of the label is taken too: where that one is not
    0, only the softmax has saturated, and attacks on logit differences still work.
    """
    with torch.enable_grad():
        x = inputs.detach().clone().requires_grad_()
        logits = logits_of(model(x))
        if not logits.requires_grad:
            return Sign("zero gradients", name, "has no gradient at all: nothing that uses gradients can attack it")
        losses = functional.cross_entropy(logits, labels, reduction="none"), logits.gather(1, labels.unsqueeze(1))
        gradients = [torch.autograd.grad(loss.sum(), x, retain_graph=True, allow_unused=True)[0] for loss in losses]
    right = logits.argmax(1) == labels
    right = right.flatten(1).all(1) if right.dim() > 1 else right
    blind = [torch.ones_like(right) if g is None else ((g == 0) | ~g.isfinite()).flatten(1).all(1) for g in gradients]
    fraction, hidden = (float((b & right).sum() / right.sum().clamp_min(1)) for b in blind)
    if fraction <= threshold:
        return None
    cause = (
        "the model hides its gradients, and attacks that use them overstate its robustness"
        if hidden > threshold
        else "the softmax saturates while the logits have gradients; trust attacks on logit differences or DLR only"
    )
    return Sign("zero gradients", name, f"has zero gradients at {fraction:.1%} of the inputs it gets right: {cause}")


@torch.no_grad()
def transfer_beats(
    model: Model, inputs: Tensor, labels: Tensor, transferred: Tensor, distances: np.ndarray, distance_name: str, *,
    origin: str = "another model", name: str = "", threshold: float = 0.01, batch_size: int = 500,
) -> Sign | None:  # fmt: skip
    """Samples that inputs found on another model change at a smaller distance than any found on this one.

    ``transferred`` ``(samples, *event)`` are those inputs, ``distances`` ``(samples,)`` the smallest by norm
    ``distance_name`` that white-box recipes found, infinite where they failed. A sign if more than the fraction
    ``threshold`` of the samples that the model gets right is changed by them within 99 % of that.
    """
    ahead = right = 0
    for start in range(0, len(inputs), batch_size):
        rows = slice(start, start + batch_size)
        x, y, other = inputs[rows], labels[rows], transferred[rows].to(inputs)
        own = torch.from_numpy(np.ascontiguousarray(distances[rows])).to(x.device)
        correct = logits_of(model(x)).argmax(1) == y
        fooled = correct & (logits_of(model(other)).argmax(1) != y)
        ahead += int((fooled & (norms_of(other - x)[distance_name] < 0.99 * own)).sum())
        right += int(correct.sum())
    if ahead <= threshold * right:
        return None
    seen = f"inputs made on {origin} change {ahead} of {right} samples at a smaller {distance_name} distance"
    worse = "than the attacks on the model itself found"
    return Sign("transfer", name, f"black-box transfer beats white-box: {seen} {worse}")


@torch.no_grad()
def noise_beats(
    model: Model, inputs: Tensor, labels: Tensor, distances: np.ndarray, distance_name: str, *,
    bounds: tuple[float, float] = (0.0, 1.0), draws: int = 10, seed: int = 0, name: str = "", threshold: float = 0.01,
) -> Sign | None:  # fmt: skip
    """Samples that random noise changes within 95 % of the distance (l1, l2 or linf) that white-box recipes found, in
    ``draws`` draws. Where they found none (infinite in ``distances``), images of uniform noise are tried.
    """
    generator = torch.Generator().manual_seed(seed)
    own = torch.from_numpy(np.ascontiguousarray(distances)).to(inputs)
    failed = ~own.isfinite()
    radius = torch.where(failed, 0.0, 0.95 * own)
    correct = logits_of(model(inputs)).argmax(1) == labels
    fooled = torch.zeros_like(correct)
    shape = [-1, *[1] * (inputs.dim() - 1)]
    for _ in range(draws):
        normal = torch.randn(inputs.shape, generator=generator).to(inputs)
        noise = normal.sign() if distance_name == "linf" else normal
        noise = noise * (radius / norms_of(noise)[distance_name].to(inputs)).view(shape)
        uniform = torch.empty(inputs.shape).uniform_(*bounds, generator=generator).to(inputs)
        x = torch.where(failed.view(shape), uniform, (inputs + noise).clamp(*bounds))
        fooled |= logits_of(model(x)).argmax(1) != labels
    count, right = int((fooled & correct).sum()), int(correct.sum())
    if count <= threshold * right:
        return None
    seen = f"{draws} draws of it change {count} of {right} samples at a smaller {distance_name} distance"
    return Sign("noise", name, f"random noise beats white-box: {seen} than the attacks found")


def fails_unbounded(
    attack: Callable[..., Any], model: Model, inputs: Tensor, labels: Tensor, *,
    bounds: tuple[float, float] = (0.0, 1.0), name: str = "", threshold: float = 0.01, **options: Any,
) -> Sign | None:  # fmt: skip
    """A budgeted ``attack`` that is free to go anywhere within the bounds, and still fails. ``attack(model, inputs,
    labels, eps=..., **options)`` gets the width of the bounds as its radius; every classifier with more than one class
    can be fooled so, unless its gradients lead nowhere.
    """
    solution = attack(model, inputs, labels, eps=bounds[1] - bounds[0], **options)
    with torch.no_grad():
        fooled = logits_of(model(solution.x)).argmax(1) != labels
    failed = int((~fooled).sum())
    if failed <= threshold * len(inputs):
        return None
    seen = f"an attack without bound fails on {failed} of {len(inputs)} samples: its gradients lead nowhere"
    return Sign("unbounded", name, f"{seen}, and distances found with them overstate the robustness")


def success_falls(
    runs: Sequence[tuple[str, Mapping[str, Any], float]], name: str = "", *, tolerance: float = 0.01
) -> list[Sign]:
    """Recipes whose success falls as their budget grows: ``(recipe, options, success rate)`` on the same samples. Runs
    are compared that differ in nothing but ``eps``, or nothing but ``steps``.

    >>> runs = [("pgd", {"eps": 0.1, "steps": 40}, 0.9), ("pgd", {"eps": 0.2, "steps": 40}, 0.5)]
    >>> success_falls(runs)[0].message.split(":")[0]
    'success of pgd falls from 90.0% to 50.0% as eps grows from 0.1 to 0.2'
    """
    signs = []
    for budget in ("eps", "steps"):
        groups: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
        for recipe, options, success in runs:
            size = options.get(budget)
            if isinstance(size, (int, float)) and math.isfinite(size):
                rest = tuple(sorted((key, repr(value)) for key, value in options.items() if key != budget))
                groups.setdefault((recipe, rest), []).append((size, success))
        for (recipe, _), points in groups.items():
            points.sort()
            for (small, before), (large, after) in zip(points, points[1:]):
                if large > small and after < before - tolerance:
                    falls = f"success of {recipe} falls from {before:.1%} to {after:.1%}"
                    grows = f"as {budget} grows from {small:g} to {large:g}"
                    signs.append(Sign("budget", name, f"{falls} {grows}: its search is misled"))
    return signs
