"""Small networks that attacks and calibration are tried on; inputs in [0, 1], normalised inside where they are, outputs
logits. Those for CIFAR-10 take images ``(batch, 3, 32, 32)``; their parameters have the names of published weights.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_whole
from constropt.lab.models.calibration import convolution


class SmallCNN(nn.Module):
    """Two blocks of two 3x3 convolutions with ReLU and a max-pooling, then two hidden layers of 200 (Table II-1).

    The MNIST architecture of Carlini & Wagner (2017) and of the thesis: convolutions without padding, 32 then 64
    channels; the softmax of the table is left to the loss. ``padding`` is that of the convolutions: small images need 1
    to survive them. Raises ``ValueError`` when they are too small.

    >>> SmallCNN()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, *, channels: int = 1, image_size: int = 28, padding: int = 0) -> None:
        super().__init__()
        side = image_size
        for _ in range(2):
            side = (side - 2 * (2 - 2 * padding)) // 2
        if side < 1:
            blocks = f"two blocks of 3x3 convolutions with padding {padding}"
            raise ValueError(f"image_size: {image_size} is too small for {blocks}")
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=padding), nn.ReLU()]
            layers += [nn.Conv2d(outputs, outputs, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * side * side, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(),
            nn.Linear(200, num_classes),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, num_classes)`` of images ``(batch, channels, image_size, image_size)`` in [0, 1]."""
        return self.classifier(self.features(images))


def small_cnn(num_classes: int = 10) -> SmallCNN:
    """The network of Table II-1 for 28x28 gray images (MNIST), with fresh weights from torch's global generator.

    >>> sum(p.numel() for p in small_cnn().parameters())
    312202
    """
    return SmallCNN(num_classes)


def digits_cnn(num_classes: int = 10) -> SmallCNN:
    """The same in small: 8x8 gray images (the digits embedded in scikit-learn), padded convolutions.

    >>> digits_cnn()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    return SmallCNN(num_classes, image_size=8, padding=1)


def madry_cnn(channels: tuple[int, int] = (4, 8)) -> nn.Sequential:
    """The MNIST network of Madry et al. (2018) in small: strided 5x5 convolutions instead of max-pooling.

    >>> madry_cnn()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    first, second = channels
    return nn.Sequential(
        nn.Conv2d(1, first, 5, 2, 2), nn.ReLU(), nn.Conv2d(first, second, 5, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(second * 49, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def mnist_cnn() -> nn.Sequential:
    """Two strided 4x4 convolutions without padding and two linear layers, for MNIST.

    >>> mnist_cnn()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 25, 100),
        nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


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
    """Two 3x3 convolutions with BatchNorm; shortcut strided, padded with zero channels (He et al. 2016, option A)."""

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
            nn.Sequential(BasicBlock(a, b, 1 if a == b else 2), *(BasicBlock(b, b, 1) for _ in range(blocks - 1)))
            for a, b in ((16, 16), (16, 32), (32, 64))
        )
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
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
        nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10),
    ]  # fmt: skip
    # the weight files count the layers without the normalisation
    numbered = [(str(number), layer) for number, layer in enumerate(layers)]
    return nn.Sequential(OrderedDict([("normalize", Normalize(*CIFAR)), *numbered]))


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) with BatchNorm, whose finest level has ``1/stride`` of the input's resolution.

    The first convolution has step ``stride``; ``depth`` times the maps are halved and their channels, ``width`` at the
    finest level, doubled; on the way back they are joined with the maps of the same size. Logits are computed at the
    finest level and interpolated bilinearly to the input's size: most of the cost lies in the finest level, so that
    stride 2 costs about a quarter of stride 1. Sizes that ``stride`` or ``2**depth`` do not divide need no padding:
    maps are halved rounding up, and doubled to the size of the map that they join.

    In eval mode, as attacks need it, rows do not influence each other. Raises ``ValueError`` unless ``classes`` is at
    least 2 and the other numbers are at least 1 (``depth`` may be 0).

    >>> UNet(5, width=4, depth=2).eval()(torch.zeros(2, 3, 33, 50)).shape
    torch.Size([2, 5, 33, 50])
    """

    def __init__(self, classes: int, *, in_channels: int = 3, width: int = 16, depth: int = 3, stride: int = 2) -> None:
        super().__init__()
        require_whole(2, classes=classes)
        require_whole(in_channels=in_channels, width=width, stride=stride)
        require_whole(0, depth=depth)
        channels = [width * 2**level for level in range(depth + 1)]
        self.stem = nn.Sequential(*_convolution(in_channels, width, stride=stride), *_convolution(width, width))
        self.down = nn.ModuleList(
            nn.Sequential(*_convolution(finer, coarser), *_convolution(coarser, coarser))
            for finer, coarser in zip(channels, channels[1:])
        )
        self.up = nn.ModuleList(
            nn.Sequential(*_convolution(coarser + finer, finer), *_convolution(finer, finer))
            for coarser, finer in zip(channels[:0:-1], channels[-2::-1])
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes, height, width)`` of images ``(batch, in_channels, height, width)`` in [0, 1]."""
        features = self.stem((images - 0.5) / 0.25)
        skipped: list[Tensor] = []
        for block in self.down:
            skipped.append(features)
            features = block(functional.max_pool2d(features, 2, ceil_mode=True))
        for block in self.up:
            finer = skipped.pop()
            features = block(torch.cat([functional.interpolate(features, size=finer.shape[-2:]), finer], dim=1))
        return functional.interpolate(self.head(features), size=images.shape[-2:], mode="bilinear", align_corners=False)


def _convolution(inputs: int, outputs: int, *, stride: int = 1) -> list[nn.Module]:
    """3x3 convolution, BatchNorm, ReLU; with a step, a kernel wide enough that neighbours overlap."""
    kernel = 3 if stride == 1 else 2 * stride - 1
    return [*convolution(inputs, outputs, kernel, stride=stride), nn.ReLU()]


def unet(classes: int = 11, *, in_channels: int = 3, width: int = 16, depth: int = 3, stride: int = 2) -> UNet:
    """The :class:`UNet` of these sizes, with fresh weights from torch's global generator; by default for the 11 classes
    of CamVid: logits and their gradient for a 240x176 image take about 40 ms on one thread of a small CPU.

    >>> sum(p.numel() for p in unet().parameters())
    488171
    """
    return UNet(classes, in_channels=in_channels, width=width, depth=depth, stride=stride)
