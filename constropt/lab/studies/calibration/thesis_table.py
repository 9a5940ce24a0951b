"""Run the tables of chapter 6 and appendix V of the thesis on small data sets, the published figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from constropt.checks import MissingExtra
from constropt.lab.studies.calibration.benchmarks import BENCHMARKS, TABLES, CalibrationTable, Published
from constropt.lab.studies.calibration.methods import METHODS, parse_method, title_of
from constropt.lab.studies.calibration.study import run_study
from constropt.lab.studies.calibration.study_figures import write_figures
from constropt.lab.studies.calibration.study_report import described, remarks, write_report
from constropt.lab.studies.columns import Column, ordered
from constropt.lab.studies.recorded_tables import Block, full_name, with_data, write_blocks
from constropt.lab.studies.study import Study


def table_name(name: str) -> str | None:
    """The full name of a table, "6.1" or "table-v-1" among others; ``None`` for one that is not here.

    >>> table_name("6.1"), table_name("table-v-1"), table_name("4.1")
    ('table-6.1', 'table-V-1', None)
    """
    return full_name(name, TABLES)


def reproduce(
    table: str,
    *,
    out: str | Path,
    root: str | Path,
    benchmarks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int | None = None,
    device: torch.device | str = "cpu",
    fresh: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> tuple[list[Block], Path]:
    """Run what the ``table`` needs (:data:`TABLES`) and lay it out; returns its blocks and the file that has them.

    The studies are in ``out``, a folder for each of :data:`BENCHMARKS`, and shared by the tables: what one has trained
    the others find. ``benchmarks`` and ``methods`` replace those of the table. Data is looked for in the folder
    ``root``; a benchmark that has none there is left out with a warning, and where all are, digits stand in. Raises
    ``ValueError`` for unknown names, and as :func:`~constropt.lab.studies.calibration.study.run_study`.
    """
    wanted = TABLES[table]
    root, out = Path(root).resolve(), Path(out)  # the folder is part of the settings that a run is continued by
    tell = warn or (lambda text: None)
    blocks = []
    for name in with_data(benchmarks or wanted.benchmarks, BENCHMARKS, root, tell):
        trained: list[str] = []

        def report(run: str, done: int, total: int, trained: list[str] = trained) -> None:
            trained.append(run)
            if progress is not None:
                progress(run, done, total)

        benchmark = BENCHMARKS[name]
        training = benchmark.training if epochs is None else replace(benchmark.training, epochs=epochs)
        study = run_study(
            methods or wanted.methods,
            seeds,
            out=out / name,
            data=benchmark.located(root),
            training=training,
            model=benchmark.model,
            device=device,
            fresh=fresh,
            progress=report,
        )
        write_report(study)
        if trained or not list(study.out.glob("reliability-*")):
            try:
                write_figures(study)
            except MissingExtra as error:
                tell(str(error))
        blocks.append(_block(wanted, name, study, [str(parse_method(m)) for m in methods or wanted.methods]))
    return blocks, write_blocks(out / f"{table}.md", f"{table}: {wanted.title}", blocks)


def _block(table: CalibrationTable, name: str, study: Study, methods: Sequence[str]) -> Block:
    published = table.published.get(name, {})
    source = f"{table.source[name]} (thesis)" if published else ""
    columns = [column for column in table.columns if _any(study, column)]
    beside = [column for column in columns if any(_published(table, published, m, column) != "-" for m in methods)]
    header = ["method", "seeds", *(column.header for column in columns)]
    header += [f"{source} {column.header}" for column in beside]
    lines = []
    for method in ordered([method for method in methods if method in study.results], METHODS):
        runs = list(study.results[method].values())
        line = [title_of(parse_method(method)), str(len(runs)), *(column.text(runs) for column in columns)]
        lines.append([*line, *(_published(table, published, method, column) for column in beside)])
    return Block(f"{BENCHMARKS[name].title}: {described(study)}", header, lines, remarks(study))


def _any(study: Study, column: Column) -> bool:
    return any(column.of(result) is not None for runs in study.results.values() for result in runs.values())


def _published(table: CalibrationTable, published: Published, method: str, column: Column) -> str:
    row: Any = published.get(method)
    value = None if row is None else row[table.columns.index(column)]
    return "-" if value is None else f"{value:g}"
