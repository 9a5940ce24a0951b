"""A table of the thesis on trained methods, as data and as found here: a block for each benchmark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constropt.files import replacing
from constropt.lab.runs.factories import known
from constropt.lab.studies.study import Study
from constropt.lab.text_tables import markdown_table

if TYPE_CHECKING:
    from constropt.lab.studies.kind import Setup

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
    names: Sequence[str],
    benchmarks: Mapping[str, Benchmark],
    root: Path,
    tell: Callable[[str], None],
    *,
    wanted: bool = True,
) -> list[str]:
    """Those of ``names`` whose data is in the folder ``root``, :data:`STAND_IN` where there are none.

    ``tell`` is told what is missing: if all of it was ``wanted``, or nothing is left. Raises ``ValueError`` for names
    that are not among ``benchmarks``, naming near ones, and where nothing is there and nothing stands in.
    """
    for name in names:
        known("data", name, benchmarks)
    present = [name for name in names if benchmarks[name].present(root)]
    missing = ", ".join(name for name in names if name not in present)
    if not present and STAND_IN not in benchmarks:
        raise ValueError(f"data: {root} has no data for {missing} (set CONSTROPT_DATA)")
    if missing and (wanted or not present):
        tell(
            f"{root} has no data for {missing}{'' if present else f': running on {STAND_IN} instead'} (set"
            " CONSTROPT_DATA)"
        )
    return present or [STAND_IN]


def write_blocks(path: Path, title: str, blocks: Sequence[Block]) -> Path:
    """Write the blocks as Markdown; returns the path."""
    text = [f"# {title}", ""]
    for block in blocks:
        text += [f"## {block.title}", "", *markdown_table(block.header, block.lines), ""]
        text += [*(f"- {remark}" for remark in block.remarks), ""]
    with replacing(path) as unfinished:
        unfinished.write_text("\n".join(text), encoding="utf-8")
    return path
