"""The IDX format of MNIST: a typed, big-endian array, gzip-compressed or not."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> np.ndarray:
    """The unsigned bytes in ``path``, in the shape that its header states.

    Raises ``ValueError`` naming the file when it is not IDX, is cut short, or holds another type than unsigned bytes.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":  # by content, not by name: downloads are often renamed
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file ({error})") from None
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{path}: no IDX file (its first two bytes must be zero)")
    kind, dimensions = content[2], content[3]
    if kind != _UNSIGNED_BYTE:
        raise ValueError(f"{path}: holds IDX type {kind:#04x}, only unsigned bytes ({_UNSIGNED_BYTE:#04x}) are read")
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"{path}: cut short inside its header")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    values = np.frombuffer(content, dtype=np.uint8, offset=header)
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{path}: its header states shape {shape}, it holds {values.size} bytes")
    return values.reshape(shape)


def find_idx(directory: Path, split: str) -> tuple[Path, Path]:
    """The image and the label file of ``split`` ("train" or "test") under the usual names, compressed or not.

    Raises ``ValueError`` listing every name that was tried.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    found: list[Path] = []
    for what in ("images-idx3", "labels-idx1"):
        names = [f"{prefix}-{what}{mark}ubyte{suffix}" for mark in ("-", ".") for suffix in ("", ".gz")]
        present = [directory / name for name in names if (directory / name).is_file()]
        if not present:
            state = "" if directory.is_dir() else " (there is no such directory)"
            raise ValueError(f"no {what.split('-')[0]} in {directory}{state}: looked for {', '.join(names)}")
        found.append(present[0])
    return found[0], found[1]
