"""Lay out the tables of chapter 6 and appendix V of the thesis, the published figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from constropt.lab.studies.calibration.methods import METHODS
from constropt.lab.studies.calibration.study_report import described, remarks
from constropt.lab.studies.columns import Column, ordered
from constropt.lab.studies.methods import title_of
from constropt.lab.studies.study import Study
from constropt.lab.studies.tables import Block, StudyTable

Published = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class CalibrationTable(StudyTable):
    """Methods by columns on some benchmarks; ``published[benchmark][method]`` has the thesis' figures in the order of
    the columns, per cent, from the data set named by ``source[benchmark]``.
    """

    columns: tuple[Column, ...]
    published: Mapping[str, Published] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)

    def block(self, name: str, title: str, study: Study, methods: Sequence[str]) -> Block:
        """A line per method; columns that no run has a figure for are left out."""
        source = f"{self.source[name]} (thesis)" if name in self.published else ""
        everything = [result for runs in study.results.values() for result in runs.values()]
        columns = [column for column in self.columns if any(column.of(result) is not None for result in everything)]
        beside = [column for column in columns if any(self._published(name, m, column) != "-" for m in methods)]
        header = ["method", "seeds", *(column.header for column in columns)]
        header += [f"{source} {column.header}" for column in beside]
        lines = []
        for method in ordered([method for method in methods if method in study.results], METHODS):
            runs = list(study.results[method].values())
            line = [title_of(method, METHODS), str(len(runs)), *(column.text(runs) for column in columns)]
            lines.append([*line, *(self._published(name, method, column) for column in beside)])
        return Block(f"{title}: {described(study)}", header, lines, remarks(study))

    def _published(self, name: str, method: str, column: Column) -> str:
        row = self.published.get(name, {}).get(method)
        value = None if row is None else row[self.columns.index(column)]
        return "-" if value is None else f"{value:g}"
