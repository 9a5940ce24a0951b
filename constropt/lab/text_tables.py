"""Tables of texts: for a terminal, and in Markdown."""

from collections.abc import Container, Sequence

from rich.markup import escape
from rich.table import Table


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
