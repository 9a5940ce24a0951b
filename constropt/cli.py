"""The command line: ``constropt solve``, ``constropt train classifier``, ``constropt recipes``.

Nothing that is typed is executed, except that the modules named are imported. A user's error is one line and exit
code 2; ``CONSTROPT_DEBUG=1`` shows where it arose instead.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from constropt import evaluation
from constropt.evaluation.counting import logits_of
from constropt.evaluation.plots import plot_failures, plot_label_maps, require_matplotlib
from constropt.evaluation.run import takes
from constropt.evaluation.segmentation import pixel_accuracy
from constropt.evaluation.targets import dense_targets

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
train_app = typer.Typer(no_args_is_help=True, help="Train models to run recipes on.", rich_markup_mode=None)
app.add_typer(train_app, name="train")

# by name: the library does not import its own problems, and these are only the defaults of what a user may type
_TRAINERS = {  # by whether labels are dense
    False: "constropt.problems.classifier:train_classifier",
    True: "constropt.problems.segmenter:train_segmenter",
}
_ARCHITECTURES: dict[tuple[int, ...], str] = {
    (1, 8, 8): "constropt.problems.models:digits_cnn",
    (1, 28, 28): "constropt.problems.models:small_cnn",
    (3, 64, 64): "constropt.problems.unet:unet",
}
_EMBEDDED = {"digits": 10, "scenes": 5}  # data that a model is trained on by default, and for how many epochs
_OWN_FLAGS = {"distance", "steps", "penalty", "targets", "batch_size", "name", "measure", "progress"}

Command = TypeVar("Command", bound=Callable[..., Any])
_KINDS = "; ".join(f"{kind}: {text}" for kind, text in evaluation.KINDS.items())
DataOption = Annotated[str, typer.Option(help=f"Data set. {_KINDS}.")]
DeviceOption = Annotated[str, typer.Option(help="Where the model runs, as torch names it: cpu, cuda, cuda:1.")]
ProgressOption = Annotated[bool | None, typer.Option(help="Progress bars; by default only in a terminal.")]
SeedOption = Annotated[int, typer.Option(help="Seed of everything that is drawn at random.")]


def main() -> None:
    """The entry point of the ``constropt`` script."""
    app()


def _clean_errors(command: Command) -> Command:
    """Turn the errors that bad input raises into one line on stderr and exit code 2."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, ImportError, OSError) as error:
            if os.environ.get("CONSTROPT_DEBUG"):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None

    return guarded  # type: ignore[return-value]


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"constropt {version('constropt')}")
        except PackageNotFoundError:
            typer.echo("constropt (not installed)")
        raise typer.Exit


@app.callback()
def _app(
    _: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Its version.")] = False,
) -> None:
    """Constrained optimization on PyTorch: run attacks and other recipes on your models and data."""


@app.command()
@_clean_errors
def recipes() -> None:
    """List the installed recipes."""
    entries = evaluation.recipe_entries()
    if not entries:
        raise ValueError("no recipes are registered; is constropt installed (pip install -e .)?")
    for name, entry in entries.items():
        try:
            text = (inspect.getdoc(evaluation.load_recipe(name)) or "").partition("\n")[0]
            text = re.sub(r":\w+:`~?([\w.]*\.)?([^`]*)`", r"\2", text).replace("``", "")
        except ValueError as error:
            text = f"not available: {error}"
        typer.echo(f"{name:12} {text} [{entry.value}]")


