"""Networks that calibration is tried on: images in [0, 1], normalised inside, or word numbers in, logits out; fresh
weights from torch's global generator. Every network works in half precision and under autocast.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_whole


def _normalized(images: Tensor) -> Tensor:
    return (images - 0.5) / 0.25


def convolution(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size but for ``stride``, and BatchNorm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm; a 1x1 one as shortcut where the shape changes (He et al. 2016, option B)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, stride=stride, dilation=dilation)
        self.second = convolution(outputs, outputs, dilation=dilation)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()


def _stages(width: int, strides: Sequence[int], dilations: Sequence[int]) -> nn.Sequential:
    """Stages of two blocks, each with twice the channels of the one before; the first takes ``width``."""
    blocks: list[nn.Module] = []
    inputs = outputs = width
    for stride, dilation in zip(strides, dilations):
        blocks.append(ResidualBlock(inputs, outputs, stride=stride, dilation=dilation))
        blocks.append(ResidualBlock(outputs, outputs, dilation=dilation))
        inputs, outputs = outputs, 2 * outputs
    return nn.Sequential(*blocks)


class ResNet18(nn.Module):
    """The ResNet-18 for small images (He et al. 2016): a 3x3 stem without pooling and four stages of two blocks, the
    first of ``width`` channels; 64 is the full size, 11.2 million parameters.

    >>> ResNet18(10, width=4).eval()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, *, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        require_whole(num_classes=num_classes, channels=channels, width=width)
        self.stem = convolution(channels, width)
        self.stages = _stages(width, (1, 2, 2, 2), (1, 1, 1, 1))
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, num_classes)`` of images ``(batch, channels, height, width)`` of any size."""
        return self.linear(self.stages(self.stem(_normalized(images)).relu()).mean((2, 3)))


def small_resnet18(num_classes: int = 10, *, channels: int = 3, width: int = 16) -> ResNet18:
    """A :class:`ResNet18` of a quarter of the width.

    >>> sum(p.numel() for p in small_resnet18().parameters())
    701466
    """
    return ResNet18(num_classes, channels=channels, width=width)


class TransformerBlock(nn.Module):
    """Attention and a two-layer network of four times the width, each normalised before and added (pre-norm)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        layers = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        self.mlp = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, tokens, 3, heads, width / heads) to three of (batch, heads, tokens, width / heads)
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) that averages its tokens instead of adding one for the class.
    Images are cut into squares of side ``patch``. Raises ``ValueError`` unless the numbers are at least 1, ``patch``
    divides ``image_size`` and ``heads`` ``width``.

    >>> ViT(10, width=8, depth=1, heads=2)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, num_classes: int = 10, *, channels: int = 3, image_size: int = 32, patch: int = 4, width: int = 96,
        depth: int = 4, heads: int = 3, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        require_whole(num_classes=num_classes, channels=channels, image_size=image_size, patch=patch)
        require_whole(width=width, depth=depth, heads=heads)
        if image_size % patch:
            raise ValueError(f"patch: takes a divisor of image_size, {image_size}, got {patch}")
        if width % heads:
            raise ValueError(f"heads: takes a divisor of width, {width}, got {heads}")
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty((image_size // patch) ** 2, width), std=0.02))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, num_classes)`` of images ``(batch, channels, image_size, image_size)``."""
        tokens = self.embed(_normalized(images)).flatten(2).transpose(1, 2)
        return self.linear(self.norm(self.blocks(tokens + self.position)).mean(1))


def small_vit(num_classes: int = 10, *, channels: int = 3, image_size: int = 32, patch: int = 4) -> ViT:
    """A :class:`ViT` of width 96 with 4 blocks; ``patch`` 4 makes 64 tokens of a 32x32 image, 49 of a 28x28 one.

    >>> sum(p.numel() for p in small_vit().parameters())
    459370
    """
    return ViT(num_classes, channels=channels, image_size=image_size, patch=patch)


class SegmentationHead(nn.Module):
    """Atrous spatial pyramid pooling and a classifier per pixel, as in DeepLabV3 (Chen et al. 2017). Features go
    through a 1x1 convolution, a 3x3 one for each dilation in ``rates`` and their mean over the image; the results,
    ``width`` channels each, are joined.

    >>> SegmentationHead(8, 5, width=4)(torch.zeros(2, 8, 6, 7)).shape
    torch.Size([2, 5, 6, 7])
    """

    def __init__(self, inputs: int, classes: int, *, width: int = 64, rates: Sequence[int] = (2, 4, 6)) -> None:
        super().__init__()
        require_whole(inputs=inputs, classes=classes, width=width, **{f"rates[{i}]": r for i, r in enumerate(rates)})
        self.branches = nn.ModuleList([convolution(inputs, width, 1)])
        self.branches.extend(convolution(inputs, width, dilation=rate) for rate in rates)
        self.image = nn.Conv2d(inputs, width, 1)  # no BatchNorm: one value per channel and image may be one in all
        self.join = convolution((len(rates) + 2) * width, width, 1)
        self.classify = nn.Sequential(convolution(width, width), nn.ReLU(), nn.Conv2d(width, classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(batch, classes, height, width)`` of features ``(batch, inputs, height, width)``."""
        whole = self.image(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[2:])
        branches = [branch(features) for branch in self.branches]
        return self.classify(self.join(torch.cat([*branches, whole], 1).relu()).relu())


class DeepLab(nn.Module):
    """DeepLabV3 (Chen et al. 2017) on a small encoder: residual stages at 1/2, 1/4, 1/8 and, dilated, 1/8 of the size,
    from which logits are interpolated bilinearly.

    >>> deeplab(5, width=4).eval()(torch.zeros(2, 3, 33, 50)).shape
    torch.Size([2, 5, 33, 50])
    """

    def __init__(self, classes: int = 11, *, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        require_whole(classes=classes, channels=channels, width=width)
        self.stem = convolution(channels, width, stride=2)
        self.stages = _stages(width, (1, 2, 2, 1), (1, 1, 1, 2))
        self.head = SegmentationHead(8 * width, classes, width=4 * width)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes, height, width)`` of images ``(batch, channels, height, width)``."""
        logits = self.head(self.stages(self.stem(_normalized(images)).relu()))
        return functional.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)


def deeplab(classes: int = 11, *, channels: int = 3, width: int = 16) -> DeepLab:
    """A small :class:`DeepLab`; the default has the 11 classes of CamVid.

    >>> sum(p.numel() for p in deeplab().parameters())
    996635
    """
    return DeepLab(classes, channels=channels, width=width)


class GPCN(nn.Module):
    """The global-pooling network for text of Kumar et al. (2018): three convolutions over word vectors, the maximum
    over places, two linear layers.

    The word vectors are learned, ``embedding`` long; the convolutions, of width 5 with ``width`` channels, have maxima
    over 5 places between them. Raises ``ValueError`` unless the numbers are at least 1, and for texts too short.

    >>> gpcn(50, 4, width=8)(torch.ones(2, 30, dtype=torch.int64)).shape
    torch.Size([2, 4])
    """

    SHORTEST = 21  # three convolutions and two maxima take 4 places each

    def __init__(
        self, vocabulary: int, classes: int = 20, *, embedding: int = 100, width: int = 128, dropout: float = 0.3
    ) -> None:
        super().__init__()
        require_whole(vocabulary=vocabulary, classes=classes, embedding=embedding, width=width)
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=0)
        layers: list[nn.Module] = []
        for inputs in (embedding, width, width):
            layers += [nn.Conv1d(inputs, width, 5), nn.ReLU(), nn.MaxPool1d(5, 1)]
        self.convolutions = nn.Sequential(*layers[:-1])
        head = nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, classes)
        self.classifier = nn.Sequential(*head)

    def forward(self, words: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of word numbers, int64 ``(batch, length >= 21)``, where 0 is padding."""
        if words.shape[1] < self.SHORTEST:
            raise ValueError(f"words: takes texts of at least {self.SHORTEST} words, got {words.shape[1]}; pad with 0")
        return self.classifier(self.convolutions(self.embedding(words).transpose(1, 2)).amax(2))


def gpcn(vocabulary: int, classes: int = 20, *, embedding: int = 100, width: int = 128, dropout: float = 0.3) -> GPCN:
    """A :class:`GPCN` for ``vocabulary`` word numbers; the default sizes are those published for 20 Newsgroups.

    >>> sum(p.numel() for p in gpcn(20_000).parameters())
    2247316
    """
    return GPCN(vocabulary, classes, embedding=embedding, width=width, dropout=dropout)
