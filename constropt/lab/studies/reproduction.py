"""Run a table of the thesis on trained methods, on what data there is, and lay it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from constropt.checks import MissingExtra
from constropt.lab.studies.kind import StudyKind
from constropt.lab.studies.tables import Block, with_data, write_blocks


@dataclass(frozen=True)
class TableSettings:
    """What of a table is run: ``benchmarks``, ``methods`` and ``epochs`` replace its own where they are given."""

    benchmarks: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int | None = None
    device: torch.device | str = "cpu"
    fresh: bool = False


DEFAULTS = TableSettings()


def run_table(
    kind: StudyKind,
    table: str,
    *,
    out: str | Path,
    root: str | Path,
    settings: TableSettings = DEFAULTS,
    progress: Callable[[str, int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> tuple[list[Block], Path]:
    """Run what the ``table`` of ``kind`` needs and lay it out; returns its blocks and the file that has them.

    The studies are in ``out``, a folder for each benchmark, and shared by the tables: what one has trained the others
    find. Data is looked for in the folder ``root``; a benchmark that has none there is left out with a warning, and
    where all are, digits stand in. Raises ``ValueError`` for unknown names, and as :meth:`StudyKind.run`.
    """
    wanted, tell = kind.tables[table], warn or (lambda text: None)
    root, out = Path(root).resolve(), Path(out)  # the folder is part of the settings that a run is continued by
    methods = settings.methods or wanted.methods
    told = bool(settings.benchmarks) or not wanted.whatever_is_there
    blocks = []
    for name in with_data(settings.benchmarks or wanted.benchmarks, kind.benchmarks, root, tell, wanted=told):
        benchmark = kind.benchmarks[name]
        setup = benchmark.setup.located(root)
        if settings.epochs is not None:
            setup = replace(setup, training=replace(setup.training, epochs=settings.epochs))
        study = kind.run(
            setup,
            methods,
            settings.seeds,
            out=out / name,
            device=settings.device,
            fresh=settings.fresh,
            progress=progress,
        )
        kind.write_report(study)
        try:
            kind.write_figures(study)
        except MissingExtra as error:
            tell(str(error))
        blocks.append(wanted.block(name, benchmark.title, study, [str(kind.parse(text)) for text in methods]))
    return blocks, write_blocks(out / f"{table}.md", f"{table}: {wanted.title}", blocks)
