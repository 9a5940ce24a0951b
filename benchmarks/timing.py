"""The wall time of a call."""

from __future__ import annotations

import time
from collections.abc import Callable


def timed(call: Callable[[], object]) -> float:
    """Seconds that one call takes, on the processor: nothing waits for a GPU."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
