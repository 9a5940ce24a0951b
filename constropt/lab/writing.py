"""What results are written as: tables of texts for a terminal and in Markdown, and files, complete or absent."""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from rich.markup import escape
from rich.table import Table

from constropt.files import finite, replacing


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown.

    >>> markdown_table(["recipe", "success"], [["a|b", "1"]])
    ['| recipe | success |', '| --- | --- |', '| a\\\\|b | 1 |']
    """
    rule = ["---"] * len(header)
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, rule, *lines)]


def terminal_table(
    title: str, header: Sequence[str], lines: Sequence[Sequence[str]], remarks: Sequence[str], *,
    texts: Container[str] | None = None, sections: bool = False,
) -> Table:  # fmt: skip
    """A table with the remarks below it. The columns in ``texts`` (default: the first) stand on the left, numbers on
    the right; ``sections`` are lines that share their first cell, with a rule between them.
    """
    table = Table(title=escape(title), caption=escape("\n".join(remarks)), caption_justify="left")
    for place, name in enumerate(header):
        left = place == 0 if texts is None else name in texts
        table.add_column(escape(name), justify="left" if left else "right")
    for line, after in zip(lines, [*lines[1:], None]):
        table.add_row(*map(escape, line), end_section=sections and after is not None and after[0] != line[0])
    return table


def write_text(path: Path, lines: Iterable[str]) -> Path:
    with replacing(path) as unfinished:
        unfinished.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_json(path: str | Path, content: Any) -> None:
    """``content`` as strict JSON: null for a number that is not finite."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_parquet(path: str | Path, columns: pyarrow.Table | Mapping[str, Any]) -> None:
    table = columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns)
    with replacing(path) as unfinished:
        pyarrow.parquet.write_table(table, unfinished)