@app.command()
@_clean_errors
def solve(
    recipe: Annotated[list[str], typer.Argument(help="Names that `constropt recipes` lists, or module:function.")],
    data: DataOption = "digits",
    model: Annotated[str | None, typer.Option(help="module:factory; for digits, default: a CNN trained here.")] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors or torch file of the model's state.")] = None,
    distance: Annotated[
        str | None,
        typer.Option(help="Minimised, or measured where a recipe has only its own; l2, for dense labels linf."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget; default: the recipe's own.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many samples of the test split, from its start.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples solved together.")] = 500,
    targeted: Annotated[bool, typer.Option("--targeted", help="Short for --targets next.")] = False,
    targets: Annotated[
        str | None,
        typer.Option(
            help="next, random, or a class: its own samples are left out. Dense labels: a class, majority,"
            " erase:CLASS (to the nearest other class) or A,B=C (A and B become C)."
        ),
    ] = None,
    penalty: Annotated[str | None, typer.Option(help="Penalty function, where the recipe takes one.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help="Other keyword: JSON or text.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder for figures, per-sample results and a summary.")] = None,
    progress: ProgressOption = None,
) -> None:
    """Run recipes on a model and data, verify what they return, and compare them."""
    functions = _named_recipes(recipe)
    options = _parse_options(option or [])
    options |= {key: value for key, value in (("steps", steps), ("penalty", penalty)) if value is not None}
    for key in options:
        if not any(takes(function, key) for function in functions.values()):
            raise ValueError(f"option {key!r}: none of {', '.join(functions)} takes it")
    if out is not None:
        require_matplotlib()
    where = _device(device)
    inputs, labels = evaluation.load_data(data)
    dense = labels.dim() > 1
    distance = distance or ("linf" if dense else "l2")
    goal = ("majority" if dense else "next") if targeted and targets is None else targets
    if goal is not None and goal.isdecimal() and not dense:  # what is of that class already has nowhere to go
        inputs, labels = inputs[labels != int(goal)], labels[labels != int(goal)]
    inputs, labels = inputs[:samples], labels[:samples]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, described = _model(model, weights, data, where, seed, progress)
        if goal is None:
            chosen = None
        elif dense:
            chosen = dense_targets(goal, labels, lambda: evaluation.load_data(data, split="train").labels)
        else:
            chosen = evaluation.choose_targets(goal, labels, _classes(network, inputs), seed=seed)
        reports = []
        for name, function in functions.items():
            own = {key: value for key, value in options.items() if takes(function, key)}
            if takes(function, "distance"):
                own["distance"], measure = distance, None
            else:
                measure = distance
            if takes(function, "seed", by_name=True):
                own.setdefault("seed", seed)
            torch.manual_seed(seed)
            with _bar(name, progress) as advance:
                reports.append(
                    evaluation.evaluate(
                        function,
                        network,
                        inputs,
                        labels,
                        batch_size=batch_size,
                        targets=chosen,
                        name=name,
                        measure=measure,
                        progress=advance,
                        **own,
                    )
                )
    title = f"{len(labels)} samples of {data}, {described}" + ("" if goal is None else f", targets: {goal}")
    Console().print(evaluation.results_table(reports, title=title))
    if out is not None:
        context = {"data": data, "model": described, "seed": seed, "targets": goal, "options": options}
        _write(out, reports, inputs, context)
        if dense:
            _write_label_maps(out, reports[0], inputs, network, where)
            norms = {r.name: np.where(r.columns["success"], r.columns["linf"], np.inf) for r in reports}
            plot_failures(norms, out / "failures.png", title=title)
        typer.echo(f"written to {out}")


@train_app.command("classifier")
@_clean_errors
def train_classifier(
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    data: DataOption = "digits",
    model: Annotated[str | None, typer.Option(help="module:factory; default: a small CNN by image size.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 20,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    progress: ProgressOption = None,
) -> None:
    """Train a classifier on the training split and save its weights."""
    if out.suffix != ".safetensors":
        raise ValueError(f"--out: takes a file that ends in .safetensors, got {out}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, described = _trained(model, data, _device(device), seed, epochs, progress)
    evaluation.save_weights(network, out)
    typer.echo(f"{described}\nwritten to {out}")


def _named_recipes(given: list[str]) -> dict[str, Callable[..., Any]]:
    """The recipes by a name that tells them apart: the entry point's, or the function's."""
    found: dict[str, Callable[..., Any]] = {}
    for text in dict.fromkeys(given):
        name = text.rpartition(":")[2]
        found[text if name in found else name] = evaluation.load_recipe(text)
    return found


def _parse_options(given: list[str]) -> dict[str, Any]:
    """``key=value`` texts as keywords: the value is JSON, or text where it is not (``penalty=P3``)."""
    options: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise ValueError(f"--option: takes key=value, got {text!r}")
        if key in _OWN_FLAGS:
            raise ValueError(f"--option: {key} has a flag of its own or is set by the evaluation")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError as error:
            if value[:1] in '[{"':
                raise ValueError(f"--option: {key} is no valid JSON ({error})") from None
            options[key] = value
    return options


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: {name!r} is not usable here ({str(error).splitlines()[0]})") from None
    return device


def _model(
    reference: str | None, weights: Path | None, data: str, device: torch.device, seed: int, progress: bool | None
) -> tuple[nn.Module, str]:
    """The model to run on and a description of it; trained here only where the user names neither model nor weights."""
    if reference is None and weights is None:
        if data not in _EMBEDDED:
            known = " and ".join(_EMBEDDED)
            raise ValueError(f"--model: needed for data {data!r} (only for {known} a model is trained by default)")
        return _trained(None, data, device, seed, _EMBEDDED[data], progress)
    if reference is None:
        reference = _architecture(evaluation.load_data(data).inputs.shape[1:])
    origin = f" from {weights}" if weights else ""
    return evaluation.load_model(reference, weights, device=device), f"{reference}{origin}"


def _trained(
    reference: str | None, data: str, device: torch.device, seed: int, epochs: int, progress: bool | None
) -> tuple[nn.Module, str]:
    train, test = (evaluation.load_data(data, split=split) for split in ("train", "test"))
    reference = reference or _architecture(train.inputs.shape[1:])
    network = evaluation.load_model(reference, device=device)
    trainer = evaluation.load_reference(_TRAINERS[train.labels.dim() > 1], what="trainer")
    start = time.perf_counter()
    with _bar("training", progress) as advance:
        trainer(network, train.inputs, train.labels, epochs=epochs, seed=seed, progress=lambda e, n, _: advance(e, n))
    seconds = time.perf_counter() - start
    with torch.no_grad():
        predictions = torch.cat([logits_of(network(x.to(device))).argmax(1).cpu() for x in test.inputs.split(100)])
    # no class of a classifier is the value that ignores a pixel of a label map
    accuracy = pixel_accuracy(predictions, test.labels, ignore_index=255 if test.labels.dim() > 1 else None)
    return network, f"{reference} trained for {seconds:.0f} s, test accuracy {accuracy:.1%}"


def _architecture(shape: Sequence[int]) -> str:
    known = _ARCHITECTURES.get(tuple(shape))
    if known is None:
        raise ValueError(f"--model: needed for images of shape {tuple(shape)}, for which there is no default")
    return known


@torch.no_grad()
def _classes(network: nn.Module, inputs: torch.Tensor) -> int:
    return logits_of(network(inputs[:1].to(next(network.parameters()).device))).shape[1]


@contextmanager
def _bar(name: str, shown: bool | None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, and the function ``(done, total)`` that moves it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not (console.is_terminal if shown is None else shown)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _write(out: Path, reports: list[evaluation.AttackReport], inputs: torch.Tensor, context: dict[str, Any]) -> None:
    for report in reports:
        file_name = "".join(c if c.isalnum() or c in "_." else "-" for c in report.name)
        evaluation.write_results(report, out / f"results-{file_name}.parquet")
        evaluation.write_adversarial(report, out / f"adversarial-{file_name}.safetensors")
    evaluation.write_summary(reports, out / "summary.json", **context)
    if len({report.distance_name for report in reports}) == 1:
        evaluation.plot_curve(reports, out / "curve.png")
    if not reports[0].dense:
        evaluation.plot_grid(inputs, reports[0], out / "grid.png")


@torch.no_grad()
def _write_label_maps(
    out: Path, report: evaluation.AttackReport, inputs: torch.Tensor, network: nn.Module, device: torch.device
) -> None:
    """The picture of dense predictions: images and label maps, before and after."""
    clean, after = inputs[:4], report.adversarial[:4]
    logits = [logits_of(network(x.to(device))).cpu() for x in (clean, after)]
    before_map, after_map = (z.argmax(1) for z in logits)
    plot_label_maps(clean, before_map, after, after_map, out / "grid.png", classes=logits[0].shape[1])
