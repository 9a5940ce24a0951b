"""The hint of an error message at a name that is unknown: the known ones that are most like it."""

import difflib
from collections.abc import Iterable


def near_names(
    name: str, known: Iterable[str], form: str = "; near names: {}", *, cutoff: float = 0.6, count: int = 3
) -> str:
    """``form`` with at most ``count`` of the ``known`` names that are most like ``name``, in whatever letter case;
    nothing where no likeness reaches ``cutoff``, from 0 to 1 (equal).

    >>> near_names("DNN", ["alma", "ddn", "fmn"])
    '; near names: ddn'
    >>> near_names("zz", ["alma", "ddn", "fmn"])
    ''
    """
    folded: dict[str, list[str]] = {}
    for entry in known:
        folded.setdefault(entry.casefold(), []).append(entry)
    matches = difflib.get_close_matches(name.casefold(), folded, n=count, cutoff=cutoff)
    near = [entry for match in matches for entry in folded[match]][:count]
    return form.format(", ".join(near)) if near else ""
