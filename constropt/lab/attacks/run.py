"""Run a recipe over a data set, batch by batch, and verify, measure and count everything that it claims. What a recipe
takes is declared by the recipe itself, or read from the signature of a function of the user's own.
"""

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from constropt.checks import got, require_one_of, require_whole
from constropt.lab.attacks.columns import NORMS, Measure, verified
from constropt.lab.attacks.counting import PassCounter, counted, synchronize, time_pass
from constropt.lab.attacks.report import AttackReport
from constropt.near_names import near_names
from constropt.problems.attacks.constraints import NU
from constropt.problems.dense_metrics import mean_iou_of
from constropt.problems.model_calls import logits_of
from constropt.solution import Solution

_GIVEN = 3  # the first parameters of a recipe are model, inputs and labels


@runtime_checkable
class Declared(Protocol):
    """A recipe that says itself which options it takes, with their defaults, and why it does not take a distance."""

    @property
    def options(self) -> Mapping[str, Any]: ...
    def takes(self, option: str) -> bool: ...
    def refusal(self, distance: str) -> str | None: ...


def takes(recipe: Callable[..., Any], option: str, *, by_name: bool = False) -> bool:
    """Whether ``recipe`` has a parameter of that name or, unless ``by_name``, takes any.

    >>> takes(lambda model, inputs, labels, *, steps=100: None, "distance")
    False
    """
    declared, _ = _declared(recipe)
    if declared is not None:
        return declared.takes(option)
    named, anything = _parameters(recipe)
    return option in named or (anything and not by_name)


def options_of(recipe: Callable[..., Any]) -> dict[str, Any]:
    """The options of ``recipe`` with their defaults, ``inspect.Parameter.empty`` for those without.

    >>> options_of(lambda model, inputs, labels, *, steps=100: None)
    {'steps': 100}
    """
    declared, fixed = _declared(recipe)
    if declared is not None:
        return {**declared.options, **fixed}
    return dict(list(_parameters(recipe)[0].items())[_GIVEN:])


