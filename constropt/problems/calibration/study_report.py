"""What a study found, as a table with mean and spread over seeds, as files, and as one sentence per comparison."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from constropt.evaluation.files import finite, replacing
from constropt.problems.calibration.methods import METHODS, parse_method, title_of
from constropt.problems.calibration.study import Study

RIVALS = ("ce", "ls", "fl", "mbls")  # what CALS-ALM is held against
SLACK = 0.005  # of accuracy that may be lost to cross-entropy


@dataclass(frozen=True)
class Column:
    """A figure of a run: the ``header`` that it stands under, the keys that lead to it, whether as per cent."""

    header: str
    path: tuple[str, ...]
    percent: bool = True

    def of(self, result: dict[str, Any]) -> float | None:
        """The figure in a run's result; ``None`` where it has none."""
        value: Any = result
        for key in self.path:
            value = (value or {}).get(key)
        return value

    def text(self, results: Sequence[dict[str, Any]]) -> str:
        """Mean and standard deviation over runs."""
        values = [value for value in map(self.of, results) if value is not None]
        return with_spread(values, 100 if self.percent else 1, 2 if self.percent else 3)


ACCURACY, MIOU = Column("Acc %", ("before", "accuracy")), Column("mIoU %", ("before", "miou"))
ECE, AECE = Column("ECE %", ("before", "ece")), Column("AECE %", ("before", "aece"))
CWCE = Column("CWCE %", ("before", "cwce"))
NLL, BRIER = Column("NLL", ("before", "nll"), False), Column("Brier", ("before", "brier"), False)
ECE_SCALED, NLL_SCALED = Column("ECE % + TS", ("after-nll", "ece")), Column("NLL + TS", ("after-nll", "nll"), False)
TEMPERATURE = Column("T", ("temperature", "nll"), False)
ECE_SEARCHED = Column("ECE % + TS (ECE)", ("after-ece", "ece"))
TEMPERATURE_SEARCHED = Column("T (ECE)", ("temperature", "ece"), False)
SHIFTED = Column("ECE % noise 5", ("shift", "5"))

COLUMNS = (
    ACCURACY,
    MIOU,
    ECE,
    AECE,
    CWCE,
    BRIER,
    NLL,
    ECE_SCALED,
    TEMPERATURE,
    NLL_SCALED,
    ECE_SEARCHED,
    TEMPERATURE_SEARCHED,
    SHIFTED,
)


MAIN = (ACCURACY, MIOU, ECE, ECE_SCALED, TEMPERATURE, NLL)  # what a terminal has room for


def with_spread(values: Sequence[float], factor: float = 1, digits: int = 2) -> str:
    """Mean and sample standard deviation of some runs, or the value of one; a dash for none.

    >>> with_spread([0.1, 0.2], 100), with_spread([0.5]), with_spread([])
    ('15.00 ± 7.07', '0.50', '-')
    """
    if not values:
        return "-"
    text = f"{factor * _average(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {factor * statistics.stdev(values):.{digits}f}"


def ordered(methods: Sequence[str]) -> list[str]:
    """Methods in the order of the registry, those with options behind their own, others last."""
    places = {name: place for place, name in enumerate(METHODS)}
    return sorted(methods, key=lambda text: (places.get(parse_method(text).reference, len(places)), text))


