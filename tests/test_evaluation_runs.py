"""Runs into a folder: what is computed, continued, shared, refused, and what the figures of it mean."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from fakes import nearest_mean, sign_steps, solution
from fakes import run_with as run_evaluation
from torch import nn

from constropt.lab import Sign, evaluate, load_data, write_evaluation
from constropt.lab.attacks.counting import PassCounter, counted
from constropt.lab.attacks.examine import load_transfer
from constropt.lab.attacks.results import geometric_mean
from constropt.lab.runs.folder import differences, read_adversarial, read_shard

STEPS, ATTACKS = "fakes:sign_steps", "constropt.problems.attacks"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nearest_mean().eval()


@pytest.fixture(scope="module")
def data():
    inputs, labels = load_data("digits")
    return inputs[:30], labels[:30]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def found(model, data, tmp_path_factory):
    """Two recipes, one with a bound, at two norms, on two models; written."""
    weaker = nn.Sequential(model, nn.Linear(10, 10, bias=False)).eval()
    weaker[1].weight.data = torch.eye(10) + 0.05 * torch.ones(10, 10)
    run = run_evaluation(
        [f"{STEPS}[steps=6]", f"{STEPS}[size=0.11,steps=6]"],
        {"plain": model, "weaker": weaker},
        *data,
        out=tmp_path_factory.mktemp("run"),
        distances=["l2", "linf"],
        batch_size=12,
        radii=[0.5, 0.1],
    )
    assert write_evaluation(run) == []
    return run


def row_of(run, **wanted):
    (row,) = [row for row in [*run.rows, *run.means] if all(row[key] == value for key, value in wanted.items())]
    return row


def test_figures_are_those_of_evaluate(found, model, data):
    report = evaluate(sign_steps, model, *data, steps=6, size=0.11).summary()
    row = row_of(found, model="plain", distance="l2", recipe="sign_steps[size=0.11,steps=6]")
    for name in ("clean_accuracy", "success_rate", "median_distance", "mean_distance", "forwards", "backwards"):
        assert row[name] == pytest.approx(report[name]), name
    assert row["median_distance_8bit"] == report["median_distance_8bit"] and row["samples"] == 30


def test_the_worst_case_is_the_best_of_each_sample(found):
    results = [r for r in found.results if r.model == "plain" and r.distance_name == "linf"]
    *recipes, worst = results
    assert worst.name == "worst case" and len(recipes) == 2
    expected = np.min([r.distances() for r in recipes], axis=0)
    assert np.array_equal(worst.distances(), expected)
    assert worst.columns["success"].tolist() == np.any([r.columns["success"] for r in recipes], axis=0).tolist()
    assert worst.forwards == sum(r.forwards for r in recipes) and worst.row()["forwards"] == 12
    saved = [np.where(r.columns["success_8bit"], r.columns["distance_8bit"], np.inf) for r in recipes]
    assert worst.row()["median_distance_8bit"] == np.median(np.min(saved, axis=0))


def test_geometric_means_over_the_models(found):
    wanted = {"distance": "linf", "recipe": "worst case"}
    plain, weaker = (row_of(found, model=name, **wanted) for name in ("plain", "weaker"))
    mean = row_of(found, model="geometric mean", **wanted)
    for name in ("success_rate", "median_distance", "forwards"):
        assert mean[name] == pytest.approx(math.sqrt(plain[name] * weaker[name])), name
    assert mean["samples"] == 60 and len(found.means) == 6
    assert geometric_mean([1.0, math.nan]) is None and geometric_mean([math.inf, 0.0]) == math.inf


def test_robust_accuracy_is_that_of_the_samples(found, model, data):
    row = row_of(found, model="plain", distance="l2", recipe="worst case")
    (result,) = [r for r in found.results if (r.model, r.distance_name, r.name) == ("plain", "l2", "worst case")]
    for radius, accuracy in row["accuracy_at"].items():
        robust = result.columns["clean_correct"] & (result.distances() > radius)
        assert accuracy == pytest.approx(robust.mean())
    with (found.out / "curves.csv").open() as file:
        curve = [line for line in csv.DictReader(file) if line["model"] == "plain" and line["recipe"] == "worst case"]
    curve = [(float(line["radius"]), float(line["robust_accuracy"])) for line in curve if line["distance"] == "l2"]
    assert len(curve) == 101 and curve[0] == (0.0, pytest.approx(row["clean_accuracy"]))
    assert all(later[1] <= earlier[1] for earlier, later in zip(curve, curve[1:]))


def test_rounding_is_judged_on_the_images_as_saved(found, model, data):
    inputs, labels = data
    folder = min((found.out / "shards" / "plain").glob("sign_steps-l2-*"))
    paths = sorted(folder.glob("*.safetensors"))
    x = read_adversarial(paths)
    shard = read_shard(paths[0])
    saved, clean = ((255 * t).round() / 255 for t in (x, inputs))
    wrong = (model(saved).argmax(1) != labels).numpy()
    assert shard.columns["success_8bit"].tolist() == wrong[:12].tolist()
    assert np.allclose(shard.columns["distance_8bit"], (saved - clean).flatten(1).norm(dim=1)[:12], atol=1e-6)


def test_a_perturbation_below_half_a_level_is_lost(data):
    """A linear model whose boundary is 0.3 levels away: found exactly, gone once the image is saved."""
    inputs = torch.full((4, 1, 2, 2), 100 / 255)
    edge = 100 / 255 + 0.3 / 255
    near = lambda x: torch.stack([torch.zeros(len(x)), x.flatten(1).mean(1) - edge], 1)  # noqa: E731

    def attack(model, inputs, labels, *, distance="linf"):
        x = inputs + 0.35 / 255
        return solution(x, inputs, model(x).argmax(1) != labels, 1)

    summary = evaluate(attack, near, inputs, torch.zeros(4, dtype=torch.long)).summary()
    assert summary["success_rate"] == 1.0 and summary["success_rate_8bit"] == 0.0
    assert (
        summary["median_distance"] == pytest.approx(0.35 / 255, rel=1e-3)
        and summary["median_distance_8bit"] == math.inf
    )


def test_what_is_written(found):
    names = {path.name for path in found.out.iterdir()}
    assert {"manifest.json", "summary.json", "summary.md", "summary.parquet", "results.parquet", "curves.csv"} <= names
    assert {"curve-plain-l2.png", "curve-weaker-linf.png"} <= names
    content = json.loads((found.out / "summary.json").read_text())
    assert len(content["rows"]) == 12 and "failure counts as infinitely far" in content["conventions"]
    assert content["rows"][0]["accuracy_at"].keys() == {"0.5", "0.1"}
    assert pyarrow.parquet.read_table(found.out / "summary.parquet").num_rows == 18
    samples = pyarrow.parquet.read_table(found.out / "results.parquet").to_pydict()
    assert len(samples["recipe"]) == 12 * 30 and samples["status"][0].startswith("budget spent")
    text = (found.out / "summary.md").read_text()
    assert "| sign_steps[size=0.11,steps=6] |" in text and "| worst case |" in text and "acc at 0.1" in text


def test_a_second_run_computes_nothing_and_changes_nothing(model, data, tmp_path):
    arguments = {"out": tmp_path, "batch_size": 8, "options": {"steps": 4}, "look_for_signs": False}
    write_evaluation(run_evaluation([STEPS], {"m": model}, *data, **arguments))
    before = files(tmp_path)
    counter = PassCounter()
    with counted(model, counter):
        write_evaluation(run_evaluation([STEPS], {"m": model}, *data, **arguments))
    assert files(tmp_path) == before
    assert counter.forwards <= 1  # the number of classes


def test_truncated_and_foreign_shards_are_computed_again(model, data, tmp_path):
    arguments = {"batch_size": 8, "options": {"steps": 4}, "look_for_signs": False}
    run_evaluation([STEPS], {"m": model}, *data, out=tmp_path, **arguments)
    before = files(tmp_path)
    first, second, third, _ = sorted(tmp_path.rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-7])
    second.write_bytes(third.read_bytes())  # whole, but of other samples
    third.write_bytes(b"")
    left = first.with_name(f".{first.stem}-unfinished-1{first.suffix}")
    left.write_bytes(b"half")  # what a killed process leaves
    run_evaluation([STEPS], {"m": model}, *data, out=tmp_path, **arguments)
    assert files(tmp_path) == before


def test_processes_share_a_folder(model, data, tmp_path):
    arguments = {"batch_size": 7, "options": {"steps": 4}, "distances": ["l2", "linf"]}
    one, many = tmp_path / "one", tmp_path / "many"
    write_evaluation(run_evaluation([STEPS, "fakes:anything"], {"m": model}, *data, out=one, **arguments))
    for shard in (2, 0):
        part = run_evaluation(
            [STEPS, "fakes:anything"], {"m": model}, *data, out=many, shard=shard, shards=3, **arguments
        )
        assert not part.complete and part.rows == [] and 0 < part.done < part.total
    with pytest.raises(ValueError, match="batches are missing"):
        write_evaluation(part)
    last = run_evaluation([STEPS, "fakes:anything"], {"m": model}, *data, out=many, shard=1, shards=3, **arguments)
    assert last.complete
    write_evaluation(last)
    assert files(many) == files(one)


def test_a_recipe_that_draws_does_not_depend_on_what_ran_before(model, data, tmp_path):
    def run(out, **more):
        found = run_evaluation(["fakes:random_noise"], {"m": model}, *data, out=out, batch_size=10, **more)
        return [path.read_bytes() for path in sorted(found.out.rglob("*.safetensors"))]

    before = torch.get_rng_state()
    whole = run(tmp_path / "a")
    run(tmp_path / "b", shard=1, shards=2)
    torch.manual_seed(5)
    assert run(tmp_path / "b") == whole
    assert run(tmp_path / "c", seed=1) != whole
    torch.set_rng_state(before)


def test_other_settings_are_refused(model, data, tmp_path):
    def run(recipes=(STEPS,), network=model, samples=30, **more):
        inputs, labels = data
        arguments = {"options": {"steps": 2}, "batch_size": 10, "about": {"data": "digits"}} | more
        return run_evaluation(recipes, {"m": network}, inputs[:samples], labels[:samples], out=tmp_path, **arguments)

    run()
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    for change, message in [
        ({"samples": 20}, "samples: 30 there, 20 here"),
        ({"batch_size": 5}, "batch_size: 10 there, 5 here"),
        ({"seed": 3}, "seed: 0 there, 3 here"),
        ({"options": {"steps": 3}}, r"recipes\[0\].options.steps: 2 there, 3 here"),
        ({"recipes": (STEPS, "fakes:lazy")}, "recipes: "),
        ({"network": other}, "models.m: "),
        ({"about": {"data": "mnist:x"}}, 'data: "digits" there, "mnist:x" here'),
        ({"distances": ["linf"]}, r"distances\[0\]: \"l2\" there"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(**change)
    run()  # still what it was
    assert run(samples=20, fresh=True).settings["samples"] == 20
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="cannot read"):
        run()
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="holds shards but no manifest"):
        run()
    assert differences({"a": 1}, {"b": 1}) == ["a: 1 there, nothing here", "b: nothing there, 1 here"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard": 2, "shards": 2}, "shard: of 2, takes a number from 0 to 1, got 2"),
        ({"shards": 0}, "shards: takes a whole number >= 1"),
        ({"shards": 2, "fresh": True}, "fresh: would remove"),
        ({"batch_size": 0}, "batch_size: takes a whole number"),
        ({"models": {}}, "models: takes at least one"),
        ({"models": {"a/b": None}}, "models: takes names"),
        ({"recipes": []}, "nothing to run"),
        ({"recipes": ["alam"]}, "near names: alma"),
        ({"recipes": [f"{STEPS}[sise=1]"]}, "no option 'sise'; did you mean size"),
        ({"options": {"sise": 1}}, "none of sign_steps takes it"),
        ({"recipes": ["fakes:lazy"], "targets": "next"}, "it takes no targets"),
        ({"targets": "12"}, "a class from 0 to 9"),
        ({"transfer": {"there": torch.zeros(2)}}, "those of there are"),
    ],
)
def test_bad_arguments(model, data, tmp_path, change, message):
    arguments = {
        "recipes": [STEPS],
        "models": {"m": model},
        "inputs": data[0],
        "labels": data[1],
        "out": tmp_path / "o",
    }
    with pytest.raises(ValueError, match=message):
        run_evaluation(**(arguments | change))


def test_recipes_that_do_not_support_a_distance_are_left_out(model, data, tmp_path):
    found = run_evaluation(
        [f"{ATTACKS}:fmn[steps=3]", f"{ATTACKS}:pgd[eps=0.1,steps=3]", "ddn[steps=3]"],
        {"m": model},
        data[0][:6],
        data[1][:6],
        out=tmp_path,
        distances=["linf", "ssim"],
    )
    assert {(row["recipe"].partition("[")[0], row["distance"]) for row in found.rows} == {
        ("fmn", "linf"),
        ("pgd", "linf"),
        ("ddn", "linf"),  # it minimises l2, and is measured in what was asked for
        ("worst case", "linf"),
    }
    notes = " ".join(found.notes)
    assert "pgd[eps=0.1,steps=3] is left out at distance ssim" in notes and "ddn[steps=3] takes no distance" in notes
    with pytest.raises(ValueError, match="nothing to run; fmn"):
        run_evaluation([f"{ATTACKS}:fmn"], {"m": model}, *data, out=tmp_path / "no", distances=["ssim"])


def test_its_own_distance_is_where_a_recipe_is_listed(model, data, tmp_path):
    found = run_evaluation(
        ["ddn[steps=3]", f"{STEPS}[steps=2,distance=l1]"], {"m": model}, *data, out=tmp_path, distances=["l0", "l2"]
    )
    assert [(row["recipe"].partition("[")[0], row["distance"]) for row in found.rows] == [
        ("ddn", "l2"),
        ("sign_steps", "l1"),
    ]


def test_all_targets_give_the_average_and_the_least_likely(model, data, tmp_path):
    inputs, labels = data[0][:5], data[1][:5]
    found = run_evaluation([STEPS], {"m": model}, inputs, labels, out=tmp_path, targets="all", options={"steps": 15})
    average, least = found.rows
    assert (average["targets"], least["targets"]) == ("average", "least likely")
    assert average["samples"] == 45 and least["samples"] == 5 and least["forwards"] == 9 * average["forwards"]
    assert least["success_rate"] <= average["success_rate"] and least["median_distance"] >= average["median_distance"]
    write_evaluation(found)
    assert (tmp_path / "curve-m-l2-least-likely.png").is_file()


def test_signs_are_seen_and_reported(model, data, tmp_path):
    dropout = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    seen: list[Sign] = []
    found = run_evaluation(
        [f"{STEPS}[steps=2]"],
        {"model": dropout, "plain": model},
        *data,
        out=tmp_path / "a",
        warn=seen.append,
        options={"size": 0.01},
    )
    assert dropout.training and dropout[1].training
    assert found.signs == seen and {(sign.name, sign.model) for sign in seen} >= {("training mode", "model")}
    assert "noise" in {sign.name for sign in seen}  # two small steps fail, random images do not
    write_evaluation(found)
    assert "training mode" in (tmp_path / "a" / "summary.md").read_text()
    quiet = run_evaluation([STEPS], {"plain": model}, *data, out=tmp_path / "b", look_for_signs=False)
    assert quiet.signs == []


def test_transfer_between_runs(model, data, tmp_path):
    inputs, labels = data
    run_evaluation([f"{STEPS}[steps=15]"], {"surrogate": model}, *data, out=tmp_path / "a", batch_size=20)
    transfer = load_transfer(tmp_path / "a", inputs, labels)
    assert (
        list(transfer) == ["surrogate by sign_steps-l2"]
        and transfer["surrogate by sign_steps-l2"].shape == inputs.shape
    )
    found = run_evaluation(["fakes:lazy"], {"m": model}, *data, out=tmp_path / "b", transfer=transfer)
    (sign,) = [sign for sign in found.signs if sign.name == "transfer"]
    assert "made on surrogate by sign_steps-l2" in sign.message
    with pytest.raises(ValueError, match="made on other samples"):
        load_transfer(tmp_path / "a", inputs[:5], labels[:5])
    with pytest.raises(ValueError, match="has no manifest"):
        load_transfer(tmp_path, inputs, labels)
    next(tmp_path.glob("a/shards/*/*/00001*")).unlink()
    with pytest.raises(ValueError, match="not complete"):
        load_transfer(tmp_path / "a", inputs, labels)


def test_a_plain_callable_and_a_batched_jacobian(data, tmp_path, model):
    found = run_evaluation([STEPS], {"f": lambda x: model(x)}, *data, out=tmp_path, options={"steps": 3})
    assert found.rows[0]["forwards"] == 3
    x, counter = data[0].clone().requires_grad_(), PassCounter()
    with counted(model, counter) as watched:
        eye = torch.eye(10)[:, None].expand(10, 30, 10)
        torch.autograd.grad(watched(x), x, eye, is_grads_batched=True)
    assert counter == PassCounter(forwards=30, backwards=300)


class Shifted(nn.Module):
    """A model of inputs in [0, 1] for inputs in [-1, 1]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model((inputs + 1) / 2)


def test_signs_are_looked_for_within_the_bounds_of_the_recipes(model, data, tmp_path):
    shifted, options = {"m": Shifted(model).eval()}, {"bounds": (-1.0, 1.0)}
    found = run_evaluation(["fmn[steps=5]"], shifted, 2 * data[0] - 1, data[1], out=tmp_path, options=options)
    assert found.complete and not {"inputs", "unbounded"} & {sign.name for sign in found.signs}
    images = read_adversarial(sorted(tmp_path.glob("shards/*/*/*.safetensors")))
    assert images.min() < 0 and images.abs().max() <= 1
