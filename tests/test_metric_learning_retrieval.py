"""Retrieval against a plain ranking of every query: duplicates, ties, galleries, chunks, peers and bad input."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from constropt.problems.metric_learning import normalized_mutual_information, recall_at_k, retrieval_metrics

KS = (1, 2, 4)


def draw(seed: int, n: int, classes: int, dimension: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    labels[1] = labels[0]
    return z, labels


def ranked(query: Tensor, gallery: Tensor, distance: str) -> Tensor:
    """The order of the gallery for every query, by distances pair by pair."""
    if distance == "cosine":
        return torch.nn.functional.cosine_similarity(query[:, None], gallery, dim=2).argsort(1, descending=True)
    return (query[:, None] - gallery).square().sum(2).argsort(1)


def naive(query, labels, gallery=None, gallery_labels=None, *, ks, distance):
    """Recall, precision, MAP@R and R-precision, query by query."""
    alone = gallery is None
    if alone:
        gallery, gallery_labels = query, labels
    order = ranked(query, gallery, distance).tolist()
    rows = []
    for i, row in enumerate(order):
        same = [bool(gallery_labels[j] == labels[i]) for j in row if not (alone and j == i)]
        r = sum(same)
        if r:
            precise = [sum(same[: place + 1]) / (place + 1) * same[place] for place in range(r)]
            rows.append(
                [float(any(same[:k])) for k in ks]
                + [sum(same[:k]) / k for k in ks]
                + [sum(precise) / r, sum(same[:r]) / r]
            )
    return torch.tensor(rows, dtype=torch.float64).mean(0)


def flat(metrics) -> Tensor:
    values = [*metrics.recall.values(), *metrics.precision.values(), metrics.map_at_r, metrics.r_precision]
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("alone", [True, False])
@given(seed=st.integers(0, 10_000), n=st.integers(6, 25), classes=st.integers(1, 6), chunk=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_all_metrics_are_those_of_a_plain_ranking(distance, alone, seed, n, classes, chunk):
    query, labels = draw(seed, n, classes)
    gallery, gallery_labels = draw(seed + 1, n + 3, classes)
    gallery_labels[2] = labels[0]
    rest = () if alone else (gallery, gallery_labels)
    expected = naive(query, labels, *rest, ks=KS, distance=distance)
    found = retrieval_metrics(query, labels, *rest, ks=KS, distance=distance, chunk=chunk)
    torch.testing.assert_close(flat(found), expected)
    recall = recall_at_k(query, labels, *rest, ks=KS, distance=distance, chunk=chunk)
    torch.testing.assert_close(torch.tensor([*recall.values()], dtype=torch.float64), expected[:3])


def test_a_sample_is_left_out_by_its_index_and_not_by_its_rank():
    # two copies of every point, of one class: each must find its copy, at any place
    z, _ = draw(0, 20, 2)
    labels = torch.arange(20)
    for distance in ("cosine", "l2"):
        for dtype in (torch.float64, torch.float32, torch.float16):
            both = torch.cat([z, z]).to(dtype)
            assert recall_at_k(both, torch.cat([labels, labels]), ks=(1,), distance=distance) == {1: 1.0}
    # copies with other labels push the own class back: rank 0 dropped as self would find half of them
    apart = torch.cat([z, z, z + 5])
    labels = torch.cat([labels, labels + 20, labels])
    assert recall_at_k(apart, labels, ks=(1,), distance="l2") == {1: 0.0}


def test_ties_count_against_the_query():
    z = torch.ones(12, 3)
    labels = torch.arange(12) % 3
    for distance in ("cosine", "l2"):
        # collapsed embeddings: 8 of the 11 others are of other classes, and as near
        assert recall_at_k(z, labels, ks=(1, 8, 9), distance=distance) == {1: 0.0, 8: 0.0, 9: 1.0}


def test_queries_without_a_partner_are_left_out():
    z = torch.tensor([[0.0, 1.0], [0.1, 1.0], [5.0, 0.0]])
    assert recall_at_k(z, torch.tensor([0, 0, 1]), ks=(1,), distance="l2") == {1: 1.0}
    with pytest.raises(ValueError, match="number the classes alike"):
        recall_at_k(z, torch.tensor([0, 1, 2]), ks=(1,), distance="l2")
    # In-Shop's form, and a gallery without the class of some query
    found = recall_at_k(z, torch.tensor([0, 7, 1]), z, torch.tensor([0, 1, 1]), ks=(1,), distance="cosine")
    assert found == {1: 1.0}


def test_far_from_the_origin_small_distances_still_rank():
    z = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) * 0.01 + 50.0
    labels = torch.arange(60) % 5
    expected = naive(z.double(), labels, ks=KS, distance="l2")
    found = recall_at_k(z, labels, ks=KS, distance="l2")
    torch.testing.assert_close(torch.tensor([*found.values()], dtype=torch.float64), expected[:3])


def test_gradients_and_inputs_are_left_alone():
    z, labels = draw(0, 20, 4)
    z.requires_grad_()
    before = z.detach().clone()
    recall_at_k(z, labels.int(), ks=KS, distance="l2")
    retrieval_metrics(z, labels.int(), ks=KS)
    assert torch.equal(z.detach(), before)


def test_metrics_agree_with_pytorch_metric_learning():
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference")
    z, labels = draw(2, 60, 5, 4)
    z = torch.nn.functional.normalize(z, dim=1).float()
    theirs = calculator.AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        device=torch.device("cpu"),
        knn_func=inference.CustomKNN(calculator_distance(), batch_size=64),
    ).get_accuracy(z, labels)
    found = retrieval_metrics(z, labels, ks=(1,))
    assert abs(found.precision[1] - theirs["precision_at_1"]) < 1e-6
    assert abs(found.r_precision - theirs["r_precision"]) < 1e-6
    assert abs(found.map_at_r - theirs["mean_average_precision_at_r"]) < 1e-6
    assert found.recall[1] == found.precision[1]


def calculator_distance():
    return pytest.importorskip("pytorch_metric_learning.distances").CosineSimilarity()


def test_nmi_is_one_for_clusters_that_are_classes_and_small_for_noise():
    pytest.importorskip("sklearn")
    labels = torch.arange(90) % 3
    z, _ = draw(0, 90, 3, 4)
    apart = 50 * torch.eye(3, 4, dtype=z.dtype)[labels] + z
    assert abs(normalized_mutual_information(apart, labels) - 1) < 1e-9
    noise = normalized_mutual_information(z, labels)
    assert noise < 0.2 and noise == normalized_mutual_information(z, labels)
    with pytest.raises(ValueError, match="clusters"):
        normalized_mutual_information(z, labels, clusters=91)


def test_faiss_finds_the_same_or_is_asked_for(monkeypatch):
    z, labels = draw(0, 50, 6)
    z = z.float()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        recall_at_k(z, labels, ks=KS, distance="l2", backend="faiss")
    monkeypatch.undo()
    pytest.importorskip("faiss")
    for distance in ("l2", "cosine"):
        for rest in ((), (z[:20], labels[:20])):
            arguments = (z, labels, *rest)
            theirs = recall_at_k(*arguments, ks=KS, distance=distance, backend="faiss", chunk=7)
            assert theirs == recall_at_k(*arguments, ks=KS, distance=distance)


def test_bad_input_is_refused_with_its_cure():
    z, labels = draw(0, 20, 3)
    broken = z.clone()
    broken[3, 0] = torch.inf
    for arguments, options, message in (
        ((z, labels), {"ks": (1, 20)}, r"ks: takes k up to the 19 samples.*got 20.*larger gallery"),
        ((z, labels, z[:5], labels[:5]), {"ks": (6,)}, "up to the 5 samples"),
        ((z, labels), {"ks": ()}, "ks"),
        ((z, labels), {"ks": (0,)}, "whole number"),
        ((z, labels[:-1]), {}, r"labels: .*20 rows of query"),
        ((z, labels, z, labels[:-1]), {}, "gallery_labels"),
        ((z, labels, z), {}, "go together"),
        ((z, labels, z[:, :2], labels), {}, "3 features"),
        ((broken, labels), {}, r"query: takes finite values.*\[3\]"),
        ((z, labels, broken, labels), {}, "gallery: takes finite"),
        ((z, labels), {"distance": "l1"}, "cosine, l2"),
        ((z, labels), {"chunk": 0}, "chunk"),
    ):
        for function in (recall_at_k, retrieval_metrics):
            with pytest.raises(ValueError, match=message):
                function(*arguments, **{"ks": KS, **options})
    with pytest.raises(ValueError, match="backend"):
        recall_at_k(z, labels, ks=KS, backend="annoy")
