"""The tables that ``constropt reproduce`` knows, by kind: what may be typed beside a name, and what runs the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer
from rich.console import Console

from constropt.lab.attacks.sharded import RunSettings
from constropt.lab.attacks.table_runs import reproduce, reproduction_table, thesis_table, write_reproduction
from constropt.lab.attacks.thesis_tables import TABLES
from constropt.lab.cli.evaluate_command import finished, first_samples, shard_number, warn
from constropt.lab.cli.retrieval_command import draw_figure
from constropt.lab.cli.shared import bar, named_bar, named_networks, usable_device
from constropt.lab.cli.studies import DATA, data_folder, print_table, seeds_of
from constropt.lab.models.cifar_models import cifar_cnn_a, cifar_resnet4b, cifar_resnet20
from constropt.lab.models.small import madry_cnn, mnist_cnn
from constropt.lab.runs.specs import reference_of
from constropt.lab.studies.catalogue import STUDIES
from constropt.lab.studies.kind import StudyKind
from constropt.lab.studies.reproduction import TableSettings, run_table

# by data set: where it is below the data folder, and name, factory and weights of the models
_DEFAULTS = {
    "mnist": (
        "mnist:{}/mnist",
        {
            "mnist_cnn": (reference_of(mnist_cnn), "weights/mnist/mnist_conv_small_nat.pth"),
            "madry_cnn": (reference_of(madry_cnn), "weights/mnist/MadryCNN_no_maxpool_tiny.pt"),
        },
    ),
    "cifar10": (
        "cifar10:{}/cifar10/cifar10_test.npz",
        {
            "resnet20": (reference_of(cifar_resnet20), "weights/cifar10_resnet/resnet20-12fca82f.th"),
            "cnn_a": (reference_of(cifar_cnn_a), "weights/cifar10_robust/cifar_cnn_a_mix.model"),
            "resnet4b": (reference_of(cifar_resnet4b), "weights/cifar10_robust/resnet4b.pth"),
        },
    ),
}


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
    """``tables`` by name, the ``options`` of the command line that only some kinds take and this one does, and what
    runs and prints one of them.
    """

    tables: tuple[str, ...]
    options: frozenset[str]
    run: Callable[[str, Request], None]


def table_kinds() -> dict[str, TableKind]:
    """The kind of every table, by its name; those of studies that were added too."""
    studies = [TableKind(tuple(kind.tables), _TRAINED, partial(_run_study, kind)) for kind in STUDIES.values()]
    return {name: kind for kind in (_ATTACKS, *studies, _FIGURE) for name in kind.tables}


def _run_attacks(table: str, request: Request) -> None:
    wanted = thesis_table(table)
    place = shard_number(request.shard, request.shards)
    folder = request.out or Path("out") / wanted.name
    data, models, files = _defaults(wanted.data, request.data, request.models, request.weights)
    inputs, labels = first_samples(data, request.samples)
    device = usable_device(request.device)
    networks, described = named_networks(models, files, data, folder, device, request.seed, request.progress)
    settings = RunSettings(
        batch_size=request.batch_size,
        seed=request.seed,
        shard=place,
        shards=request.shards,
        fresh=request.fresh,
        about={"data": data, "references": described, "table": wanted.name},
        look_for_signs=request.signs,
    )
    with bar(wanted.name, request.progress) as advance:
        found = reproduce(
            wanted,
            networks,
            inputs,
            labels,
            out=folder,
            steps=request.steps,
            settings=settings,
            warn=warn,
            progress=lambda _, done, total: advance(done, total),
        )
    if finished(found.evaluation):
        path = write_reproduction(found)
        Console().print(reproduction_table(found))
        typer.echo(f"written to {path.parent}: {path.name}, and summary.md with every model")


def _run_study(kind: StudyKind, table: str, request: Request) -> None:
    names = None if request.data is None else tuple(name.strip() for name in request.data.split(","))
    settings = TableSettings(
        benchmarks=names,
        methods=tuple(request.methods) or None,
        seeds=tuple(seeds_of(request.seeds)),
        epochs=request.epochs,
        device=usable_device(request.device),
        fresh=request.fresh,
    )
    with named_bar("epochs", request.progress) as shown:
        blocks, path = run_table(
            kind,
            table,
            out=request.out or Path("out") / kind.name,
            root=data_folder(),
            settings=settings,
            progress=shown,
            warn=lambda text: typer.echo(f"note: {text}", err=True),
        )
    for block in blocks:
        print_table(f"{table}: {block.title}", block.header, block.lines, block.remarks)
    typer.echo(f"written to {path}; runs, figures and weights are in the folders beside it")


def _run_figure(table: str, request: Request) -> None:
    draw_figure(
        request.data,
        request.out,
        samples=request.samples,
        epochs=request.epochs,
        seed=request.seed,
        device=request.device,
        progress=request.progress,
    )


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


_ATTACKS = TableKind(
    tuple(TABLES),
    frozenset(("model", "weights", "samples", "steps", "batch_size", "signs", "shards", "shard", "seed")),
    _run_attacks,
)
_TRAINED = frozenset(("method", "seeds", "epochs"))
_FIGURE = TableKind(("figure-I-1",), frozenset(("samples", "seed", "epochs")), _run_figure)
