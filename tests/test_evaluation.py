"""Running a recipe over data: what is verified, measured, counted, drawn and stored."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
from fakes import anything, broken, lazy, nearest_mean, outside, sign_steps, solution
from rich.console import Console
from torch import nn

from constropt import lab as evaluation
from constropt.files import replacing
from constropt.lab import evaluate, load_data, results_table
from constropt.lab.attacks.counting import PassCounter, counted, time_pass
from constropt.lab.attacks.run import takes


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nearest_mean().eval()


@pytest.fixture(scope="module")
def data():
    inputs, labels = load_data("digits")
    return inputs[:50], labels[:50]


@pytest.fixture(scope="module")
def report(model, data):
    return evaluate(sign_steps, model, *data, batch_size=20, steps=12)


def test_columns_hold_the_truth(report, model, data):
    inputs, labels = data
    columns = report.columns
    prediction = model(report.adversarial).argmax(1)
    clean = model(inputs).argmax(1)
    delta = (report.adversarial - inputs).flatten(1).double()
    assert columns["index"].tolist() == list(range(50)) and columns["label"].tolist() == labels.tolist()
    assert columns["prediction"].tolist() == prediction.tolist()
    assert columns["clean_correct"].tolist() == (clean == labels).tolist()
    assert columns["success"].tolist() == (prediction != labels).tolist()
    assert np.allclose(columns["l2"], delta.norm(dim=1)) and np.allclose(columns["linf"], delta.abs().amax(1))
    assert np.allclose(columns["l1"], delta.abs().sum(1)) and columns["l0"].tolist() == (delta != 0).sum(1).tolist()
    assert np.array_equal(columns["distance"], columns["l2"]) and report.distance_name == "l2"
    assert set(columns["status"]) == {"budget spent: the best point found within the steps is returned"}
    assert columns["success"].mean() > 0.5


def test_counts_are_those_of_the_model(report):
    assert report.counted_forwards == report.counted_backwards == 50 * 12
    summary = report.summary()
    assert summary["forwards"] == summary["reported_forwards"] == 12
    assert report.model_time > 0 and report.wall_time > 0 and report.steps == 12
    assert summary["time_over_model_time"] == pytest.approx(report.wall_time / report.model_time)


def test_summary_conventions(report):
    columns = {name: values[:4] for name, values in report.columns.items()}
    columns["success"] = np.array([True, False, True, False])
    columns["distance"] = np.array([1.0, 0.5, 3.0, 0.0])
    columns["claimed"] = np.array([True, True, False, False])
    columns["clean_correct"] = np.array([True, True, False, True])
    changed = evaluation.AttackReport("r", "l2", False, 5, columns, report.adversarial[:4], 40, None, 2.0, 0.5)
    summary = changed.summary()
    assert summary["success_rate"] == 0.5 and summary["mean_distance"] == 2.0 and summary["unreproduced"] == 1
    assert summary["median_distance"] == float("inf") and summary["clean_accuracy"] == 0.75
    assert summary["time_over_model_time"] == 4.0 and summary["backwards"] is None and summary["forwards"] == 10
    radii, accuracy = changed.robust_accuracy()  # the misclassified third sample counts at radius 0
    assert radii.tolist() == [0.0, 1.0] and accuracy.tolist() == [0.75, 0.5]
    columns["success"] = np.zeros(4, dtype=bool)
    nothing = evaluation.AttackReport("r", "l2", True, 5, columns, report.adversarial[:4], 40, None, 2.0, 0.0)
    assert np.isnan(nothing.summary()["mean_distance"]) and np.isnan(nothing.time_over_model_time)
    assert [curve.tolist() for curve in nothing.robust_accuracy()] == [[0.0], [1.0]]


def test_the_curve_starts_at_the_clean_accuracy_and_never_rises(report):
    radii, accuracy = report.robust_accuracy()
    assert radii[0] == 0 and accuracy[0] == pytest.approx(report.summary()["clean_accuracy"])
    assert (np.diff(radii) > 0).all() and (np.diff(accuracy) < 0).all()
    assert accuracy[-1] == pytest.approx(1 - (report.columns["success"] | ~report.columns["clean_correct"]).mean())


def test_targets(model, data):
    inputs, labels = data
    targets = evaluation.choose_targets("next", labels, 10)
    done = []
    report = evaluate(
        sign_steps,
        model,
        inputs,
        labels,
        targets=targets,
        batch_size=30,
        steps=25,
        progress=lambda *at: done.append(at),
    )
    hit = model(report.adversarial).argmax(1) == targets
    assert report.targeted and report.columns["success"].tolist() == hit.tolist() and hit.float().mean() > 0.5
    assert report.columns["target"].tolist() == targets.tolist() and done == [(30, 50), (50, 50)]


def test_claims_are_not_believed(model, data):
    inputs, labels = data
    report = evaluate(lazy, model, inputs, labels)
    wrong = model(inputs).argmax(1) != labels
    summary = report.summary()
    assert report.columns["success"].tolist() == wrong.tolist()
    assert summary["unreproduced"] == int((~wrong).sum()) > 0
    assert (summary["forwards"], summary["reported_forwards"], summary["backwards"]) == (0, 7, 0)
    table = rendered([report])
    assert "claimed successes did not reproduce" in table and "itself reports 7 forwards" in table


def test_points_outside_the_bounds_are_no_success(model, data):
    report = evaluate(outside, model, *data)
    assert not report.columns["success"].any() and report.columns["claimed"].all()


def test_measure_replaces_a_recipes_own_distance(model, data):
    report = evaluate(sign_steps, model, *data, measure="linf", steps=3)
    assert report.distance_name == "linf" and np.array_equal(report.columns["distance"], report.columns["linf"])

    def own(model, inputs, labels, *, distance="something"):
        found = torch.ones(len(inputs), dtype=torch.bool)
        return solution(inputs, inputs, found, 0, objective=torch.full((len(inputs),), 42.0))

    report = evaluate(own, model, *data)
    assert report.distance_name == "something" and (report.columns["distance"] == 42).all()


def test_a_plain_callable_with_an_output_object(model, data):
    class Output:
        def __init__(self, logits):
            self.logits = logits

    def recipe(model, inputs, labels):
        return sign_steps(lambda x: model(x).logits, inputs, labels, steps=4)

    report = evaluate(recipe, lambda x: Output(model(x)), *data)
    assert report.counted_forwards == report.counted_backwards == 200 and report.steps == 4
    assert report.distance_name == "objective"


def test_the_model_is_left_as_it_was(model, data):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    evaluate(sign_steps, model, *data, steps=2)
    assert not model._forward_hooks and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())


def test_hooks_go_away_after_an_error(model, data):
    def fails(model, inputs, labels):
        model(inputs)
        raise RuntimeError("inside the recipe")

    with pytest.raises(RuntimeError, match="inside the recipe"):
        evaluate(fails, model, *data)
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(3)}, r"labels: takes shape \(50,\)"),
        ({"targets": torch.zeros(3)}, r"targets: takes shape \(50,\)"),
        ({"inputs": torch.zeros(50)}, "inputs: takes"),
        ({"batch_size": 0}, "batch_size: takes a whole number"),
        ({"measure": "l3"}, "measure: takes one of l0, l1, l2, linf"),
        ({"stepz": 3}, "no option 'stepz'; did you mean steps"),
        ({"recipe": lazy, "targets": torch.zeros(50)}, "no option 'targets'; it takes distance"),
    ],
)
def test_bad_arguments_before_the_first_model_call(data, change, message):
    def never(x):
        raise AssertionError("the model was called")

    arguments = {"recipe": sign_steps, "model": never, "inputs": data[0], "labels": data[1]} | change
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)


def test_what_else_is_refused(model, data):
    with pytest.raises(TypeError, match="must return a Solution"):
        evaluate(broken, model, *data)
    with pytest.raises(TypeError, match="recipe: takes a function"):
        evaluate(3, model, *data)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="training mode"):
        evaluate(sign_steps, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), *data)
    with pytest.raises(TypeError, match="must return logits"):
        evaluate(sign_steps, lambda x: "logits", *data)


def test_takes():
    assert takes(sign_steps, "steps") and not takes(sign_steps, "penalty")
    assert takes(anything, "penalty") and not takes(anything, "penalty", by_name=True)


def test_counting_of_several_backwards_and_of_none():
    layer, counter = nn.Linear(2, 3), PassCounter()
    x = torch.rand(5, 2, requires_grad=True)
    with counted(layer, counter) as watched:
        logits = watched(x)
        for k in range(3):
            torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)
        with torch.no_grad():
            watched(x)
    layer(x)
    assert counter == PassCounter(forwards=10, backwards=15)
    assert time_pass(layer, x, repeats=2, warm_up=True) > 0


@pytest.mark.parametrize("kind", ["next", "random", "7"])
def test_targets_differ_from_labels(kind):
    labels = torch.arange(7).repeat(20)
    targets = evaluation.choose_targets(kind, labels, 10, seed=1)
    assert (targets != labels).all() and targets.min() >= 0 and targets.max() < 10
    assert torch.equal(targets, evaluation.choose_targets(kind, labels, 10, seed=1))


def test_bad_targets():
    labels = torch.arange(7)
    with pytest.raises(ValueError, match="1 of the samples have label 3"):
        evaluation.choose_targets("3", labels, 10)
    for kind in ("10", "-1", "nearest"):
        with pytest.raises(ValueError, match="a class from 0 to 9"):
            evaluation.choose_targets(kind, labels, 10)


def rendered(reports) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(results_table(reports))
    return console.export_text()


def test_table(report):
    text = rendered([report])
    summary = report.summary()
    for part in ("sign_steps", f"{summary['success_rate']:.1%}", f"{summary['median_distance']:.4g}", "12 / 12"):
        assert part in text
    assert "failure counts as infinitely far" in " ".join(text.split()) and "reproduce" not in text
    with pytest.raises(ValueError, match="at least one"):
        results_table([])


def test_files_read_back(report, tmp_path):
    evaluation.write_results(report, tmp_path / "deep" / "r.parquet")
    columns = evaluation.read_results(tmp_path / "deep" / "r.parquet")
    assert columns.keys() == report.columns.keys()
    assert all(np.array_equal(columns[name], report.columns[name]) for name in columns)
    metadata = pyarrow.parquet.read_schema(tmp_path / "deep" / "r.parquet").metadata
    assert json.loads(metadata[b"constropt.summary"])["samples"] == 50

    evaluation.write_adversarial(report, tmp_path / "x.safetensors")
    again = load_data(f"safetensors:{tmp_path}/x.safetensors")
    assert torch.equal(again.inputs, report.adversarial) and again.labels.tolist() == report.columns["label"].tolist()

    evaluation.write_summary([report], tmp_path / "s.json", seed=3, worst=float("inf"))
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["seed"] == 3 and content["worst"] is None
    assert content["recipes"]["sign_steps"]["success_rate"] == report.summary()["success_rate"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def pixels(path) -> np.ndarray:
    image = pytest.importorskip("matplotlib.image")
    return image.imread(path)


def test_figures(report, model, data, tmp_path):
    linf = evaluate(sign_steps, model, *data, steps=4, size=0.1, name="big steps")
    evaluation.plot_curve([report, linf], tmp_path / "curve.png")
    evaluation.plot_grid(data[0], report, tmp_path / "grid.png", samples=3)
    for name in ("curve.png", "grid.png"):
        image = pixels(tmp_path / name)
        assert min(image.shape[:2]) > 200 and image[..., :3].std() > 0.05
    with pytest.raises(ValueError, match="share a distance"):
        evaluation.plot_curve([report, evaluate(sign_steps, model, *data, measure="l1")], tmp_path / "no.png")
    with pytest.raises(ValueError, match="images of the report"):
        evaluation.plot_grid(data[0][:3], report, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


def test_missing_extras_are_named(report, tmp_path, monkeypatch):
    importing = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("matplotlib", "sklearn"):
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(evaluation.MissingExtra, match=r"pip install constropt\[plot\]"):
        evaluation.plot_curve([report], tmp_path / "curve.png")
    with pytest.raises(evaluation.MissingExtra, match=r"pip install constropt\[data\]"):
        load_data("digits")
