"""A table of the thesis as found here: a block for each benchmark, in a terminal or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from constropt.files import replacing
from constropt.lab.studies.columns import markdown_table
from constropt.lab.studies.methods import known

STAND_IN = "digits"  # what needs no data folder


@dataclass(frozen=True)
class Block:
    """A table as found on one benchmark: its title, header, lines, and remarks."""

    title: str
    header: list[str]
    lines: list[list[str]]
    remarks: list[str]


class Benchmark(Protocol):
    """What a table runs on: it knows whether its data is in a folder."""

    def present(self, root: Path) -> bool: ...


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
    that are not among ``benchmarks``, naming near ones.
    """
    for name in names:
        known("data", name, benchmarks)
    present = [name for name in names if benchmarks[name].present(root)]
    missing = ", ".join(name for name in names if name not in present)
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


def full_name(name: str, tables: Iterable[str]) -> str | None:
    """The table that ``name`` means, with or without "table-", in any case; ``None`` if it is not among them.

    >>> full_name("V-1", ["table-V-1"]), full_name("table-v-1", ["table-V-1"]), full_name("4.1", ["table-V-1"])
    ('table-V-1', 'table-V-1', None)
    """
    full = name.lower() if name.lower().startswith("table-") else f"table-{name.lower()}"
    return next((known for known in tables if known.lower() == full), None)
