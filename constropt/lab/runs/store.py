"""Results on disk: per-sample tables as Parquet, perturbed inputs as safetensors, summaries as JSON.

Every file is written under a temporary name beside its own and renamed when complete: a killed run leaves no half file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from safetensors.torch import save_file

from constropt.files import finite, replacing
from constropt.lab.attacks.report import AttackReport


def write_results(report: AttackReport, path: str | Path) -> None:
    """The per-sample columns of ``report`` as Parquet; its summary goes into the file's metadata as JSON."""
    table = pyarrow.table({name: pyarrow.array(column) for name, column in report.columns.items()})
    note = json.dumps(finite(report.summary()), allow_nan=False)
    table = table.replace_schema_metadata({"constropt.recipe": report.name, "constropt.summary": note})
    with replacing(path) as unfinished:
        pyarrow.parquet.write_table(table, unfinished)


def read_results(path: str | Path) -> dict[str, Any]:
    """The columns that :func:`write_results` wrote, as numpy arrays by name."""
    table = pyarrow.parquet.read_table(path)
    return {name: table.column(name).to_numpy() for name in table.column_names}


def write_adversarial(report: AttackReport, path: str | Path) -> None:
    """The perturbed inputs of ``report`` as safetensors: ``inputs`` ``(samples, *event)``, ``labels``, ``success``.

    The file can be evaluated again as the data set ``safetensors:FILE``.
    """
    tensors = {
        "inputs": report.adversarial.detach().cpu().contiguous(),
        "labels": report.tensor("label") if report.labels is None else report.labels.contiguous(),
        "success": report.tensor("success"),
    }
    with replacing(path) as unfinished:
        save_file(tensors, unfinished, metadata={"recipe": report.name})


def write_summary(reports: Sequence[AttackReport], path: str | Path, **context: Any) -> None:
    """The summaries of ``reports`` by recipe, with the ``context`` of the run, as strict JSON (null: not finite)."""
    content = {**context, "recipes": {report.name: report.summary() for report in reports}}
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
