"""``constropt reproduce table-4.1``: the tables of the thesis on small models, or on those that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from constropt.lab.attacks.reproduce import reproduce as reproduce_table
from constropt.lab.attacks.reproduce import reproduction_table, thesis_table, write_reproduction
from constropt.lab.cli.calibration import MethodsOption
from constropt.lab.cli.evaluate import (
    FreshOption,
    ModelsOption,
    ShardOption,
    ShardsOption,
    WeightsOption,
    finished,
    first_samples,
    shard_number,
    warn,
)
from constropt.lab.cli.metric_learning import reproduce_figure
from constropt.lab.cli.shared import (
    DeviceOption,
    ProgressOption,
    SeedOption,
    bar,
    clean_errors,
    named_networks,
    usable_device,
)
from constropt.lab.cli.studies import (
    DATA,
    DEFAULT_FOLDER,
    SeedsOption,
    data_folder,
    reproduce_study,
    seeds_of,
    study_table,
    study_tables,
)

_MODELS, _CIFAR = "constropt.lab.models.small", "constropt.lab.models.cifar_models"

# what is typed in vain for another kind of table, by kind
_ATTACKS = {"model", "weights", "samples", "steps", "batch_size", "signs", "shards", "shard", "seed"}
_STUDY = {"method", "seeds", "epochs"}
_FIGURE = {"samples", "seed", "epochs"}
FIGURE = "figure-I-1"

# by data set: where it is below the data folder, and name, factory and weights of the models
_DEFAULTS = {
    "mnist": (
        "mnist:{}/mnist",
        {
            "mnist_cnn": (f"{_MODELS}:mnist_cnn", "weights/mnist/mnist_conv_small_nat.pth"),
            "madry_cnn": (f"{_MODELS}:madry_cnn", "weights/mnist/MadryCNN_no_maxpool_tiny.pt"),
        },
    ),
    "cifar10": (
        "cifar10:{}/cifar10/cifar10_test.npz",
        {
            "resnet20": (f"{_CIFAR}:cifar_resnet20", "weights/cifar10_resnet/resnet20-12fca82f.th"),
            "cnn_a": (f"{_CIFAR}:cifar_cnn_a", "weights/cifar10_robust/cifar_cnn_a_mix.model"),
            "resnet4b": (f"{_CIFAR}:cifar_resnet4b", "weights/cifar10_robust/resnet4b.pth"),
        },
    ),
}


@clean_errors
def reproduce(
    context: typer.Context,
    table: Annotated[
        str,
        typer.Argument(
            help="table-2.4, table-3.1 to table-3.6, table-4.1, table-4.2, table-6.1 to 6.3, table-V-1 to V-3; or"
            " figure-I-1."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; default: out/TABLE, out/calibration, out/retrieval.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="As for solve; of what is trained (2.4, 6.1 to V-3) names of data sets, with commas. Default: what the"
            f" folder {DATA} ({DEFAULT_FOLDER}) has, else digits."
        ),
    ] = None,
    model: ModelsOption = None,
    weights: WeightsOption = None,
    samples: Annotated[int | None, typer.Option(min=1, help="The first of the test split; 100 by default.")] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Budgets above are cut to this; 90000 cuts none (hours to days).")
    ] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples solved together, and lost together by a kill.")] = 100,
    signs: Annotated[bool, typer.Option(help="Look for signs that the figures mislead.")] = True,
    shards: ShardsOption = 1,
    shard: ShardOption = None,
    fresh: FreshOption = False,
    seed: SeedOption = 0,
    method: MethodsOption = None,
    seeds: SeedsOption = "0,1,2",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of what is trained; default: the table's.")] = None,
    device: DeviceOption = "cpu",
    progress: ProgressOption = None,
) -> None:
    """Run a table of the thesis and print it with the published figures; a killed run continues."""
    study = study_table(table)
    if table.lower() == FIGURE.lower():
        _refuse_others(context, _FIGURE, FIGURE)
        reproduce_figure(data, out, samples=samples, epochs=epochs, seed=seed, device=device, progress=progress)
        return
    _refuse_others(context, _STUDY if study else _ATTACKS, study[0] if study else table)
    if study:
        reproduce_study(
            *study,
            out=out,
            data=data,
            methods=method,
            seeds=seeds_of(seeds),
            epochs=epochs,
            fresh=fresh,
            device=device,
            progress=progress,
        )
        return
    try:
        wanted = thesis_table(table)
    except ValueError as error:
        raise ValueError(f"{error}, {', '.join([*study_tables(), FIGURE])}") from None
    place = shard_number(shard, shards)
    folder = out or Path("out") / wanted.name
    chosen, models, files = _defaults(wanted.data, data, model or [], weights or [])
    inputs, labels = first_samples(chosen, samples)
    networks, described = named_networks(models, files, chosen, folder, usable_device(device), seed, progress)
    with bar(wanted.name, progress) as advance:
        found = reproduce_table(
            wanted,
            networks,
            inputs,
            labels,
            out=folder,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            shard=place,
            shards=shards,
            fresh=fresh,
            about={"data": chosen, "references": described, "table": wanted.name},
            look_for_signs=signs,
            warn=warn,
            progress=lambda _, done, total: advance(done, total),
        )
    if finished(found.evaluation):
        path = write_reproduction(found)
        Console().print(reproduction_table(found))
        typer.echo(f"written to {path.parent}: {path.name}, and summary.md with every model")


def _refuse_others(context: typer.Context, options: set[str], table: str) -> None:
    """``ValueError`` where an option was typed that belongs to other tables than this."""
    for name in sorted((_ATTACKS | _STUDY | _FIGURE) - options):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--{name.replace('_', '-')}: not an option of {table}")


def _defaults(kind: str, data: str | None, models: list[str], weights: list[Path]) -> tuple[str, list[str], list[Path]]:
    """Data and models that were given, and the small ones of the data folder for those that were not."""
    if data is not None:
        return data, models, weights
    root = data_folder()
    if kind not in _DEFAULTS:
        raise ValueError(f"--data: needed for {kind}, of which nothing small is around; give --model too")
    spec, known = _DEFAULTS[kind]
    spec = spec.format(root)
    here = {name: (factory, root / file) for name, (factory, file) in known.items() if (root / file).is_file()}
    if not Path(spec.partition(":")[2]).exists() or not (models or here):
        if models:
            raise ValueError(f"--data: needed with --model, since {DATA} ({root}) has no {kind}")
        typer.echo(f"note: {root} has no {kind} data and models (set {DATA}); running on digits instead", err=True)
        return "digits", [], []
    if models:
        return spec, models, weights
    return spec, [f"{name}={factory}" for name, (factory, _) in here.items()], [file for _, file in here.values()]
