"""Data of retrieval: the image sets of Table 2.3 by the layout of their folders, their files as batches (scaled and cut
as Sec. 2.5.3.3 does), and batches for pairwise losses.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from constropt.checks import MissingExtra, require_whole
from constropt.lab.data.readers import BILINEAR, opened_image


class ImageList(NamedTuple):
    """``paths`` of image files and their classes, int64 ``(samples,)``."""

    paths: tuple[Path, ...]
    labels: Tensor


class RetrievalSet(NamedTuple):
    """Images to train on, labels from 0; images of other classes to search for; those to search in, if not these."""

    train: ImageList
    query: ImageList
    gallery: ImageList | None = None


def load_cub(folder: str | Path) -> RetrievalSet:
    """Caltech-UCSD Birds-200-2011: ``images.txt``, ``image_class_labels.txt`` and ``images/``; the first 100 classes
    train, the others are searched. Raises ``ValueError`` for a missing file or a line that does not fit.
    """
    folder = Path(folder)
    tables = (_table(folder / name, 2) for name in ("images.txt", "image_class_labels.txt"))
    paths, classes = ({row[0]: row[1] for row in rows} for rows in tables)
    missing = sorted(set(paths) - set(classes))
    if missing:
        raise ValueError(f"{folder / 'image_class_labels.txt'}: has no class for image {missing[0]}")
    samples = [(folder / "images" / paths[number], int(classes[number])) for number in paths]
    return _halves(samples, 100)


def load_cars(folder: str | Path) -> RetrievalSet:
    """Stanford Cars: ``cars_annos.mat``, read with scipy, and the files that it names (``car_ims/``); the first 98
    classes train, the others are searched. Raises ``ValueError`` for a missing file, and
    :class:`~constropt.lab.MissingExtra` without scipy, which the extra ``data`` brings.
    """
    path = Path(folder) / "cars_annos.mat"
    if not path.is_file():
        raise ValueError(f"cars: looked for {path}, which is not there")
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingExtra("data 'cars' needs scipy: pip install constropt[data]") from None
    found = loadmat(path, squeeze_me=True, struct_as_record=True)
    if "annotations" not in found:
        raise ValueError(f"{path}: has no 'annotations', which list the images and their classes")
    rows = found["annotations"].reshape(-1)
    return _halves([(Path(folder) / str(row["relative_im_path"]), int(row["class"])) for row in rows], 98)


def load_sop(folder: str | Path) -> RetrievalSet:
    """Stanford Online Products: ``Ebay_train.txt`` and ``Ebay_test.txt``, lines of image, class, super-class and path.
    Raises ``ValueError`` for a missing file or a line that does not fit.
    """
    folder = Path(folder)
    parts = (_table(folder / name, 4, skip=1) for name in ("Ebay_train.txt", "Ebay_test.txt"))
    return RetrievalSet(*(_numbered([folder / row[3] for row in rows], [row[1] for row in rows]) for rows in parts))


def load_in_shop(folder: str | Path) -> RetrievalSet:
    """In-Shop Clothes Retrieval: ``list_eval_partition.txt`` (or in ``Eval/``), lines of path, item and "train",
    "query" or "gallery"; the paths are below the folder or its ``Img/``. Raises ``ValueError`` for a missing file, a
    line that does not fit, or a part without images.
    """
    folder = Path(folder)
    names = [folder / "list_eval_partition.txt", folder / "Eval" / "list_eval_partition.txt"]
    path = next((name for name in names if name.is_file()), names[0])
    rows = _table(path, 3, skip=2)
    below = folder if (folder / rows[0][0]).is_file() or not (folder / "Img").is_dir() else folder / "Img"
    train, query, gallery = ([row for row in rows if row[2] == part] for part in ("train", "query", "gallery"))
    if not train or not query or not gallery:
        counts = f"{len(train)} train, {len(query)} query, {len(gallery)} gallery"
        raise ValueError(f"{path}: takes images to train on, to search for and to search in, got {counts}")
    parts = train, query + gallery
    seen, searched = (_numbered([below / row[0] for row in part], [row[1] for row in part]) for part in parts)
    halves = slice(len(query)), slice(len(query), None)
    return RetrievalSet(seen, *(ImageList(searched.paths[half], searched.labels[half]) for half in halves))


LAYOUTS = {"cub": load_cub, "cars": load_cars, "sop": load_sop, "in-shop": load_in_shop}


def _table(path: Path, columns: int, skip: int = 0) -> list[tuple[str, ...]]:
    """The lines of a file, split at spaces; the first ``skip`` are a heading."""
    if not path.is_file():
        raise ValueError(f"{path.parent}: looked for {path.name}, which is not there")
    rows = [tuple(line.split()) for line in path.read_text(encoding="utf-8").splitlines()[skip:] if line.strip()]
    wrong = next((place for place, row in enumerate(rows) if len(row) != columns), None)
    if wrong is not None or not rows:
        where = f"line {wrong + skip + 1} has {len(rows[wrong])}" if wrong is not None else "there are no lines"
        raise ValueError(f"{path}: takes {columns} columns, {where}")
    return rows


def _halves(samples: Sequence[tuple[Path, int]], last: int) -> RetrievalSet:
    """Classes up to ``last`` to train on, the others to search."""
    train, query = ([sample for sample in samples if (sample[1] > last) == searched] for searched in (False, True))
    if not train or not query:
        raise ValueError(f"classes: takes some up to {last} to train on and some above, got {len(train)}, {len(query)}")
    return RetrievalSet(*(_numbered(*zip(*part)) for part in (train, query)))


def _numbered(paths: Sequence[Path], names: Sequence[str | int]) -> ImageList:
    """Classes numbered from 0 in the order of their names."""
    numbers = {name: number for number, name in enumerate(sorted(set(names), key=lambda name: (len(str(name)), name)))}
    return ImageList(tuple(paths), torch.tensor([numbers[name] for name in names], dtype=torch.int64))


_AREA, _RATIO = (0.16, 1.0), (3 / 4, 4 / 3)  # of the patches: share of the image, width over height
_JITTER = 0.25  # the factors of brightness, contrast and saturation lie within 1 +- this
_THREADS = 8  # reading waits for the disk, and Pillow decodes without Python's lock


class ImageFiles:
    """Files as ``images[rows]``: float32 ``(len(rows), 3, size, size)`` in [0, 1], read then.

    Each image is scaled so that its shorter side is ``resize`` long (``keep_ratio``, CUB), or to a square of that side
    (Cars, SOP, In-Shop). ``random`` cuts a patch of random place, area (0.16 to 1) and shape (3/4 to 4/3), scaled to
    ``size``, every other one mirrored, and with ``jitter`` changes brightness, contrast and saturation by up to a
    quarter; all drawn from torch's global generator. Otherwise the middle is cut out.

    Raises ``ValueError``, naming the file, for one that is missing or no image, ``MissingExtra`` without Pillow.
    """

    def __init__(
        self, paths: Sequence[Path], *, size: int = 224, resize: int = 256, keep_ratio: bool = False,
        random: bool = False, jitter: bool = False,
    ) -> None:  # fmt: skip
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
            wide = high = self.resize
            if self.keep_ratio:
                wide, high = (round(side * self.resize / min(width, height)) for side in (width, height))
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


def classes_each(batch_size: int, per_class: int) -> int:
    """How many classes a batch holds with ``per_class`` samples each; ``ValueError`` for fewer than two."""
    require_whole(batch_size=batch_size, per_class=per_class)
    if batch_size < 2 * per_class:
        found = f"{per_class} samples a class of batches of {batch_size}"
        raise ValueError(f"per_class: a batch takes at least two classes, got {found}")
    return batch_size // per_class


def class_batches(labels: Tensor, batch_size: int, per_class: int) -> Sequence[Tensor]:
    """Rows of about ``len(labels) / batch_size`` batches of ``batch_size // per_class`` classes, ``per_class`` samples
    each, drawn from the global generator.

    The samples of each class are shuffled and cut into groups of ``per_class``, a last one that is short filled up from
    the class; the groups are shuffled and dealt to batches. So nearly every sample comes once in an epoch, as by plain
    shuffling, and a batch may hold a class twice. Groups left over, fewer than a batch takes, are dropped unless there
    are no others, and so are batches that chance has given one class only, in which there is nothing to part. Raises
    ``ValueError`` unless a batch has room for two classes, and for labels of one class.

    >>> labels = torch.arange(6).repeat_interleave(5)
    >>> batches = class_batches(labels, batch_size=8, per_class=4)
    >>> {len(rows) for rows in batches}, len(labels[batches[0]].unique()) <= 2
    ({8}, True)
    """
    groups_each = classes_each(batch_size, per_class)
    labels = labels.cpu()
    order = torch.randperm(len(labels))
    order = order[labels[order].argsort(stable=True)]  # shuffled within each class
    sizes = labels.bincount()
    sizes = sizes[sizes > 0]
    if len(sizes) < 2:
        raise ValueError(f"labels: take at least two classes, got {len(sizes)}; a loss that needs pairs has no others")
    groups = -(-sizes // per_class)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(groups)
    first = torch.arange(int(groups.sum())) - (groups.cumsum(0) - groups).repeat_interleave(groups)
    # places in the class, from the start again behind its end
    places = (first * per_class)[:, None] + torch.arange(per_class)
    rows = order[starts[:, None] + places % sizes.repeat_interleave(groups)[:, None]]
    rows = rows[torch.randperm(len(rows))]
    whole = max(len(rows) - len(rows) % groups_each, min(len(rows), groups_each))
    batches = [part for part in rows[:whole].split(groups_each) if bool((labels[part] != labels[part[0, 0]]).any())]
    return [part.flatten() for part in batches] or [_one_of_each(labels, rows, groups_each).flatten()]


def _one_of_each(labels: Tensor, rows: Tensor, count: int) -> Tensor:
    """The first group of each class, at most ``count`` of them."""
    ordered = labels[rows[:, 0]].argsort(stable=True)
    classes = labels[rows[ordered, 0]]
    return rows[ordered[classes != classes.roll(1)]][:count]
