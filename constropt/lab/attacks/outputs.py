"""The figures of a run for people and programs: terminal, Markdown, JSON, Parquet, CSV and pictures."""

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from constropt.checks import MissingExtra
from constropt.files import replacing
from constropt.lab.attacks.plots import plot_curve
from constropt.lab.attacks.report import number, percent
from constropt.lab.attacks.results import CONVENTIONS, CellResult
from constropt.lab.attacks.sharded import AttackEvaluation
from constropt.lab.writing import markdown_table, write_json, write_parquet, write_text
from constropt.solution import Status

GRID = 100  # intervals of the curves that are written as numbers
Row = dict[str, Any]


def write_evaluation(evaluation: AttackEvaluation) -> list[str]:
    """Write what a complete run found into its folder; returns remarks on what could not be written.

    ``summary.md`` and ``summary.json``: the figures with conventions, notes and signs; ``summary.parquet``: the figures
    alone; ``results.parquet``: every sample; ``curves.csv``: robust accuracy on a grid of radii;
    ``curve-MODEL-DISTANCE.png``: the exact curves, where matplotlib is installed. Nothing in them depends on the time.
    Raises ``ValueError`` for a run that is not complete.
    """
    if not evaluation.complete:
        raise ValueError(f"evaluation: {evaluation.total - evaluation.done} batches are missing in {evaluation.out}")
    out = evaluation.out
    write_text(out / "summary.md", [markdown(evaluation)])
    content = {
        "settings": evaluation.settings, "conventions": CONVENTIONS,
        "rows": [_with_text_radii(row) for row in evaluation.rows],
        "geometric_means": [_with_text_radii(row) for row in evaluation.means], "notes": evaluation.notes,
        "signs": [vars(sign) for sign in evaluation.signs],
    }  # fmt: skip
    write_json(out / "summary.json", content)
    flat = [flat_row(row) for row in [*evaluation.rows, *evaluation.means]]
    names = dict.fromkeys(name for row in flat for name in row)
    write_parquet(out / "summary.parquet", {name: [row.get(name) for row in flat] for name in names})
    samples = pyarrow.concat_tables([_samples(result) for result in evaluation.results], promote_options="default")
    write_parquet(out / "results.parquet", samples)
    _write_curves(evaluation)
    try:
        for (model, distance), results in _by_axis(evaluation.results).items():
            plot_curve(results, out / f"curve-{model}-{distance}.png")
    except MissingExtra as error:
        return [f"no pictures: {error}"]
    return []


