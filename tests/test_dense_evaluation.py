"""Evaluating dense predictions: what is verified and counted, from Python and from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from constropt.lab import evaluate, results_table
from constropt.lab.attacks.report import read_results
from constropt.lab.attacks.targets import dense_targets
from constropt.lab.cli import app
from constropt.problems.attacks import alma_prox
from constropt.problems.dense_metrics import apsr, mean_iou


@pytest.fixture(scope="module")
def scene():
    generator = torch.Generator().manual_seed(0)
    model = nn.Conv2d(3, 4, 1, bias=False)  # one is drawn without the seed
    model.weight.data = torch.randn(4, 3, 1, 1, generator=generator)
    x = 0.3 + 0.4 * torch.rand(3, 3, 8, 8, generator=generator)
    labels = model(x).argmax(1)
    labels[0, :2] = 255
    labels[1, 0] = (labels[1, 0] + 1) % 4  # one row of pixels that the model gets wrong
    return model.eval(), x, labels


def test_success_is_a_fraction_of_the_labelled_pixels(scene):
    model, x, labels = scene
    report = evaluate(alma_prox, model, x, labels, batch_size=2, steps=150, measure="linf")
    predictions = model(report.adversarial).argmax(1)
    rate = apsr(predictions, labels, mask=labels != 255)
    assert report.dense and np.allclose(report.columns["apsr"], rate)
    assert report.columns["success"].tolist() == (rate >= 0.99 - 1e-9).tolist() == [True] * 3
    clean = apsr(model(x).argmax(1), labels, mask=labels != 255)
    assert np.allclose(report.columns["clean_apsr"], clean) and clean[1] == 8 / 64
    summary = report.summary()
    assert summary["miou"] == pytest.approx(mean_iou(predictions, labels, 4))
    counted = labels != 255
    assert summary["clean_accuracy"] == pytest.approx((model(x).argmax(1) == labels)[counted].float().mean().item())
    assert "APSR" in [column.header for column in results_table([report]).columns]


def test_nu_is_the_recipes(scene):
    model, x, labels = scene
    report = evaluate(alma_prox, model, x, labels, steps=200, nu=0.5, measure="linf")
    assert report.columns["success"].all() and (report.columns["apsr"] >= 0.5).all()
    assert report.columns["apsr"].min() < 0.99


def test_target_maps_by_name():
    labels = torch.tensor([[[8, 1, 9], [2, 2, 255]]])
    assert dense_targets("3", labels, list).tolist() == [[[3, 3, 3], [3, 3, 255]]]
    assert dense_targets("8,9=3", labels, list).tolist() == [[[3, 1, 3], [2, 2, 255]]]
    assert dense_targets("erase:1", labels, list).tolist()[0][0][1] in (8, 2, 9)
    assert dense_targets("majority", labels, lambda: labels.repeat(3, 1, 1)).tolist() == labels.tolist()
    for wrong in ("next", "1=", "=3", "a=b", "erase:x"):
        with pytest.raises(ValueError, match="dense labels take"):
            dense_targets(wrong, labels, list)


def test_labels_of_another_size_are_refused(scene):
    model, x, labels = scene
    with pytest.raises(ValueError, match=r"labels: takes shape \(3,\), one per input, or \(3, 8, 8\)"):
        evaluate(alma_prox, model, x, labels[:, 1:])


def test_the_command_line_draws_label_maps(tmp_path):
    out = tmp_path / "out"
    arguments = ["solve", "alma_prox", "--data", "scenes", "--model", "constropt.lab.models.small:unet"]
    arguments += ["--samples", "2", "--steps", "3", "--targets", "0", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "APSR" in result.output
    assert {"grid.png", "failures.png", "curve.png"} <= {path.name for path in out.iterdir()}
    columns = read_results(out / "results-alma_prox.parquet")
    assert columns["apsr"].shape == (2,) and (columns["forwards"] == 5).all()
    assert json.loads((out / "summary.json").read_text())["recipes"]["alma_prox"]["distance"] == "linf"
