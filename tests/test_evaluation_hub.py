"""Models of other libraries: loaded lazily, with their normalisation, from what is on disk; nothing is fetched."""

from __future__ import annotations

import importlib
import json
import sys
import types

import pytest
import torch
from torch import nn

from constropt.lab import MissingExtra, load_model
from constropt.lab.models.weights import is_hub, load_hub
from constropt.problems.adapters import Normalized


class Tiny(nn.Module):
    """What a library makes: logits from normalised images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 5)
        self.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5)}

    def forward(self, x):
        return self.layer(x.flatten(1))


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def installed(monkeypatch, name: str, **functions) -> None:
    for end in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:end])
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    for function, value in functions.items():
        setattr(sys.modules[name], function, value)


def test_timm(monkeypatch, tiny, tmp_path):
    asked = []

    def create_model(name, pretrained):
        asked.append((name, pretrained))
        if name == "unknown":
            raise RuntimeError("Unknown model (unknown)")
        return tiny

    installed(monkeypatch, "timm", create_model=create_model)
    x = torch.rand(2, 3, 2, 2)
    model = load_model("timm:tiny")
    mean, std = (torch.tensor(tiny.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert torch.allclose(model(x), tiny((x - mean) / std)) and not model.training and not tiny.training
    weights = {name: torch.zeros_like(value) for name, value in tiny.state_dict().items()}
    torch.save(weights, tmp_path / "w.pt")
    assert load_model("timm:tiny", tmp_path / "w.pt")(x).abs().max() == 0  # names as the library has them
    assert asked == [("tiny", True), ("tiny", False)]
    with pytest.raises(ValueError, match="timm cannot make 'unknown'"):
        load_model("timm:unknown")


def test_robustbench(monkeypatch, tiny):
    asked = {}

    def library(**arguments):
        asked.update(arguments)
        if arguments["model_name"] == "None2000":
            raise KeyError("None2000")
        return tiny

    installed(monkeypatch, "robustbench.utils", load_model=library)
    assert load_model("robustbench:Standard:cifar10:Linf") is tiny
    assert asked == {"model_name": "Standard", "dataset": "cifar10", "threat_model": "Linf"}
    with pytest.raises(ValueError, match="robustbench has no None2000 for cifar10, Linf"):
        load_model("robustbench:None2000:cifar10:Linf")
    with pytest.raises(ValueError, match="takes robustbench:NAME:DATASET:THREAT"):
        load_model("robustbench:Standard")
    with pytest.raises(ValueError, match="brings its own"):
        load_hub("robustbench:Standard:cifar10:Linf", pretrained=False)


def test_transformers_with_small_random_weights(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 8, "intermediate_size": 8}
    config = transformers.ViTConfig(**sizes, num_hidden_layers=1, num_attention_heads=2, num_labels=4)
    torch.manual_seed(0)
    original = transformers.ViTForImageClassification(config).eval()
    original.save_pretrained(tmp_path)
    settings = {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    model = load_model(f"hf:{tmp_path}")
    x = torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor([0.5] * 3).view(3, 1, 1), torch.tensor([0.5, 0.25, 0.5]).view(3, 1, 1)
    assert isinstance(model, Normalized) and model(x).shape == (2, 4)
    assert torch.allclose(model(x), original((x - mean) / std).logits, atol=1e-6)
    with pytest.raises(ValueError, match="transformers cannot load"):
        load_model(f"hf:{tmp_path / 'nothing'}")


def test_missing_libraries_name_the_extra(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    for reference in ("timm:resnet18", "robustbench:a:b:c", "hf:somebody/net"):
        with pytest.raises(MissingExtra, match=r"pip install constropt\[hub\]"):
            load_model(reference)


def test_references():
    assert is_hub("hf:a/b") and not is_hub("fakes:nearest_mean")
    with pytest.raises(ValueError, match="takes timm:NAME"):
        load_hub("timm:")
    with pytest.raises(ValueError, match="takes hf:NAME, robustbench:NAME:DATASET:THREAT, timm:NAME"):
        load_hub("other:net")
    with pytest.raises(ValueError, match="std: takes 3 positive numbers"):
        Normalized(nn.Flatten(), [0.0, 0.0, 0.0], [1.0])