def layout(study: Study, columns: Sequence[Column] = COLUMNS) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table: a line per method, only columns that some run has a figure for."""
    everything = [result for runs in study.results.values() for result in runs.values()]
    shown = [column for column in columns if any(column.of(result) is not None for result in everything)]
    lines = []
    for method in ordered(list(study.results)):
        runs = list(study.results[method].values())
        lines.append([title_of(parse_method(method)), str(len(runs)), *(column.text(runs) for column in shown)])
    return ["method", "seeds", *(column.header for column in shown)], lines


def remarks(study: Study) -> list[str]:
    """Whether the ECE of CALS-ALM is below its rivals' without temperature scaling, and its accuracy near that of CE:
    on average over the seeds that both have.
    """
    if "cals-alm" not in study.results:
        return []
    places: dict[str, list[str]] = {"below": [], "level with": [], "not below": []}
    for rival in RIVALS:
        gaps = _gaps(study, rival, ECE)
        if gaps:
            gap = _average(gaps)
            place = "level with" if abs(gap) <= _standard_error(gaps) else "below" if gap < 0 else "not below"
            places[place].append(f"{METHODS[rival].title} ({100 * gap:+.2f})")
    lines = []
    if any(places.values()):
        found = "; ".join(f"{place} {', '.join(rivals)}" for place, rivals in places.items() if rivals)
        lines.append(
            f"without temperature scaling the ECE of CALS-ALM is {found} (points; level: within the standard error of"
            " the difference over seeds)"
        )
    gaps = _gaps(study, "ce", ACCURACY)
    if gaps:
        holds = "holds" if _average(gaps) >= -SLACK else "does not hold"
        lines.append(
            f"accuracy of CALS-ALM minus that of CE: {100 * _average(gaps):+.2f} points; not below by more than"
            f" {100 * SLACK:g} {holds}"
        )
    means = {method: _mean(ECE_SCALED, list(runs.values())) for method, runs in study.results.items()}
    scaled = {method: mean for method, mean in means.items() if mean is not None}
    if scaled:
        best = min(scaled, key=scaled.__getitem__)
        title = title_of(parse_method(best))
        lines.append(f"lowest ECE with temperature scaling: {title} ({100 * scaled[best]:.2f})")
    return lines


def _mean(column: Column, results: Sequence[dict[str, Any]]) -> float | None:
    values = [value for value in map(column.of, results) if value is not None]
    return _average(values) if values else None


def _gaps(study: Study, rival: str, column: Column) -> list[float]:
    """The figure of CALS-ALM minus that of ``rival``, for each seed of both."""
    ours, theirs = study.results["cals-alm"], study.results.get(rival, {})
    pairs = [(column.of(ours[seed]), column.of(theirs[seed])) for seed in ours if seed in theirs]
    return [mine - other for mine, other in pairs if mine is not None and other is not None]


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean; 0 for one value, of which nothing is known."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def described(study: Study) -> str:
    """Data, model and training of a study in one line."""
    data, training = study.settings["data"], study.settings["training"]
    extra = [f"long-tailed 1:{data['long_tail']:g}"] if data["long_tail"] is not None else []
    rate = "" if training["lr"] is None else f" {training['lr']:g}"
    parts = [
        data["data"],
        *extra,
        f"{data['classes']} classes",
        study.settings["model"],
        f"{training['epochs']} epochs of {training['optimizer']}{rate}, {training['schedule']}",
    ]
    return ", ".join(parts)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    rule = ["---"] * len(header)
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, rule, *lines)]


def write_report(study: Study) -> list[Path]:
    """Write ``results.md``, ``results.json`` and ``results.parquet``, a row per run, into the study's folder."""
    header, lines = layout(study)
    text = ["# Calibration", "", described(study), "", *markdown_table(header, lines), ""]
    text += [f"- {remark}" for remark in [*remarks(study), NOTES]] + [""]
    runs = [study.results[m][seed] for m in ordered(list(study.results)) for seed in sorted(study.results[m])]
    paths = [study.out / f"results.{kind}" for kind in ("md", "json", "parquet")]
    with replacing(paths[0]) as unfinished:
        unfinished.write_text("\n".join(text), encoding="utf-8")
    content = {"settings": study.settings, "remarks": remarks(study), "runs": runs}
    with replacing(paths[1]) as unfinished:
        unfinished.write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    columns: dict[str, list[Any]] = {name: [run[name] for run in runs] for name in ("method", "seed")}
    columns |= {"_".join(column.path): [column.of(run) for run in runs] for column in COLUMNS}
    with replacing(paths[2]) as unfinished:
        pyarrow.parquet.write_table(pyarrow.table(columns), unfinished)
    return paths


NOTES = (
    "mean ± standard deviation over seeds; a seed draws the held-out part, the initial weights and the order of the"
    " batches, the same for all methods; TS: one temperature of least NLL on the held-out part (Guo et al.), or of"
    " least ECE (the thesis)"
)
