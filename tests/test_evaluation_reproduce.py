"""Tables of the thesis as data: run, laid out, cut to a budget, honest about rows that can't run."""

from __future__ import annotations

import json

import pytest
from fakes import nearest_mean
from torch import nn

from constropt.lab import RecipeSpec, load_data
from constropt.lab.attacks.table_runs import reproduce, reproduction_table, thesis_table, write_reproduction
from constropt.lab.attacks.thesis_tables import TABLES, TableRow, ThesisTable

STEPS = "fakes:sign_steps"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nearest_mean().eval()


@pytest.fixture(scope="module")
def data():
    inputs, labels = load_data("digits")
    return inputs[:30], labels[:30]


TABLE = ThesisTable(
    "table-0.0",
    "made up",
    "means",
    "mnist",
    (
        TableRow("Steps 5", STEPS, "l2", {"distance": "l2", "steps": 5}, {"success_rate": 0.5, "median_distance": 2.0}),
        TableRow("Steps 50", STEPS, "l2", {"distance": "l2", "steps": 50}),
        TableRow("Steps 90", STEPS, "l2", {"distance": "l2", "steps": 90}),
        TableRow("Gone", "not_installed", "l2", {"steps": 5}),
        TableRow("Changed", "fakes:lazy", "l2", {"sizes": 5}),
    ),
)


def test_reproducing_a_table(model, data, tmp_path):
    found = reproduce(TABLE, {"m": model}, *data, out=tmp_path, steps=7)
    assert [line[1] for line in found.lines] == ["Steps 5", "Steps 50*", "Gone", "Changed"]
    assert found.lines[0][-1] == "50.0%, 2, - / -" and found.lines[2][2:5] == ["-", "-", "- / -"]
    rates = {row["recipe"]: row["success_rate"] for row in found.evaluation.rows}
    assert found.figures[0]["success_rate"] == rates["sign_steps[distance=l2,steps=5]"]
    remarks = " ".join(found.remarks)
    assert "Gone: not run; recipe: unknown name 'not_installed'" in remarks and "Changed: not run" in remarks
    assert "Steps 90: cut to 7 steps, the same as Steps 50" in remarks and "*: budget cut to 7 steps" in remarks
    text = write_reproduction(found).read_text()
    assert (
        "| l2 | Steps 50* |" in text
        and json.loads((tmp_path / "table-0.0.json").read_text())["rows"][0]["forwards"] == 5
    )
    assert reproduction_table(found).row_count == 4
    with pytest.raises(ValueError, match="no row can run"):
        reproduce(ThesisTable("t", "", "means", "mnist", TABLE.rows[3:]), {"m": model}, *data, out=tmp_path / "no")


@pytest.mark.parametrize("kind", ["targets", "models"])
def test_the_other_kinds_of_table(model, data, tmp_path, kind):
    table = ThesisTable("table-0.1", "made up", kind, "mnist", TABLE.rows[:2], 0.5 if kind == "models" else None)
    found = reproduce(table, {"a": model, "b": model}, data[0][:6], data[1][:6], out=tmp_path, steps=20)
    if kind == "models":
        assert [line[:2] for line in found.lines] == [[m, a] for m in "ab" for a in ("Steps 5", "Steps 50*", "all")]
        assert found.header[-1] == "accuracy at 0.5" and all("-" not in line[2:] for line in found.lines)
    else:
        assert [line[0] for line in found.lines] == ["Steps 5", "Steps 50*"] and len(found.header) == 9
        assert found.lines[0][1] != "-" and found.figures[1]["targets"] == "least likely"


def test_the_tables_of_the_thesis_are_whole():
    assert set(TABLES) == {f"table-{name}" for name in ("3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "4.1", "4.2")}
    assert len(TABLES["table-4.1"].rows) == 19 and len(TABLES["table-4.2"].rows) == 28
    for table in TABLES.values():
        assert len({str(RecipeSpec(row.recipe, row.options)) for row in table.rows}) == len(table.rows)
        assert len({row.attack for row in table.rows}) == len(table.rows)
    with pytest.raises(ValueError, match="near names: table-4.1"):
        thesis_table("table-4.11")
