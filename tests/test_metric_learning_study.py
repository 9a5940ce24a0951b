"""Training embeddings: batches of classes, the recipe's optimizer, frozen layers, studies, figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from constropt.lab.data.retrieval_sets import class_batches
from constropt.lab.models.embedders import Embedder, small_embedder
from constropt.lab.studies.metric_learning.figures import SETTINGS, embedding_map, figure_one, principal_components
from constropt.lab.studies.metric_learning.kind import BENCHMARKS, RETRIEVAL
from constropt.lab.studies.metric_learning.methods import METHODS, build_loss
from constropt.lab.studies.metric_learning.study import RetrievalSetup, RetrievalTraining, embed, train_embedder
from constropt.lab.studies.metric_learning.study_data import RetrievalSettings, Samples, build_embedder, retrieval_data
from constropt.lab.studies.metric_learning.study_report import remarks, write_figures
from constropt.lab.studies.study import read_history
from constropt.lab.studies.tables import TableSettings, run_table
from constropt.problems.metric_learning import SPCE, MemoryBank, MultiSimilarity
from constropt.problems.metric_learning.neighbours import SNCA

QUICK = RetrievalTraining(epochs=2, batch_size=64, optimizer="adam", lr=3e-3, schedule="cosine")
SMALL = "constropt.lab.models.embedders:small_embedder[width=4,dimension=8]"
DIGITS = RetrievalSettings("digits", validation=0.3)


def run_study(losses, seeds, *, out, **setup):
    return RETRIEVAL.run(RetrievalSetup(**setup), losses, seeds, out=out)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    per_class=st.integers(1, 5),
    groups=st.integers(2, 4),
    seed=st.integers(0, 999),
)
def test_batches_hold_groups_of_one_class_and_nearly_every_sample(sizes, per_class, groups, seed):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    torch.manual_seed(seed)
    batches = class_batches(labels, groups * per_class, per_class)
    for rows in batches:
        grouped = labels[rows].view(-1, per_class)
        assert bool((grouped == grouped[:, :1]).all())
        for group, label in zip(rows.view(-1, per_class), grouped[:, 0]):
            assert len(group.unique()) == min(per_class, sizes[label])
        assert len(labels[rows].unique()) > 1
    count = sum(-(-size // per_class) for size in sizes)
    assert 0 < len(batches) <= max(count // groups, 1)
    if len(sizes) > 5 and max(sizes) <= per_class * groups // 2 and count % groups == 0:
        assert torch.cat(list(batches)).unique().equal(torch.arange(len(labels)))


def test_batches_of_a_class_that_nearly_fills_the_data_still_hold_another():
    labels = torch.tensor([0] * 99 + [1])
    for seed in range(20):
        torch.manual_seed(seed)
        for rows in class_batches(labels, 4, 2):
            assert len(labels[rows].unique()) == 2
    with pytest.raises(ValueError, match="labels: take at least two classes"):
        class_batches(labels[:99], 4, 2)


def test_a_batch_has_room_for_two_classes():
    with pytest.raises(ValueError, match="per_class: a batch takes at least two classes"):
        class_batches(torch.tensor([0, 1]), 4, 3)
    with pytest.raises(ValueError, match="per_class: a batch takes at least two classes"):
        RetrievalTraining(batch_size=6, per_class=4)


def test_decay_is_on_weights_only_and_momentum_is_nesterovs():
    model = nn.ModuleList(
        [small_embedder(width=4, dimension=8), build_loss("ce", num_classes=3, dimension=8, samples=9)]
    )
    decaying, others = RetrievalTraining(momentum=0.9).build(model).param_groups
    assert decaying["weight_decay"] == 5e-4 and others["weight_decay"] == 0 and decaying["lr"] == 0.02
    assert {p.dim() for p in decaying["params"]} == {2, 4} and {p.dim() for p in others["params"]} == {1}
    assert decaying["nesterov"] and decaying["momentum"] == 0.9
    plain = RetrievalTraining().build(model).param_groups[0]
    assert not plain["nesterov"] and plain["momentum"] == 0
    with pytest.raises(ValueError, match="momentum: takes a value in"):
        RetrievalTraining(momentum=1.0)


def test_frozen_batch_norms_stay_as_they_are():
    features = small_embedder(width=4, dimension=8)
    norms = [layer for layer in features.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = [value.clone() for layer in norms for value in layer.state_dict().values()]
    network = Embedder(features, 8, frozen=True)
    network.train()
    data = Samples(torch.rand(64, 1, 8, 8), torch.arange(64) % 4)
    train_embedder(network, MultiSimilarity(), data, replace(QUICK, batch_size=16))
    after = [value for layer in norms for value in layer.state_dict().values()]
    assert len(after) == 20 and all(map(torch.equal, before, after))
    assert not torch.equal(network.norm.running_mean, torch.zeros(8))  # the one on top is not pre-trained
    assert not list(network.norm.parameters())
    moving = Embedder(small_embedder(width=4, dimension=8), 8, frozen=False)
    train_embedder(moving, MultiSimilarity(), data, replace(QUICK, batch_size=16))
    assert not torch.equal(moving.features.convolutions[0][1].running_mean, torch.zeros(4))


def test_unseen_classes_are_unseen_and_the_seed_draws_them():
    one, two = (retrieval_data(DIGITS, seed=seed) for seed in (0, 1))
    assert one.fingerprint() == retrieval_data(DIGITS, seed=0).fingerprint() != two.fingerprint()
    parts = [one.train, one.validation, one.query]
    assert sum(len(part.labels) for part in parts) == 1797
    flat = [{row.numpy().tobytes() for row in part.images} for part in parts]
    assert not (flat[0] & flat[1] or flat[0] & flat[2] or flat[1] & flat[2])
    assert [len(part.labels.unique()) for part in parts] == [4, 2, 4]


def test_omniglot_is_split_by_alphabets(real_data):
    if not (real_data / "omniglot").is_dir():
        pytest.skip("no Omniglot")
    data = retrieval_data(
        RetrievalSettings(f"omniglot:{real_data / 'omniglot'}[size=10]", unseen=0.375, validation=0.2)
    )
    counts = [len(part.labels.unique()) for part in (data.train, data.validation, data.query)]
    assert sum(counts) == 242 and counts[0] == data.classes
    sizes = (47, 42, 40, 26, 24, 24, 22, 17)  # characters of the eight alphabets
    assert counts[1] in sizes and all(len(part.labels) == 20 * c for part, c in zip((data.train,), counts))


@pytest.mark.parametrize("name", list(METHODS))
def test_every_loss_trains_a_network(name):
    data = retrieval_data(DIGITS, seed=0)
    few = Samples(data.train.images[:400], data.train.labels[:400])
    network = build_embedder(SMALL, data)
    loss = build_loss(name, num_classes=data.classes, dimension=network.dimension, samples=400)
    history = train_embedder(network, loss, few, replace(QUICK, epochs=6, lr=1e-2), validation=few)
    losses, recalls = history.figures["train_loss"], history.figures["recall"]
    assert losses[-1] < losses[0] or name == "snca-bank"  # the bank is empty at first, and an empty one costs nothing
    assert len(recalls) == 6 and recalls[-1] > 0.9
    assert not network.training and not loss.training


def test_the_memory_bank_holds_what_was_seen():
    bank = MemoryBank(40, 6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))
    data = Samples(torch.rand(40, 1, 4, 4), torch.arange(40) % 4)
    train_embedder(model, SNCA(bank=bank), data, replace(QUICK, epochs=1, batch_size=10))
    assert bool(bank.filled.all()) and torch.equal(bank.labels, data.labels)


def test_the_network_of_a_run_leaves_the_generator_and_takes_weights(tmp_path):
    from constropt.lab.models.weights import save_weights

    data = retrieval_data(DIGITS)
    state = torch.get_rng_state()
    one, two = (build_embedder(SMALL, data, seed=seed) for seed in (5, 5))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    save_weights(one.features, tmp_path / "w.safetensors")
    given = build_embedder(SMALL, data, weights=tmp_path / "w.safetensors", seed=6)
    assert torch.equal(given.features.convolutions[0][0].weight, one.features.convolutions[0][0].weight)
    with pytest.raises(ValueError, match="weights: .* does not fit small_embedder"):
        build_embedder(SMALL.replace("width=4", "width=5"), data, weights=tmp_path / "w.safetensors")


def test_a_study_continues_and_reports(tmp_path):
    losses = ["ce-plain", "triplet[margin=0.3]"]
    study = run_study(losses, [0, 1], out=tmp_path, data=DIGITS, training=QUICK, model=SMALL, ks=(1, 2))
    found = study.results["ce-plain"][0]
    assert found["cosine"]["recall@1"] > 0.5 and 0 < found["l2"]["map@r"] < 1 and "validation" in found
    assert found["data"] == study.results["triplet[margin=0.3]"][0]["data"] != study.results["ce-plain"][1]["data"]
    assert read_history(study, "ce-plain", 1)["recall"].shape == (2,)
    again = run_study([*losses, "snca"], [0], out=tmp_path, data=DIGITS, training=QUICK, model=SMALL, ks=(1, 2))
    assert again.results["ce-plain"] == study.results["ce-plain"] and set(again.results["snca"]) == {0}
    text = RETRIEVAL.write_report(again)[0].read_text()
    assert "| Triplet [margin=0.3] | 2 |" in text and "R@2 l2" in text and "pairwise loss (" in text
    assert "±" in text and any("of CE (ce-plain) minus" in line for line in remarks(again))
    maps = write_figures(again)
    assert sorted(path.name for path in maps)[0] == "map-ce-plain.png" and all(path.stat().st_size for path in maps)
    times = [path.stat().st_mtime_ns for path in maps]
    assert [path.stat().st_mtime_ns for path in write_figures(again)] == times
    with pytest.raises(ValueError, match="other settings"):
        run_study(losses, [0], out=tmp_path, data=DIGITS, training=replace(QUICK, epochs=3), model=SMALL, ks=(1, 2))


def test_bad_input_is_said_before_training(tmp_path):
    call = {"out": tmp_path, "data": DIGITS, "training": QUICK, "model": SMALL}
    with pytest.raises(ValueError, match="loss: unknown name 'tripplet'; near names: triplet"):
        run_study(["tripplet"], [0], **call)
    with pytest.raises(ValueError, match="at least one each"):
        run_study(["ce"], [], **call)
    with pytest.raises(ValueError, match="margin: takes a number > 0"):
        run_study(["triplet[margin=0]"], [0], **call)
    for wrong in ({"unseen": 0.0}, {"unseen": 1.0}, {"validation": 1.0}):
        with pytest.raises(ValueError, match="unseen|validation"):
            RetrievalSettings("digits", **wrong)
    with pytest.raises(ValueError, match="leaves 1 class for train"):
        retrieval_data(RetrievalSettings("digits", unseen=0.9))
    with pytest.raises(ValueError, match="one class each"):
        retrieval_data(RetrievalSettings("scenes"))
    assert not list(tmp_path.iterdir())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(3, 20), d=st.integers(2, 6))
def test_principal_components_against_the_covariance(seed, n, d):
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    count = min(n, d)
    coordinates, share = principal_components(z, count)
    variances = torch.linalg.eigvalsh(torch.cov(z.T)).flip(0)[:count]
    torch.testing.assert_close(coordinates.square().sum(0) / (n - 1), variances.clamp_min(0), atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(share, variances / variances.sum(), atol=1e-9, rtol=1e-7)
    largest = coordinates.gather(0, coordinates.abs().argmax(0, keepdim=True))
    assert bool((largest >= -1e-12).all())


def test_the_map_writes_a_picture(tmp_path):
    path = tmp_path / "map.png"
    figure = embedding_map(torch.randn(60, 5), torch.arange(60) % 20, classes=5, path=path)
    assert path.stat().st_size > 1000 and "5 of 20 classes" in figure.axes[0].get_title()
    assert len(figure.axes[0].collections) == 6
    with pytest.raises(ValueError, match="count: takes 1 to 1"):
        embedding_map(torch.randn(5, 1), torch.arange(5))


def test_figure_one_shows_both_losses_fall(tmp_path):
    from constropt.lab import load_data

    train, validation = load_data("digits", split="train"), load_data("digits")
    found = figure_one(train, validation, out=tmp_path, settings=replace(SETTINGS, epochs=4, lr=3e-3))
    assert set(found) == {"CE", "SPCE"} and (tmp_path / "figure-I-1.png").stat().st_size > 1000
    for curve in found.values():
        assert curve["loss"][-1] < curve["loss"][0] and curve["accuracy"][-1] > 0.9


def test_table_stands_beside_the_thesis_where_there_is_data(tmp_path, monkeypatch):
    from test_metric_learning_datasets import make_sop

    root = tmp_path / "data"
    make_sop(root / "Stanford_Online_Products")
    for name, benchmark in BENCHMARKS.items():
        quick = replace(benchmark.setup, model=SMALL, frozen=False, training=replace(QUICK, batch_size=8))
        if name == "sop":
            quick = replace(quick, data=RetrievalSettings("sop:{}/Stanford_Online_Products[size=16]"))
        monkeypatch.setitem(BENCHMARKS, name, replace(benchmark, setup=quick))
    settings = TableSettings(methods=("ce",), seeds=(0,), epochs=1)
    blocks, path = run_table(RETRIEVAL, "table-2.4", out=tmp_path / "out", root=root, settings=settings)
    text = path.read_text()
    assert len(blocks) == 1 and "| CE (thesis, ResNet-50) | - | cosine | 81.1 | 91.7 | 96.3 | 98.8 | - |" in text


def test_relative_labels_train_too():
    """Sec. 5 of appendix I: no classes, only which pairs are similar."""
    images, labels = torch.rand(32, 1, 4, 4), torch.arange(32) % 4
    images += labels[:, None, None, None]
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    loss, optimizer = SPCE(0.5, class_mean=True), torch.optim.Adam(model.parameters(), lr=0.05)
    pairs: Tensor = labels[:, None] == labels
    values = []
    for _ in range(30):
        value = loss(nn.functional.normalize(model(images)), pairs)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0] and embed(model, images).shape == (32, 4)
    assert str(RETRIEVAL.parse("ce")) == "ce"
