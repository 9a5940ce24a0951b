"""Texts as sequences of word numbers: the words, a vocabulary of the training texts, and 20 Newsgroups from a file."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.lab.data.readers import existing_file, require_split

PADDING, UNKNOWN = 0, 1  # the numbers of no word, and of a word outside the vocabulary
_RESERVED = 2
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_SPLITS = ("train", "test")


def words(text: str) -> list[str]:
    """The words of ``text`` in lower case: runs of letters and digits, with an apostrophe's ending.

    >>> words("Don't panic: 42 ways!")
    ["don't", 'panic', '42', 'ways']
    """
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """Numbers for words: ``entries[i]`` has number ``i + 2``; 0 is padding, 1 any other word. ``len`` counts them all.

    >>> vocabulary = Vocabulary.of(["a cat and a dog", "a cat"], size=4)
    >>> vocabulary.entries, len(vocabulary)
    (('a', 'cat'), 4)
    >>> vocabulary.encode(["A dog, a cat"], length=6)
    tensor([[2, 1, 2, 3, 0, 0]])
    """

    entries: tuple[str, ...]
    numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers = {word: number for number, word in enumerate(self.entries, _RESERVED)}
        if len(numbers) < len(self.entries):
            raise ValueError("entries: takes distinct words")
        object.__setattr__(self, "numbers", numbers)

    @classmethod
    def of(cls, texts: Iterable[str], size: int) -> Vocabulary:
        """The most frequent words of ``texts``, of equal ones the first in the alphabet; ``size`` counts padding and
        unknown words too. Raises ``ValueError`` unless ``size >= 3``.
        """
        require_whole(_RESERVED + 1, size=size)
        counts = Counter(word for text in texts for word in words(text))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(tuple(word for word, _ in ranked[: size - _RESERVED]))

    def __len__(self) -> int:
        return len(self.entries) + _RESERVED

    def encode(self, texts: Sequence[str], length: int) -> Tensor:
        """The first ``length >= 1`` words of each text as numbers, int64 ``(texts, length)``, padded at the end."""
        require_whole(length=length)
        encoded = np.full((len(texts), length), PADDING, dtype=np.int64)
        for row, text in zip(encoded, texts):
            found = [self.numbers.get(word, UNKNOWN) for word in words(text)[:length]]
            row[: len(found)] = found
        return torch.from_numpy(encoded)


class TextData(NamedTuple):
    """Word numbers, int64 ``(samples, length)``, their labels, int64; names of the classes, and what numbers mean."""

    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    vocabulary: Vocabulary


def load_newsgroups(
    path: str | Path, split: str = "test", *, vocabulary: int | Vocabulary = 20_000, length: int = 1000,
    headers: bool = False,
) -> TextData:  # fmt: skip
    """20 Newsgroups, "by date", from a gzipped file of JSON lines with ``split``, ``label`` and ``text``.

    ``vocabulary`` is a size, for the most frequent words of the *training* texts whichever ``split`` ("train" or
    "test") is asked for, or a :class:`Vocabulary`, as that of another split, which saves counting again. ``length``
    words of each text are kept. Classes are numbered in the order of their names. Without ``headers`` a text begins
    after its first empty line: the lines before it name authors and subjects. The same arguments give the same tensors.
    Sizes and headers are those of Kumar et al. (2018) and Mukhoti et al. (2020).

    Raises ``ValueError`` for an unknown split, a missing file, lines of another form, an empty split, too small sizes.
    """
    (data,) = load_newsgroups_splits(path, (split,), vocabulary=vocabulary, length=length, headers=headers)
    return data


def load_newsgroups_splits(
    path: str | Path, splits: Sequence[str] = _SPLITS, *, vocabulary: int | Vocabulary = 20_000, length: int = 1000,
    headers: bool = False,
) -> tuple[TextData, ...]:  # fmt: skip
    """Several splits by one reading of the file and one count of its words; else as :func:`load_newsgroups`."""
    for split in splits:
        require_split(split, _SPLITS)
    require_whole(length=length)
    texts = _read(Path(path))
    for name, rows in texts.items():
        if not rows:
            raise ValueError(f"{path}: no text of the split {name!r}")
    classes = tuple(sorted({label for rows in texts.values() for label, _ in rows}))
    bodies = {name: [text if headers else _body(text) for _, text in rows] for name, rows in texts.items()}
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary.of(bodies["train"], vocabulary)
    numbers = {label: number for number, label in enumerate(classes)}
    labels = {split: torch.tensor([numbers[label] for label, _ in texts[split]]) for split in splits}
    return tuple(TextData(vocabulary.encode(bodies[s], length), labels[s], classes, vocabulary) for s in splits)


def _read(path: Path) -> dict[str, list[tuple[str, str]]]:
    """``(label, text)`` of every text of each split, in the order of the file."""
    existing_file(path)
    texts: dict[str, list[tuple[str, str]]] = {name: [] for name in _SPLITS}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                split, label, text = _parse(line, f"{path}: line {number}")
                texts[split].append((label, text))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no gzip file of texts in UTF-8 ({error})") from None
    return texts


def _parse(line: str, where: str) -> tuple[str, str, str]:
    """``split, label, text`` of one line."""
    try:
        row = json.loads(line)
        split, label, text = row["split"], row["label"], row["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} should be a JSON object with split, label and text ({error!r})") from None
    if split not in _SPLITS or not isinstance(label, str) or not isinstance(text, str):
        takes = "strings as label and text, and 'train' or 'test' as split"
        raise ValueError(f"{where} should have {takes}, got {split!r}")
    return split, label, text


def _body(text: str) -> str:
    """What follows the first empty line; all where there is none."""
    _, separator, body = text.partition("\n\n")
    return body if separator else text
