"""``constropt train calibration`` and the tables of calibration as a user types them, a kill in the middle included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_cli import error, run
from test_cli_evaluate import files

from constropt.lab.studies.calibration.kind import BENCHMARKS

TESTS = Path(__file__).resolve().parent
SMALL = ["--samples", "300", "--test-samples", "100", "--no-figures", "--model", "test_calibration_study:Tiny"]
TRAIN = ["train", "calibration", *SMALL]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_train_prints_and_writes(tmp_path):
    out = tmp_path / "study"
    command = [*TRAIN, "--method", "ce", "--method", "cals-alm[margin=3]", "--seeds", "0,1", "--epochs", "1"]
    result = run(*command, "--optimizer", "sgd", "--lr", "0.05", "--out", str(out))
    shown = " ".join(result.stdout.split())
    assert "CALS-ALM [margin=3]" in shown and "ECE % + TS" in shown and "±" in shown and "1 epochs of sgd 0.05" in shown
    names = sorted(path.name for path in out.iterdir())
    assert names == ["manifest.json", "results.json", "results.md", "results.parquet", "runs"]
    assert len(json.loads((out / "results.json").read_text())["runs"]) == 4
    assert load_file(out / "runs" / "ce-0" / "model.safetensors")
    again = run(*command, "--optimizer", "sgd", "--lr", "0.05", "--out", str(out))
    assert again.stdout == result.stdout
    message = error(*command, "--optimizer", "adam", "--out", str(out))
    assert 'training.optimizer: "sgd" there, "adam" here' in message and "--fresh" in message
    run(*command, "--optimizer", "adam", "--out", str(out), "--fresh")
    assert "of adam" in (out / "results.md").read_text()


def killed_then_whole(command, tmp_path, shown):
    """A study killed in its first run, continued, and the same uninterrupted: equal output, equal files."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "constropt", *command, "--no-progress", "--out"]
    settings = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, "killed"], **settings)
    folder = tmp_path / "killed" / "runs"
    waited = time.monotonic() + 120
    while not list(folder.rglob("checkpoint.pt")) and process.poll() is None and time.monotonic() < waited:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(folder.rglob("checkpoint.pt")) and not list(folder.rglob("result.json"))
    again = subprocess.run([*command, "killed"], timeout=300, **settings)
    assert again.returncode == 0 and shown in again.stdout, again.stderr
    whole = subprocess.run([*command, "whole"], timeout=300, **settings)
    assert whole.returncode == 0 and whole.stdout.replace("whole", "killed") == again.stdout
    found = {name: data for name, data in files(tmp_path / "killed").items() if "unfinished" not in name}
    assert found == files(tmp_path / "whole") and len(found) == 4 + 2 * 3


def test_a_killed_study_ends_as_an_uninterrupted_one(tmp_path):
    methods = ["--method", "cals-alm[margin=1]", "--method", "ce", "--epochs", "12"]
    killed_then_whole([*TRAIN, *methods], tmp_path, "CALS-ALM")


def test_reproduce_falls_back_to_digits_and_shows_published_figures(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSTROPT_DATA", str(tmp_path))
    command = ["--method", "ce", "--method", "cals-alm", "--seeds", "0", "--epochs", "1", "--out", str(tmp_path / "o")]
    result = run("reproduce", "table-6.3", *command)
    assert "running on digits instead" in result.stderr and "CALS-ALM" in result.stdout
    assert "table-6.3.md" in "".join(result.stdout.split())
    assert "| CE | 1 |" in (tmp_path / "o" / "table-6.3.md").read_text()
    run("reproduce", "V-2", *command)
    assert "CWCE" in (tmp_path / "o" / "table-V-2.md").read_text()


def test_reproduce_on_real_data_stands_beside_the_thesis(tmp_path, monkeypatch, real_data):
    if not (real_data / "fashion_mnist").is_dir():
        pytest.skip("no Fashion-MNIST")
    for name, quick in _quick().items():
        monkeypatch.setitem(BENCHMARKS, name, quick)
    monkeypatch.setenv("CONSTROPT_DATA", str(real_data))
    command = ["--method", "ce", "--method", "mbls", "--seeds", "0", "--epochs", "1", "--out", str(tmp_path)]
    result = run("reproduce", "table-6.1", *command, "--data", "long-tailed,fashion")
    assert "ImageNet-LT (thesis) ECE %" in " ".join(result.stdout.split()) and "28.12" in result.stdout
    text = (tmp_path / "table-6.1.md").read_text()
    assert "## CIFAR-10-LT" in text and "## Fashion-MNIST" in text and text.count("| MbLS | 1 |") == 2


def _quick():
    """The benchmarks on a few samples and a linear model."""
    few = {name: replace(b.setup.data, samples=500, held_out=0.2, test_samples=100) for name, b in BENCHMARKS.items()}
    setups = {n: replace(b.setup, data=few[n], model="test_cli_calibration:linear") for n, b in BENCHMARKS.items()}
    return {name: replace(benchmark, setup=setups[name]) for name, benchmark in BENCHMARKS.items()}


def linear(num_classes: int, channels: int, image_size: int):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, num_classes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "cals"], "method: unknown name 'cals'; near names: cals-hr"),
        (["--method", "cals-alm[margin=-1]"], "margin: must be > 0"),
        (["--method", "nowhere:Loss"], "cannot import 'nowhere'"),
        (["--held-out", "0"], "it can't be empty"),
        (["--held-out", "500"], "per_class"),
        (["--optimizer", "sdg"], "near names: sgd"),
        (["--seeds", "0,x"], "--seeds: takes whole numbers"),
        (["--seeds", "-1"], "seeds: take whole numbers"),
        (["--data", "imagenet"], "known are digits"),
        (["--data", "omniglot:nowhere"], "looked for archives *.zip"),
        (["--data", "newsgroups:nowhere"], "does not exist"),
        (["--model", "torch.nn:Linear"], "needs in_features"),
        (["--device", "abacus"], "'abacus' is not usable here"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path):
    assert message in error(*TRAIN, *arguments, "--out", str(tmp_path / "study"))
    assert not (tmp_path / "study").exists()


def test_reproduce_refuses_options_of_the_other_kind(tmp_path):
    assert "--steps: not an option of table-6.1" in error("reproduce", "table-6.1", "--steps", "10")
    assert "--epochs: not an option of table-4.1" in error("reproduce", "table-4.1", "--epochs", "10")
    message = error("reproduce", "table-6.4")
    assert "unknown 'table-6.4'" in message and "table-4.1" in message and "table-6.3" in message
    assert "near names: long-tailed" in error("reproduce", "6.1", "--data", "longtailed", "--out", str(tmp_path))
