"""Methods by name, the columns of their figures, and tables of the thesis on them: as data, and as blocks found."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from constropt.checks import MissingExtra
from constropt.lab.runs.specs import RecipeSpec, known, module_of, parse_recipe
from constropt.lab.studies.study import Study
from constropt.lab.writing import markdown_table, write_text
from constropt.problems.references import load_reference

if TYPE_CHECKING:
    from constropt.lab.studies.kind import Setup, StudyKind


@dataclass(frozen=True)
class Method:
    """``title`` as it stands in tables, and what builds the loss from the keywords that it takes."""

    title: str
    make: Callable[..., nn.Module]


def parse_method(text: str, methods: Mapping[str, Method], what: str) -> RecipeSpec:
    """A method as ``NAME`` or ``NAME[KEY=VALUE,...]``; ``ValueError``, listing near names, for one that is neither
    among ``methods`` nor ``module:factory``.
    """
    spec = parse_recipe(text)
    if ":" not in spec.reference:
        known(what, spec.reference, methods)
    return spec


def title_of(method: str, methods: Mapping[str, Method]) -> str:
    """The name of a method in a table, its options beside it.

    >>> title_of("ls[alpha=0.1]", {"ls": Method("LS", nn.Identity)})
    'LS [alpha=0.1]'
    """
    spec = parse_recipe(method)
    name, bracket, options = spec.label.partition("[")
    title = methods[spec.reference].title if spec.reference in methods else name
    return f"{title} [{options}" if bracket else title


def build(spec: RecipeSpec, methods: Mapping[str, Method], available: Mapping[str, Any], *, what: str) -> nn.Module:
    """The loss of ``spec``, which gets those of ``available`` that it takes; ``ValueError`` if it is no module."""
    make = methods[spec.reference].make if spec.reference in methods else load_reference(spec.reference, what=what)
    return module_of(make, available, spec, what=what)


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


def with_figures(study: Study, columns: Sequence[Column]) -> list[Column]:
    """Those of the columns that some run has a figure for."""
    everything = [result for runs in study.results.values() for result in runs.values()]
    return [column for column in columns if any(column.of(result) is not None for result in everything)]


def layout(
    study: Study, methods: Mapping[str, Method], columns: Sequence[Column], among: Sequence[str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table: a line per method (of those ``among`` these), :func:`with_figures` the columns."""
    shown, lines = with_figures(study, columns), []
    for method in ordered(list(study.results), methods) if among is None else among:
        runs = list(study.results[method].values())
        lines.append([title_of(method, methods), str(len(runs)), *(column.text(runs) for column in shown)])
    return ["method", "seeds", *(column.header for column in shown)], lines


STAND_IN = "digits"  # what needs no data folder


@dataclass(frozen=True)
class Block:
    """A table as found on one benchmark: its title, header, lines, and remarks."""

    title: str
    header: list[str]
    lines: list[list[str]]
    remarks: list[str]


@dataclass(frozen=True)
class Benchmark:
    """What a table runs on: a ``setup`` with ``{}`` for the data folder, in which all that it ``needs`` must be."""

    title: str
    setup: Setup[Any, Any]
    needs: tuple[str, ...] = ()

    def present(self, root: Path) -> bool:
        """Whether all its files are in the folder ``root``."""
        return all((root / name).exists() for name in self.needs)


@dataclass(frozen=True, kw_only=True)
class StudyTable(ABC):
    """Methods on some benchmarks, by name. ``whatever_is_there``: benchmarks without data are left out in silence."""

    title: str
    benchmarks: tuple[str, ...]
    methods: tuple[str, ...]
    whatever_is_there: bool = False

    @abstractmethod
    def block(self, name: str, title: str, study: Study, methods: Sequence[str]) -> Block:
        """Lay out what ``methods`` found on the benchmark of this ``name`` and ``title``, the thesis beside it."""


def with_data(
    names: Sequence[str], benchmarks: Mapping[str, Benchmark], root: Path, tell: Callable[[str], None], *,
    wanted: bool = True,
) -> list[str]:  # fmt: skip
    """Those of ``names`` whose data is in the folder ``root``, :data:`STAND_IN` where there are none. ``tell`` is told
    what is missing: if all of it was ``wanted``, or nothing is left. Raises ``ValueError`` for names that are not among
    ``benchmarks``, naming near ones, and where nothing is there and nothing stands in.
    """
    for name in names:
        known("data", name, benchmarks)
    present = [name for name in names if benchmarks[name].present(root)]
    missing = ", ".join(name for name in names if name not in present)
    if not present and STAND_IN not in benchmarks:
        raise ValueError(f"data: {root} has no data for {missing} (set CONSTROPT_DATA)")
    if missing and (wanted or not present):
        instead = "" if present else f": running on {STAND_IN} instead"
        tell(f"{root} has no data for {missing}{instead} (set CONSTROPT_DATA)")
    return present or [STAND_IN]


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
    kind: StudyKind, table: str, *, out: str | Path, root: str | Path, settings: TableSettings = DEFAULTS,
    progress: Callable[[str, int, int], None] | None = None, warn: Callable[[str], None] | None = None,
) -> tuple[list[Block], Path]:  # fmt: skip
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
        how: dict[str, Any] = {"device": settings.device, "fresh": settings.fresh, "progress": progress}
        study = kind.run(setup, methods, settings.seeds, out=out / name, **how)
        kind.write_report(study)
        try:
            kind.write_figures(study)
        except MissingExtra as error:
            tell(str(error))
        blocks.append(wanted.block(name, benchmark.title, study, [str(kind.parse(text)) for text in methods]))
    text = [f"# {table}: {wanted.title}", ""]
    for block in blocks:
        text += [f"## {block.title}", "", *markdown_table(block.header, block.lines), ""]
        text += [*(f"- {remark}" for remark in block.remarks), ""]
    return blocks, write_text(out / f"{table}.md", text)