def setting(recipe: Callable[..., Any], options: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """What ``recipe`` will use for ``name``: that of the ``options``, else its own default, else ``otherwise``."""
    value = options.get(name, options_of(recipe).get(name, otherwise))
    return otherwise if value is inspect.Parameter.empty else value


def check_options(recipe: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
    """``ValueError`` for an option that ``recipe`` does not take, naming the near ones and all that it takes."""
    if not callable(recipe):
        raise TypeError(f"recipe: takes a function, got {type(recipe).__name__}")
    for option in options:
        if not takes(recipe, option):
            named = options_of(recipe)
            hint = near_names(option, named, "did you mean {}? ")
            raise ValueError(f"recipe {name!r}: no option {option!r}; {hint}it takes {', '.join(named) or 'none'}")


def refusal(recipe: Callable[..., Any], distance: str) -> str | None:
    """Why ``recipe`` does not take ``distance``, as far as it says so without being run; ``None`` if it may."""
    declared, _ = _declared(recipe)
    return None if declared is None else declared.refusal(distance)


def _declared(recipe: Callable[..., Any]) -> tuple[Declared | None, Mapping[str, Any]]:
    """The recipe as one that declares itself, or ``None``, and what a ``functools.partial`` of it holds fast."""
    inner, fixed = (recipe.func, recipe.keywords) if isinstance(recipe, partial) else (recipe, {})
    return (inner if isinstance(inner, Declared) else None), fixed


def _parameters(recipe: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Names and defaults of what the recipe takes, and whether it takes any other name (or does not say)."""
    try:
        parameters = inspect.signature(recipe).parameters.values()
    except (TypeError, ValueError):
        return {}, True
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {p.name: p.default for p in parameters if p.kind not in variadic}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


@dataclass(frozen=True)
class BatchResult:
    """What a recipe gave on one batch; ``columns`` and ``confusions`` are those of ``verified``."""

    solution: Solution
    columns: dict[str, np.ndarray]
    confusions: dict[str, Tensor]
    forwards: int
    backwards: int | None
    seconds: float


def evaluate(
    recipe: Callable[..., Solution], model: Callable[[Tensor], Any], inputs: Tensor, labels: Tensor, *,
    batch_size: int = 500, targets: Tensor | None = None, name: str | None = None, measure: str | None = None,
    progress: Callable[[int, int], None] | None = None, **options: Any,
) -> AttackReport:  # fmt: skip
    """Run ``recipe(model, inputs, labels, targets=..., **options)`` on batches and report every sample.

    ``inputs`` ``(samples, *event)`` and the labels and targets, ``(samples,)`` or ``(samples, *pixels)`` for dense
    predictions, may lie on another device than the model; batches are moved to it. A dense prediction is a success when
    the fraction ``nu`` (the recipe's option, 0.99 by default) of the pixels not labelled ``ignore_index`` (255) is.
    ``measure``, a norm, is what the ``distance`` column holds; by default the recipe's own distance, recomputed where
    it is a norm. ``progress(done, samples)`` is called after every batch. ``options`` go to the recipe as they are.

    Raises ``ValueError``/``TypeError`` before the first model call for mismatched data, a model in training mode or
    options that the recipe does not take, and ``TypeError`` when the recipe returns no :class:`Solution`.
    """
    name = name or str(getattr(recipe, "__name__", type(recipe).__name__))
    _check_data(model, inputs, labels, targets, batch_size, measure)
    check_options(recipe, name, options if targets is None else {**options, "targets": targets})
    device = device_of(model, inputs)
    how = measure_of(recipe, options, measure)
    counter = PassCounter()
    batches: list[dict[str, np.ndarray]] = []
    adversarial: list[Tensor] = []
    confusions: dict[str, Tensor] = {}
    wall_time = pass_time = 0.0
    for start in range(0, inputs.shape[0], batch_size):
        rows = slice(start, start + batch_size)
        x, y = inputs[rows].to(device), labels[rows].to(device)
        t = None if targets is None else targets[rows].to(device)
        before = time_pass(model, x, warm_up=start == 0)
        batch = run_batch(recipe, model, x, y, t, options, how, name=name, counter=counter)
        wall_time += batch.seconds
        pass_time += (before + time_pass(model, x)) / 2  # both ends, since the load of a machine drifts
        adversarial.append(batch.solution.x.detach().cpu())
        batches.append(batch.columns)
        confusions = {key: count + confusions.get(key, 0) for key, count in batch.confusions.items()}
        if progress is not None:
            progress(min(start + batch_size, inputs.shape[0]), inputs.shape[0])

    columns = {"index": np.arange(inputs.shape[0])}
    columns |= {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    steps = setting(recipe, options, "steps", None)
    if not isinstance(steps, int):  # a recipe without a budget in steps: as many as the model was asked
        steps = max(1, round(counter.forwards / inputs.shape[0]))
    return AttackReport(
        name=name, distance_name=how.distance_name, targeted=targets is not None, steps=steps, columns=columns,
        adversarial=torch.cat(adversarial), counted_forwards=counter.forwards, counted_backwards=counter.backwards,
        wall_time=wall_time, model_time=steps * pass_time, labels=labels.detach().cpu(),
        figures=_dense_figures(confusions),
    )  # fmt: skip


def run_batch(
    recipe: Callable[..., Solution], model: Callable[[Tensor], Any], inputs: Tensor, labels: Tensor,
    targets: Tensor | None, options: Mapping[str, Any], how: Measure, *, name: str,
    counter: PassCounter | None = None,
) -> BatchResult:  # fmt: skip
    """One batch through ``recipe``, its passes counted and timed, and what it returns verified. ``counter`` goes on
    counting where earlier batches ended; the result's counts are then those of all of them. Raises ``TypeError`` when
    the recipe returns no :class:`Solution` with one x per input.
    """
    counter = PassCounter() if counter is None else counter
    extra = {} if targets is None else {"targets": targets}
    synchronize(inputs.device)
    clock = time.perf_counter()
    with counted(model, counter) as watched:
        solution = recipe(watched, inputs, labels, **extra, **options)
    synchronize(inputs.device)
    seconds = time.perf_counter() - clock
    if not isinstance(solution, Solution) or solution.x.shape != inputs.shape:
        raise TypeError(f"recipe {name!r}: must return a Solution with one x per input, got {solution!r:.80}")
    columns, confusions = verified(model, solution, inputs, labels, targets, how)
    return BatchResult(solution, columns, confusions, counter.forwards, counter.backwards, seconds)


def measure_of(recipe: Callable[..., Any], options: Mapping[str, Any], measure: str | None = None) -> Measure:
    """How the results of ``recipe`` under these ``options`` are judged; ``measure`` replaces its own distance."""
    distance = measure or setting(recipe, options, "distance", "objective")
    name = distance if isinstance(distance, str) else getattr(distance, "__name__", type(distance).__name__)
    bounds, nu = checked_bounds(setting(recipe, options, "bounds", (0.0, 1.0))), setting(recipe, options, "nu", None)
    return Measure(name, bounds, float(NU if nu is None else nu), int(setting(recipe, options, "ignore_index", 255)))


def _dense_figures(confusions: dict[str, Tensor]) -> dict[str, float]:
    """What is counted over all pixels of all samples: accuracy on the clean inputs, mIoU before and after."""
    if not confusions:
        return {}
    clean, adversarial = confusions["clean"].double(), confusions["adversarial"].double()
    accuracy = (clean.trace() / clean.sum()).item()
    return {"clean_accuracy": accuracy, "clean_miou": mean_iou_of(clean), "miou": mean_iou_of(adversarial)}


def device_of(model: Callable[[Tensor], Any], inputs: Tensor) -> torch.device:
    """Where the model's parameters are; where it has none, where the inputs are."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return inputs.device if parameter is None else parameter.device


@torch.no_grad()
def classes_of(model: Callable[[Tensor], Any], inputs: Tensor) -> int:
    """How many classes the model has, by one pass of one of the ``inputs``."""
    return logits_of(model(inputs[:1].to(device_of(model, inputs)))).shape[1]


def _check_data(
    model: Callable[[Tensor], Any], inputs: Tensor, labels: Tensor, targets: Tensor | None, batch_size: int,
    measure: str | None,
) -> None:  # fmt: skip
    if isinstance(model, nn.Module) and model.training:
        raise ValueError("model: is in training mode, where its answers change from call to call; call model.eval()")
    if inputs.dim() < 2 or inputs.shape[0] == 0:
        raise ValueError(f"inputs: takes (samples, *event) with at least one sample, got shape {tuple(inputs.shape)}")
    plain, dense = (len(inputs),), (len(inputs), *inputs.shape[2:])
    for what, values in (("labels", labels), ("targets", targets)):
        if values is not None and (values.shape not in (plain, dense) or values.shape != labels.shape):
            takes_one = f"takes shape {plain}, one per input, or {dense}, one per pixel"
            raise ValueError(f"{what}: {takes_one}, got {got(values)}")
    require_whole(batch_size=batch_size)
    if measure is not None:
        require_one_of("measure", measure, NORMS)


def checked_bounds(bounds: Any) -> tuple[float, float]:
    """The bounds as numbers, or ``ValueError`` unless they are a pair, the lower one first."""
    try:
        low, high = bounds
        if float(low) < float(high):
            return float(low), float(high)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"bounds: takes a pair of numbers (low, high) with low < high, got {bounds!r}")
