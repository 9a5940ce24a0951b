"""Image files as batches: read when asked for, scaled and cut as Sec. 2.5.3.3 does."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from constropt.lab.data.pillow import BILINEAR, opened_image

_AREA, _RATIO = (0.16, 1.0), (3 / 4, 4 / 3)  # of the patches: share of the image, width over height
_JITTER = 0.25  # the factors of brightness, contrast and saturation lie within 1 +- this
_THREADS = 8  # reading waits for the disk, and Pillow decodes without Python's lock


class ImageFiles:
    """Files as ``images[rows]``: float32 ``(len(rows), 3, size, size)`` in [0, 1], read then.

    Each image is scaled so that its shorter side is ``resize`` long (``keep_ratio``, CUB), or to a square of that side
    (Cars, SOP, In-Shop). ``random`` cuts a patch of random place, area (0.16 to 1) and shape (3/4 to 4/3), scaled to
    ``size``, every other one mirrored, and with ``jitter`` changes brightness, contrast and saturation by up to a
    quarter; all drawn from torch's global generator. Otherwise the middle is cut out.

    Raises ``ValueError``, naming the file, for one that is missing or no image, and
    :class:`~constropt.lab.MissingExtra` without Pillow, which matplotlib brings.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        size: int = 224,
        resize: int = 256,
        keep_ratio: bool = False,
        random: bool = False,
        jitter: bool = False,
    ) -> None:
        if not 1 <= size <= resize:
            raise ValueError(f"size: takes 1 to resize = {resize}, got {size}")
        self.paths, self.size, self.resize, self.keep_ratio = tuple(paths), size, resize, keep_ratio
        self.random, self.jitter = random, jitter

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        numbers = rows.tolist()
        # drawn here, not in the threads: the same seed gives the same batch
        draws = torch.rand(len(numbers), 8) if self.random else torch.zeros(len(numbers), 0)
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = list(pool.map(lambda job: self._read(self.paths[job[0]], job[1].tolist()), zip(numbers, draws)))
        images = torch.stack([torch.from_numpy(part) for part in parts]).permute(0, 3, 1, 2).float() / 255
        return _jittered(images, draws[:, 5:]) if self.random and self.jitter else images

    def _read(self, path: Path, draws: Sequence[float]) -> np.ndarray:
        with opened_image(path, f"{path}: no image that can be read") as opened:
            image = opened.convert("RGB")
            width, height = image.size
            shorter, wide, high = min(width, height), self.resize, self.resize
            if self.keep_ratio:
                wide, high = round(width * self.resize / shorter), round(height * self.resize / shorter)
            box = _patch((wide, high), draws) if self.random else _middle((wide, high), self.size)
            image = image.resize((wide, high), BILINEAR).resize((self.size, self.size), BILINEAR, box=box)
        pixels = np.array(image)
        return pixels[:, ::-1].copy() if self.random and draws[4] < 0.5 else pixels


def _patch(sides: tuple[int, int], draws: Sequence[float]) -> tuple[float, float, float, float]:
    """A box of random area, shape and place inside the image."""
    width, height = sides
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[0]) * width * height
    ratio = _RATIO[0] * (_RATIO[1] / _RATIO[0]) ** draws[1]
    wide, high = min((area * ratio) ** 0.5, width), min((area / ratio) ** 0.5, height)
    left, top = draws[2] * (width - wide), draws[3] * (height - high)
    return left, top, left + wide, top + high


def _middle(sides: tuple[int, int], size: int) -> tuple[float, float, float, float]:
    left, top = (sides[0] - size) / 2, (sides[1] - size) / 2
    return left, top, left + size, top + size


def _jittered(images: Tensor, draws: Tensor) -> Tensor:
    """Brightness, then contrast, then saturation times a random factor each."""
    brightness, contrast, saturation = (1 + _JITTER * (2 * draws - 1)).T[..., None, None, None]
    weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    images = images * brightness
    grey = (images * weights).sum(1, keepdim=True)
    images = torch.lerp(grey.mean((2, 3), keepdim=True), images, contrast)
    grey = (images * weights).sum(1, keepdim=True)
    return torch.lerp(grey, images, saturation).clamp(0, 1)
