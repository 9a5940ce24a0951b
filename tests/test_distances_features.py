"""LPIPS: against the formula written out and torchmetrics, with random backbones; where weights come from."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from constropt.checks import MissingExtra
from constropt.problems.distances import LPIPS
from constropt.problems.distances.lpips import BACKBONES

MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def stack(net: str) -> nn.Sequential:
    """The network with random weights, of the size that keeps features alive through its layers."""
    found, generator = BACKBONES[net].build(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in found.parameters():
            fan = weight[0].numel() if weight.dim() > 1 else 100
            weight.copy_((2 / fan) ** 0.5 * torch.randn(weight.shape, generator=generator))
    return found


def heads(net: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(count, generator=generator) for count in BACKBONES[net].channels]


def images(side: int = 35) -> tuple[Tensor, Tensor]:
    x, y = (torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    return x, x + 0.2 * (y - x)


SMALL = ["alex", "squeeze"]


@pytest.mark.parametrize("net", [*SMALL, "vgg"])
def test_the_formula_position_by_position(net):
    x, y = images()
    layers, weights, backbone = BACKBONES[net].layers, heads(net), stack(net)
    total = torch.zeros(2)
    a, b = (x - MEAN) / STD, (y - MEAN) / STD
    with torch.no_grad():
        for index, layer in enumerate(backbone):
            a, b = layer(a), layer(b)
            if index in layers:
                assert a.shape[1] == BACKBONES[net].channels[layers.index(index)]
                gap = a / (a.norm(dim=1, keepdim=True) + 1e-10) - b / (b.norm(dim=1, keepdim=True) + 1e-10)
                total += (weights[layers.index(index)].view(-1, 1, 1) * gap**2).sum(1).mean((1, 2))
    square = LPIPS(net=net, backbone=backbone, heads=weights, root=False)(x, y)
    assert torch.allclose(square, total, rtol=1e-4)
    assert torch.allclose(LPIPS(net=net, backbone=backbone, heads=weights)(x, y), total.sqrt(), rtol=1e-4)


@pytest.mark.parametrize("net", SMALL)
def test_torchmetrics_with_the_published_heads(net, monkeypatch):
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    x, y = images()
    backbone = stack(net)
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda *_, **__: backbone)
    theirs = lpips._NoTrainLpips(net=net)(x, y, normalize=True).flatten()
    assert torch.allclose(LPIPS(net=net, backbone=backbone, root=False)(x, y), theirs.detach(), rtol=1e-4)


def test_heads_from_a_file_of_the_authors(real_data):
    pytest.importorskip("torchmetrics")
    for net in BACKBONES:
        path = real_data / "weights" / "lpips" / f"{net}.pth"
        if not path.is_file():
            pytest.skip(f"no {path}")
    x, y = images()
    for net in SMALL:
        path = real_data / "weights" / "lpips" / f"{net}.pth"
        ours, packaged = (LPIPS(net=net, backbone=stack(net), heads=h) for h in (path, None))
        assert torch.allclose(ours(x, y), packaged(x, y))


def test_unweighted_counts_every_channel_alike():
    x, y = images()
    backbone = stack("squeeze")
    ones = [torch.ones(count) for count in BACKBONES["squeeze"].channels]
    plain = LPIPS(net="squeeze", backbone=backbone, weighted=False)
    assert torch.equal(plain(x, y), LPIPS(net="squeeze", backbone=backbone, heads=ones)(x, y))


def test_weights_from_a_module_a_state_dict_and_files_are_the_same(tmp_path):
    x, y = images()
    features = stack("alex")
    network = nn.ModuleDict({"features": features, "classifier": nn.Linear(3, 2)})
    state = network.state_dict()
    torch.save(state, tmp_path / "alexnet.pth")
    save_file(features.state_dict(), tmp_path / "alexnet.safetensors")
    given = [features, network, state, tmp_path / "alexnet.pth", str(tmp_path / "alexnet.safetensors")]
    values = [LPIPS(backbone=weights, heads=heads("alex"))(x, y) for weights in given]
    assert all(torch.equal(value, values[0]) for value in values)


def test_the_module_given_is_left_alone():
    x, y = images()
    features = stack("squeeze").train()
    before = {name: value.clone() for name, value in features.state_dict().items()}
    distance = LPIPS(net="squeeze", backbone=features, weighted=False)
    value = distance(x, y)
    assert features.training and all(parameter.requires_grad for parameter in features.parameters())
    assert all(torch.equal(value, before[name]) for name, value in features.state_dict().items())
    with torch.no_grad():
        next(features.parameters()).zero_()
    assert torch.equal(distance(x, y), value)  # read once


def test_features_that_are_all_zero_have_finite_gradients():
    backbone = stack("squeeze")
    with torch.no_grad():
        backbone[0].bias.fill_(-1e3)  # the first ReLU kills everything
    x, y = images(20)
    x.requires_grad_(True)
    value = LPIPS(net="squeeze", backbone=backbone, weighted=False)(x, y)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all() and slope.isfinite().all()


def test_gradients():
    x, y = (t[:1].double() for t in images(20))
    distance = LPIPS(net="squeeze", backbone=stack("squeeze"), heads=heads("squeeze"))
    x.requires_grad_(True)
    (slope,) = torch.autograd.grad(distance(x, y).sum(), x)
    for seed in range(3):
        d = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ahead, behind = (distance((x + s * d).detach(), y).item() for s in (1e-7, -1e-7))
        assert (slope * d).sum().item() == pytest.approx((ahead - behind) / 2e-7, rel=1e-3, abs=1e-6)


# -------------------------------------------------------------------------------------------- where weights come from


def test_torchvision_is_asked_for_weights_when_none_are_given(monkeypatch):
    x, y = images()
    features, asked = stack("alex"), []

    class Weights:
        def get_state_dict(self, **options):
            asked.append(options)
            return {f"features.{name}": value for name, value in features.state_dict().items()}

    models = ModuleType("torchvision.models")
    models.get_weight = lambda name: asked.append(name) or Weights()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    distance = LPIPS(heads=heads("alex"))
    assert asked == []
    value = distance(x, y)
    assert torch.equal(value, LPIPS(backbone=features, heads=heads("alex"))(x, y))
    assert asked[0] == "AlexNet_Weights.IMAGENET1K_V1" and asked[1]["weights_only"] is True and len(asked) == 2


def test_a_missing_torchvision_says_what_to_give(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ValueError, match="torchvision is not installed; pass LPIPS.*squeezenet1_1-b8a52dc0.pth"):
        LPIPS(net="squeeze", weighted=False)(*images())


def test_a_failed_download_says_what_to_give(monkeypatch):
    def fail(**_):
        raise OSError("no route")

    models = ModuleType("torchvision.models")
    models.get_weight = lambda name: SimpleNamespace(get_state_dict=fail)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    with pytest.raises(ValueError, match=r"cannot download alexnet-owt-7be5be79.pth \(no route\); pass LPIPS"):
        LPIPS(weighted=False)(*images())


def test_missing_heads_say_what_to_give(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"heads: .*install 'constropt\[metrics\]', or pass .*alex.pth"):
        LPIPS(backbone=stack("alex"))(*images())


def test_weights_that_do_not_fit_are_named(tmp_path):
    x, y = images()
    with pytest.raises(ValueError, match=r"backbone: takes the weights of torchvision's AlexNet .* 0.weight"):
        LPIPS(backbone=stack("squeeze"), weighted=False)(x, y)
    with pytest.raises(ValueError, match=r"heads: net='alex' takes 5 vectors"):
        LPIPS(backbone=stack("alex"), heads=[torch.ones(3)])(x, y)
    with pytest.raises(TypeError, match="backbone: takes a file, a state dict, a module or None, got int"):
        LPIPS(backbone=3, weighted=False)(x, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no file"):
        LPIPS(backbone=tmp_path / "none.pth", weighted=False)(x, y)
    with pytest.raises(ValueError, match="net: takes one of"):
        LPIPS(net="resnet")


@pytest.mark.parametrize("net", BACKBONES)
def test_the_smallest_images(net):
    smallest = BACKBONES[net].smallest
    distance = LPIPS(net=net, backbone=stack(net), weighted=False)
    x, y = images(smallest)
    assert distance(x, y).isfinite().all()
    with pytest.raises(ValueError, match=f"at least {smallest} pixels a side"):
        distance.bind(x[..., 1:, 1:])
    with pytest.raises(RuntimeError):  # the network itself cannot
        stack(net)(x[..., 1:, 1:])
