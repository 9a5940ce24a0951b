"""``constropt reproduce table-4.1``: the tables of the thesis on small models, or on those that are given. They are
known by kind: what may be typed beside a name, and what runs the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from constropt.lab.attacks.sharded import RunSettings
from constropt.lab.attacks.table_runs import reproduce, reproduction_table, thesis_table, write_reproduction
from constropt.lab.attacks.thesis_tables import TABLES
from constropt.lab.cli import evaluate as evaluating
from constropt.lab.cli import shared
from constropt.lab.cli.train import MethodsOption
from constropt.lab.data.load import load_data
from constropt.lab.data.readers import LabelledData
from constropt.lab.models.small import cifar_cnn_a, cifar_resnet4b, cifar_resnet20, madry_cnn, mnist_cnn
from constropt.lab.runs.specs import named_table, reference_of
from constropt.lab.studies.catalogue import STUDIES
from constropt.lab.studies.kind import StudyKind
from constropt.lab.studies.metric_learning.figures import SETTINGS, figure_one
from constropt.lab.studies.tables import TableSettings, run_table
from constropt.plotting import require_matplotlib

_FIGURE_SAMPLES = 6000
# by data set: where it is below the data folder, and name, factory and weights of the models
_DEFAULTS = {
    "mnist": ("mnist:{}/mnist", {
        "mnist_cnn": (reference_of(mnist_cnn), "weights/mnist/mnist_conv_small_nat.pth"),
        "madry_cnn": (reference_of(madry_cnn), "weights/mnist/MadryCNN_no_maxpool_tiny.pt"),
    }),
    "cifar10": ("cifar10:{}/cifar10/cifar10_test.npz", {
        "resnet20": (reference_of(cifar_resnet20), "weights/cifar10_resnet/resnet20-12fca82f.th"),
        "cnn_a": (reference_of(cifar_cnn_a), "weights/cifar10_robust/cifar_cnn_a_mix.model"),
        "resnet4b": (reference_of(cifar_resnet4b), "weights/cifar10_robust/resnet4b.pth"),
    }),
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """All that can be typed beside the name of a table; what a table does not take is refused before."""

    out: Path | None
    data: str | None
    models: list[str]
    weights: list[Path]
    samples: int | None
    steps: int
    batch_size: int
    signs: bool
    shards: int
    shard: int | None
    fresh: bool
    seed: int
    methods: list[str]
    seeds: str
    epochs: int | None
    device: str
    progress: bool | None


@dataclass(frozen=True)
class TableKind:
    """``tables`` by name, the ``options`` that only some kinds take and this one does, and what runs and prints one."""

    tables: tuple[str, ...]
    options: frozenset[str]
    run: Callable[[str, Request], None]


def table_kinds() -> dict[str, TableKind]:
    """The kind of every table, by its name; those of studies that were added too."""
    studies = [TableKind(tuple(kind.tables), _TRAINED, partial(_run_study, kind)) for kind in STUDIES.values()]
    return {name: kind for kind in (_ATTACKS, *studies, _FIGURE) for name in kind.tables}


def _run_attacks(table: str, request: Request) -> None:
    wanted = thesis_table(table)
    place = evaluating.shard_number(request.shard, request.shards)
    folder = request.out or Path("out") / wanted.name
    data, models, files = _defaults(wanted.data, request.data, request.models, request.weights)
    inputs, labels = evaluating.first_samples(data, request.samples)
    device = shared.usable_device(request.device)
    networks, described = shared.named_networks(models, files, data, folder, device, request.seed, request.progress)
    settings = RunSettings(
        batch_size=request.batch_size, seed=request.seed, shard=place, shards=request.shards, fresh=request.fresh,
        about={"data": data, "references": described, "table": wanted.name}, look_for_signs=request.signs,
    )  # fmt: skip
    with shared.bar(wanted.name, request.progress) as advance:
        found = reproduce(
            wanted, networks, inputs, labels, out=folder, steps=request.steps, settings=settings,
            warn=evaluating.warn, progress=lambda _, done, total: advance(done, total),
        )  # fmt: skip
    if evaluating.finished(found.evaluation):
        path = write_reproduction(found)
        Console().print(reproduction_table(found))
        typer.echo(f"written to {path.parent}: {path.name}, and summary.md with every model")


def _run_study(kind: StudyKind, table: str, request: Request) -> None:
    names = None if request.data is None else tuple(name.strip() for name in request.data.split(","))
    settings = TableSettings(
        benchmarks=names, methods=tuple(request.methods) or None, seeds=tuple(shared.seeds_of(request.seeds)),
        epochs=request.epochs, device=shared.usable_device(request.device), fresh=request.fresh,
    )  # fmt: skip
    with shared.named_bar("epochs", request.progress) as shown:
        blocks, path = run_table(
            kind, table, out=request.out or Path("out") / kind.name, root=shared.data_folder(), settings=settings,
            progress=shown, warn=lambda text: typer.echo(f"note: {text}", err=True),
        )  # fmt: skip
    for block in blocks:
        shared.print_table(f"{table}: {block.title}", block.header, block.lines, block.remarks)
    typer.echo(f"written to {path}; runs, figures and weights are in the folders beside it")


def _run_figure(table: str, request: Request) -> None:
    """Draw Fig. I-1: cross-entropy and SPCE over the epochs."""
    folder, data = request.out or Path("out") / table, request.data
    if data is None:
        mnist = shared.data_folder() / "mnist"
        data = f"mnist:{mnist}" if mnist.is_dir() else "digits"
        if data == "digits":
            typer.echo(f"note: no {mnist}; running on digits instead", err=True)
    require_matplotlib()
    count = _FIGURE_SAMPLES if request.samples is None else request.samples
    loaded = (load_data(data, split=split) for split in ("train", "test"))
    train, validation = (LabelledData(part.inputs[:count], part.labels[:count]) for part in loaded)
    settings = SETTINGS if request.epochs is None else replace(SETTINGS, epochs=request.epochs)
    seed, device = request.seed, shared.usable_device(request.device)
    with shared.named_bar("epochs", request.progress) as shown:
        found = figure_one(train, validation, out=folder, settings=settings, seed=seed, device=device, progress=shown)
    header = ["loss", "first epoch", "last epoch", "first accuracy", "last accuracy"]
    lines = []
    for name, curve in found.items():
        loss, accuracy = curve["loss"], curve["accuracy"]
        lines.append([name, f"{loss[0]:.4f}", f"{loss[-1]:.4f}", f"{accuracy[0]:.2%}", f"{accuracy[-1]:.2%}"])
    shared.print_table(f"{table}: {data}, {len(train.labels)} samples", header, lines, [])
    typer.echo(f"written to {folder}: {table}.png, {table}.json")


def _defaults(kind: str, data: str | None, models: list[str], weights: list[Path]) -> tuple[str, list[str], list[Path]]:
    """Data and models that were given, and the small ones of the data folder for those that were not."""
    if data is not None:
        return data, models, weights
    root = shared.data_folder()
    if kind not in _DEFAULTS:
        raise ValueError(f"--data: needed for {kind}, of which nothing small is around; give --model too")
    spec, known = _DEFAULTS[kind]
    spec = spec.format(root)
    here = {name: (factory, root / file) for name, (factory, file) in known.items() if (root / file).is_file()}
    if not Path(spec.partition(":")[2]).exists() or not (models or here):
        if models:
            raise ValueError(f"--data: needed with --model, since {shared.DATA} ({root}) has no {kind}")
        lacks = f"{root} has no {kind} data and models (set {shared.DATA})"
        typer.echo(f"note: {lacks}; running on digits instead", err=True)
        return "digits", [], []
    if models:
        return spec, models, weights
    return spec, [f"{name}={factory}" for name, (factory, _) in here.items()], [file for _, file in here.values()]


_ATTACKED = frozenset(("model", "weights", "samples", "steps", "batch_size", "signs", "shards", "shard", "seed"))
_ATTACKS = TableKind(tuple(TABLES), _ATTACKED, _run_attacks)
_TRAINED = frozenset(("method", "seeds", "epochs"))
_FIGURE = TableKind(("figure-I-1",), frozenset(("samples", "seed", "epochs")), _run_figure)


@shared.clean_errors
def reproduce_command(
    context: typer.Context,
    table: Annotated[str, typer.Argument(
        help="table-2.4, table-3.1 to table-3.6, table-4.1, table-4.2, table-6.1 to 6.3, table-V-1 to V-3; or"
        " figure-I-1.")],
    out: Annotated[Path | None, typer.Option(
        help="Folder of the run; default: out/TABLE, out/calibration, out/retrieval.")] = None,
    data: Annotated[str | None, typer.Option(
        help="As for solve; of what is trained (2.4, 6.1 to V-3) names of data sets, with commas. Default: what the"
        f" folder {shared.DATA} ({shared.DEFAULT_FOLDER}) has, else digits.")] = None,
    model: evaluating.ModelsOption = None, weights: evaluating.WeightsOption = None,
    samples: evaluating.SamplesOption = None,
    steps: Annotated[int, typer.Option(
        min=1, help="Budgets above are cut to this; 90000 cuts none (hours to days).")] = 100,
    batch_size: evaluating.BatchOption = 100, signs: evaluating.SignsOption = True,
    shards: evaluating.ShardsOption = 1, shard: evaluating.ShardOption = None, fresh: evaluating.FreshOption = False,
    seed: shared.SeedOption = 0, method: MethodsOption = None, seeds: shared.SeedsOption = "0,1,2",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of what is trained; default: the table's.")] = None,
    device: shared.DeviceOption = "cpu", progress: shared.ProgressOption = None,
) -> None:  # fmt: skip
    """Run a table of the thesis and print it with the published figures; a killed run continues."""
    kinds = table_kinds()
    name = named_table(table, kinds)
    kind = kinds[name]
    for option in sorted(frozenset().union(*(other.options for other in kinds.values())) - kind.options):
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--{option.replace('_', '-')}: not an option of {name}")
    request = Request(
        out=out, data=data, models=model or [], weights=weights or [], samples=samples, steps=steps,
        batch_size=batch_size, signs=signs, shards=shards, shard=shard, fresh=fresh, seed=seed, methods=method or [],
        seeds=seeds, epochs=epochs, device=device, progress=progress,
    )  # fmt: skip
    kind.run(name, request)
