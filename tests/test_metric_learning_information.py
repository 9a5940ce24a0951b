"""Entropies with closed forms, the two views of the mutual information, and Eq. 2.3 to 2.6."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from constropt.problems.metric_learning import (
    Center,
    label_entropy,
    mutual_information,
    nearest_neighbour_entropy,
    nearest_neighbour_information,
    pairs,
    pairwise_entropy,
)


def normal(seed: int, n: int, dimension: int) -> Tensor:
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(n: int, gap: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Two unit normals on a line, balanced, the exact logits of their classes, and I(Z; Y) by quadrature."""
    labels = torch.arange(n) % 2
    z = normal(0, n, 1) + gap * labels[:, None]
    logits = -0.5 * torch.cat([z, z - gap], dim=1).square()
    line = torch.linspace(-12, 12 + gap, 40_001, dtype=torch.float64)
    density = [(-0.5 * (line - m).square()).exp() / math.sqrt(2 * math.pi) for m in (0.0, gap)]
    mean = (density[0] + density[1]) / 2
    entropy = -torch.trapezoid(mean * mean.clamp_min(1e-300).log(), line)
    return z, labels, logits, float(entropy) - 0.5 * math.log(2 * math.pi * math.e)


# ------------------------------------------------------------------------------------------------------- entropies


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_the_entropy_of_labels_is_that_of_their_frequencies(counts):
    labels = torch.cat([torch.full((c,), 3 * k) for k, c in enumerate(counts)])
    total = sum(counts)
    expected = -sum(c / total * math.log(c / total) for c in counts)
    assert abs(float(label_entropy(labels)) - expected) < 1e-12


@pytest.mark.parametrize("dimension", [1, 2, 4])
@pytest.mark.parametrize("neighbours", [1, 3, 10])
def test_nearest_neighbours_find_the_entropy_of_a_normal(dimension, neighbours):
    # covariance A A^T: h = (d/2) log(2 pi e) + log |det A|
    a = torch.eye(dimension, dtype=torch.float64) + 0.5 * normal(9, dimension, dimension)
    z = normal(dimension, 2000, dimension) @ a.T + 5
    expected = dimension / 2 * math.log(2 * math.pi * math.e) + float(torch.linalg.slogdet(a)[1])
    assert abs(float(nearest_neighbour_entropy(z, neighbours=neighbours)) - expected) < 0.03 * dimension + 0.03


def test_the_conditional_entropy_is_the_mean_over_classes():
    labels = torch.arange(600) % 3
    z = normal(0, 600, 2) * (1 + labels[:, None]) + 10 * labels[:, None]
    for entropy in (nearest_neighbour_entropy, pairwise_entropy):
        expected = torch.stack([entropy(z[labels == k]) for k in range(3)]).mean()
        torch.testing.assert_close(entropy(z, labels), expected)


@given(seed=st.integers(0, 1000), n=st.integers(2, 20), dimension=st.integers(1, 5), scale=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_the_pairwise_entropy_is_equation_2_6(seed, n, dimension, scale):
    z = normal(seed, n, dimension)
    total = sum(math.log(float((z[i] - z[j]).square().sum())) for i in range(n) for j in range(n) if i != j)
    found = pairwise_entropy(z)
    torch.testing.assert_close(float(found), dimension / (n * (n - 1)) * total, rtol=1e-6, atol=1e-6)
    # twice the scaling of a differential entropy
    torch.testing.assert_close(float(pairwise_entropy(scale * z) - found), 2 * dimension * math.log(scale))


def test_the_pairwise_entropy_can_be_maximised_and_survives_duplicates():
    z = normal(0, 8, 3)
    assert torch.autograd.gradcheck(pairwise_entropy, (z.requires_grad_(),))
    twice = torch.cat([z, z]).detach().requires_grad_()
    value = pairwise_entropy(twice)
    value.backward()
    assert value.isfinite() and twice.grad.isfinite().all()


def test_the_tightness_of_center_is_a_conditional_cross_entropy():
    """(2.3), (2.4): T_center / n + (d/2) log 2 pi is H(Z; N(c_Y, I) | Y), at least H(Z|Y), equal for unit normals."""
    labels = torch.arange(2000) % 2
    means = torch.tensor([[0.0, 0.0], [8.0, 0.0]], dtype=torch.float64)[labels]
    for spread, equal in ((1.0, True), (0.3, False)):
        z = means + spread * normal(1, 2000, 2)
        cross = Center(2, 2).tightness(z, labels) / 2000 + math.log(2 * math.pi)
        conditional = nearest_neighbour_entropy(z, labels)
        assert cross > conditional - 0.08
        assert ((cross - conditional).abs() < 0.08) == equal


# ------------------------------------------------------------------------------------------------ the two views


@pytest.mark.parametrize("gap", [0.0, 1.0, 2.5, 8.0])
def test_both_views_and_the_neighbours_find_the_information_of_a_mixture(gap):
    z, labels, logits, expected = mixture(2000, gap)
    found = mutual_information(z, labels, logits=logits)
    assert found.discriminative is not None
    for view in (found.discriminative, found.generative, found.nearest_neighbour):
        assert abs(view - expected) < 0.06
    # a worse classifier bounds it from below (A I-20)
    worse = label_entropy(labels) - torch.nn.functional.cross_entropy(0.1 * logits, labels)
    assert float(worse) <= found.discriminative + 1e-6
    assert "generative" in str(found) and "discriminative" in str(found)


def test_neighbours_agree_with_scikit_learn():
    feature_selection = pytest.importorskip("sklearn.feature_selection")
    z, labels, _, _ = mixture(400, 1.5)
    # theirs scales the feature and adds noise of 1e-10; the estimate only depends on the order of distances
    theirs = feature_selection.mutual_info_classif(z.numpy(), labels.numpy(), n_neighbors=3, random_state=0)
    assert abs(float(nearest_neighbour_information(z, labels, neighbours=3)) - float(theirs[0])) < 1e-6


def test_blocks_change_nothing(monkeypatch):
    z, labels, logits, _ = mixture(300, 1.0)
    assert mutual_information(z, labels).discriminative is None
    whole = mutual_information(z, labels, logits=logits), pairwise_entropy(z, labels)
    monkeypatch.setattr(pairs, "_CACHE", 1)
    assert mutual_information(z, labels, logits=logits) == whole[0]
    torch.testing.assert_close(pairwise_entropy(z, labels), whole[1])


def test_bad_input_is_refused():
    z, labels, logits, _ = mixture(20, 1.0)
    for call, message in (
        (lambda: label_entropy(torch.zeros(2, 2).long()), "labels"),
        (lambda: nearest_neighbour_entropy(z, neighbours=0), "neighbours"),
        (lambda: nearest_neighbour_entropy(z, neighbours=20), "at least 21 samples"),
        (lambda: nearest_neighbour_information(z, torch.arange(20)), "at least 4 samples a class"),
        (lambda: pairwise_entropy(z, floor=0.0), "floor"),
        (lambda: pairwise_entropy(z * torch.nan), "finite"),
        (lambda: mutual_information(z, labels[:3]), "labels"),
        (lambda: mutual_information(z, labels, logits=logits[:, :1]), "logits"),
        (lambda: mutual_information(z, labels, logits=logits[:3]), "logits"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
