"""LPIPS v0.1 (Zhang, Isola, Efros, Shechtman & Wang, 2018): how far apart images are in the features of a network."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from constropt.checks import MissingExtra, require_one_of
from constropt.problems.distances.base import ImageDistance, root
from constropt.weights import load_weights


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
        *(nn.MaxPool2d(3, 2, ceil_mode=True), Fire(64, 16, 64), Fire(128, 16, 64)),
        *(nn.MaxPool2d(3, 2, ceil_mode=True), Fire(128, 32, 128), Fire(256, 32, 128)),
        *(nn.MaxPool2d(3, 2, ceil_mode=True), Fire(256, 48, 192), Fire(384, 48, 192)),
        *(Fire(384, 64, 256), Fire(512, 64, 256)),
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


@dataclass(frozen=True, eq=False)
class Backbone:
    """How to build a stack, layer by layer as torchvision has it, and torchvision's weights and file for it."""

    build: Callable[[], nn.Sequential]
    weights: str
    file: str
    layers: tuple[int, ...]  # after which LPIPS looks
    channels: tuple[int, ...]  # that it finds there
    smallest: int  # pixels a side that the stack takes at least

    def load(self, state: Mapping[str, Tensor]) -> nn.Sequential:
        """The stack with these weights, frozen, in evaluation mode.

        The names are those of torchvision's network or of its ``features``; weights of a classifier are left out.
        ``ValueError`` for missing ones and other shapes. The weights are copied; no random number is drawn.
        """
        if any(name.startswith("features.") for name in state):
            state = {n.removeprefix("features."): value for n, value in state.items() if n.startswith("features.")}
        with torch.device("meta"):
            stack = self.build()
        needed = stack.state_dict()
        wrong = [name for name, own in needed.items() if name not in state or state[name].shape != own.shape]
        if wrong:
            takes = f"the weights of torchvision's {self.weights.partition('_')[0]} ({self.file})"
            without = f"{', '.join(wrong[:3])} of its shape"
            raise ValueError(f"backbone: takes {takes}, got a state dict without {without}")
        copies = {name: state[name].detach().clone() for name in needed}
        stack.load_state_dict(copies, assign=True)
        return stack.requires_grad_(False).eval()


BACKBONES = {
    "alex": Backbone(
        alexnet, "AlexNet_Weights.IMAGENET1K_V1", "alexnet-owt-7be5be79.pth",
        layers=(1, 4, 7, 9, 11), channels=(64, 192, 384, 256, 256), smallest=31),
    "squeeze": Backbone(
        squeezenet1_1, "SqueezeNet1_1_Weights.IMAGENET1K_V1", "squeezenet1_1-b8a52dc0.pth",
        layers=(1, 4, 7, 9, 10, 11, 12), channels=(64, 128, 256, 384, 384, 512, 512), smallest=17),
    "vgg": Backbone(
        vgg16, "VGG16_Weights.IMAGENET1K_V1", "vgg16-397923af.pth",
        layers=(3, 8, 15, 22, 29), channels=(64, 128, 256, 512, 512), smallest=16),
}  # fmt: skip

