"""Image files, read with Pillow, which the extra ``plot`` brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from constropt.checks import MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

NEAREST, BILINEAR, BOX = 0, 2, 4  # PIL.Image.Resampling, without Pillow


@contextmanager
def opened_image(file: Path | IO[bytes], wrong: str, needs: str = "image files need") -> Iterator[Image]:
    """The image in ``file`` for the time of the block, in which it is decoded.

    Raises ``ValueError``, which begins with ``wrong``, for what can't be read, :class:`~constropt.lab.MissingExtra`,
    which begins with ``needs``, without Pillow.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingExtra(f"{needs} Pillow: pip install constropt[plot]") from None
    try:
        with Image.open(file) as image:
            yield image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{wrong} ({error})") from None