def terminal_tables(evaluation: AttackEvaluation) -> list[Table]:
    """A table per model and distance, of several models also of geometric means; the conventions below the last one."""
    tables = []
    for caption, rows in _blocks(evaluation):
        header, lines = _layout(rows)
        table = Table(title=escape(caption), caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in header:
            text = name in ("recipe", "targets")  # only these give way in a narrow terminal
            lines_of = name if text else "\n".join(name.rsplit(" ", 1))
            table.add_column(lines_of, justify="left" if text else "right", overflow="fold", no_wrap=not text)
        for line in lines:
            table.add_row(*map(escape, line))
        tables.append(table)
    if tables:
        tables[-1].caption = CONVENTIONS
    return tables


def markdown(evaluation: AttackEvaluation) -> str:
    """The same tables, conventions, notes and signs as Markdown."""
    parts = []
    for caption, rows in _blocks(evaluation):
        parts += [f"## {caption}", "", *markdown_table(*_layout(rows)), ""]
    parts += [CONVENTIONS, ""]
    for heading, texts in (("Warnings", evaluation.signs), ("Left out", evaluation.notes)):
        if texts:
            parts += [f"## {heading}", "", *(f"- {text}" for text in texts), ""]
    return "\n".join(parts)


def _blocks(evaluation: AttackEvaluation) -> list[tuple[str, list[Row]]]:
    """The rows that compare, those of a model and a distance, with a caption."""
    blocks: dict[tuple[str, str, bool], list[Row]] = {}
    for row in [*evaluation.rows, *evaluation.means]:
        blocks.setdefault((row["model"], row["distance"], row["targets"] is not None), []).append(row)
    captioned = []
    for (model, distance, targeted), rows in blocks.items():
        clean = "" if targeted else f", clean accuracy {percent(rows[0]['clean_accuracy'])}"
        captioned.append((f"{distance}, {model}: {evaluation.settings['samples']} samples{clean}", rows))
    return captioned


def _layout(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a table as texts."""
    radii = sorted({radius for row in rows for radius in row["accuracy_at"]})
    targeted = any(row["targets"] for row in rows)
    header = ["recipe", *(["targets"] if targeted else []), "success", "median", "mean"]
    header += [f"acc at {radius:g}" for radius in radii] + ["fwd/bwd", "8-bit success", "8-bit median"]
    lines = []
    for row in rows:
        line = [row["recipe"], *([row["targets"]] if targeted else [])]
        line += [percent(row["success_rate"]), number(row["median_distance"]), number(row["mean_distance"])]
        line += [percent(row["accuracy_at"].get(radius)) for radius in radii]
        line += [f"{passes(row['forwards'])}/{passes(row['backwards'])}"]
        line += [percent(row["success_rate_8bit"]), number(row["median_distance_8bit"])]
        lines.append(line)
    return header, lines


def passes(count: float | None) -> str:
    """A mean number of passes: whole from 1,000 on, where four digits would not do.

    >>> passes(12_271.3), passes(102.0), passes(None)
    ('12271', '102', '-')
    """
    return f"{count:.0f}" if count is not None and count >= 1000 else number(count)


def _with_text_radii(row: Row) -> Row:
    return {**row, "accuracy_at": {f"{radius:g}": accuracy for radius, accuracy in row["accuracy_at"].items()}}


def flat_row(row: Mapping[str, Any]) -> Row:
    """The row with the accuracy at each radius as a figure of its own."""
    radii = {f"accuracy_at_{radius:g}": accuracy for radius, accuracy in row.get("accuracy_at", {}).items()}
    return {key: value for key, value in row.items() if key != "accuracy_at"} | radii


def _samples(result: CellResult) -> pyarrow.Table:
    size = len(result.columns["success"])
    columns: dict[str, Any] = {
        "model": [result.model] * size, "distance_name": [result.distance_name] * size,
        "targets": pyarrow.array([result.goal] * size, pyarrow.string()), "recipe": [result.name] * size,
    }  # fmt: skip
    columns |= {name: values for name, values in result.columns.items() if name != "status"}
    columns["status"] = [Status(code).message for code in result.columns["status"].tolist()]
    return pyarrow.table(columns)


def _by_axis(results: Sequence[CellResult]) -> dict[tuple[str, str], list[CellResult]]:
    """Results that one picture can hold: those of a model, a distance and a goal, which is named where there is one."""
    grouped: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        goal = f"-{result.goal.replace(' ', '-')}" if result.goal else ""
        grouped.setdefault((result.model, f"{result.distance_name}{goal}"), []).append(result)
    return grouped


def _write_curves(evaluation: AttackEvaluation) -> None:
    """``curves.csv``: the robust accuracy of every result at equally spaced radii, 0 to the farthest of its picture."""
    with replacing(evaluation.out / "curves.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "distance", "targets", "recipe", "radius", "robust_accuracy"])
        for results in _by_axis(evaluation.results).values():
            ends = [float(radii[-1]) for radii, _ in (result.robust_accuracy() for result in results)]
            grid = np.linspace(0.0, max(ends) or 1.0, GRID + 1).tolist()
            for result in results:
                for radius, accuracy in zip(grid, result.accuracy_at(grid)):
                    names = [result.model, result.distance_name, result.goal or "", result.name]
                    writer.writerow([*names, f"{radius:.8g}", f"{accuracy:.8g}"])
