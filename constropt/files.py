"""Files that are either complete or absent, and numbers that JSON can hold."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the place of ``path`` if the block ends without an error.

    The suffix is that of ``path``, since writers choose the format by it. Creates missing directories; raises
    ``OSError`` where it cannot.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}-unfinished-{os.getpid()}{path.suffix}")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)  # as the umask says: some writers make their files private
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """``value`` with every float that JSON cannot hold replaced by ``None``, through nested mappings and lists.

    >>> finite({"median": float("inf"), "rows": [1, float("nan")]})
    {'median': None, 'rows': [1, None]}
    """
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