# What turns images in [0, 1] into what the networks were trained on.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, eq=False)
class LPIPS(ImageDistance):
    """The root of LPIPS v0.1, ``net`` "alex", "squeeze" or "vgg": of the sum over layers l of the mean over places of

        sum_c w_lc (f_lc(x) / |f_l(x)| - f_lc(reference) / |f_l(reference)|)^2,   |f| = sqrt(1e-8 + sum_c f_c^2)

    (the 1e-8 keeps gradients finite where a feature vector is 0). The features of the reference are computed once.
    ``root=False`` gives the number that LPIPS publishes, the square. The first step of Table III-1, 1e-3, is meant for
    the root, whose slope does not vanish near the inputs; the square takes ``first_step=1e-6``. ``weighted=False`` sets
    w to 1: the distance of Laidlaw, Singla & Feizi (2021), the one of the thesis.

    ``backbone`` holds torchvision's ImageNet weights of the network: a file, a state dict or a module; None takes them
    from torchvision, which may download them. ``heads`` holds w, a file of the LPIPS authors or one tensor a layer;
    None takes the file inside torchmetrics (the extra ``metrics``).

    Raises ``ValueError`` before any model call for images that are not RGB or too small for the network, and for
    weights that are nowhere or do not fit; :class:`~constropt.checks.MissingExtra` for heads without torchmetrics.
    Files are read without executing anything in them.

    >>> weights = BACKBONES["squeeze"].build().state_dict()  # of torchvision, usually
    >>> distance = LPIPS(net="squeeze", backbone=weights, weighted=False)
    >>> x = torch.rand(2, 3, 32, 32)
    >>> distance(x, x), bool((distance(x, x.flip(3)) > 0).all())
    (tensor([0., 0.]), True)
    """

    name: str = "lpips"
    first_step: float = 1e-3
    net: str = "alex"
    backbone: str | Path | Mapping[str, Tensor] | nn.Module | None = None
    heads: str | Path | Sequence[Tensor] | None = None
    weighted: bool = True
    root: bool = True

    def __post_init__(self) -> None:
        require_one_of("net", self.net, BACKBONES)

    def check(self, reference: Tensor) -> None:
        smallest = BACKBONES[self.net].smallest
        if reference.shape[1] != 3 or min(reference.shape[2:]) < smallest:
            takes = f"takes RGB images of at least {smallest} pixels a side, got shape {tuple(reference.shape)}"
            cure = f"repeat a grey channel three times, or take another net of {list(BACKBONES)}"
            raise ValueError(f"distance: {self.name!r} with net={self.net!r} {takes}; {cure}")

    def prepare(self, reference: Tensor) -> Callable[[Tensor], Tensor]:
        stack, heads = self._network
        like = {"device": reference.device, "dtype": reference.dtype}
        # a module moves in place, and the one loaded is kept for other devices
        stack = BACKBONES[self.net].load({name: value.to(**like) for name, value in stack.state_dict().items()})
        weights = [head.to(**like) for head in heads]
        mean, std = (torch.tensor(v, **like).view(3, 1, 1) for v in (_MEAN, _STD))
        layers = BACKBONES[self.net].layers

        def features(x: Tensor) -> list[Tensor]:
            x, found = (x - mean) / std, []
            for index, layer in enumerate(stack):
                x = layer(x)
                if index in layers:
                    found.append(x / (1e-8 + x.square().sum(1, keepdim=True)).sqrt())
            return found

        targets = features(reference)

        def measure(x: Tensor) -> Tensor:
            total = torch.zeros_like(x[:, 0, 0, 0])
            for found, target, weight in zip(features(x), targets, weights):
                total = total + torch.einsum("bchw,c->bhw", (found - target).square(), weight).mean((1, 2))
            return root(total) if self.root else total

        return measure

    @cached_property
    def _network(self) -> tuple[nn.Sequential, list[Tensor]]:
        """The stack, and w of every layer: read at first use."""
        backbone = BACKBONES[self.net]
        heads = _heads(self.net, self.heads) if self.weighted else [torch.ones(count) for count in backbone.channels]
        return backbone.load(_weights(self.net, backbone, self.backbone)), heads


def _weights(net: str, backbone: Backbone, given: Any) -> Mapping[str, Tensor]:
    """The state dict of a file, of a module, or of torchvision."""
    if isinstance(given, Mapping):
        return given
    if isinstance(given, nn.Module):
        return given.state_dict()
    if isinstance(given, (str, Path)):
        return load_weights(given)
    if given is not None:
        raise TypeError(f"backbone: takes a file, a state dict, a module or None, got {type(given).__name__}")
    cure = (
        f"pass LPIPS(net={net!r}, backbone=...) torchvision's file {backbone.file}, its state dict or a module with it"
    )
    try:
        from torchvision.models import get_weight  # pyright: ignore[reportMissingImports]
    except ImportError:
        why = "LPIPS needs a pretrained network and torchvision is not installed"
        raise ValueError(f"backbone: {why}; {cure}") from None
    try:
        return get_weight(backbone.weights).get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise ValueError(f"backbone: torchvision cannot download {backbone.file} ({error}); {cure}") from None


def _heads(net: str, given: Any) -> list[Tensor]:
    """One vector of channel weights a layer, from a file, from tensors, or from torchmetrics' file."""
    if given is None:
        package = importlib.util.find_spec("torchmetrics")
        if package is None or package.origin is None:
            cure = f"pass LPIPS(net={net!r}, heads=...) the file {net}.pth of the LPIPS authors"
            takes = "takes its weights from torchmetrics: pip install 'constropt[metrics]'"
            raise MissingExtra(f"heads: LPIPS {takes}, or {cure}")
        given = Path(package.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
    if isinstance(given, (str, Path)):
        given = [value for _, value in sorted(load_weights(given).items())]
    heads = [torch.as_tensor(value).detach().flatten() for value in given]
    channels, found = BACKBONES[net].channels, tuple(head.numel() for head in heads)
    if found != channels:
        raise ValueError(f"heads: net={net!r} takes {len(channels)} vectors of {channels} weights, got {found}")
    return heads
