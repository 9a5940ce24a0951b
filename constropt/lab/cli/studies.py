"""What the commands that train methods x seeds share: where data is, seeds, options of the training, tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from constropt.lab.cli.shared import named_bar, usable_device
from constropt.lab.studies.kind import Setup, StudyKind
from constropt.lab.text_tables import terminal_table
from constropt.plotting import require_matplotlib

DATA, DEFAULT_FOLDER = "CONSTROPT_DATA", "../shared/data"

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
    Console().print(terminal_table(title, header, lines, remarks))


@dataclass(frozen=True)
class Launch:
    """Where a study is run and what is shown of it, as typed."""

    out: Path
    figures: bool
    fresh: bool
    device: str
    progress: bool | None


def run_and_show(kind: StudyKind, setup: Setup[Any, Any], methods: Sequence[str], seeds: str, launch: Launch) -> None:
    """Run a study, write its report and figures, and print its main table."""
    if launch.figures:
        require_matplotlib()
    with named_bar("epochs", launch.progress) as shown:
        study = kind.run(
            setup,
            methods,
            seeds_of(seeds),
            out=launch.out,
            device=usable_device(launch.device),
            fresh=launch.fresh,
            progress=shown,
        )
    paths = kind.write_report(study) + (kind.write_figures(study) if launch.figures else [])
    header, lines = kind.main_table(study)
    print_table(kind.described(study), header, lines, kind.remarks(study))
    typer.echo(f"written to {study.out}: {', '.join(path.name for path in paths)}, and the weights of each run")


def data_folder() -> Path:
    """Where data is looked for unless it is named."""
    return Path(os.environ.get(DATA, DEFAULT_FOLDER))
