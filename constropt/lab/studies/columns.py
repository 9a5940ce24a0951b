"""Tables of studies: a column is a figure of a run, a cell its mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from constropt.lab.runs.specs import parse_recipe
from constropt.lab.studies.methods import Method, title_of
from constropt.lab.studies.study import Study


@dataclass(frozen=True)
class Column:
    """A figure of a run: the ``header`` that it stands under, the keys that lead to it, whether as per cent."""

    header: str
    path: tuple[str, ...]
    percent: bool = True

    def of(self, result: dict[str, Any]) -> float | None:
        """The figure in a run's result; ``None`` where it has none."""
        value: Any = result
        for key in self.path:
            value = (value or {}).get(key)
        return value

    def text(self, results: Sequence[dict[str, Any]]) -> str:
        """Mean and standard deviation over runs."""
        values = [value for value in map(self.of, results) if value is not None]
        return with_spread(values, 100 if self.percent else 1, 2 if self.percent else 3)


def average(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def with_spread(values: Sequence[float], factor: float = 1, digits: int = 2) -> str:
    """Mean and sample standard deviation of some runs, or the value of one; a dash for none.

    >>> with_spread([0.1, 0.2], 100), with_spread([0.5]), with_spread([])
    ('15.00 ± 7.07', '0.50', '-')
    """
    if not values:
        return "-"
    text = f"{factor * average(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {factor * statistics.stdev(values):.{digits}f}"


def ordered(results: Sequence[str], methods: Mapping[str, Method]) -> list[str]:
    """Methods in the order of the registry, those with options behind their own, others last."""
    places = {name: place for place, name in enumerate(methods)}
    return sorted(results, key=lambda text: (places.get(parse_recipe(text).reference, len(places)), text))


def layout(study: Study, methods: Mapping[str, Method], columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table: a line per method, only columns that some run has a figure for."""
    everything = [result for runs in study.results.values() for result in runs.values()]
    shown = [column for column in columns if any(column.of(result) is not None for result in everything)]
    lines = []
    for method in ordered(list(study.results), methods):
        runs = list(study.results[method].values())
        title = title_of(method, methods)
        lines.append([title, str(len(runs)), *(column.text(runs) for column in shown)])
    return ["method", "seeds", *(column.header for column in shown)], lines
