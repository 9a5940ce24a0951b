"""Draw docs/images/architecture.png from the imports: ``python docs/draw_imports.py``. Needs the extra ``plot``.

Every part is a box on its floor; an arrow says that it imports another part. Arrows within the lab are left out, and
those that follow from others: where a imports b and b imports c, that a imports c too is not drawn.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "constropt"
FLOORS = ("core", "problems", "lab")
COLORS = {"core": "#d7e8f7", "problems": "#e3f1d9", "lab": "#f8e6cf"}


def part_of(path: Path) -> tuple[str, str]:
    """The floor and the part that a file belongs to."""
    first, *rest = path.relative_to(PACKAGE).with_suffix("").parts
    if first in ("problems", "lab"):
        return first, rest[0] if rest and rest[0] != "__init__" else first
    return "core", first


def imports(path: Path) -> set[Path]:
    """The files of the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("constropt."):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                for module in (name, node.module):
                    place = ROOT.joinpath(*module.split("."))
                    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                    if file.is_file():
                        found.add(file)
                        break
    return found


def edges() -> tuple[dict[tuple[str, str], int], set[tuple[tuple[str, str], tuple[str, str]]]]:
    """The parts with their numbers of lines, and which imports which."""
    lines: dict[tuple[str, str], int] = defaultdict(int)
    arrows = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name in ("__init__.py", "__main__.py") and path.parent == PACKAGE:
            continue
        part = part_of(path)
        lines[part] += len(path.read_text(encoding="utf-8").splitlines())
        arrows |= {(part, part_of(other)) for other in imports(path)}
    return lines, {(a, b) for a, b in arrows if a != b and b in lines}


def levels(parts: list[tuple[str, str]], arrows: set[tuple[tuple[str, str], tuple[str, str]]]) -> dict:
    """How high each part stands within its floor: one above all that it imports there."""
    height = dict.fromkeys(parts, 0)
    for _ in parts:
        for a, b in arrows:
            if a in height and b in height and height[a] <= height[b] < len(parts):
                height[a] = height[b] + 1
    return height


def reduced(arrows: set[tuple[tuple[str, str], tuple[str, str]]]) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    """The arrows without those between parts that others already connect."""
    following = defaultdict(set)
    for a, b in arrows:
        following[a].add(b)

    def reaches(start: tuple[str, str], goal: tuple[str, str]) -> bool:
        seen, todo = set(), [start]
        while todo:
            part = todo.pop()
            if part == goal:
                return True
            todo += following[part] - seen
            seen |= following[part]
        return False

    return {(a, b) for a, b in arrows if not any(reaches(c, b) for c in following[a] - {b})}


def main() -> None:
    lines, arrows = edges()
    figure = Figure(figsize=(15, 12), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    place: dict[tuple[str, str], tuple[float, float]] = {}
    base = 0.0
    for floor in FLOORS:
        parts = sorted(part for part in lines if part[0] == floor)
        # the parts of the lab import each other freely: one row
        height = levels(parts, arrows) if floor != "lab" else dict.fromkeys(parts, 0)
        ranks = sorted(set(height.values()))
        for row, rank in enumerate(ranks):
            level = [part for part in parts if height[part] == rank]
            for column, part in enumerate(level):
                place[part] = ((column + 0.5) / len(level) * 12, base + row)
        top = base + len(ranks) - 1
        axes.axhspan(base - 0.5, top + 0.5, color=COLORS[floor], zorder=0)
        axes.text(-0.35, (base + top) / 2, floor, rotation=90, va="center", ha="center", fontsize=15, weight="bold")
        base = top + 1.3
    for a, b in sorted(reduced({(a, b) for a, b in arrows if not a[0] == b[0] == "lab"})):
        style = {"arrowstyle": "-|>", "color": "#555555", "alpha": 0.5, "shrinkA": 14, "shrinkB": 14, "linewidth": 0.9}
        axes.annotate("", xy=place[b], xytext=place[a], arrowprops=style, zorder=1)
    for part, (x, y) in place.items():
        text = f"{part[1]}\n{lines[part]:,} lines"
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "#333333"}
        axes.text(x, y, text, ha="center", va="center", fontsize=9, zorder=3, bbox=box)
    axes.set_xlim(-0.6, 12.1)
    axes.set_ylim(-0.7, base - 0.6)
    axes.axis("off")
    axes.set_title("constropt: who imports whom; what follows from other arrows is not drawn")
    figure.savefig(ROOT / "docs" / "images" / "architecture.png", dpi=80)


if __name__ == "__main__":
    main()
