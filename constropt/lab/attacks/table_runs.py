"""Run a table of the thesis and lay it out as it stands there, with the published figures beside the found ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from constropt.lab.attacks.outputs import flat_row, passes
from constropt.lab.attacks.report import number, percent
from constropt.lab.attacks.results import AVERAGE, GEOMETRIC_MEAN, LEAST_LIKELY, WORST_CASE
from constropt.lab.attacks.run import check_options, takes
from constropt.lab.attacks.sharded import DEFAULTS, AttackEvaluation, Progress, RunSettings, run_evaluation
from constropt.lab.attacks.signs import Model, Sign
from constropt.lab.attacks.thesis_tables import TABLES, TableRow, ThesisTable
from constropt.lab.runs.specs import RecipeSpec, named_table
from constropt.lab.writing import markdown_table, terminal_table, write_json, write_text
from constropt.problems.references import load_recipe


@dataclass(frozen=True)
class Reproduction:
    """A table as found: ``header`` and ``lines`` of texts, the ``figures`` behind them, and remarks below it, from the
    run ``evaluation``; while batches are missing in it, there are no lines.
    """

    table: ThesisTable
    evaluation: AttackEvaluation
    header: list[str]
    lines: list[list[str]]
    figures: list[dict[str, Any]]
    remarks: list[str]


def thesis_table(name: str) -> ThesisTable:
    """The table of that name, "table-4.1" or "4.1"; ``ValueError`` for another, with near names.

    >>> thesis_table("4.1").title
    'Minimal attacks (MNIST)'
    """
    return TABLES[named_table(name, TABLES)]


def reproduce(
    table: str | ThesisTable, models: Mapping[str, Model], inputs: torch.Tensor, labels: torch.Tensor, *,
    out: str | Path, steps: int | None = None, settings: RunSettings = DEFAULTS,
    warn: Callable[[Sign], None] | None = None, progress: Progress | None = None,
) -> Reproduction:  # fmt: skip
    """Run the rows of ``table`` on ``models`` by :func:`~constropt.lab.attacks.sharded.run_evaluation`.

    ``steps`` is the most that a row may take: larger budgets are cut to it, and rows that then coincide stand once;
    ``None`` for those published. A row whose recipe is not installed, or does not take what the row asks for, stays in
    the table, empty, with the reason below it. The table says the distances, targets and radii of ``settings``. Raises
    what ``run_evaluation`` raises, and ``ValueError`` where no row can run.
    """
    table = thesis_table(table) if isinstance(table, str) else table
    rows, remarks = _specs(table, steps)
    wanted = [spec for _, spec in rows if spec is not None]
    if not wanted:
        raise ValueError(f"{table.name}: no row can run; {'; '.join(remarks)}")
    asked = replace(
        settings, distances=list(dict.fromkeys(row.distance for row, _ in rows)),
        targets="all" if table.kind == "targets" else None, radii=[] if table.radius is None else [table.radius],
    )  # fmt: skip
    evaluation = run_evaluation(wanted, models, inputs, labels, out=out, settings=asked, warn=warn, progress=progress)
    if not evaluation.complete:
        return Reproduction(table, evaluation, [], [], [], remarks)
    layout = {"means": _means, "targets": _targets, "models": _models}[table.kind]
    header, lines, figures = layout(table, rows, evaluation)
    return Reproduction(table, evaluation, header, lines, figures, [*remarks, *evaluation.notes])


Rows = list[tuple[TableRow, RecipeSpec | None]]


def _specs(table: ThesisTable, steps: int | None) -> tuple[Rows, list[str]]:
    """The rows that differ with the recipe of each, ``None`` where it can't run, and why."""
    rows: Rows = []
    seen: dict[RecipeSpec, TableRow] = {}
    reasons: dict[str, list[str]] = {}
    for row in table.rows:
        try:
            spec = _spec(row, table, steps)
        except (ValueError, ImportError) as error:
            reasons.setdefault(f"not run; {str(error).partition('; known are')[0]}", []).append(row.attack)
            rows.append((row, None))
            continue
        if spec in seen:
            reasons.setdefault(f"cut to {steps} steps, the same as {seen[spec].attack}", []).append(row.attack)
            continue
        seen[spec] = row
        if spec.options.get("steps") != row.options.get("steps"):
            row = replace(row, attack=f"{row.attack}*")
        rows.append((row, spec))
    remarks = [f"{', '.join(dict.fromkeys(attacks))}: {reason}" for reason, attacks in reasons.items()]
    if any(row.attack.endswith("*") for row, _ in rows):
        remarks.append(f"*: budget cut to {steps} steps")
    return rows, remarks


def _spec(row: TableRow, table: ThesisTable, steps: int | None) -> RecipeSpec:
    function = load_recipe(row.recipe)
    options = dict(row.options)
    own = options.get("steps")
    if steps is not None and (own is None or own > steps) and takes(function, "steps"):
        options["steps"] = max(steps, options.get("searches", 1))
    if takes(function, "distance"):
        options.setdefault("distance", row.distance)
    else:
        options.pop("distance", None)
    check_options(function, row.recipe, options | ({"targets": None} if table.kind == "targets" else {}))
    return RecipeSpec(row.recipe, options)


