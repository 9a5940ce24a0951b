"""Reliability diagrams and curves of multipliers: what they draw, read back from the figures."""

from __future__ import annotations

import sys

import pytest
import torch

from constropt.lab import MissingExtra
from constropt.problems.calibration.diagrams import multiplier_curves, reliability_diagram
from constropt.problems.calibration.metrics import expected_calibration_error

pytest.importorskip("matplotlib")


def sample():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2000, 4, generator=generator)
    return logits, torch.multinomial((logits / 3).softmax(1), 1, generator=generator).squeeze(1)


def test_reliability_diagram_draws_the_bins_of_the_ece(tmp_path):
    logits, labels = sample()
    figure = reliability_diagram(logits, labels, from_logits=True, bins=10, path=tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    upper, lower = figure.axes
    accuracy, gaps = (container.patches for container in upper.containers)
    (histogram,) = (container.patches for container in lower.containers)
    ece = float(expected_calibration_error(logits, labels, from_logits=True, bins=10))
    shares = {round(bar.get_x(), 6): bar.get_height() for bar in histogram}
    assert sum(shares.values()) == pytest.approx(1)
    weighted = [shares[round(gap.get_x(), 6)] * abs(gap.get_height()) for gap in gaps]
    assert sum(weighted) == pytest.approx(ece, abs=1e-9)  # the picture is the number
    assert [bar.get_height() for bar in accuracy] == pytest.approx([gap.get_y() for gap in gaps])
    assert upper.get_title() == f"ECE {100 * ece:.2f} %"


def test_reliability_diagram_of_one_entry_and_of_maps():
    one = reliability_diagram(torch.tensor([[0.0, 1.0]]), torch.tensor([1]), from_logits=False, title="one")
    assert one.axes[0].get_title() == "one: ECE 0.00 %"
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    labels[0] = 255
    maps = reliability_diagram(torch.zeros(2, 3, 4, 4), labels, from_logits=True, ignore_index=255)
    assert maps.axes[0].get_title() == "ECE 66.67 %"


def test_reliability_diagram_refuses_what_the_ece_refuses(tmp_path):
    logits, labels = sample()
    for change, message in (
        ({"labels": labels + 4}, "labels: take 0 to 3"),
        ({"from_logits": False}, "from_logits=True takes logits"),
        ({"bins": 0}, "bins"),
        ({"labels": torch.full_like(labels, -100)}, "no entry counts"),
    ):
        with pytest.raises(ValueError, match=message):
            reliability_diagram(
                **{"scores": logits, "labels": labels, "from_logits": True, **change}, path=tmp_path / "f.png"
            )
    assert not list(tmp_path.iterdir())


def test_multiplier_curves_show_the_mean_and_the_extreme_classes(tmp_path):
    history = torch.arange(1.0, 9)[None] * torch.tensor([[1.0], [2], [1.5]])  # class 7 is the highest
    figure = multiplier_curves(history, path=tmp_path / "curves.pdf", ece=[0.1, 0.2, 0.05])
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    mean, single, right = figure.axes
    assert mean.get_lines()[0].get_ydata().tolist() == history.mean(1).tolist()
    assert right.get_lines()[0].get_ydata().tolist() == pytest.approx([10, 20, 5])
    solid = [line.get_label() for line in single.get_lines() if line.get_linestyle() == "-"]
    dashed = [line.get_label() for line in single.get_lines() if line.get_linestyle() == "--"]
    assert solid == ["class 7", "class 6", "class 5"] and dashed == ["class 2", "class 1", "class 0"]
    named = multiplier_curves(
        history[:, :3], classes=["a", "b", "c"], ece={"CALS": torch.ones(3), "CE": torch.zeros(3)}, count=5
    )
    assert sorted(line.get_label() for line in named.axes[1].get_lines()) == ["a", "b", "c"]
    assert [line.get_label() for line in named.axes[2].get_lines()] == ["CALS", "CE"]
    assert len(multiplier_curves(history[:1, :1]).axes[1].get_lines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": torch.ones(3)}, r"history: takes \(epochs, K\)"),
        ({"history": torch.ones(0, 3)}, "history: takes"),
        ({"history": torch.full((2, 3), torch.nan)}, "history: takes finite numbers, got nan"),
        ({"ece": [0.1]}, "ece: takes 2 numbers"),
        ({"ece": {"CE": [0.1, float("inf")]}}, "ece: takes finite"),
        ({"classes": ["a"]}, "classes: takes 3 names"),
        ({"count": 0}, "count: takes a whole number"),
    ],
)
def test_multiplier_curves_name_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        multiplier_curves(**{"history": torch.ones(2, 3), **options})


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install constropt\[plot\]"):
        multiplier_curves(torch.ones(2, 3))
    logits, labels = sample()
    with pytest.raises(MissingExtra, match=r"pip install constropt\[plot\]"):
        reliability_diagram(logits, labels, from_logits=True)
