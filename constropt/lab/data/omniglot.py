"""Omniglot: handwritten characters of many alphabets, many classes with twenty images each, read from its archives."""

import io
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.lab.data.readers import BOX, opened_image, require_split

_MEMBER = re.compile(r"(?:^|/)([^/]+)/(character\d+)/([^/]+)\.png$")
_TEST_SHARE = 0.25  # of the images of each class: 5 of 20


class Characters(NamedTuple):
    """``inputs`` float32 ``(samples, 1, size, size)``, ink 1; ``labels`` int64; ``classes``: "alphabet/character"."""

    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def load_omniglot(folder: str | Path, split: str = "test", *, size: int = 28, seed: int = 0) -> Characters:
    """The characters of Omniglot (Lake et al. 2015) in the archives ``*.zip`` of ``folder``.

    An archive holds ``ALPHABET/characterNN/*.png``, ink black on white; an alphabet that is in several is read once. A
    class is a character of an alphabet, numbered in the order of the names. A quarter of the images of each class,
    drawn by ``seed``, is the "test" split, the rest "train"; "all" is both. ``size``: the side, by averages over areas.

    Raises ``ValueError`` for another split or size, a folder without such archives, and files that are no images;
    :class:`~constropt.lab.MissingExtra` without Pillow, which matplotlib brings.

    >>> load_omniglot("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: omniglot: looked for archives *.zip of ALPHABET/characterNN/*.png in no/such/folder: not there
    """
    require_split(split, ("train", "test", "all"))
    require_whole(size=size)
    folder = Path(folder)
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    alphabets: set[str] = set()
    for path in sorted(folder.glob("*.zip")):
        found |= _read(path, size, alphabets)
        alphabets |= {alphabet for alphabet, _ in found}
    if not found:
        state = "none" if folder.is_dir() else "not there"
        raise ValueError(f"omniglot: looked for archives *.zip of ALPHABET/characterNN/*.png in {folder}: {state}")
    names = sorted(found)
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = [], []
    for label, name in enumerate(names):
        images = torch.from_numpy(np.stack(found[name]))
        order = torch.randperm(len(images), generator=generator)
        tested = max(1, round(_TEST_SHARE * len(images)))
        rows = {"test": order[:tested], "train": order[tested:], "all": order}[split].sort().values
        inputs.append(images[rows])
        labels.append(torch.full((len(rows),), label))
    ink = 1 - torch.cat(inputs).unsqueeze(1).float() / 255
    return Characters(ink, torch.cat(labels), tuple("/".join(name) for name in names))


def _read(path: Path, size: int, skipped: set[str]) -> dict[tuple[str, str], list[np.ndarray]]:
    """The images of each character of an archive, bytes ``(size, size)`` in the order of the file names."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                match = _MEMBER.search(member)
                if match and match[1] not in skipped:
                    content, wrong = io.BytesIO(archive.read(member)), f"{path}: {member} is no PNG image"
                    with opened_image(content, wrong, "data 'omniglot' needs") as image:
                        pixels = np.array(image.convert("L").resize((size, size), BOX))
                    found.setdefault((match[1], match[2]), []).append(pixels)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: no zip archive ({error})") from None
    return found
