"""The kinds of study that there are, by name."""

from constropt.lab.studies.calibration.kind import CALIBRATION
from constropt.lab.studies.kind import StudyKind
from constropt.lab.studies.metric_learning.kind import RETRIEVAL

STUDIES: dict[str, StudyKind] = {kind.name: kind for kind in (CALIBRATION, RETRIEVAL)}


def add_study(kind: StudyKind) -> StudyKind:
    """Make a kind of study known, its tables to ``constropt reproduce`` too; returns it. ``ValueError`` for a name, or
    the name of a table, that another kind has.
    """
    taken = {table for other in STUDIES.values() for table in other.tables}
    for what, name, others in [("study", kind.name, STUDIES), *(("table", name, taken) for name in kind.tables)]:
        if name in others:
            raise ValueError(f"kind: the {what} {name!r} is there already; give it another name")
    STUDIES[kind.name] = kind
    return kind
