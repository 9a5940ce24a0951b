"""What is added to the lab from outside in one file: a data format, a kind of study with its table, a declared recipe;
and the command line where its packages are not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import nearest_mean, run_with, sign_steps
from test_cli import error, run
from torch import nn

from constropt.lab import load_data
from constropt.lab.attacks.run import Declared, check_options, options_of, refusal, takes
from constropt.lab.cli import app, main
from constropt.lab.data import FORMATS, DataFormat, add_format
from constropt.lab.data.load import KINDS
from constropt.lab.models import small_cnn
from constropt.lab.runs.specs import RecipeSpec, reference_of
from constropt.lab.studies.catalogue import STUDIES, add_study
from constropt.lab.studies.epochs import TRAIN_LOSS, History, TrainingSettings
from constropt.lab.studies.kind import Setup, StudyKind
from constropt.lab.studies.study import Run, Study
from constropt.lab.studies.tables import Benchmark, Block, Column, Method, StudyTable, build, layout
from constropt.problems.distances import UnsupportedDistance
from constropt.solution import Solution

ROOT = Path(__file__).resolve().parent.parent


def test_a_data_format_is_a_value(monkeypatch):
    monkeypatch.setattr("constropt.lab.data.load.FORMATS", dict(FORMATS))
    monkeypatch.setattr("constropt.lab.data.load.KINDS", dict(KINDS))

    def stripes(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        images = np.zeros((int(location), 4, 4), np.uint8)
        images[:, ::2] = 255 if split == "train" else 51
        return images, np.arange(int(location)) % 2

    add_format(DataFormat("stripes:COUNT", "made-up stripes", stripes))
    data = load_data("stripes:3")
    assert data.inputs.shape == (3, 1, 4, 4) and abs(float(data.inputs.max()) - 0.2) < 1e-6
    with pytest.raises(ValueError, match="'stripes' should read stripes:COUNT"):
        load_data("stripes")
    with pytest.raises(ValueError, match="stripes:COUNT .made-up stripes"):
        load_data("nothing")
    with pytest.raises(ValueError, match="the kind 'npz' is there already"):
        add_format(DataFormat("npz:FILE", "", stripes))


# ---------------------------------------------------------------------------------------- a kind of study, in one file


@dataclass(frozen=True, kw_only=True)
class MeanSetup(Setup[torch.Tensor, nn.Linear]):
    """Learns a number: as small as a study can be."""

    scale: float = 1.0

    def splits(self) -> Callable[[int], torch.Tensor]:
        return lambda seed: self.scale * torch.randn(8, generator=torch.Generator().manual_seed(seed))

    def network(self, split: torch.Tensor, seed: int) -> nn.Linear:
        return nn.Linear(1, 1)

    def loss(self, spec: RecipeSpec, split: torch.Tensor, network: nn.Linear) -> nn.Module:
        return build(spec, METHODS, {}, what="loss")

    def train(self, network: nn.Linear, loss: nn.Module, split: torch.Tensor, run: Run, checkpoint: Path) -> History:
        optimizer, history = self.training.build(network), History()
        for epoch in range(self.training.epochs):
            value = loss(network(torch.zeros(8, 1))[:, 0], split)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            history.add(**{TRAIN_LOSS: value.item()})
            if run.progress is not None:
                run.progress(epoch + 1, self.training.epochs)
        return history

    def measured(self, network: nn.Linear, split: torch.Tensor) -> dict[str, Any]:
        return {"data": str(split.sum().item()), "gap": abs(network.bias.item() - split.mean().item())}

    def settings(self, split: torch.Tensor, network: nn.Linear) -> dict[str, Any]:
        return {"training": asdict(self.training), "scale": self.scale}

    def located(self, root: Path) -> MeanSetup:
        return self


METHODS: Mapping[str, Method] = {"l2": Method("Squares", nn.MSELoss), "l1": Method("Moduli", nn.L1Loss)}
GAP = Column("gap", ("gap",), percent=False)


class MeanTable(StudyTable):
    def block(self, name: str, title: str, study: Study, methods: Sequence[str]) -> Block:
        return Block(title, *layout(study, METHODS, [GAP]), ["nothing was published"])


MEANS = StudyKind(
    name="means",
    title="Means",
    what="loss",
    methods=METHODS,
    columns=lambda study: [GAP],
    main=[GAP],
    described=lambda study: f"scale {study.settings['scale']:g}",
    remarks=lambda study: [],
    notes="made up",
    write_figures=lambda study: [],
    benchmarks={"small": Benchmark("small numbers", MeanSetup(training=TrainingSettings(epochs=2)))},
    tables={"table-0.1": MeanTable(title="Means", benchmarks=("small",), methods=("l2", "l1"))},
)


def test_a_kind_of_study_is_a_value(tmp_path, monkeypatch):
    monkeypatch.setattr("constropt.lab.studies.catalogue.STUDIES", (studies := dict(STUDIES)))
    monkeypatch.setattr("constropt.lab.cli.reproduce.STUDIES", studies)
    setup = MeanSetup(training=TrainingSettings(epochs=60, lr=0.1))
    study = MEANS.run(setup, ["l2", "l1"], [0, 1], out=tmp_path / "study")
    assert all(run["gap"] < 0.3 for run in study.results["l2"].values())
    assert "| Squares | 2 |" in MEANS.write_report(study)[0].read_text()
    with pytest.raises(ValueError, match="loss: unknown name 'l3'; near names: l2, l1"):
        MEANS.run(setup, ["l3"], [0], out=tmp_path / "no")
    with pytest.raises(ValueError, match="scale: 1.0 there, 2.0 here"):
        MEANS.run(MeanSetup(training=setup.training, scale=2.0), ["l2"], [0], out=tmp_path / "study")

    assert "unknown 'table-0.1'" in error("reproduce", "table-0.1")
    add_study(MEANS)
    result = run("reproduce", "0.1", "--seeds", "0", "--epochs", "1", "--out", str(tmp_path / "table"))
    assert "Squares" in result.stdout and "| Moduli | 1 |" in (tmp_path / "table" / "table-0.1.md").read_text()
    assert "--steps: not an option of table-0.1" in error("reproduce", "table-0.1", "--steps", "3")
    with pytest.raises(ValueError, match="the study 'means' is there already"):
        add_study(MEANS)


# ------------------------------------------------------------------------------------------------ recipes that declare


class Sure:
    """A recipe that says what it takes."""

    options = {"steps": 8, "distance": "l2", "targets": None}

    def takes(self, option: str) -> bool:
        return option in self.options

    def refusal(self, distance: str) -> str | None:
        return None if distance in ("l2", "linf") else f"distance: takes l2 and linf, got {distance!r}"

    def __call__(self, model: Any, inputs: torch.Tensor, labels: torch.Tensor, **options: Any) -> Solution:
        return sign_steps(model, inputs, labels, **options)


sure = Sure()
brisk = partial(sure, steps=3)


def late(model: Any, inputs: torch.Tensor, labels: torch.Tensor, *, distance: str = "l2") -> Solution:
    """Finds out that it does not take a distance when it is run."""
    if distance != "l2":
        raise UnsupportedDistance(f"distance: takes l2, got {distance!r}")
    return sign_steps(model, inputs, labels, steps=2)


def lacking(model: Any, inputs: torch.Tensor, labels: torch.Tensor) -> Solution:
    raise ImportError("needs a package that is not there")


def test_declared_recipes_are_asked_and_functions_are_read():
    assert isinstance(sure, Declared) and not isinstance(sign_steps, Declared)
    assert takes(sure, "steps") and takes(brisk, "distance") and not takes(brisk, "size")
    assert options_of(brisk) == {"steps": 3, "distance": "l2", "targets": None}
    assert refusal(brisk, "l1") == "distance: takes l2 and linf, got 'l1'" and refusal(sure, "l2") is None
    assert refusal(sign_steps, "l9") is None and options_of(partial(sign_steps, steps=2))["steps"] == 2
    with pytest.raises(ValueError, match="no option 'step'; did you mean steps. it takes steps, distance, targets"):
        check_options(sure, "sure", {"step": 1})


def test_distances_that_do_not_fit_are_left_out_with_a_note(tmp_path):
    inputs, labels = (part[:6] for part in load_data("digits"))
    here, models = __name__, {"m": nearest_mean().eval()}
    recipes = [f"{here}:sure", f"{here}:late", f"{here}:lacking"]
    found = run_with(recipes, models, inputs, labels, out=tmp_path / "run", distances=["l1", "l2", "linf"])
    ran = {(row["recipe"], row["distance"]) for row in found.rows if row["recipe"] != "worst case"}
    assert ran == {("sure", "l2"), ("sure", "linf"), ("late", "l2")} and found.complete
    assert found.notes == [
        "sure is left out at distance l1: distance: takes l2 and linf, got 'l1'",
        "late is left out at distance l1: distance: takes l2, got 'l1'",
        "late is left out at distance linf: distance: takes l2, got 'linf'",
        "lacking is left out: needs a package that is not there",
    ]
    again = run_with(recipes, models, inputs, labels, out=tmp_path / "run", distances=["l1", "l2", "linf"])
    assert again.rows == found.rows and again.notes == found.notes
    for recipe, distance in ((f"{here}:sure", "l1"), (f"{here}:late", "l1"), (f"{here}:lacking", "l2")):
        with pytest.raises(ValueError, match="nothing to run"):
            run_with([recipe], models, inputs, labels, out=tmp_path / "no", distances=[distance])
        assert not (tmp_path / "no" / "manifest.json").exists()


# ---------------------------------------------------------------------------------------------------- the command line


def test_a_reference_is_derived_from_what_it_names():
    assert reference_of(small_cnn) == "constropt.lab.models.small:small_cnn"


def test_modules_of_the_group_are_imported_before_the_command_line(monkeypatch):
    loaded = []

    class Entry:
        def load(self) -> None:
            loaded.append("mine")

    monkeypatch.setattr("constropt.lab.cli.entry_points", lambda group: [Entry()] if group == "constropt.lab" else [])
    monkeypatch.setattr(sys, "argv", ["constropt", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert loaded == ["mine"] and app.registered_commands


HIDDEN = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("typer", "pyarrow"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in ("typer", "pyarrow") else real(name, package)
from constropt.__main__ import main
main()
"""


def test_without_the_extra_the_command_line_says_what_to_install(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", HIDDEN], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr == "error: the command line needs typer, pyarrow: pip install 'constropt[lab]'\n"
