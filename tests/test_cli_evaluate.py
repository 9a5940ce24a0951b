"""``constropt evaluate`` and ``constropt reproduce`` as a user meets them, a kill in the middle included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fakes import nearest_mean
from test_cli import MODEL, TESTS, error, run

from constropt.lab import load_data, save_weights
from constropt.lab.cli.shared import EMBEDDED, unused_name

FMN = "constropt.problems.attacks:fmn"
SLOW = """
import time
from fakes import random_noise, sign_steps

def slow(model, inputs, labels, *, distance="l2", steps=4):
    time.sleep(0.4)
    return sign_steps(model, inputs, labels, steps=steps, distance=distance)

def draws(model, inputs, labels, *, distance="l2"):
    time.sleep(0.1)
    return random_noise(model, inputs, labels)
"""


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_killed_run_continues_and_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(SLOW)
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "constropt", "evaluate", "mine:slow", "mine:draws", *MODEL, "--samples", "12"]
    command += ["--batch-size", "4", "--distance", "l2", "--distance", "linf", "--no-progress", "--no-signs", "--out"]
    settings = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, "killed"], **settings)
    shards = tmp_path / "killed" / "shards"
    waited = time.monotonic() + 120
    while not list(shards.rglob("[!.]*.safetensors")) and time.monotonic() < waited:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {name: data for name, data in files(shards).items() if not Path(name).name.startswith(".")}
    assert 0 < len(kept) < 12 and not (tmp_path / "killed" / "summary.json").exists()
    again = subprocess.run([*command, "killed"], timeout=300, **settings)
    assert again.returncode == 0 and "worst case" in again.stdout, again.stderr
    monkeypatch.syspath_prepend(tmp_path)
    run(*command[3:], str(tmp_path / "whole"))
    killed = files(tmp_path / "killed")
    assert killed == files(tmp_path / "whole")
    assert len(list(shards.rglob("*.safetensors"))) == 12
    assert all(killed[f"shards/{name}"] == data for name, data in kept.items())


def test_evaluate_prints_and_writes(tmp_path):
    out = str(tmp_path / "run")
    command = ["evaluate", "fakes:sign_steps[size=0.1]", "fakes:anything", *MODEL, "--samples", "12", "--steps", "6"]
    result = run(*command, "--batch-size", "5", "--distance", "l2", "--radius", "0.5", "--out", out, "--no-progress")
    shown = " ".join(result.stdout.split())
    assert "l2, nearest_mean: 12 samples" in shown and "worst case" in shown and "acc at" in shown and "6/6" in shown
    assert "sign_steps[size=" in shown and f"written to {out}" in result.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["settings"]["references"] == {"nearest_mean": "fakes:nearest_mean"}
    assert summary["settings"]["recipes"][0]["options"] == {"distance": "l2", "size": 0.1, "steps": 6}


def test_several_models_and_processes(tmp_path):
    weights = tmp_path / "w.safetensors"
    save_weights(nearest_mean(), weights)
    out = tmp_path / "run"
    command = ["evaluate", "fakes:sign_steps", "--model", "first=fakes:nearest_mean", "--model", "fakes:nearest_mean"]
    command += ["--weights", str(weights), "--weights", str(weights), "--samples", "10", "--batch-size", "3"]
    command += ["--out", str(out), "--shards", "2", "--no-signs", "-o", "size=0.1"]
    assert "4 of 8 batches are in" in run(*command, "--shard", "1").stdout
    assert not (out / "summary.md").exists()
    result = run(*command, "--shard", "0")
    assert "geometric mean" in result.stdout and (out / "summary.md").exists()
    assert {path.name for path in (out / "shards").iterdir()} == {"first", "nearest_mean"}


def test_warnings_and_notes_go_to_stderr(tmp_path):
    command = ["evaluate", "fakes:lazy", "ddn[steps=2]", f"{FMN}[steps=2]", *MODEL, "--samples", "20"]
    result = run(*command, "--distance", "l2", "--distance", "ssim", "--out", str(tmp_path / "a"))
    lines = result.stderr.strip().splitlines()
    assert any(line.startswith("warning: nearest_mean: random noise beats white-box") for line in lines)
    assert any(line.startswith("note: fmn[steps=2] is left out at distance ssim") for line in lines)
    plain = ["evaluate", "fakes:lazy", *MODEL, "--samples", "20", "--out", str(tmp_path / "b")]
    assert "transfer" not in run(*plain).stderr
    assert "inputs made on nearest_mean by fmn-l2" in run(*plain, "--transfer-from", str(tmp_path / "a")).stderr


def test_targets(tmp_path):
    command = ["evaluate", "fakes:sign_steps", *MODEL, "--samples", "6", "--steps", "9", "--no-signs"]
    shown = run(*command, "--targets", "all", "--out", str(tmp_path / "all")).stdout
    assert "average" in shown and "least likely" in " ".join(shown.split())
    run(*command, "--targets", "3", "--out", str(tmp_path / "three"))
    _, labels = load_data("digits")
    assert json.loads((tmp_path / "three" / "summary.json").read_text())["settings"]["samples"] == 6
    assert (labels[:6] == 3).any()  # so that one was left out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alam"], "near names: alma"),
        (["alma[steps=1"], "takes NAME or NAME[KEY=VALUE,...]"),
        (["fakes:sign_steps", "--samples", "501"], "--samples: digits has 500, got 501"),
        (["fakes:sign_steps", "--shards", "3", "--shard", "3"], "--shard: of 3, takes a number from 0 to 2, got 3"),
        (["fakes:sign_steps", "--shards", "3"], "--shard: needed with --shards 3"),
        (["fakes:sign_steps", "--shard", "1"], "--shard: of 1"),
        (
            ["fakes:sign_steps", "--weights", "a", "--weights", "b"],
            "one file per --model in the same order, got 2 for 1",
        ),
        (["fakes:sign_steps", "--model", "nearest_mean=fakes:nearest_mean"], "'nearest_mean' is given twice"),
        (["fakes:sign_steps", "--transfer-from", "nowhere"], "no data file"),
        (["fakes:sign_steps", "-o", "eps=1"], "eps has a flag of its own"),
        (["fakes:sign_steps", "--eps", "1"], "option 'eps': none of sign_steps takes it"),
        ([FMN, "--distance", "l9"], "nothing to run; fmn is left out at distance l9"),
    ],
)
def test_mistakes(tmp_path, arguments, message):
    found = error("evaluate", *MODEL, "--out", str(tmp_path), *arguments)
    assert message in found and not (tmp_path / "manifest.json").exists()


def test_a_typo_is_found_before_a_network_is_trained(tmp_path):
    assert "near names: alma" in error("evaluate", "alam", "--out", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_another_command_in_the_same_folder(tmp_path):
    command = ["evaluate", "fakes:sign_steps", *MODEL, "--steps", "2", "--no-signs", "--out", str(tmp_path)]
    run(*command, "--samples", "8")
    message = error(*command, "--samples", "9")
    assert "holds a run with other settings" in message and "samples: 8 there, 9 here" in message
    run(*command, "--samples", "9", "--fresh")


def test_reproduce_runs_anywhere(tmp_path, monkeypatch):
    """Without data, on the embedded digits and a network trained on the spot."""
    monkeypatch.setenv("CONSTROPT_DATA", str(tmp_path / "nothing"))
    monkeypatch.setitem(EMBEDDED, "digits", 1)  # epochs
    out = tmp_path / "out"
    result = run("reproduce", "table-4.1", "--samples", "3", "--steps", "2", "--out", str(out), "--no-signs")
    shown = " ".join(result.stdout.split())
    assert "running on digits instead" in result.stderr and "digits_cnn" in shown and "ALMA l1 100*" in shown
    rows = json.loads((out / "table-4.1.json").read_text())["rows"]
    ddn = next(row for row in rows if row["attack"] == "DDN 100*")
    assert ddn["backwards"] == 2 and ddn["published"]["median_distance"] == 1.86
    before = files(out)
    run("reproduce", "4.1", "--samples", "3", "--steps", "2", "--out", str(out), "--no-signs")
    assert files(out) == before
    refused = run("reproduce", "4.1", "--samples", "3", "--steps", "3", "--out", str(out), code=2)
    assert "other settings" in refused.stderr
    assert "near names: table-4.1" in error("reproduce", "table-4.11")
    assert "--data: needed for imagenet" in error("reproduce", "table-3.4")


def test_reproduce_on_the_models_of_the_data_folder(tmp_path, monkeypatch, real_data):
    monkeypatch.setenv("CONSTROPT_DATA", str(real_data))
    result = run("reproduce", "3.5", "--samples", "2", "--steps", "2", "--out", str(tmp_path), "--no-signs")
    shown = " ".join(result.stdout.split())
    assert "mnist_cnn" in shown and "madry_cnn" in shown and "accuracy at" in shown and "DDN 1000*" in shown


def test_reproduce_with_models_of_ones_own(tmp_path):
    command = ["reproduce", "3.5", *MODEL, "--data", "digits", "--samples", "4", "--steps", "3", "--out", str(tmp_path)]
    assert "nearest_mean" in run(*command, "--no-signs").stdout
    rows = json.loads((tmp_path / "table-3.5.json").read_text())["rows"]
    assert {row["model"] for row in rows} == {"nearest_mean"} and rows[-1]["attack"] == "all"
    assert torch.tensor([row["accuracy_at_1.5"] for row in rows if "accuracy_at_1.5" in row]).le(1).all()


def test_names_of_models():
    assert unused_name("robustbench:Standard:cifar10:Linf", None, ()) == "Standard-cifar10-Linf"
    assert unused_name("hf:user/net", None, ()) == "user-net"
    assert unused_name("a:net", None, {"net", "net-2"}) == "net-3"
