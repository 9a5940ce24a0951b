"""Tables of the thesis by the names that people type."""

from __future__ import annotations

from collections.abc import Iterable

from constropt.near_names import near_names


def named_table(name: str, tables: Iterable[str]) -> str:
    """The one of ``tables`` that ``name`` means, with or without "table-", in any case.

    Raises ``ValueError``, with near names, for another.

    >>> named_table("V-1", ["table-V-1"]), named_table("table-v-1", ["table-V-1"])
    ('table-V-1', 'table-V-1')
    """
    by_lower = {table.lower(): table for table in tables}
    short = name.lower()
    found = by_lower.get(short, by_lower.get(f"table-{short}"))
    if found is None:
        full = name if short.startswith("table-") else f"table-{name}"
        hint = near_names(full, by_lower.values(), cutoff=0.7)
        raise ValueError(f"table: unknown {name!r}{hint}; known are {', '.join(by_lower.values())}")
    return found
