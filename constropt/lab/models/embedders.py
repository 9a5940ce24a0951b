"""Networks that embed images for retrieval: a feature extractor, and what Sec. 2.5.3.6 adds to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from constropt.checks import require_whole
from constropt.lab.models.calibration import convolution
from constropt.modes import evaluating
from constropt.problems.model_calls import logits_of


class Embedder(nn.Module):
    """``features(images)``, flattened to ``(batch, d)``, with the BatchNorm of Sec. 2.5.3.6.

    ``head_norm`` adds a batch normalisation without scale and bias on top, which brings l2 and cosine distances
    together. ``frozen`` holds every batch normalisation inside ``features`` where it is: statistics of pre-training
    (fresh layers have none), scale and bias without gradient, whatever mode the module is put in. ``features`` may
    return a map ``(batch, d, height, width)``, which is averaged over its places, or a model output with ``logits``.

    >>> network = Embedder(nn.Flatten(), dimension=4, frozen=False)
    >>> network(torch.zeros(3, 1, 2, 2)).shape
    torch.Size([3, 4])
    """

    def __init__(self, features: nn.Module, dimension: int, *, head_norm: bool = True, frozen: bool = True) -> None:
        super().__init__()
        require_whole(dimension=dimension)
        self.features, self.dimension, self.frozen = features, dimension, frozen
        self.norm = nn.BatchNorm1d(dimension, affine=False) if head_norm else nn.Identity()
        if frozen:
            for layer in _batch_norms(features):
                layer.requires_grad_(False)
            self.train(self.training)

    def train(self, mode: bool = True) -> Embedder:
        """Training or evaluation mode; frozen layers stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            for layer in _batch_norms(self.features):
                layer.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(batch, d)`` of ``images``."""
        found = logits_of(self.features(images))
        return self.norm(found.mean((2, 3)) if found.dim() == 4 else found.flatten(1))


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


class SmallEmbedder(nn.Module):
    """Four 3x3 convolutions with BatchNorm, ReLU and maximum over 2x2 places, the network of few-shot learning on
    Omniglot (Vinyals et al. 2016), then the mean over what places are left: ``(batch, dimension)``.

    Images ``(batch, channels, height, width)`` lie in [0, 1]. The channels are ``width``, ``width``, ``2 width`` and
    ``dimension``; a maximum is left out where only one place is left.

    >>> SmallEmbedder(width=4, dimension=8)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 8])
    """

    def __init__(self, *, channels: int = 1, width: int = 32, dimension: int = 128) -> None:
        super().__init__()
        require_whole(channels=channels, width=width, dimension=dimension)
        sizes = (channels, width, width, 2 * width, dimension)
        self.convolutions = nn.ModuleList(convolution(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(batch, dimension)``."""
        x = images
        for layer in self.convolutions:
            # no ReLU after the last: features of both signs
            x = layer(x if layer is self.convolutions[0] else x.relu())
            if min(x.shape[2:]) > 1:
                x = nn.functional.max_pool2d(x, 2)
        return x.mean((2, 3))


def small_embedder(*, channels: int = 1, width: int = 32, dimension: int = 128) -> SmallEmbedder:
    """A :class:`SmallEmbedder` with fresh weights from torch's global generator.

    >>> sum(p.numel() for p in small_embedder().parameters())
    102176
    """
    return SmallEmbedder(channels=channels, width=width, dimension=dimension)


@torch.no_grad()
def dimension_of(features: nn.Module, image: Tensor) -> int:
    """How many features ``features`` gives for one image ``(channels, height, width)``."""
    with evaluating(features):
        found = logits_of(features(image[None]))
    return found.shape[1] if found.dim() == 4 else found.flatten(1).shape[1]
