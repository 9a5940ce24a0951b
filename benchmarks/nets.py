"""The pretrained small networks that benchmarks run on, by name, and the data that they were trained for."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from constropt.lab import LabelledData, load_data, load_model

MODELS = "constropt.lab.models.small"

# name -> factory, weights below the data folder (or, with "out/", where benchmarks/mnist.py has put them), data
NETS = {
    "mnist-standard": (f"{MODELS}:small_cnn", "out/mnist/small_cnn_standard.safetensors", "mnist:mnist"),
    "mnist-robust": (f"{MODELS}:small_cnn", "out/mnist/small_cnn_robust.safetensors", "mnist:mnist"),
    "mnist-madry": (f"{MODELS}:madry_cnn", "weights/mnist/MadryCNN_no_maxpool_tiny.pt", "mnist:mnist"),
    "mnist-small": (f"{MODELS}:mnist_cnn", "weights/mnist/mnist_conv_small_nat.pth", "mnist:mnist"),
    "cifar-resnet20": (
        f"{MODELS}:cifar_resnet20",
        "weights/cifar10_resnet/resnet20-12fca82f.th",
        "cifar10:cifar10/cifar10_test.npz",
    ),
    "cifar-resnet32": (
        f"{MODELS}:cifar_resnet32",
        "weights/cifar10_resnet/resnet32-d509ac18.th",
        "cifar10:cifar10/cifar10_test.npz",
    ),
    "cifar-resnet4b": (
        f"{MODELS}:cifar_resnet4b",
        "weights/cifar10_robust/resnet4b.pth",
        "cifar10:cifar10/cifar10_test.npz",
    ),
    "cifar-cnn-a": (
        f"{MODELS}:cifar_cnn_a",
        "weights/cifar10_robust/cifar_cnn_a_mix.model",
        "cifar10:cifar10/cifar10_test.npz",
    ),
}


def data_folder() -> Path:
    """The folder that CONSTROPT_DATA names, by default ``../shared/data`` beside the project."""
    root = Path(__file__).resolve().parent.parent
    return Path(os.environ.get("CONSTROPT_DATA", root.parent / "shared" / "data"))


def load_net(name: str) -> nn.Module:
    """The network of that name (:data:`NETS`) with its weights, in evaluation mode."""
    factory, weights, _ = NETS[name]
    root = Path(__file__).resolve().parent.parent if weights.startswith("out/") else data_folder()
    return load_model(factory, root / weights)


def load_samples(name: str, count: int, *, first: int = 0) -> LabelledData:
    """``count`` test samples of the network's data, from ``first`` on."""
    kind, _, path = NETS[name][2].partition(":")
    inputs, labels = load_data(f"{kind}:{data_folder() / path}")
    return LabelledData(inputs[first : first + count], labels[first : first + count])
