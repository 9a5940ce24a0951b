"""Models of other libraries, as attacks take them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from constropt.problems.adapters import DenseLogits, find_logits
from constropt.problems.model_calls import logits_of


class Output(NamedTuple):
    features: torch.Tensor
    scores: torch.Tensor


class Coarse(nn.Module):
    """Logits at a quarter of the resolution, in a dictionary as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 4, stride=4)

    def forward(self, x):
        logits = self.convolution(x)
        return {"aux": logits * 0, "out": logits}


def test_a_dictionary_is_opened_and_its_logits_interpolated():
    torch.manual_seed(0)
    inner = Coarse().eval()
    model, x = DenseLogits(inner), torch.rand(2, 3, 16, 24, requires_grad=True)
    expected = functional.interpolate(inner(x)["out"], size=(16, 24), mode="bilinear", align_corners=False)
    assert torch.equal(model(x), expected)
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    assert gradient.abs().sum() > 0
    assert DenseLogits(inner, upsample=False)(x).shape == (2, 5, 4, 6)
    assert not DenseLogits(inner, key="aux")(x).any()
    assert torch.equal(logits_of(model(x)), expected)


@pytest.mark.parametrize("key", [None, "logits", "out", 0, "scores", 1])
def test_every_kind_of_output(key):
    x = torch.rand(2, 3, 4, 4)
    outputs = {
        None: lambda x: (x, None),
        "logits": lambda x: {"logits": x, "out": None},
        "out": lambda x: {"out": x},
        0: lambda x: [x, x[:, :1]],
        "scores": lambda x: Output(x[:, :1], x),
        1: lambda x: (x[:, :1], x),
    }
    assert torch.equal(DenseLogits(outputs[key], key=key)(x), x)


def test_logits_of_classifiers_pass_through():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 7))
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(DenseLogits(model)(x), model(x))


def test_normalisation_happens_inside_and_is_no_weight():
    x = torch.rand(2, 3, 4, 4)
    model = DenseLogits(nn.Identity(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    assert torch.allclose(model(x), (x - mean[:, None, None]) / std[:, None, None])
    assert not model.state_dict() and model.double()(x.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="std: takes positive numbers"):
        DenseLogits(nn.Identity(), std=(1.0, 0.0, 1.0))


def test_the_mode_is_that_of_the_model():
    assert not DenseLogits(Coarse().eval()).training and DenseLogits(Coarse()).training
    assert not DenseLogits(lambda x: x).training
    wrapped = DenseLogits(Coarse())
    assert not wrapped.eval().model.training


@pytest.mark.parametrize(
    ("output", "key", "message"),
    [
        ({"scores": torch.zeros(1)}, None, "found no logits .* in the dict with 'scores'"),
        ({"out": torch.zeros(1)}, "logits", "found no logits under 'logits' in the dict with 'out'"),
        (("text",), None, "in the tuple"),
        ((torch.zeros(1),), 1, "found no logits under 1 in the tuple"),
        (None, None, "in the NoneType"),
        ((), None, "in the tuple"),
    ],
)
def test_missing_logits_are_an_error_that_says_what_there_is(output, key, message):
    with pytest.raises(ValueError, match=message):
        find_logits(output, key=key)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x[0], r"got shape \(3, 4, 4\)"),
        (lambda x: x[:1], r"for 2 images, got shape \(1, 3, 4, 4\)"),
        (lambda x: functional.pad(x, (0, 4)), r"size \(4, 8\), larger than the images' \(4, 4\)"),
    ],
)
def test_logits_of_the_wrong_shape(model, message):
    with pytest.raises(ValueError, match=message):
        DenseLogits(model)(torch.rand(2, 3, 4, 4))
    with pytest.raises(TypeError, match="model: takes a module or function, got int"):
        DenseLogits(3)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("default")  # of a library that is not ours
def test_a_segformer_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    configuration = transformers.SegformerConfig(
        num_labels=5,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )
    inner = transformers.SegformerForSemanticSegmentation(configuration).eval()
    model = DenseLogits(inner, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    x = torch.rand(2, 3, 64, 48, requires_grad=True)
    assert inner(x).logits.shape == (2, 5, 16, 12)  # a quarter: what has to be interpolated
    assert model(x).shape == (2, 5, 64, 48) and not model.training
    (gradient,) = torch.autograd.grad(model(x)[0].square().sum(), x)
    assert gradient[0].abs().sum() > 0 and not gradient[1].any()
    plain = DenseLogits(inner)((x - model.mean) / model.std)
    assert torch.allclose(plain, model(x), atol=1e-6)
    assert torch.equal(DenseLogits(lambda x: inner(x, return_dict=False))(x), DenseLogits(inner)(x))
