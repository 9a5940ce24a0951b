"""Splits by labels, and the networks that calibration is tried on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from constropt.lab.models.calibration import (
    GPCN,
    DeepLab,
    ResidualBlock,
    ResNet18,
    SegmentationHead,
    ViT,
    deeplab,
    gpcn,
    small_resnet18,
    small_vit,
)
from constropt.problems.calibration.samples import held_out, long_tailed

SOME = torch.tensor([2, 0, 0, 1, 0, 2, 0, 0, 4, 0, 2, 0, 0, 2, 0, 0])  # 10, 1, 4, 0 and 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_fraction_of_every_class_is_held_out(labels, fraction, seed):
    y = torch.tensor(labels)
    train, rest = held_out(y, fraction=fraction, seed=seed)
    assert torch.cat([train, rest]).sort().values.tolist() == list(range(len(y)))
    assert (train.diff() > 0).all() and (rest.diff() > 0).all() and train.dtype == rest.dtype == torch.int64
    for k, count in enumerate(y.bincount().tolist()):
        taken = int((y[rest] == k).sum())
        if count >= 2:
            assert 1 <= taken < count and (abs(taken - fraction * count) <= 0.5 + 1e-9 or taken in (1, count - 1))
        else:
            assert taken == 0


def test_the_same_number_of_every_class_is_held_out():
    labels = SOME[(SOME == 0) | (SOME == 2)]
    train, rest = held_out(labels, per_class=3)
    assert labels[rest].bincount().tolist() == [3, 0, 3] and labels[train].bincount().tolist() == [7, 0, 1]
    with pytest.raises(ValueError, match="got 4, but class 2 has 4"):
        held_out(labels, per_class=4)


def test_a_split_is_that_of_its_seed():
    labels = torch.arange(5).repeat(40)
    state = torch.get_rng_state()
    first, again, other = (held_out(labels, fraction=0.2, seed=seed).held_out for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    tail, same, differs = (long_tailed(labels, ratio=10, seed=seed) for seed in (1, 1, 2))
    assert (tail == same).all() and not torch.equal(tail, differs)
    assert (torch.get_rng_state() == state).all()
    more = held_out(labels, fraction=0.4, seed=1).held_out
    assert torch.isin(first, more).all()


def test_every_sample_is_as_likely_to_be_held_out():
    labels = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1])
    times = torch.zeros(8)
    for seed in range(400):
        times[held_out(labels, per_class=1, seed=seed).held_out] += 1
    assert (times / 400 - 0.25).abs().max() < 0.08


def test_a_plain_split_without_classes():
    train, rest = held_out(torch.zeros(50, dtype=torch.int64), fraction=0.2)
    assert (len(train), len(rest)) == (40, 10)


@pytest.mark.parametrize("ratio", [1, 2, 10, 100, 256.0])
def test_an_exponential_tail(ratio):
    labels = torch.arange(10).repeat(500)
    chosen = long_tailed(labels, ratio=ratio)
    expected = [int(500 * ratio ** (-k / 9) + 1e-9) for k in range(10)]
    assert labels[chosen].bincount().tolist() == expected and expected[0] == 500 and (chosen.diff() > 0).all()


def test_the_tail_of_cifar_lt():
    """Cui et al.: 5000 images per class at ratio 100 leave 12,406 of the 50,000."""
    labels = torch.arange(10).repeat_interleave(5000)
    counts = labels[long_tailed(labels, ratio=100)].bincount().tolist()
    assert counts == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50] and sum(counts) == 12406


def test_a_tail_of_unequal_classes():
    counts = torch.tensor([1000, 50, 400, 10])
    labels = torch.arange(4).repeat_interleave(counts)
    found = labels[long_tailed(labels, ratio=8)].bincount()
    assert found.tolist() == [80, 40, 20, 10]  # class 3 allows 10 * 8
    assert labels[long_tailed(labels, ratio=1e6)].bincount().tolist()[3] == 1
    assert long_tailed(torch.zeros(7, dtype=torch.int64)).tolist() == list(range(7))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: held_out(SOME), "exactly one"),
        (lambda: held_out(SOME, fraction=0.1, per_class=1), "exactly one"),
        (lambda: held_out(SOME, fraction=0.0), "fraction"),
        (lambda: held_out(SOME, fraction=1.0), "fraction"),
        (lambda: held_out(SOME, fraction=float("nan")), "fraction"),
        (lambda: held_out(SOME, per_class=0), "per_class"),
        (lambda: held_out(SOME, per_class=1), "per_class: .* class 1 has 1"),
        (lambda: held_out(SOME[:, None], fraction=0.5), "labels"),
        (lambda: held_out(SOME.float(), fraction=0.5), "labels"),
        (lambda: held_out(SOME - 1, fraction=0.5), "labels: .*-1"),
        (lambda: held_out(SOME[:0], fraction=0.5), "labels"),
        (lambda: long_tailed(SOME), "labels: class 3 of 5 has no sample"),
        (lambda: long_tailed(SOME.clamp_max(2), ratio=0.5), "ratio"),
        (lambda: long_tailed(SOME.clamp_max(2), ratio=float("inf")), "ratio"),
    ],
)
def test_splits_of_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def numbers(*shape: int, below: int = 50) -> Tensor:
    return torch.randint(2, below, shape, generator=torch.Generator().manual_seed(0))


NETWORKS = {
    "resnet18": (lambda: small_resnet18(7, width=4), images(3, 3, 32, 32), (3, 7)),
    "resnet18 gray": (lambda: small_resnet18(7, channels=1, width=4), images(3, 1, 28, 28), (3, 7)),
    "vit": (lambda: small_vit(7), images(3, 3, 32, 32), (3, 7)),
    "vit gray": (lambda: small_vit(7, channels=1, image_size=28), images(3, 1, 28, 28), (3, 7)),
    "deeplab": (lambda: deeplab(7, width=4), images(3, 3, 33, 50), (3, 7, 33, 50)),
    "gpcn": (lambda: gpcn(50, 7, embedding=12, width=16), numbers(3, 40), (3, 7)),
}
EACH = pytest.mark.parametrize(("make", "inputs", "shape"), NETWORKS.values(), ids=NETWORKS.keys())


@EACH
def test_shapes_modes_and_seeds(make, inputs, shape):
    torch.manual_seed(3)
    network = make().eval()
    torch.manual_seed(3)
    again = make().eval()
    logits = network(inputs)
    assert logits.shape == shape and logits.isfinite().all()
    assert (again(inputs) == logits).all()
    torch.testing.assert_close(network(inputs[1:2]), logits[1:2])  # rows are independent in eval mode
    copied = make().eval()
    copied.load_state_dict(network.state_dict())
    assert (copied(inputs) == logits).all()


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision(make, inputs, shape, dtype):
    torch.manual_seed(0)
    network = make().eval()
    expected = network(inputs)
    typed = inputs.to(dtype) if inputs.is_floating_point() else inputs
    logits = network.to(dtype)(typed)
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)
    if dtype == torch.bfloat16:
        with torch.autocast("cpu", dtype=dtype):
            torch.testing.assert_close(network.float()(inputs).float(), expected, rtol=0.1, atol=0.1)


@EACH
def test_training_reaches_every_weight_even_with_one_image(make, inputs, shape):
    torch.manual_seed(0)
    network = make()
    labels = torch.zeros((1, *shape[2:]), dtype=torch.int64)
    functional.cross_entropy(network(inputs[:1]), labels).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("make", "inputs", "lr", "steps"),
    [
        (lambda: small_resnet18(10, width=8), images(32, 3, 16, 16), 1e-2, 25),
        (lambda: small_vit(10, channels=1, image_size=28, patch=7), images(32, 1, 28, 28), 2e-3, 30),
        (lambda: gpcn(200, 20, embedding=32, width=64), numbers(32, 40, below=200), 5e-3, 80),
    ],
    ids=["resnet18", "vit", "gpcn"],
)
def test_32_samples_are_learned_by_heart(make, inputs, lr, steps):
    torch.manual_seed(0)
    network = make()
    labels = torch.randint(10, (32,), generator=torch.Generator().manual_seed(1))
    fit(network, inputs, labels, lr, steps)
    assert (network.eval()(inputs).argmax(1) == labels).all()


def test_deeplab_learns_blocks():
    """Images of 16x16 blocks, whose color is their class: the resolution of the logits is 1/8."""
    torch.manual_seed(0)
    labels = torch.randint(3, (32, 2, 2)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    network = deeplab(3, width=8)
    inputs = functional.one_hot(labels, 3).movedim(-1, 1).contiguous().float()
    fit(network, inputs, labels, 1e-2, steps=30)
    assert (network(inputs).argmax(1) == labels).float().mean() > 0.85


def fit(network: nn.Module, inputs: Tensor, labels: Tensor, lr: float, steps: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_sizes():
    assert count(ResNet18(10)) == 11_173_962  # the published CIFAR ResNet-18
    assert count(small_resnet18()) < 1e6 and count(small_vit()) < 5e5 and count(deeplab()) < 1e6
    assert sum(isinstance(module, ResidualBlock) for module in ResNet18(10, width=1).modules()) == 8
    assert sum(parameter.dim() == 4 for parameter in ResNet18(10, width=2).parameters()) == 17 + 3  # 3 shortcuts


def test_the_encoder_of_deeplab_keeps_an_eighth():
    network = DeepLab(3, width=2).eval()
    assert network.stages(network.stem(images(1, 3, 64, 96))).shape == (1, 16, 8, 12)
    head = SegmentationHead(16, 3, width=4, rates=(3,)).eval()
    assert head(images(2, 16, 1, 1)).shape == (2, 3, 1, 1)


def test_gpcn_reads_words_wherever_they_stand():
    torch.manual_seed(0)
    network = gpcn(50, 4, embedding=8, width=8).eval()
    assert (network.embedding.weight[0] == 0).all()
    phrase = numbers(1, 30)
    early = torch.cat([torch.zeros(1, 30).long(), phrase, torch.zeros(1, 60).long()], 1)
    late = torch.cat([torch.zeros(1, 60).long(), phrase, torch.zeros(1, 30).long()], 1)
    torch.testing.assert_close(network(early), network(late))
    assert GPCN.SHORTEST == 21 and network(numbers(2, 21)).shape == (2, 4)
    with pytest.raises(ValueError, match="at least 21 words, got 20"):
        network(numbers(2, 20))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_resnet18(0), "num_classes"),
        (lambda: small_resnet18(width=0), "width"),
        (lambda: small_vit(patch=5), "patch: takes a divisor of image_size, 32, got 5"),
        (lambda: ViT(width=10, heads=3), "heads"),
        (lambda: ViT(depth=0), "depth"),
        (lambda: deeplab(True), "classes"),
        (lambda: SegmentationHead(4, 2, rates=(2, 0)), r"rates\[1\]"),
        (lambda: gpcn(0), "vocabulary"),
    ],
)
def test_networks_of_bad_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
