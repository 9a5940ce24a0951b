"""The image sets of retrieval (Table 2.3) by the layout of their folders: CUB, Cars, SOP and In-Shop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from constropt.checks import MissingExtra


class ImageList(NamedTuple):
    """``paths`` of image files and their classes, int64 ``(samples,)``."""

    paths: tuple[Path, ...]
    labels: Tensor


class RetrievalSet(NamedTuple):
    """Images to train on, labels from 0; images to search for, of other classes; and those to search in, if it is not
    the queries themselves.
    """

    train: ImageList
    query: ImageList
    gallery: ImageList | None = None


def load_cub(folder: str | Path) -> RetrievalSet:
    """Caltech-UCSD Birds-200-2011: ``images.txt``, ``image_class_labels.txt`` and ``images/``; the first 100 classes
    train, the others are searched.

    Raises ``ValueError`` for a missing file or a line that does not fit.
    """
    folder = Path(folder)
    paths, classes = (
        {row[0]: row[1] for row in _table(folder / name, 2)} for name in ("images.txt", "image_class_labels.txt")
    )
    missing = sorted(set(paths) - set(classes))
    if missing:
        raise ValueError(f"{folder / 'image_class_labels.txt'}: has no class for image {missing[0]}")
    samples = [(folder / "images" / paths[number], int(classes[number])) for number in paths]
    return _halves(samples, 100)


def load_cars(folder: str | Path) -> RetrievalSet:
    """Stanford Cars: ``cars_annos.mat`` and the files that it names (``car_ims/``); the first 98 classes train, the
    others are searched.

    Reads MATLAB's format with scipy, which the extra ``data`` brings. Raises ``ValueError`` for a missing file, and
    :class:`~constropt.lab.MissingExtra` without scipy.
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
    parts = []
    for name in ("Ebay_train.txt", "Ebay_test.txt"):
        rows = _table(folder / name, 4, skip=1)
        parts.append(_numbered([folder / row[3] for row in rows], [row[1] for row in rows]))
    return RetrievalSet(*parts)


def load_in_shop(folder: str | Path) -> RetrievalSet:
    """In-Shop Clothes Retrieval: ``list_eval_partition.txt`` (or in ``Eval/``), lines of path, item and "train",
    "query" or "gallery"; the paths are below the folder or its ``Img/``.

    Raises ``ValueError`` for a missing file, a line that does not fit, or a part without images.
    """
    folder = Path(folder)
    names = [folder / "list_eval_partition.txt", folder / "Eval" / "list_eval_partition.txt"]
    path = next((name for name in names if name.is_file()), names[0])
    rows = _table(path, 3, skip=2)
    below = folder if (folder / rows[0][0]).is_file() or not (folder / "Img").is_dir() else folder / "Img"
    train = [row for row in rows if row[2] == "train"]
    query, gallery = ([row for row in rows if row[2] == part] for part in ("query", "gallery"))
    if not train or not query or not gallery:
        raise ValueError(
            f"{path}: takes images to train on, to search for and to search in, got {len(train)} train, {len(query)}"
            f" query, {len(gallery)} gallery"
        )
    searched = _numbered([below / row[0] for row in query + gallery], [row[1] for row in query + gallery])
    parts = [
        ImageList(searched.paths[part], searched.labels[part]) for part in (slice(len(query)), slice(len(query), None))
    ]
    return RetrievalSet(_numbered([below / row[0] for row in train], [row[1] for row in train]), *parts)


LAYOUTS: Mapping[str, Callable[[str | Path], RetrievalSet]] = {
    "cub": load_cub,
    "cars": load_cars,
    "sop": load_sop,
    "in-shop": load_in_shop,
}


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
    train = [sample for sample in samples if sample[1] <= last]
    query = [sample for sample in samples if sample[1] > last]
    if not train or not query:
        raise ValueError(f"classes: takes some up to {last} to train on and some above, got {len(train)}, {len(query)}")
    return RetrievalSet(
        *(_numbered([path for path, _ in part], [label for _, label in part]) for part in (train, query))
    )


def _numbered(paths: Sequence[Path], names: Sequence[str | int]) -> ImageList:
    """Classes numbered from 0 in the order of their names."""
    numbers = {name: number for number, name in enumerate(sorted(set(names), key=lambda name: (len(str(name)), name)))}
    return ImageList(tuple(paths), torch.tensor([numbers[name] for name in names], dtype=torch.int64))
