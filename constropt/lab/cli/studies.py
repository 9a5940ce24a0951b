"""What the commands that train methods x seeds share: where data is, seeds, options of the training, tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from constropt.lab.cli.shared import named_bar, usable_device
from constropt.lab.runs.references import load_reference

DATA, DEFAULT_FOLDER = "CONSTROPT_DATA", "../shared/data"

# by name: the library does not import its own problems
_PROBLEMS = "constropt.problems"
_TABLES = {"calibration": "calibration", "retrieval": "metric_learning"}  # folder of the runs, package

SeedsOption = Annotated[str, typer.Option(help="Of what is trained: a run for each, as in 0,1,2.")]
EpochsOption = Annotated[int, typer.Option(min=1, help="Passes over the training part.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Samples of a step.")]
OptimizerOption = Annotated[str, typer.Option(help="sgd, adam or adamw.")]
RateOption = Annotated[float | None, typer.Option(help="Its step size; default: the usual one.")]
DecayOption = Annotated[float | None, typer.Option(help="Default: the usual one.")]
ScheduleOption = Annotated[str, typer.Option(help="Of the step size: cosine, half, steps or constant.")]
AugmentOption = Annotated[str, typer.Option(help="Images changed at random: none, shift or shift-mirror.")]
FreshOption = Annotated[bool, typer.Option(help="Remove the study that is in the folder first.")]


def seeds_of(text: str) -> list[int]:
    """The seeds in "0,1,2".

    >>> seeds_of("0, 2")
    [0, 2]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds: takes whole numbers with commas, as in 0,1,2, got {text!r}") from None


def print_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]], remarks: Sequence[str]) -> None:
    """A table on stdout, the remarks below it."""
    table = Table(title=escape(title), caption=escape("\n".join(remarks)), caption_justify="left")
    for place, name in enumerate(header):
        table.add_column(escape(name), justify="right" if place else "left")
    for line in lines:
        table.add_row(*map(escape, line))
    Console().print(table)


def show_study(study: Any, module: str, figures: str | None) -> None:
    """Write the report that ``module`` makes of a study, and the ``figures`` of that module, and print its main table;
    both modules by their names below the problems.
    """
    paths = _load(f"{module}:write_report")(study)
    if figures is not None:
        paths += _load(f"{figures}:write_figures")(study)
    header, lines = _load(f"{module}:main_table")(study)
    print_table(_load(f"{module}:described")(study), header, lines, _load(f"{module}:remarks")(study))
    typer.echo(f"written to {study.out}: {', '.join(path.name for path in paths)}, and the weights of each run")


def study_table(name: str) -> tuple[str, str] | None:
    """The full name of a table of trained methods, and which of the kinds it is; ``None`` for other tables."""
    for kind, package in _TABLES.items():
        full = _load(f"{package}.tables:table_name")(name)
        if full is not None:
            return full, kind
    return None


def study_tables() -> list[str]:
    """Their names."""
    return [name for package in _TABLES.values() for name in _load(f"{package}.tables:TABLES")]


def reproduce_study(
    table: str,
    kind: str,
    *,
    out: Path | None,
    data: str | None,
    methods: Sequence[str] | None,
    seeds: Sequence[int],
    epochs: int | None,
    fresh: bool,
    device: str,
    progress: bool | None,
) -> None:
    """Run a table of trained methods and print it."""
    with named_bar("epochs", progress) as shown:
        blocks, path = _load(f"{_TABLES[kind]}.tables:reproduce")(
            table,
            out=out or Path("out") / kind,
            root=data_folder(),
            benchmarks=None if data is None else [name.strip() for name in data.split(",")],
            methods=methods or None,
            seeds=seeds,
            epochs=epochs,
            device=usable_device(device),
            fresh=fresh,
            progress=shown,
            warn=lambda text: typer.echo(f"note: {text}", err=True),
        )
    for block in blocks:
        print_table(f"{table}: {block.title}", block.header, block.lines, block.remarks)
    typer.echo(f"written to {path}; runs, figures and weights are in the folders beside it")


def data_folder() -> Path:
    """Where data is looked for unless it is named."""
    return Path(os.environ.get(DATA, DEFAULT_FOLDER))


def _load(name: str) -> Any:
    return load_reference(f"{_PROBLEMS}.{name}", what="table")
