"""Small CIFAR-10 classifiers whose published weights are around; images ``(batch, 3, 32, 32)`` in [0, 1] to logits.

The images are normalised inside, so that attacks see pixels. Parameter names are those of the weight files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_ROBUST = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Normalize(nn.Module):
    """``(images - mean) / std`` per channel; the constants are no part of the state.

    >>> Normalize([0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut without parameters: strided, padded with zero channels (option
    A of He et al., 2016).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        before = self.missing // 2
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return (out + shortcut).relu()


class CifarResNet(nn.Module):
    """The ResNet of depth ``6 blocks + 2`` for CIFAR-10 (He et al., 2016, Sec. 4.2).

    >>> CifarResNet(3).eval()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.normalize = Normalize(*IMAGENET)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                BasicBlock(inputs, outputs, 1 if inputs == outputs else 2),
                *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)),
            )
            for inputs, outputs in ((16, 16), (16, 32), (32, 64))
        )
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, num_classes)`` of ``images``."""
        x = self.bn1(self.conv1(self.normalize(images))).relu()
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class PlainBlock(nn.Module):
    """Two 3x3 convolutions without BatchNorm; a strided block has a 1x1 convolution on its shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Sequential(*([nn.Conv2d(inputs, outputs, 1, stride)] if stride > 1 else []))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x).relu()) + self.shortcut(x)).relu()


class RobustResNet4b(nn.Module):
    """The "ResNet4b" of the certified-robustness benchmarks: 4 blocks without BatchNorm, 2 linear layers.

    >>> RobustResNet4b()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.normalize = Normalize(*CIFAR_ROBUST)
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1)
        self.layer1 = nn.Sequential(PlainBlock(16, 32, 2), PlainBlock(32, 32, 1))
        self.layer2 = nn.Sequential(PlainBlock(32, 32, 2), PlainBlock(32, 32, 1))
        self.linear1 = nn.Linear(512, 100)
        self.linear2 = nn.Linear(100, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, num_classes)`` of ``images``."""
        x = self.layer2(self.layer1(self.conv1(self.normalize(images)).relu()))
        return self.linear2(self.linear1(x.flatten(1)).relu())


def cifar_resnet20() -> CifarResNet:
    """ResNet-20, 0.27 million parameters."""
    return CifarResNet(3)


def cifar_resnet32() -> CifarResNet:
    """ResNet-32, 0.46 million parameters."""
    return CifarResNet(5)


def cifar_resnet4b() -> RobustResNet4b:
    """ResNet4b (:class:`RobustResNet4b`)."""
    return RobustResNet4b()


def cifar_cnn_a() -> nn.Sequential:
    """ "CNN-A": two strided 4x4 convolutions and two linear layers.

    >>> cifar_cnn_a()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    layers: list[nn.Module] = [
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    ]
    # the weight files count the layers without the normalisation
    numbered = [(str(number), layer) for number, layer in enumerate(layers)]
    return nn.Sequential(OrderedDict([("normalize", Normalize(*CIFAR)), *numbered]))
