"""``constropt train calibration``, and the tables of chapter 6 for ``constropt reproduce``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from constropt import evaluation
from constropt.cli.shared import DeviceOption, ProgressOption, clean_errors, named_bar, usable_device
from constropt.evaluation.plots import require_matplotlib

DATA, DEFAULT_FOLDER = "CONSTROPT_DATA", "../shared/data"
# by name: the library does not import its own problems
_PACKAGE = "constropt.problems.calibration"
_SETTINGS = "constropt.problems.studies.epochs:TrainingSettings"

SeedsOption = Annotated[str, typer.Option(help="Of calibration: a run for each, as in 0,1,2.")]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="NAME[KEY=VALUE,...] of ce, mmce, ecp, ls, fl, flsd, cpc, mbls, cals-hr, cals-alm, their variants or"
        " module:factory of a loss; several can be given.",
    ),
]


@clean_errors
def train_calibration(
    out: Annotated[Path, typer.Option(help="The folder of the study; a killed one continues there.")],
    method: MethodsOption = None,
    seeds: SeedsOption = "0",
    data: Annotated[
        str,
        typer.Option(
            help="As for solve, or omniglot:DIR or newsgroups:FILE; with options: omniglot:DIR[size=20],"
            " newsgroups:FILE[length=100,vocabulary=8000]."
        ),
    ] = "digits",
    test_data: Annotated[str | None, typer.Option(help="Where test samples are, if elsewhere.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="module:factory[KEY=VALUE,...]; it gets num_classes, channels, image_size and vocabulary where it"
            " takes them. Default: a small CNN for digits, ResNet-18, DeepLab or GPCN else."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training part.")] = 40,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a step.")] = 64,
    optimizer: Annotated[str, typer.Option(help="sgd, adam or adamw.")] = "adamw",
    lr: Annotated[float | None, typer.Option(help="Its step size; default: the usual one.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Default: the usual one.")] = None,
    schedule: Annotated[str, typer.Option(help="Of the step size: cosine, half, steps or constant.")] = "cosine",
    augment: Annotated[str, typer.Option(help="Images changed at random: none, shift or shift-mirror.")] = "none",
    held_out: Annotated[
        float, typer.Option(help="Held out for multipliers and temperatures: a fraction, or how many of each class.")
    ] = 0.2,
    long_tail: Annotated[
        float | None, typer.Option(help="Thin classes out exponentially: ratio of the largest to the smallest.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Of the training split; default: all.")] = None,
    test_samples: Annotated[int | None, typer.Option(min=1, help="Of the test split; default: all.")] = None,
    figures: Annotated[bool, typer.Option(help="Draw reliability diagrams and multipliers (extra plot).")] = True,
    fresh: Annotated[bool, typer.Option(help="Remove the study that is in the folder first.")] = False,
    device: DeviceOption = "cpu",
    progress: ProgressOption = None,
) -> None:
    """Train with calibration losses, the same split, weights and batches for all; compare before and after scaling."""
    settings = _load("study_data:DataSettings")(
        data=data, test=test_data, held_out=held_out, long_tail=long_tail, samples=samples, test_samples=test_samples
    )
    training = evaluation.load_reference(_SETTINGS, what="training")(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,
        augment=augment,
    )
    if figures:
        require_matplotlib()
    if model is None and data == "digits":
        model = "constropt.problems.models:digits_cnn"
    with named_bar("epochs", progress) as shown:
        study = _load("study:run_study")(
            method or ["ce", "cals-alm"],
            seeds_of(seeds),
            out=out,
            data=settings,
            training=training,
            model=model,
            device=usable_device(device),
            fresh=fresh,
            progress=shown,
        )
    paths = _load("study_report:write_report")(study)
    if figures:
        paths += _load("study_figures:write_figures")(study)
    header, lines = _load("study_report:main_table")(study)
    _print(_load("study_report:described")(study), header, lines, _load("study_report:remarks")(study))
    typer.echo(f"written to {out}: {', '.join(path.name for path in paths)}, and the weights of each run")


def reproduce_calibration(
    table: str,
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
    """Run a table of chapter 6 or appendix V and print it."""
    folder = out or Path("out") / "calibration"
    with named_bar("epochs", progress) as shown:
        blocks, path = _load("tables:reproduce_calibration")(
            table,
            out=folder,
            root=Path(os.environ.get(DATA, DEFAULT_FOLDER)),
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
        _print(f"{table}: {block.title}", block.header, block.lines, block.remarks)
    typer.echo(f"written to {path}; runs, figures and weights are in the folders beside it")


def calibration_table(name: str) -> str | None:
    """The full name of a table of calibration; ``None`` for others."""
    return _load("tables:table_name")(name)


def calibration_tables() -> list[str]:
    """Their names."""
    return list(_load("benchmarks:TABLES"))


def seeds_of(text: str) -> list[int]:
    """The seeds in "0,1,2".

    >>> seeds_of("0, 2")
    [0, 2]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds: takes whole numbers with commas, as in 0,1,2, got {text!r}") from None


def _load(name: str) -> Any:
    return evaluation.load_reference(f"{_PACKAGE}.{name}", what="calibration")


def _print(title: str, header: Sequence[str], lines: Sequence[Sequence[str]], remarks: Sequence[str]) -> None:
    table = Table(title=escape(title), caption=escape("\n".join(remarks)), caption_justify="left")
    for place, name in enumerate(header):
        table.add_column(escape(name), justify="right" if place else "left")
    for line in lines:
        table.add_row(*map(escape, line))
    Console().print(table)
