"""Small classifiers that attacks and calibration are tried on; inputs in [0, 1], outputs logits."""

from __future__ import annotations

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Two blocks of two 3x3 convolutions with ReLU and a max-pooling, then two hidden layers of 200 (Table II-1).

    The MNIST architecture of Carlini & Wagner (2017) and of the thesis: convolutions without padding, 32 then 64
    channels. ``image_size`` is the side of the square images, ``padding`` that of the convolutions: small images need 1
    to survive them. Takes images ``(batch, channels, image_size, image_size)`` in [0, 1], returns logits
    ``(batch, num_classes)``; the softmax of the table is left to the loss.

    Raises ``ValueError`` when the images are too small for the convolutions.

    >>> import torch
    >>> SmallCNN()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, *, channels: int = 1, image_size: int = 28, padding: int = 0) -> None:
        super().__init__()
        side = image_size
        for _ in range(2):
            side = (side - 2 * (2 - 2 * padding)) // 2
        if side < 1:
            raise ValueError(
                f"image_size: {image_size} is too small for two blocks of 3x3 convolutions with padding {padding}"
            )
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=padding), nn.ReLU()]
            layers += [nn.Conv2d(outputs, outputs, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * side * side, 200),
            nn.ReLU(),
            nn.Linear(200, 200),
            nn.ReLU(),
            nn.Linear(200, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, num_classes)`` of ``images``."""
        return self.classifier(self.features(images))


def small_cnn(num_classes: int = 10) -> SmallCNN:
    """The network of Table II-1 for 28x28 gray images (MNIST), with fresh weights from torch's global generator.

    >>> sum(p.numel() for p in small_cnn().parameters())
    312202
    """
    return SmallCNN(num_classes)


def digits_cnn(num_classes: int = 10) -> SmallCNN:
    """The same in small: 8x8 gray images (the digits embedded in scikit-learn), padded convolutions.

    >>> import torch
    >>> digits_cnn()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    return SmallCNN(num_classes, image_size=8, padding=1)


def madry_cnn(channels: tuple[int, int] = (4, 8)) -> nn.Sequential:
    """The MNIST network of Madry et al. (2018) in small: strided 5x5 convolutions instead of max-pooling.

    >>> import torch
    >>> madry_cnn()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    first, second = channels
    return nn.Sequential(
        nn.Conv2d(1, first, 5, 2, 2),
        nn.ReLU(),
        nn.Conv2d(first, second, 5, 2, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * 49, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def mnist_cnn() -> nn.Sequential:
    """Two strided 4x4 convolutions without padding and two linear layers, for MNIST.

    >>> import torch
    >>> mnist_cnn()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 25, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
