"""The feature stacks that LPIPS looks at, layer by layer as torchvision has them, so that its weights fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Fire(nn.Module):
    """SqueezeNet's module: a 1x1 convolution, then 1x1 and 3x3 ones side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1).relu()


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1, padding: int = 0) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, size, stride, padding), nn.ReLU()


def alexnet() -> nn.Sequential:
    """``features`` of AlexNet, to its last ReLU."""
    return nn.Sequential(
        *_convolution(3, 64, 11, stride=4, padding=2),
        nn.MaxPool2d(3, 2),
        *_convolution(64, 192, 5, padding=2),
        nn.MaxPool2d(3, 2),
        *_convolution(192, 384, 3, padding=1),
        *_convolution(384, 256, 3, padding=1),
        *_convolution(256, 256, 3, padding=1),
    )


def squeezenet1_1() -> nn.Sequential:
    """``features`` of SqueezeNet 1.1."""
    return nn.Sequential(
        *_convolution(3, 64, 3, stride=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )


def vgg16() -> nn.Sequential:
    """``features`` of VGG-16, to its last ReLU."""
    layers: list[nn.Module] = []
    before = 3
    for stage, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        if stage:
            layers.append(nn.MaxPool2d(2, 2))
        for _ in range(depth):
            layers += _convolution(before, width, 3, padding=1)
            before = width
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Backbone:
    """How to build a stack, torchvision's weights and file for it, after which layers LPIPS looks, how many channels
    it finds there, and how many pixels a side the stack takes at least.
    """

    build: Callable[[], nn.Sequential]
    weights: str
    file: str
    layers: tuple[int, ...]
    channels: tuple[int, ...]
    smallest: int

    def load(self, state: Mapping[str, Tensor]) -> nn.Sequential:
        """The stack with these weights, frozen, in evaluation mode.

        The names are those of torchvision's network or of its ``features``; weights of a classifier are left out.
        ``ValueError`` for missing ones and other shapes. The weights are copied; no random number is drawn.
        """
        if any(name.startswith("features.") for name in state):
            state = {n.removeprefix("features."): value for n, value in state.items() if n.startswith("features.")}
        with torch.device("meta"):
            stack = self.build()
        wrong = [
            name for name, own in stack.state_dict().items() if name not in state or state[name].shape != own.shape
        ]
        if wrong:
            raise ValueError(
                f"backbone: takes the weights of torchvision's {self.weights.partition('_')[0]} ({self.file}), got a"
                f" state dict without {', '.join(wrong[:3])} of its shape"
            )
        copies = {name: state[name].detach().clone() for name in stack.state_dict()}
        stack.load_state_dict(copies, assign=True)
        return stack.requires_grad_(False).eval()


BACKBONES = {
    "alex": Backbone(
        alexnet,
        "AlexNet_Weights.IMAGENET1K_V1",
        "alexnet-owt-7be5be79.pth",
        layers=(1, 4, 7, 9, 11),
        channels=(64, 192, 384, 256, 256),
        smallest=31,
    ),
    "squeeze": Backbone(
        squeezenet1_1,
        "SqueezeNet1_1_Weights.IMAGENET1K_V1",
        "squeezenet1_1-b8a52dc0.pth",
        layers=(1, 4, 7, 9, 10, 11, 12),
        channels=(64, 128, 256, 384, 384, 512, 512),
        smallest=17,
    ),
    "vgg": Backbone(
        vgg16,
        "VGG16_Weights.IMAGENET1K_V1",
        "vgg16-397923af.pth",
        layers=(3, 8, 15, 22, 29),
        channels=(64, 128, 256, 512, 512),
        smallest=16,
    ),
}
