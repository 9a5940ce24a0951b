"""``constropt solve``: recipes on a model and data, in memory, compared and drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import nn

from constropt.lab.attacks.plots import plot_curve, plot_failures, plot_grid, plot_label_maps
from constropt.lab.attacks.report import AttackReport, results_table, write_adversarial, write_results, write_summary
from constropt.lab.attacks.run import classes_of, evaluate, takes
from constropt.lab.attacks.targets import choose_targets, dense_targets
from constropt.lab.cli import shared
from constropt.lab.data.load import load_data
from constropt.lab.runs.specs import parse_options
from constropt.plotting import require_matplotlib
from constropt.problems.model_calls import logits_of
from constropt.problems.references import load_recipe

_OWN_FLAGS = {"distance", "steps", "penalty", "targets", "batch_size", "name", "measure", "progress"}


@shared.clean_errors
def solve_command(
    recipe: Annotated[list[str], typer.Argument(help="Names that `constropt recipes` lists, or module:function.")],
    data: shared.DataOption = "digits",
    model: Annotated[str | None, typer.Option(help="module:factory; for digits, default: a CNN trained here.")] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors or torch file of the model's state.")] = None,
    distance: Annotated[str | None, typer.Option(
        help="Minimised, or measured where a recipe has only its own; l2, for dense labels linf.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget; default: the recipe's own.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many samples of the test split, from its start.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples solved together.")] = 500,
    targeted: Annotated[bool, typer.Option("--targeted", help="Short for --targets next.")] = False,
    targets: Annotated[str | None, typer.Option(
        help="next, random, or a class: its own samples are left out. Dense labels: a class, majority,"
        " erase:CLASS (to the nearest other class) or A,B=C (A and B become C).")] = None,
    penalty: Annotated[str | None, typer.Option(help="Penalty function, where the recipe takes one.")] = None,
    option: shared.KeywordOption = None, seed: shared.SeedOption = 0, device: shared.DeviceOption = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder for figures, per-sample results and a summary.")] = None,
    progress: shared.ProgressOption = None,
) -> None:  # fmt: skip
    """Run recipes on a model and data, verify what they return, and compare them."""
    functions = _named_recipes(recipe)
    options = parse_options(option or [], _OWN_FLAGS)
    options |= {key: value for key, value in (("steps", steps), ("penalty", penalty)) if value is not None}
    for key in options:
        if not any(takes(function, key) for function in functions.values()):
            raise ValueError(f"option {key!r}: none of {', '.join(functions)} takes it")
    if out is not None:
        require_matplotlib()
    where = shared.usable_device(device)
    inputs, labels = load_data(data)
    dense = labels.dim() > 1
    distance = distance or ("linf" if dense else "l2")
    goal = ("majority" if dense else "next") if targeted and targets is None else targets
    if goal is not None and goal.isdecimal() and not dense:  # what is of that class already has nowhere to go
        inputs, labels = inputs[labels != int(goal)], labels[labels != int(goal)]
    inputs, labels = inputs[:samples], labels[:samples]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, described = shared.load_network(model, weights, data, where, seed, progress)
        if goal is None:
            chosen = None
        elif dense:
            chosen = dense_targets(goal, labels, lambda: load_data(data, split="train").labels)
        else:
            chosen = choose_targets(goal, labels, classes_of(network, inputs), seed=seed)
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
            with shared.bar(name, progress) as advance:
                reports.append(evaluate(
                    function, network, inputs, labels, batch_size=batch_size, targets=chosen, name=name,
                    measure=measure, progress=advance, **own,
                ))  # fmt: skip
    title = f"{len(labels)} samples of {data}, {described}" + ("" if goal is None else f", targets: {goal}")
    Console().print(results_table(reports, title=title))
    if out is not None:
        context = {"data": data, "model": described, "seed": seed, "targets": goal, "options": options}
        _write(out, reports, inputs, context)
        if dense:
            _write_label_maps(out, reports[0], inputs, network, where)
            norms = {r.name: np.where(r.columns["success"], r.columns["linf"], np.inf) for r in reports}
            plot_failures(norms, out / "failures.png", title=title)
        typer.echo(f"written to {out}")


def _named_recipes(given: list[str]) -> dict[str, Callable[..., Any]]:
    """The recipes by a name that tells them apart: the entry point's, or the function's."""
    found: dict[str, Callable[..., Any]] = {}
    for text in dict.fromkeys(given):
        name = text.rpartition(":")[2]
        found[text if name in found else name] = load_recipe(text)
    return found


def _write(out: Path, reports: list[AttackReport], inputs: torch.Tensor, context: dict[str, Any]) -> None:
    for report in reports:
        file_name = "".join(c if c.isalnum() or c in "_." else "-" for c in report.name)
        write_results(report, out / f"results-{file_name}.parquet")
        write_adversarial(report, out / f"adversarial-{file_name}.safetensors")
    write_summary(reports, out / "summary.json", **context)
    if len({report.distance_name for report in reports}) == 1:
        plot_curve(reports, out / "curve.png")
    if not reports[0].dense:
        plot_grid(inputs, reports[0], out / "grid.png")


@torch.no_grad()
def _write_label_maps(
    out: Path, report: AttackReport, inputs: torch.Tensor, network: nn.Module, device: torch.device
) -> None:
    """The picture of dense predictions: images and label maps, before and after."""
    clean, after = inputs[:4], report.adversarial[:4]
    logits = [logits_of(network(x.to(device))).cpu() for x in (clean, after)]
    maps = [z.argmax(1) for z in logits]
    plot_label_maps(clean, maps[0], after, maps[1], out / "grid.png", classes=logits[0].shape[1])
