"""``constropt evaluate``: recipes on models over a data set, into a folder that a killed run leaves resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from torch import Tensor

from constropt.lab.attacks.examine import load_transfer
from constropt.lab.attacks.outputs import terminal_tables, write_evaluation
from constropt.lab.attacks.sharded import AttackEvaluation, RunSettings, run_evaluation
from constropt.lab.attacks.signs import Sign
from constropt.lab.cli import shared
from constropt.lab.data.load import load_data
from constropt.lab.runs.specs import parse_options, parse_recipe

_DEFAULT_SAMPLES = 100
_OWN_FLAGS = {"distance", "steps", "eps", "targets", "seed"}

_MODELS = (
    "module:factory, robustbench:NAME:DATASET:THREAT, timm:NAME or hf:NAME, after NAME= if it should have a name; again"
    " for more models. For digits and scenes, default: one trained here."
)
_WEIGHTS = "safetensors or torch file, one per --model in the same order."
ModelsOption = Annotated[list[str] | None, typer.Option("--model", help=_MODELS)]
WeightsOption = Annotated[list[Path] | None, typer.Option("--weights", help=_WEIGHTS)]
SamplesOption = Annotated[int | None, typer.Option(min=1, help="The first of the test split; 100 by default.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Samples solved together, and lost together by a kill.")]
SignsOption = Annotated[bool, typer.Option(help="Look for signs that the figures mislead.")]
ShardsOption = Annotated[int, typer.Option(min=1, help="How many processes share the folder.")]
ShardOption = Annotated[int | None, typer.Option(help="Which of them this one is, from 0.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Remove the run that is in --out and begin anew.")]


@shared.clean_errors
def evaluate_command(
    recipe: Annotated[list[str], typer.Argument(
        help='Names that `constropt recipes` lists, or module:function; "fmn[steps=50,alpha=2]".')],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command continues what is in it.")],
    data: shared.DataOption = "digits", model: ModelsOption = None, weights: WeightsOption = None,
    samples: SamplesOption = None, batch_size: BatchOption = 100,
    distance: Annotated[list[str] | None, typer.Option(
        help="Again for more; l2 by default, for dense labels linf.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget of all recipes that take one.")] = None,
    eps: Annotated[float | None, typer.Option(help="Radius of all recipes that take one.")] = None,
    option: shared.KeywordOption = None,
    targets: Annotated[str | None, typer.Option(
        help="next, random, a class (its samples are left out), or all other classes.")] = None,
    radius: Annotated[list[float] | None, typer.Option(help="Report the robust accuracy here; again for more.")] = None,
    transfer_from: Annotated[Path | None, typer.Option(
        help="Folder or adversarial file of a run on other models, to be tried on these.")] = None,
    signs: SignsOption = True, shards: ShardsOption = 1, shard: ShardOption = None, fresh: FreshOption = False,
    seed: shared.SeedOption = 0, device: shared.DeviceOption = "cpu", progress: shared.ProgressOption = None,
) -> None:  # fmt: skip
    """Run recipes over a data set in batches, verify, count and summarise; a killed run continues."""
    options = parse_options(option or [], _OWN_FLAGS)
    options |= {key: value for key, value in (("steps", steps), ("eps", eps)) if value is not None}
    place = shard_number(shard, shards)
    specs = [parse_recipe(text) for text in recipe]
    for spec in specs:
        spec.load()  # a name that does not exist is not found out after a network was trained
    inputs, labels = first_samples(data, samples, targets)
    dense = labels.dim() > 1
    where = shared.usable_device(device)
    networks, described = shared.named_networks(model or [], weights or [], data, out, where, seed, progress)
    transfer = {} if transfer_from is None else load_transfer(transfer_from, inputs, labels)
    settings = RunSettings(
        distances=distance or (["linf"] if dense else ["l2"]), targets=targets, options=options,
        batch_size=batch_size, seed=seed, radii=radius or [], shard=place, shards=shards, fresh=fresh,
        about={"data": data, "references": described}, transfer=transfer, look_for_signs=signs,
    )  # fmt: skip
    with shared.bar("evaluate", progress) as advance:
        found = run_evaluation(
            specs, networks, inputs, labels, out=out, settings=settings, warn=warn,
            progress=lambda _, done, total: advance(done, total),
        )  # fmt: skip
    if finished(found):
        for table in terminal_tables(found):
            Console().print(table)
        typer.echo(f"written to {out}")


def first_samples(data: str, samples: int | None, targets: str | None = None) -> tuple[Tensor, Tensor]:
    """The samples that a command runs on; those that are of the target class already have nowhere to go."""
    inputs, labels = load_data(data)
    if targets is not None and targets.isdecimal() and labels.dim() == 1:
        inputs, labels = inputs[labels != int(targets)], labels[labels != int(targets)]
    if samples is not None and samples > len(labels):
        raise ValueError(f"--samples: {data} has {len(labels)}, got {samples}")
    count = min(_DEFAULT_SAMPLES, len(labels)) if samples is None else samples
    return inputs[:count], labels[:count]


def shard_number(shard: int | None, shards: int) -> int:
    """The number of this process among ``shards``."""
    if shard is None:
        if shards > 1:
            raise ValueError(f"--shard: needed with --shards {shards}: a number from 0 to {shards - 1}")
        return 0
    if not 0 <= shard < shards:
        raise ValueError(f"--shard: of {shards}, takes a number from 0 to {shards - 1}, got {shard}")
    return shard


def warn(sign: Sign) -> None:
    """One line on stderr."""
    typer.echo(f"warning: {sign}", err=True)


def finished(found: AttackEvaluation) -> bool:
    """Write what a complete run found; otherwise say what is missing. Notes go to stderr."""
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    if not found.complete:
        there = f"{found.done} of {found.total} batches are in {found.out}"
        typer.echo(f"{there}; the summary follows with the last of them")
        return False
    for remark in write_evaluation(found):
        typer.echo(f"note: {remark}", err=True)
    return True
