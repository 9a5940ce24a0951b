"""The table of docs/solver.md, which solver takes what, from the declarations: ``python docs/solver_features.py``.

Writes it between the two marks in the page; ``--check`` only says whether it is there as declared.
"""

from __future__ import annotations

import sys
from pathlib import Path

from constropt import solvers
from constropt.features import FEATURES, Takes
from constropt.solvers.base import declared_solvers

PAGE = Path(__file__).resolve().parent / "solver.md"
BEGIN, END = "<!-- solver features: begin -->", "<!-- solver features: end -->"
COLUMNS = {
    "equalities": "equalities",
    "shared": "shared multipliers",
    "fraction": "fraction",
    "surrogate": "surrogate",
    "nonsmooth": "nonsmooth r",
    "one_problem": "rows one problem",
    "feasibility": "no objective",
}


def table() -> str:
    """The table in Markdown."""
    columns = [(COLUMNS[feature.name], feature.taken) for feature in FEATURES]
    columns.append(("alternatives", lambda takes: takes.alternatives))
    header = ["solver", "constraints", *(title for title, _ in columns), "domain", "gradients of"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name, takes in sorted(declared_solvers()):
        if name in solvers.__all__:
            marks = ["yes" if taken(takes) else "" for _, taken in columns]
            cells = [f"`{name}`", _number(takes), *marks, takes.domains.words.partition(" ")[2], _gradients(takes)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(takes: Takes) -> str:
    most = "any" if takes.most is None else str(takes.most)
    return most if takes.least == 0 or most == str(takes.least) else f"{takes.least} to {most}"


def _gradients(takes: Takes) -> str:
    parts = [("objective", takes.objective_gradient), ("constraints", takes.constraint_gradients)]
    return ", ".join(part for part, taken in parts if taken) or "nothing"


def page() -> str:
    """The page with the table as declared now."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(page() != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page(), encoding="utf-8")