Layout = tuple[list[str], list[list[str]], list[dict[str, Any]]]


def _found(among: Sequence[dict[str, Any]], row: TableRow, recipe: str | None, **also: Any) -> dict[str, Any]:
    """The first figures ``among`` these that are those of a row, empty where there are none."""
    wanted = {"distance": row.distance, "recipe": recipe, **also}
    return next((found for found in among if all(found[key] == value for key, value in wanted.items())), {})


def _means(table: ThesisTable, rows: Rows, evaluation: AttackEvaluation) -> Layout:
    """Tables 3.1, 4.1 and 4.2: the geometric mean over the models."""
    names = ["success_rate", "median_distance"]
    if any("mean_distance" in row.published for row, _ in rows):
        names.append("mean_distance")
    header = ["distance", "attack", *(_SHORT[name] for name in names), "fwd / bwd", "published"]
    lines, figures = [], []
    for row, spec in rows:
        found = _found([*evaluation.means, *evaluation.rows], row, spec and spec.label)
        lines.append([row.distance, row.attack, *_quality(found, names), ", ".join(_quality(row.published, names))])
        figures.append(_record(row, spec, found))
    return header, lines, figures


_SHORT = {"success_rate": "success", "median_distance": "median", "mean_distance": "mean"}


def _quality(figures: Mapping[str, Any], names: list[str]) -> list[str]:
    fields = [(percent if name == "success_rate" else number)(figures.get(name)) for name in names]
    return [*fields, f"{passes(figures.get('forwards'))} / {passes(figures.get('backwards'))}"]


def _targets(table: ThesisTable, rows: Rows, evaluation: AttackEvaluation) -> Layout:
    """Tables 3.2 to 3.4: over all targets, on average and for the least likely class."""
    places = [f"{scenario} {figure}" for scenario in (AVERAGE, LEAST_LIKELY) for figure in ("success", "mean")]
    header = ["attack", *places, *(f"published {place}" for place in places)]
    every = [*evaluation.means, *evaluation.rows]
    lines, figures = [], []
    for row, spec in rows:
        line = [row.attack]
        scenarios = {s: _found(every, row, spec and spec.label, targets=s) for s in (AVERAGE, LEAST_LIKELY)}
        for found in scenarios.values():
            line += [percent(found.get("success_rate")), number(found.get("mean_distance"))]
        for name in scenarios:
            line += [percent(row.published.get(f"{name}.success_rate"))]
            line += [number(row.published.get(f"{name}.mean_distance"))]
        lines.append(line)
        figures += [_record(row, spec, found) | {"targets": name} for name, found in scenarios.items()]
    return header, lines, figures


def _models(table: ThesisTable, rows: Rows, evaluation: AttackEvaluation) -> Layout:
    """Tables 3.5 and 3.6: each model, the best of all attacks last."""
    header = ["model", "attack", "success", "mean", "median", f"accuracy at {table.radius:g}"]
    lines, figures = [], []
    everything = TableRow("all", "", rows[0][0].distance, {}), WORST_CASE
    for model in evaluation.settings["models"]:
        for row, label in [*((row, spec and spec.label) for row, spec in rows), everything]:
            found = _found(evaluation.rows, row, label, model=model)
            line = [model, row.attack, percent(found.get("success_rate"))]
            line += [number(found.get("mean_distance")), number(found.get("median_distance"))]
            lines.append([*line, percent(found.get("accuracy_at", {}).get(table.radius))])
            figures.append(_record(row, None, found) | {"model": model})
    return header, lines, figures


def _record(row: TableRow, spec: RecipeSpec | None, found: Mapping[str, Any]) -> dict[str, Any]:
    figures = {key: value for key, value in flat_row(found).items() if key != "recipe"}
    run = {} if spec is None else {"recipe": str(spec)}
    return {"attack": row.attack, "distance": row.distance, **run, **figures, "published": dict(row.published)}


def write_reproduction(found: Reproduction) -> Path:
    """Write ``TABLE.md`` and ``TABLE.json`` into the run's folder; returns the path of the former."""
    path = found.evaluation.out / f"{found.table.name}.md"
    head = [f"# {found.table.name}: {found.table.title}", "", _what(found), ""]
    tail = ["", *(f"- {remark}" for remark in found.remarks), ""]
    content = {"table": found.table.name, "rows": found.figures, "remarks": found.remarks}
    write_json(found.evaluation.out / f"{found.table.name}.json", content)
    return write_text(path, [*head, *markdown_table(found.header, found.lines), *tail])


def reproduction_table(found: Reproduction) -> Table:
    """The table for a terminal."""
    title = f"{found.table.name}: {found.table.title}. {_what(found)}"
    texts, sections = ("distance", "attack", "model"), found.header[0] != "attack"
    return terminal_table(title, found.header, found.lines, found.remarks, texts=texts, sections=sections)


def _what(found: Reproduction) -> str:
    names = list(found.evaluation.settings["models"])
    over = f"{GEOMETRIC_MEAN} over " if len(names) > 1 and found.table.kind != "models" else ""
    return f"{found.evaluation.settings['samples']} samples, {over}{', '.join(names)}"
