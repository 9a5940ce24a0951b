"""The results of several recipes side by side in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from constropt.lab.attacks.report import CONVENTIONS, DENSE_CONVENTIONS, AttackReport


def results_table(reports: Sequence[AttackReport], *, title: str | None = None) -> Table:
    """One line per recipe: success, median and mean distance, model passes per sample, time, time over model time.

    The caption states the conventions, and names what does not add up: successes that did not reproduce, and recipes
    whose own count of passes differs from the one taken at the model. Raises ``ValueError`` for no reports.
    """
    if not reports:
        raise ValueError("reports: takes at least one report")
    conventions = [CONVENTIONS, DENSE_CONVENTIONS] if any(report.dense for report in reports) else [CONVENTIONS]
    table = Table(title=title, caption="\n".join([*conventions, *_remarks(reports)]), caption_justify="left")
    table.add_column("recipe")
    distances = list(dict.fromkeys(report.distance_name for report in reports))
    unit = f" {distances[0]}" if len(distances) == 1 else ""
    dense = any(report.dense for report in reports)
    found = ("APSR", "mIoU") if dense else ()
    for header in ("success", f"median{unit}", f"mean{unit}", *found, "fwd / bwd", "time", "time/model"):
        table.add_column(header, justify="right")
    for report in reports:
        summary = report.summary()
        table.add_row(
            report.name if unit else f"{report.name} ({report.distance_name})",
            f"{summary['success_rate']:.1%}",
            number(summary["median_distance"]),
            number(summary["mean_distance"]),
            *([_percent(summary, "mean_apsr"), _iou(summary)] if dense else []),
            f"{number(summary['forwards'])} / {number(summary['backwards'])}",
            f"{summary['wall_time']:.2f} s",
            f"{summary['time_over_model_time']:.2f}",
        )
    return table


def _percent(summary: dict[str, Any], name: str) -> str:
    return f"{summary[name]:.1%}" if name in summary else "-"


def _iou(summary: dict[str, Any]) -> str:
    return f"{_percent(summary, 'clean_miou')} > {_percent(summary, 'miou')}"


def number(value: float | None) -> str:
    """Four significant digits; a dash for what is unknown.

    >>> number(0.123456), number(float("inf")), number(None)
    ('0.1235', 'inf', '-')
    """
    return "-" if value is None or value != value else f"{value:.4g}"


def _remarks(reports: Sequence[AttackReport]) -> list[str]:
    remarks: list[str] = []
    for report in reports:
        summary: dict[str, Any] = report.summary()
        if summary["unreproduced"]:
            remarks.append(f"{report.name}: {summary['unreproduced']} claimed successes did not reproduce.")
        own = [summary["reported_forwards"], summary["reported_backwards"]]
        seen = [summary["forwards"], summary["backwards"]]
        if own != seen:
            remarks.append(f"{report.name} itself reports {number(own[0])} forwards and {number(own[1])} backwards.")
    return remarks
