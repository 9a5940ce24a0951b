"""Texts as word numbers, and the file of 20 Newsgroups."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from constropt.lab.data import text
from constropt.lab.data.text import PADDING, UNKNOWN, Vocabulary, load_newsgroups, load_newsgroups_splits, words

ROWS = [
    {"split": "train", "label": "sky", "id": "1", "text": "From: a\nSubject: secret\n\nblue blue blue sky, the sky"},
    {"split": "test", "label": "earth", "id": "2", "text": "From: b\n\nGreen GREEN the grass grass grass grass"},
    {"split": "train", "label": "earth", "id": "3", "text": "From: c\n\nThe brown earth"},
    {"split": "test", "label": "sky", "id": "4", "text": "no header at all: a blue sky"},
]


def write(path: Path, rows: list) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    return path


def test_words():
    assert words("It's a TEST, isn't it? e-mail: x_y@z.org 3.14") == (
        ["it's", "a", "test", "isn't", "it", "e", "mail", "x", "y", "z", "org", "3", "14"]
    )
    assert words("'quoted' \u00e9t\u00e9 \x00") == ["quoted", "t"]
    assert words("") == []


def test_the_vocabulary_counts_and_breaks_ties_by_the_alphabet():
    texts = ["b a c", "c b", "c zebra apple"]
    assert Vocabulary.of(texts, 5).entries == ("c", "b", "a")
    assert Vocabulary.of(texts, 5) == Vocabulary.of(reversed(texts), 5)
    assert Vocabulary.of(texts, 100).entries == ("c", "b", "a", "apple", "zebra")
    assert len(Vocabulary.of(texts, 5)) == 5 and len(Vocabulary(())) == 2


def test_encoding_cuts_and_pads():
    vocabulary = Vocabulary(("one", "two"))
    encoded = vocabulary.encode(["two one three one", "", "One"], 3)
    assert encoded.dtype == torch.int64
    assert encoded.tolist() == [[3, 2, UNKNOWN], [PADDING] * 3, [2, PADDING, PADDING]]
    assert vocabulary.encode([], 4).shape == (0, 4)


def test_a_split_of_the_file(tmp_path):
    path = write(tmp_path / "news.jsonl.gz", ROWS)
    train = load_newsgroups(path, "train", vocabulary=6, length=4)
    assert train.classes == ("earth", "sky") and train.labels.tolist() == [1, 0]
    assert train.labels.dtype == train.inputs.dtype == torch.int64
    assert train.vocabulary.entries == ("blue", "sky", "the", "brown")  # "grass" is of the test split only
    assert train.inputs.tolist() == [[2, 2, 2, 3], [4, 5, 1, 0]]
    test = load_newsgroups(str(path), vocabulary=6, length=5)
    assert test.vocabulary == train.vocabulary and test.labels.tolist() == [0, 1]
    assert test.inputs.tolist() == [[1, 1, 4, 1, 1], [1, 1, 1, 1, 1]]
    given = load_newsgroups(path, vocabulary=train.vocabulary, length=7)
    assert given.inputs.tolist() == [[1, 1, 4, 1, 1, 1, 1], [1, 1, 1, 1, 1, 2, 3]]  # a text without header is kept
    whole = load_newsgroups(path, "train", vocabulary=50, length=9, headers=True)
    assert "secret" in whole.vocabulary.entries and "secret" not in load_newsgroups(path, "train").vocabulary.entries


def test_both_splits_by_one_reading(tmp_path, monkeypatch):
    path = write(tmp_path / "news.jsonl.gz", ROWS)
    alone = [load_newsgroups(path, split, vocabulary=6, length=5) for split in ("train", "test")]
    calls = []
    read = text._read
    monkeypatch.setattr(text, "_read", lambda path: calls.append(path) or read(path))
    together = load_newsgroups_splits(path, vocabulary=6, length=5)
    assert calls == [path] and together[0].vocabulary is together[1].vocabulary
    for one, other in zip(alone, together):
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)
        assert one.classes == other.classes and one.vocabulary == other.vocabulary
    with pytest.raises(ValueError, match="split: takes 'train' or 'test', got 'validation'"):
        load_newsgroups_splits(path, ("train", "validation"))


def test_the_same_arguments_give_the_same_tensors(tmp_path):
    path = write(tmp_path / "news.jsonl.gz", ROWS)
    first, second = (load_newsgroups(path, "train", vocabulary=9, length=8) for _ in range(2))
    assert (first.inputs == second.inputs).all() and first.vocabulary == second.vocabulary


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{"], "line 1 should be a JSON object"),
        ([*ROWS, "[1]"], "line 5 should be a JSON object"),
        ([ROWS[0], {"split": "train", "label": "a"}], "line 2 .*'text'"),
        ([{**ROWS[0], "split": "validation"}], "line 1 .*'validation'"),
        ([{**ROWS[0], "split": ["train"]}], "line 1"),
        ([{**ROWS[0], "label": 3}], "line 1 .*strings"),
        (ROWS[:1], "no text of the split 'test'"),
        ([], "no text of the split 'train'"),
    ],
)
def test_files_of_another_form(tmp_path, rows, message):
    path = write(tmp_path / "news.jsonl.gz", rows)
    with pytest.raises(ValueError, match=message) as error:
        load_newsgroups(path)
    assert str(path) in str(error.value)


def test_what_is_no_file_of_texts(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_newsgroups(tmp_path / "none.gz")
    with pytest.raises(ValueError, match="is a directory"):
        load_newsgroups(tmp_path)
    (tmp_path / "plain.gz").write_text(json.dumps(ROWS[0]))
    cut = write(tmp_path / "cut.gz", ROWS).read_bytes()[:-12]
    (tmp_path / "cut.gz").write_bytes(cut)
    (tmp_path / "bytes.gz").write_bytes(gzip.compress(b"\xff\xfe\xff"))
    for name in ("plain.gz", "cut.gz", "bytes.gz"):
        with pytest.raises(ValueError, match=f"{name}: no gzip file"):
            load_newsgroups(tmp_path / name)


def test_bad_arguments(tmp_path):
    path = write(tmp_path / "news.jsonl.gz", ROWS)
    for more, message in (
        ({"split": "val"}, "split: takes 'train' or 'test', got 'val'"),
        ({"length": 0}, "length"),
        ({"vocabulary": 2}, "size: takes a whole number >= 3, got 2"),
        ({"vocabulary": 2.5}, "size"),
    ):
        with pytest.raises(ValueError, match=message):
            load_newsgroups(path, **more)
    with pytest.raises(ValueError, match="distinct"):
        Vocabulary(("a", "a"))


@pytest.mark.slow
def test_the_real_file(real_data):
    path = real_data / "newsgroups20" / "20news_bydate.jsonl.gz"
    train = load_newsgroups(path, "train")
    test = load_newsgroups(path, "test", vocabulary=train.vocabulary)
    assert train.inputs.shape == (11_314, 1000) and test.inputs.shape == (7_532, 1000)
    assert len(train.vocabulary) == 20_000 and len(train.classes) == 20 and train.classes == test.classes
    assert train.labels.bincount(minlength=20).min() > 370 and train.inputs.max() <= 19_999
    assert ((train.inputs == UNKNOWN).sum() / (train.inputs != PADDING).sum()) < 0.1
