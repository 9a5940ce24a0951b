"""``constropt train metric``, table-2.4 and figure-I-1 as a user types them, a kill in the middle included."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file
from test_cli import error, run
from test_cli_calibration import killed_then_whole

MODEL = "constropt.lab.models.embedders:small_embedder[width=4,dimension=8]"
TRAIN = ["train", "metric", "--model", MODEL, "--optimizer", "adam", "--lr", "0.003", "--no-figures"]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_train_prints_and_writes(tmp_path):
    out = tmp_path / "study"
    command = ["train", "metric", "--model", MODEL, "--loss", "ce", "--loss", "ms[margin=0.4]", "--epochs", "1"]
    command += ["--seeds", "0,1", "--validation", "0.4", "--lr", "0.05", "--momentum", "0.9", "--out", str(out)]
    result = run(*command)
    shown = " ".join(result.stdout.split())
    assert "Multi-Similarity [margin=0.4]" in shown and "R@1 cos" in shown and "1 epochs of sgd 0.05" in shown
    assert "minus that of the best pairwise loss (ms[margin=0.4])" in shown
    names = sorted(path.name for path in out.iterdir())
    pictures = ["map-ce.png", "map-ms[margin=0.4].png"]
    assert names == ["manifest.json", *pictures, "results.json", "results.md", "results.parquet", "runs"]
    assert len(json.loads((out / "results.json").read_text())["runs"]) == 4
    assert "norm.running_mean" in load_file(out / "runs" / "ce-0" / "model.safetensors")
    assert run(*command).stdout == result.stdout
    assert "training.momentum: 0.9 there, 0.0 here" in error(*command, "--momentum", "0")


def test_a_killed_study_ends_as_an_uninterrupted_one(tmp_path):
    losses = ["--loss", "snca-bank", "--loss", "proxy-nca", "--epochs", "8", "--augment", "shift"]
    killed_then_whole([*TRAIN, *losses], tmp_path, "ProxyNCA")


def test_reproduce_falls_back_to_digits(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSTROPT_DATA", str(tmp_path))
    command = ["--method", "ce-plain", "--method", "fastap", "--seeds", "0", "--epochs", "1", "--out", str(tmp_path)]
    result = run("reproduce", "table-2.4", *command)
    assert "running on digits instead" in result.stderr and "FastAP" in result.stdout
    text = (tmp_path / "table-2.4.md").read_text()
    assert "## digits, unseen classes" in text and "| CE | 1 | l2 |" in text and "| CE | 1 | cosine |" in text
    assert (tmp_path / "digits" / "map-fastap.png").is_file()


def test_figure_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSTROPT_DATA", str(tmp_path))
    result = run("reproduce", "figure-I-1", "--epochs", "1", "--samples", "300", "--out", str(tmp_path / "f"))
    assert "running on digits instead" in result.stderr and "SPCE" in result.stdout and "300 samples" in result.stdout
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["figure-I-1.json", "figure-I-1.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "proxynca"], "loss: unknown name 'proxynca'; near names: proxy-nca"),
        (["--loss", "ms[gamma=1]"], "option of ms: unknown name 'gamma'"),
        (["--loss", "nowhere:Loss"], "cannot import 'nowhere'"),
        (["--per-class", "100"], "per_class: a batch takes at least two classes"),
        (["--momentum", "1"], "momentum: takes a value in [0, 1)"),
        (["--unseen", "1"], "unseen"),
        (["--seeds", "0,x"], "--seeds: takes whole numbers"),
        (["--data", "cub:nowhere"], "looked for images.txt"),
        (["--data", "omniglot:nowhere"], "looked for archives *.zip"),
        (["--data", "scenes"], "one class each"),
        (["--weights", "nowhere.pt"], "no file"),
        (["--model", "torch.nn:Linear"], "needs in_features"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path):
    assert message in error(*TRAIN, *arguments, "--out", str(tmp_path / "study"))
    assert not (tmp_path / "study").exists()


def test_reproduce_refuses_options_of_the_other_kind(tmp_path):
    assert "--steps: not an option of table-2.4" in error("reproduce", "2.4", "--steps", "10")
    assert "--seeds: not an option of figure-I-1" in error("reproduce", "figure-i-1", "--seeds", "1")
    message = error("reproduce", "table-2.5")
    assert "table-2.4" in message and "figure-I-1" in message
    assert "near names: omniglot" in error("reproduce", "2.4", "--data", "omniglots", "--out", str(tmp_path))
