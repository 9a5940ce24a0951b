"""Studies of calibration: methods by name, training that resumes bit for bit, the same split for all, tables."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from constropt.lab.data.omniglot import load_omniglot
from constropt.lab.runs.specs import named_table
from constropt.lab.studies.calibration import study_data as study_data_module
from constropt.lab.studies.calibration.kind import BENCHMARKS, CALIBRATION, TABLES
from constropt.lab.studies.calibration.methods import METHODS, build_loss
from constropt.lab.studies.calibration.study import CalibrationSetup, predict, train
from constropt.lab.studies.calibration.study_data import DataSettings, build_network, load_pools, study_data
from constropt.lab.studies.calibration.study_report import COLUMNS, ECE, ECE_SCALED, SHIFTED, remarks, write_figures
from constropt.lab.studies.epochs import AUGMENTATIONS, TrainingSettings, shift
from constropt.lab.studies.study import read_history, read_study
from constropt.lab.studies.tables import TableSettings, layout, run_table, with_spread
from constropt.problems.calibration.margin import CALS, CALSHR, MbLS
from constropt.problems.calibration.metrics import expected_calibration_error


class Tiny(nn.Module):
    """A layer with BatchNorm and dropout: what makes evaluation differ from training, and draws at random."""

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(width, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


TINY = f"{__name__}:Tiny"
SMALL_MARGIN = "cals-alm[margin=0.5]"  # which a few epochs exceed
DIGITS = DataSettings("digits", samples=300, test_samples=200)
TWO = TrainingSettings(epochs=2, batch_size=32, lr=3e-3)


def run_study(methods, seeds, *, data, training, model, **options):
    setup = CalibrationSetup(data=data, training=training, model=model)
    return CALIBRATION.run(setup, methods, seeds, **options)


@pytest.fixture(scope="module")
def split():
    return study_data(DIGITS)


def trained(split, method: str = SMALL_MARGIN, epochs: int = 4, **options):
    network, loss = build_network(TINY, split, seed=0), build_loss(method, split.classes)
    settings = TrainingSettings(epochs=epochs, batch_size=32, lr=3e-3, schedule="constant")
    history = train(network, loss, split.train, split.held_out, settings, **options)
    return network, loss, history


# ------------------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_loss_that_differs_from_no_other_by_shape(name):
    generator = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(6, 4, 3, generator=generator)
    labels = torch.randint(4, (6, 3), generator=generator)
    labels[0, 0] = 255
    leaf = logits.requires_grad_()
    loss = build_loss(name, 4, ignore_index=255)(leaf, labels)
    loss.backward()
    assert loss.dim() == 0 and loss.isfinite() and leaf.grad is not None
    assert (leaf.grad[0, :, 0] == 0).all() and (leaf.grad[1] != 0).any()


def test_methods_have_the_published_hyper_parameters():
    for text, margin in ((False, 10.0), (True, 6.0)):
        for name, kind in (("cals-alm", CALS), ("cals-hr", CALSHR), ("mbls", MbLS)):
            loss = build_loss(name, 5, text=text)
            assert isinstance(loss, kind) and loss.margin == margin
    criterion = build_loss("cals-alm", 5)
    assert torch.allclose(criterion.multipliers, torch.full((5,), 1e-6)) and (criterion.rho == 1).all()
    assert (build_loss("mbls", 5).multipliers == 0.1).all()
    assert build_loss("ls", 5).alpha == 0.05 and build_loss("fl", 5).gamma == 3
    assert build_loss("flsd", 5).low == 5 and build_loss("ecp", 5).weight == 0.1 and build_loss("mmce", 5).weight == 0.1
    assert (build_loss("cpc", 5).discrimination, build_loss("cpc", 5).exclusion) == (10, 1)


def test_options_come_before_what_a_method_brings():
    assert build_loss("cals-alm[margin=3,penalty=P2]", 5, text=True).margin == 3
    assert build_loss("cals-alm[preset=official]", 5).lagrangian == build_loss("cals-alm-official", 5).lagrangian
    assert build_loss("cals-alm-p2", 5).lagrangian == build_loss("cals-alm[penalty=P2]", 5).lagrangian
    assert CALIBRATION.title_of("cals-alm[margin=3]") == "CALS-ALM [margin=3]"
    assert isinstance(build_loss("torch.nn:CrossEntropyLoss[label_smoothing=0.1]", 5), nn.CrossEntropyLoss)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cals", "unknown name 'cals'; near names: cals-hr"),
        ("cals-alm[magin=3]", "unknown name 'magin'; near names: margin"),
        ("cals-alm[margin=0]", "margin: must be > 0"),
        ("math:sqrt", "method: math:sqrt needs x"),
        ("math:pi", "is a float, not a factory"),
        ("torch.nn:Linear", "needs in_features, out_features"),
        ("builtins:dict", "gave a dict"),
    ],
)
def test_wrong_methods_are_named(text, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build_loss(text, 5)


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("method", [SMALL_MARGIN, "cals-hr[margin=0.5]", "ce"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_that_was_killed_ends_as_an_uninterrupted_one(split, tmp_path, method, optimizer):
    path = tmp_path / "checkpoint.pt"
    settings = TrainingSettings(epochs=4, batch_size=32, lr=3e-3, optimizer=optimizer, augment="shift-mirror")

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 2:
            raise Killed

    def parts():
        return build_network(TINY, split, seed=3), build_loss(method, split.classes)

    network, loss = parts()
    whole = train(network, loss, split.train, split.held_out, settings, seed=3)
    with pytest.raises(Killed):
        train(*parts(), split.train, split.held_out, settings, seed=3, checkpoint=path, progress=kill)
    torch.rand(7)  # the global generator is elsewhere in another process
    again, criterion = parts()
    epochs = []
    resumed = train(
        again,
        criterion,
        split.train,
        split.held_out,
        settings,
        seed=3,
        checkpoint=path,
        progress=lambda done, _: epochs.append(done),
    )
    assert epochs == [3, 4] and resumed.figures == whole.figures and len(whole) == 4
    for mine, other in ((again, network), (criterion, loss)):
        torch.testing.assert_close(mine.state_dict(), other.state_dict(), rtol=0, atol=0, equal_nan=True)
    assert all(map(torch.equal, resumed.multipliers, whole.multipliers))


def test_training_leaves_the_generator_and_looks_at_held_out_data_in_eval_mode(split):
    before = torch.get_rng_state()
    network, loss, history = trained(split)
    assert torch.equal(before, torch.get_rng_state()) and not network.training
    assert len(history) == len(history.multipliers) == 4 and history.multipliers[0].shape == (10,)
    assert torch.equal(history.multipliers[-1], loss.multipliers)
    logits = predict(network, split.held_out.inputs)
    last = expected_calibration_error(logits, split.held_out.labels, from_logits=True)
    assert abs(last - history.figures["ece"][-1]) < 1e-6
    before_last = trained(split, epochs=3)[1]
    assert not torch.equal(before_last.multipliers, loss.multipliers)
    before_last.update_duals(network, [split.held_out])
    assert torch.allclose(before_last.multipliers, loss.multipliers)


def test_the_same_seed_gives_the_same_and_another_another(split):
    a, b, c = (trained(split, "ce", epochs=1, seed=seed)[2].figures for seed in (0, 0, 1))
    assert a == b and a != c


def test_multipliers_of_a_method_move_where_it_learns_them(split):
    learned = trained(split)[2].multipliers
    assert (learned[-1] > 1e-3).all() and not torch.equal(learned[0], learned[-1])
    fixed = trained(split, "mbls[margin=0.5]")[2].multipliers
    assert len(fixed) == 4 and all((mu == 0.1).all() for mu in fixed)
    assert trained(split, "ce")[2].multipliers == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adan"}, "near names: adam"),
        ({"schedule": "cosin"}, "near names: cosine"),
        ({"augment": "mirror"}, "near names: shift-mirror"),
        ({"epochs": 0}, "epochs: takes a whole number"),
        ({"batch_size": 2.5}, "batch_size: takes a whole number"),
        ({"lr": 0.0}, "lr: takes a number > 0"),
        ({"weight_decay": -1.0}, "weight_decay: takes"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**settings)


def test_bad_training_is_refused(split, tmp_path):
    network, loss = build_network(TINY, split, seed=0), build_loss("ce", 10)
    nothing = split.train.inputs[:0], split.train.labels[:0]
    with pytest.raises(ValueError, match="held_out: takes labelled samples, got 0"):
        train(network, loss, split.train, nothing, TWO)
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="is not one of this training"):
        train(network, loss, split.train, split.held_out, TWO, checkpoint=tmp_path / "checkpoint.pt")
    maps = torch.zeros(4, 3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="augment: shift takes images with one label each"):
        train(nn.Conv2d(3, 2, 1), loss, maps, maps, TrainingSettings(epochs=1, augment="shift"))
    with pytest.raises(ValueError, match="the loss is not finite in epoch"):
        wild = TrainingSettings(epochs=2, optimizer="sgd", lr=1e30)
        train(network, loss, split.train, split.held_out, wild)


def test_augmentations_keep_shape_and_range():
    images = torch.rand(5, 3, 16, 24)
    for change in AUGMENTATIONS.values():
        found = change(images)
        assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    one = torch.zeros(64, 1, 16, 16)
    one[:, :, 8, 8] = 1
    places = shift(one).flatten(1).argmax(1)
    rows, columns = places // 16, places % 16
    assert rows.min() == columns.min() == 6 and rows.max() == columns.max() == 10


# ---------------------------------------------------------------------------------------------------------------- data


def test_the_split_depends_on_the_seed_alone():
    a, b, c = (study_data(DIGITS, seed=seed) for seed in (0, 0, 1))
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()
    assert len(a.train.labels) + len(a.held_out.labels) == len(c.train.labels) + len(c.held_out.labels)
    assert torch.equal(a.test.inputs, c.test.inputs) and abs(len(a.test.labels) - 200) < 6 and a.classes == 10
    rows = {tuple(row.tolist()) for row in a.train.inputs.flatten(1)}
    assert not any(tuple(row.tolist()) in rows for row in a.held_out.inputs.flatten(1))


@pytest.mark.parametrize("settings", [DIGITS, DataSettings("digits", held_out=10, long_tail=20.0)])
def test_pools_are_split_as_the_data_of_each_seed(settings):
    pools = load_pools(settings)
    for seed in (2, 0, 2):
        assert pools.split(seed).fingerprint() == study_data(settings, seed=seed).fingerprint()


def test_a_study_reads_its_data_once(tmp_path, monkeypatch):
    read, calls = study_data_module.load_data, []
    monkeypatch.setattr(
        study_data_module, "load_data", lambda spec, *, split: calls.append(split) or read(spec, split=split)
    )
    study = run_study(["ce"], [3, 1, 0], out=tmp_path, data=DIGITS, training=TWO, model=TINY)
    assert calls == ["train", "test"]
    found = {seed: result["data"] for seed, result in study.results["ce"].items()}
    assert found == {seed: study_data(DIGITS, seed=seed).fingerprint() for seed in (0, 1, 3)}


def test_a_long_tail_is_in_the_training_part_only():
    data = study_data(DataSettings("digits", held_out=10, long_tail=20.0))
    counts = data.train.labels.bincount()
    assert counts[0] / counts[9] >= 15 and (counts.diff() <= 0).all() and counts[9] >= 5
    assert (data.held_out.labels.bincount() == 10).all()


@pytest.fixture
def maps(tmp_path) -> str:
    """Color images whose brightest channel is the class of a pixel, some of them ignored."""
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 12, 3), dtype=np.uint8)
    labels = images.argmax(3).astype(np.uint8)
    labels[:, 0, 0] = 255
    parts = {"train_images": images[:16], "train_labels": labels[:16]}
    np.savez(tmp_path / "maps.npz", **parts, test_images=images[16:], test_labels=labels[16:])
    return f"npz:{tmp_path}/maps.npz"


def test_images_and_label_maps_are_scaled(maps, tmp_path):
    data = study_data(DataSettings(f"{maps}[size=[16,24]]", samples=10))
    assert data.kind == "dense" and data.train.inputs.shape[2:] == data.train.labels.shape[1:] == (16, 24)
    assert data.ignore_index == 255 and data.train.labels.unique().tolist() == [0, 1, 2, 255] and data.classes == 3
    assert len(data.train.labels) == 8 and len(data.held_out.labels) == 2
    assert build_network(None, data, seed=0)(data.test.inputs[:2]).shape == (2, 3, 16, 24)
    study = run_study(
        ["cals-alm"],
        [0],
        out=tmp_path / "study",
        data=DataSettings(maps),
        training=TrainingSettings(epochs=1, batch_size=4),
        model="torch.nn:Conv2d[in_channels=3,out_channels=3,kernel_size=1]",
    )
    assert "mIoU %" in layout(study, METHODS, COLUMNS)[0] and "shift" not in study.results["cals-alm"][0]


def test_texts_from_elsewhere_are_numbered_as_those_to_train_on(tmp_path):
    def write(name: str, prefix: str) -> str:
        rows = [
            {"split": split, "label": f"class {k % 2}", "text": f"\n\n{prefix} word word{k % 2} {split}"}
            for split in ("train", "test")
            for k in range(8)
        ]
        with gzip.open(tmp_path / name, "wt", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)
        return f"newsgroups:{tmp_path / name}"

    here, there = write("here.gz", "alpha"), write("there.gz", "zeta zeta")
    own = study_data(DataSettings(f"{here}[length=4]", held_out=1))
    assert own.kind == "text" and own.vocabulary == 7  # alpha train word word0 word1, padding and unknown
    assert own.test.inputs[0].tolist() == [2, 4, 5, 1]
    other = study_data(DataSettings(f"{here}[length=4]", test=there, held_out=1))
    assert other.vocabulary == 7 and other.test.inputs[0].tolist() == [1, 1, 4, 5]
    again = study_data(DataSettings(f"{here}[length=4]", test=f"{there}[length=4,vocabulary=3]", held_out=1))
    assert again.fingerprint() == other.fingerprint()


def test_networks_start_from_their_seed(split):
    before = torch.get_rng_state()
    a, b, c = (build_network(f"{TINY}[width=4]", split, seed=seed).layers[1].weight for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == (4, 64)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"held_out": 0.0}, "it can't be empty"),
        ({"held_out": 1.5}, "held_out: takes a fraction"),
        ({"held_out": 5000}, "per_class: takes fewer"),
        ({"samples": 10}, "held_out: of 10 samples 0 would be held out"),
        ({"long_tail": 0.5}, "long_tail: takes the ratio"),
        ({"samples": 0}, "samples: takes a whole number"),
        ({"data": "digits[side=3]"}, "takes the options size, got side"),
        ({"data": "digits[size=0]"}, "size takes a side"),
    ],
)
def test_wrong_data_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        study_data(DataSettings(**settings))


def test_data_that_does_not_fit_is_named(maps):
    with pytest.raises(ValueError, match="one per pixel"):
        study_data(DataSettings(maps, long_tail=2.0))
    with pytest.raises(ValueError, match="test: takes samples as those to train on"):
        study_data(DataSettings("digits", test=maps))


def test_one_set_is_no_split(tmp_path):
    np.savez(tmp_path / "one.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % 2)
    with pytest.raises(ValueError, match="is one set, not split"):
        study_data(DataSettings(f"npz:{tmp_path}/one.npz"))


def write_characters(path: Path, alphabets: dict[str, int], images: int = 4) -> None:
    image = pytest.importorskip("PIL.Image")
    with zipfile.ZipFile(path, "w") as archive:
        for alphabet, characters in alphabets.items():
            for character in range(1, characters + 1):
                for number in range(images):
                    pixels = np.full((12, 12), 255, np.uint8)
                    pixels[number, character] = 0
                    with archive.open(f"x/{alphabet}/character{character:02}/{number}.png", "w") as file:
                        image.fromarray(pixels).save(file, "PNG")


def test_omniglot_reads_every_alphabet_once(tmp_path):
    write_characters(tmp_path / "a.zip", {"Greek": 2, "Latin": 1})
    write_characters(tmp_path / "b.zip", {"Latin": 1, "Tagalog": 3})
    train_part, test = (load_omniglot(tmp_path, part, size=12) for part in ("train", "test"))
    assert train_part.classes == test.classes and len(test.classes) == 6 and test.classes[0] == "Greek/character01"
    assert train_part.labels.bincount().tolist() == [3] * 6 and test.labels.bincount().tolist() == [1] * 6
    assert train_part.inputs.shape == (18, 1, 12, 12) and (train_part.inputs.sum((1, 2, 3)) == 1).all()
    assert abs(load_omniglot(tmp_path, size=6).inputs.max() - 0.25) < 1 / 255
    places = torch.cat([part.inputs.flatten(1).argmax(1) for part in (train_part, test)])
    assert len(set(zip(places.tolist(), torch.cat([train_part.labels, test.labels]).tolist()))) == 24
    with pytest.raises(ValueError, match="size: takes"):
        load_omniglot(tmp_path, size=0)
    with pytest.raises(ValueError, match="split: takes"):
        load_omniglot(tmp_path, "val")
    (tmp_path / "c.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="c.zip: no zip archive"):
        load_omniglot(tmp_path)


def test_the_real_omniglot_has_242_characters(real_data):
    data = load_omniglot(real_data / "omniglot", size=8)
    assert len(data.classes) == 242 and (data.labels.bincount() == 5).all()


# --------------------------------------------------------------------------------------------------------------- study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return run_study(["ce", SMALL_MARGIN, "cals-alm"], [0, 1], out=out, data=DIGITS, training=TWO, model=TINY)


def test_a_study_has_the_same_split_and_start_for_every_method(study):
    for seed in (0, 1):
        assert study.results["ce"][seed]["data"] == study.results["cals-alm"][seed]["data"]
    assert study.results["ce"][0]["data"] != study.results["ce"][1]["data"]
    # multipliers of 1e-6 at first: the methods have seen the same batches, and differ by next to nothing so far
    first = [read_history(study, method, 0)["train_loss"][0] for method in ("ce", "cals-alm")]
    assert abs(first[0] - first[1]) < 1e-2


def test_figures_are_those_of_the_weights(study):
    data = study_data(DIGITS, seed=1)
    network = build_network(TINY, data, seed=0)
    network.load_state_dict(load_file(study.weights("ce", 1)))
    logits = predict(network, data.test.inputs)
    found = study.results["ce"][1]
    assert ECE.of(found) == expected_calibration_error(logits, data.test.labels, from_logits=True).item()
    scaled = logits / torch.tensor(found["temperature"]["nll"])
    assert abs(ECE_SCALED.of(found) - expected_calibration_error(scaled, data.test.labels, from_logits=True)) < 1e-6
    assert found["after-nll"]["accuracy"] == found["before"]["accuracy"] and SHIFTED.of(found) is not None


def test_finished_runs_are_not_repeated_and_others_join(study, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in study.out.glob("runs/*/*")}
    assert {path.name for path in before} == {"result.json", "model.safetensors", "history.parquet"}
    seen = []
    options = {"out": study.out, "data": DIGITS, "training": TWO, "model": TINY}
    more = run_study(["ce", "ls[alpha=0.1]"], [0], **options, progress=lambda run, done, total: seen.append(run))
    assert set(seen) == {"ls[alpha=0.1], seed 0"}
    assert set(more.results) == {"ce", "cals-alm", SMALL_MARGIN, "ls[alpha=0.1]"}
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    header, lines = layout(more, METHODS, COLUMNS)
    assert header[:2] == ["method", "seeds"] and [line[1] for line in lines] == ["2", "1", "2", "2"]
    assert [line[0] for line in lines] == ["CE", "LS [alpha=0.1]", "CALS-ALM", "CALS-ALM [margin=0.5]"]
    assert "±" in lines[0][2] and "±" not in lines[1][2]
    with pytest.raises(ValueError, match="training.epochs: 2 there, 3 here"):
        run_study(["ce"], [0], **{**options, "training": TrainingSettings(epochs=3, batch_size=32, lr=3e-3)})
    (study.out / "runs" / "ls[alpha=0.1]-0" / "result.json").unlink()  # measured again, not trained again
    seen.clear()
    again = run_study(["ls[alpha=0.1]"], [0], **options, progress=lambda run, done, total: seen.append(run))
    assert not seen and again.results == more.results


def test_reports_and_diagrams(study):
    pytest.importorskip("matplotlib")
    written = [*CALIBRATION.write_report(study), *write_figures(study)]
    names = {path.name for path in written}
    assert {
        "results.md",
        "results.json",
        "results.parquet",
        "reliability-ce.png",
        f"multipliers-{SMALL_MARGIN}.png",
    } <= names
    assert "multipliers-ce.png" not in names and all(path.stat().st_size > 200 for path in written)
    content = json.loads((study.out / "results.json").read_text())
    assert len(content["runs"]) >= 4 and any("accuracy of CALS-ALM minus that of CE" in r for r in content["remarks"])
    assert "| CALS-ALM | 2 |" in (study.out / "results.md").read_text()


def test_remarks_say_where_it_does_not_hold(study):
    def with_ece(value: float, accuracy: float):
        results = {m: {s: json.loads(json.dumps(r)) for s, r in runs.items()} for m, runs in study.results.items()}
        for result in results["cals-alm"].values():
            result["before"] |= {"ece": value, "accuracy": accuracy}
        return type(study)(study.out, study.settings, results)

    good, bad = remarks(with_ece(0.0, 1.0)), remarks(with_ece(0.9, 0.0))
    assert "is below CE (-" in good[0] and "not below" not in good[0] and good[1].endswith("holds")
    assert "is not below CE (+" in bad[0] and bad[1].endswith("does not hold")
    same = {**study.results, "cals-alm": study.results["ce"]}
    assert "is level with CE (+0.00)" in remarks(type(study)(study.out, study.settings, same))[0]
    assert good[2].startswith("lowest ECE with temperature scaling")
    assert with_spread([0.1, 0.3, 0.2], 100) == "20.00 ± 10.00"


def test_a_study_of_nothing_is_refused(tmp_path):
    options = {"out": tmp_path / "study", "data": DIGITS, "training": TWO, "model": TINY}
    with pytest.raises(ValueError, match="near names: cals-alm"):
        run_study(["ce", "cals-alms"], [0], **options)
    with pytest.raises(ValueError, match="take at least one each"):
        run_study([], [0], **options)
    with pytest.raises(ValueError, match="seeds: take whole numbers"):
        run_study(["ce"], [-1], **options)
    with pytest.raises(ValueError, match="model: torch.nn:Linear needs in_features"):
        run_study(["ce"], [0], **{**options, "model": "torch.nn:Linear"})
    with pytest.raises(ValueError, match="holds no study"):
        read_study(tmp_path)
    assert not (tmp_path / "study").exists()


# -------------------------------------------------------------------------------------------------------------- tables


def test_tables_have_the_published_figures():
    assert set(TABLES) == {"table-6.1", "table-6.2", "table-6.3", "table-V-1", "table-V-2", "table-V-3"}
    for table in TABLES.values():
        assert set(table.methods) <= METHODS.keys() and set(table.benchmarks) <= BENCHMARKS.keys()
        for name, rows in table.published.items():
            assert set(rows) == set(table.methods) and name in table.source and name in table.benchmarks
            assert all(len(row) == len(table.columns) for row in rows.values())
    lt = TABLES["table-6.1"].published["long-tailed"]
    assert lt["ce"][1] == 28.12 and lt["cals-alm"][:2] == (38.56, 2.15)
    assert TABLES["table-6.3"].published["text"]["cals-alm"][0] == 2.04


def test_tables_share_runs_and_fall_back_to_digits(tmp_path):
    notes, seen = [], []
    options = {"out": tmp_path / "out", "root": tmp_path, "warn": notes.append}
    options |= {"settings": TableSettings(methods=("ce", "cals-alm"), seeds=(0,), epochs=1)}
    options |= {"progress": lambda run, done, total: seen.append(run)}
    blocks, path = run_table(CALIBRATION, "table-6.3", **options)
    assert len(blocks) == 1 and "running on digits instead" in notes[0] and len(seen) == 2
    assert [line[0] for line in blocks[0].lines] == ["CE", "CALS-ALM"] and path.name == "table-6.3.md"
    blocks, path = run_table(CALIBRATION, "table-V-1", **options)
    assert len(seen) == 2 and "ECE % + TS (ECE)" in blocks[0].header and path.is_file()
    assert named_table("6.2", CALIBRATION.tables) == "table-6.2"
    with pytest.raises(ValueError, match="unknown '7.1'"):
        named_table("7.1", CALIBRATION.tables)
    with pytest.raises(ValueError, match="near names: long-tailed"):
        run_table(CALIBRATION, "table-6.1", **options | {"settings": TableSettings(benchmarks=("long-tail",))})
