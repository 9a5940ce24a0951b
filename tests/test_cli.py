"""The command line as a user meets it: what it prints and writes, and one clean line for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from constropt import lab as evaluation
from constropt.lab.cli import app
from constropt.lab.cli.shared import bar, named_bar

TESTS = Path(__file__).resolve().parent
MODEL = ["--model", "fakes:nearest_mean"]


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def error(*arguments: str) -> str:
    """The one line that a mistake is answered with."""
    lines = run(*arguments, code=2).stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_solve_writes_everything(tmp_path):
    out = tmp_path / "out"
    arguments = ["solve", "fakes:sign_steps", "fakes:lazy", *MODEL, "--samples", "40", "--batch-size", "16"]
    result = run(*arguments, "--steps", "9", "-o", "size=0.1", "--out", str(out), "--no-progress")
    assert "sign_steps" in result.stdout and "lazy" in result.stdout and "9 / 9" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "adversarial-lazy.safetensors",
        "adversarial-sign_steps.safetensors",
        "curve.png",
        "grid.png",
        "results-lazy.parquet",
        "results-sign_steps.parquet",
        "summary.json",
    ]
    columns = evaluation.read_results(out / "results-sign_steps.parquet")
    adversarial = evaluation.load_data(f"safetensors:{out}/adversarial-sign_steps.safetensors")
    inputs, labels = evaluation.load_data("digits")
    model = evaluation.load_model("fakes:nearest_mean")
    assert columns["label"].tolist() == labels[:40].tolist() == adversarial.labels.tolist()
    assert ((model(adversarial.inputs).argmax(1) != labels[:40]).numpy() == columns["success"]).all()
    assert np.allclose((adversarial.inputs - inputs[:40]).flatten(1).norm(dim=1), columns["l2"], atol=1e-5)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["recipes"]["sign_steps"]["success_rate"] == columns["success"].mean()
    assert summary["options"] == {"size": 0.1, "steps": 9} and summary["data"] == "digits"
    assert all((out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for name in ("curve.png", "grid.png"))
    assert all((out / name).stat().st_size > 5000 for name in ("curve.png", "grid.png"))


def test_targets_and_distance(tmp_path):
    command = ["solve", "fakes:sign_steps", *MODEL, "--samples", "10", "--distance", "linf"]
    run(*command, "--targeted", "--out", str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    figures = summary["recipes"]["sign_steps"]
    assert summary["targets"] == "next" and figures["targeted"] and figures["distance"] == "linf"
    columns = evaluation.read_results(tmp_path / "results-sign_steps.parquet")
    assert ((columns["label"] + 1) % 10 == columns["target"]).all()
    run(*command, "--targets", "3", "--out", str(tmp_path))  # samples of class 3 are left out
    columns = evaluation.read_results(tmp_path / "results-sign_steps.parquet")
    assert set(columns["target"]) == {3} and 3 not in columns["label"] and len(columns["label"]) == 10
    assert "targets: random" in " ".join(run(*command, "--targets", "random").stdout.split())


def test_the_same_seed_gives_the_same_result(tmp_path):
    before = torch.get_rng_state()
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        out = str(tmp_path / f"{name}.safetensors")
        run("train", "classifier", "--model", "fakes:nearest_mean", "--out", out, "--epochs", "1", "--seed", seed)
    a, b, c = (
        torch.cat([v.flatten() for v in evaluation.load_weights(path).values()]) for path in sorted(tmp_path.iterdir())
    )
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(before, torch.get_rng_state())


def test_train_then_solve_on_the_weights(tmp_path):
    weights = tmp_path / "weights.safetensors"
    result = run("train", "classifier", "--out", str(weights), "--epochs", "1", "--no-progress")
    assert "test accuracy" in result.stdout and weights.is_file()
    result = run("solve", "fakes:sign_steps", "--weights", str(weights), "--samples", "8", "--steps", "2")
    assert "digits_cnn from" in " ".join(result.stdout.split())


def test_a_script_of_its_own():
    """``python -m constropt`` from another folder, which holds the recipe: errors and results by exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-m", "constropt", "solve"]
    arguments = ["fakes:sign_steps", *MODEL, "--samples", "5", "--steps", "2"]
    done = subprocess.run(
        [*command, *arguments], cwd=TESTS, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "2 / 2" in done.stdout and done.stderr == ""
    failed = subprocess.run([*command, "alam"], cwd=TESTS, env=environment, capture_output=True, text=True, timeout=300)
    assert failed.returncode == 2 and failed.stderr.startswith("error: recipe: unknown name 'alam'")
    assert "Traceback" not in failed.stderr and failed.stdout == ""


def test_recipes_and_version():
    listed = run("recipes").stdout.splitlines()
    names = [line.split()[0] for line in listed]
    assert {"alma", "ddn"} <= set(names) and names == sorted(names)
    assert run("--version").stdout.startswith("constropt ")


def test_an_unknown_recipe_lists_near_names():
    assert "near names: alma" in error("solve", "alam")
    assert "has no 'sign_step'; near names: sign_steps" in error("solve", "fakes:sign_step")
    assert "is a int, not a function" in error("solve", "fakes:NUMBER")


def test_missing_data_and_bad_models(tmp_path):
    message = error("solve", "fakes:sign_steps", *MODEL, "--data", f"mnist:{tmp_path}")
    assert str(tmp_path) in message and "t10k-images-idx3-ubyte.gz" in message
    assert "known are digits" in error("solve", "fakes:sign_steps", "--data", "imagenet")
    assert "cannot import 'nowhere'" in error("solve", "fakes:sign_steps", "--model", "nowhere:model")
    assert "'module:name'" in error("solve", "fakes:sign_steps", "--model", "resnet")
    assert "no file" in error("solve", "fakes:sign_steps", *MODEL, "--weights", str(tmp_path / "w.pt"))
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 9, 9), np.uint8), labels=np.arange(3))
    assert "--model: needed" in error("solve", "fakes:sign_steps", "--data", f"npz:{tmp_path}/a.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "size"], "takes key=value, got 'size'"),
        (["-o", "size=[1,"], "size is no valid JSON"),
        (["-o", "sise=1"], "none of sign_steps takes it"),
        (["-o", "steps=3"], "steps has a flag of its own"),
        (["--penalty", "P3"], "none of sign_steps takes it"),
        (["--targets", "11"], "a class from 0 to 9"),
        (["--device", "abacus"], "'abacus' is not usable here"),
        (["--distance", "l2", "-o", "bounds=__import__('os')"], "bounds: takes a pair of numbers"),
    ],
)
def test_bad_options(arguments, message):
    assert message in error("solve", "fakes:sign_steps", *MODEL, "--samples", "3", *arguments)


def test_bad_output(tmp_path):
    (tmp_path / "file").write_text("in the way")
    error("solve", "fakes:sign_steps", *MODEL, "--samples", "3", "--out", str(tmp_path / "file"))
    assert "ends in .safetensors" in error("train", "classifier", "--out", str(tmp_path / "weights.pt"))
    assert "no such option" in run("solve", "alma", "--stepz", "3", code=2).stderr.lower()


def test_debugging_shows_where(monkeypatch):
    monkeypatch.setenv("CONSTROPT_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown name"):
        CliRunner().invoke(app, ["solve", "alam"], catch_exceptions=False)


def test_a_bar_is_on_stderr_and_shows_names_as_they_are(capsys):
    with bar("solve ddn[steps=9]", True) as advance:
        advance(2, 7)
    with named_bar("epochs", True) as advance:
        advance("ce[gamma=1], seed 0", 1, 3)
    with bar("hidden", False) as advance:
        advance(1, 1)
    captured = capsys.readouterr()
    assert "solve ddn[steps=9]" in captured.err and "2/7" in captured.err
    assert "ce[gamma=1], seed 0" in captured.err and "1/3" in captured.err and "epochs" not in captured.err
    assert "hidden" not in captured.err and captured.out == ""
