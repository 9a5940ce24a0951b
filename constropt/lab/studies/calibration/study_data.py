"""Data of a calibration study: one split into training, held-out and test part by seed, the same for every method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt.checks import require_whole
from constropt.lab.data.load import load_data
from constropt.lab.data.omniglot import load_omniglot
from constropt.lab.data.readers import LabelledData
from constropt.lab.data.scenes import IGNORED
from constropt.lab.data.text import Vocabulary, load_newsgroups_splits
from constropt.lab.models.calibration import deeplab, gpcn, small_resnet18
from constropt.lab.runs.folder import fingerprint
from constropt.lab.runs.specs import RecipeSpec, made_network, parse_recipe, reference_of
from constropt.problems.calibration.samples import held_out, long_tailed

# by kind of data
_DEFAULT_NETWORKS = {"image": reference_of(small_resnet18), "dense": reference_of(deeplab), "text": reference_of(gpcn)}
_OWN_OPTIONS = {"newsgroups": ("length", "vocabulary", "headers")}  # options of a kind of data; of all others: size


@dataclass(frozen=True)
class StudyData:
    """The parts of a split. ``kind``: "image", "dense" (a label per pixel), "text" (``vocabulary`` word numbers)."""

    train: LabelledData
    held_out: LabelledData
    test: LabelledData
    kind: str
    classes: int
    ignore_index: int = -100
    vocabulary: int = 0

    def fingerprint(self) -> str:
        """Of all tensors: equal exactly where two splits are."""
        return fingerprint(*self.train, *self.held_out, *self.test)

    def network(self, model: str | None) -> RecipeSpec:
        """What :func:`build_network` makes of ``model``: the factory and its options."""
        return parse_recipe(model or _DEFAULT_NETWORKS[self.kind])


@dataclass(frozen=True)
class DataSettings:
    """``data`` as :func:`~constropt.lab.load_data` takes it, or ``omniglot:DIR``, or ``newsgroups:FILE``; then in
    brackets ``size``, the side or the [height, width] that images are scaled to, by averages over areas, or ``length``,
    ``vocabulary`` and ``headers`` of texts: ``omniglot:DIR[size=20]``.

    ``test`` is where test samples come from, if elsewhere. ``samples`` limits what there is to train on and hold out,
    class by class in proportion, ``test_samples`` the test part. Of the samples to train on, ``held_out`` is held out:
    a fraction of each class if under 1, so many of each class else. ``long_tail`` then thins the rest out: the ratio of
    the largest class to the smallest.
    """

    data: str = "digits"
    test: str | None = None
    held_out: float = 0.2
    long_tail: float | None = None
    samples: int | None = None
    test_samples: int | None = None

    def __post_init__(self) -> None:
        if not self.held_out > 0 or (self.held_out >= 1 and self.held_out != int(self.held_out)):
            takes = f"takes a fraction of each class, > 0 and < 1, or how many of each, got {self.held_out!r}"
            cure = "temperatures and multipliers are fitted to the held-out part, so it can't be empty"
            raise ValueError(f"held_out: {takes}; {cure}")
        if self.long_tail is not None and not self.long_tail >= 1:
            takes = f"takes the ratio of the largest class to the smallest, >= 1, got {self.long_tail!r}"
            raise ValueError(f"long_tail: {takes}")
        given = {"samples": self.samples, "test_samples": self.test_samples}
        require_whole(**{name: count for name, count in given.items() if count is not None})


@dataclass(frozen=True)
class StudyPools:
    """The data of ``settings`` before it is split: ``pool``, to train on and hold out, and the test part, the same for
    every seed; the rest as in :class:`StudyData`. Made by :func:`load_pools`.
    """

    settings: DataSettings
    pool: LabelledData
    test: LabelledData
    kind: str
    classes: int
    ignore_index: int
    vocabulary: int

    def split(self, seed: int) -> StudyData:
        """The split of ``seed``; ``ValueError`` for a held-out part that is empty or takes a whole class."""
        pool = _fewer(self.pool, self.settings.samples, seed)
        rows = _split(pool.labels, self.settings.held_out, seed)
        train, kept = (LabelledData(pool.inputs[part], pool.labels[part]) for part in rows)
        if self.settings.long_tail is not None:
            tail = long_tailed(train.labels, ratio=self.settings.long_tail, seed=seed)
            train = LabelledData(train.inputs[tail], train.labels[tail])
        return StudyData(train, kept, self.test, self.kind, self.classes, self.ignore_index, self.vocabulary)


def study_data(settings: DataSettings, *, seed: int = 0) -> StudyData:
    """The split of ``settings`` that belongs to ``seed``; for several seeds split what :func:`load_pools` returns.
    Raises ``ValueError`` for data that is not there or has another form, an option that it does not take, a test part
    that is the training part, and a held-out part that is empty or takes a whole class.
    """
    return load_pools(settings).split(seed)


def load_pools(settings: DataSettings) -> StudyPools:
    """The data of ``settings``, read once for the splits of all seeds; raises as :func:`study_data` but for those."""
    if settings.test is None:
        (pool, test), kind, vocabulary = _load(settings.data, ("train", "test"))
    else:
        (pool,), kind, vocabulary = _load(settings.data, ("train",))
        options = parse_recipe(settings.data).options
        (test,), test_kind, _ = _load(settings.test, ("test",), options=options, vocabulary=vocabulary)
        if test_kind != kind or test.inputs.shape[1:] != pool.inputs.shape[1:]:
            shapes = f"{tuple(pool.inputs.shape[1:])} and {tuple(test.inputs.shape[1:])}"
            raise ValueError(f"test: takes samples as those to train on, got {kind} and {test_kind} of shapes {shapes}")
    if fingerprint(*pool) == fingerprint(*test):
        raise ValueError(f"test: {settings.data} is one set, not split; say where the test samples are")
    if settings.long_tail is not None and kind == "dense":
        raise ValueError("long_tail: takes one label per sample, and this data has one per pixel")
    ignored = IGNORED if kind == "dense" else -100
    classes = 1 + max(int(part.labels[part.labels != ignored].max()) for part in (pool, test))
    test, words = _fewer(test, settings.test_samples, 0), 0 if vocabulary is None else len(vocabulary)
    return StudyPools(settings, pool, test, kind, classes, ignored, words)


def _split(labels: Tensor, part: float, seed: int) -> tuple[Tensor, Tensor]:
    groups = _groups(labels)
    rows = held_out(groups, fraction=part, seed=seed) if part < 1 else held_out(groups, per_class=int(part), seed=seed)
    if not len(rows.held_out) or not len(rows.train):
        found = f"of {len(labels)} samples {len(rows.held_out)} would be held out"
        raise ValueError(f"held_out: {found}; take more samples")
    return rows


def _groups(labels: Tensor) -> Tensor:
    """What a split keeps the proportions of: the labels, or nothing where they are maps."""
    return labels if labels.dim() == 1 else torch.zeros(len(labels), dtype=torch.int64)


def _fewer(data: LabelledData, samples: int | None, seed: int) -> LabelledData:
    """About so many ``samples`` in all, of each class in proportion; all where there are no more."""
    if samples is None or samples >= len(data.labels):
        return data
    rows = held_out(_groups(data.labels), fraction=samples / len(data.labels), seed=seed).held_out
    return LabelledData(data.inputs[rows], data.labels[rows])


def _load(
    text: str, splits: Sequence[str], options: Any = None, vocabulary: Vocabulary | None = None
) -> tuple[list[LabelledData], str, Vocabulary | None]:
    """The ``splits`` of the data that ``text`` names, its kind, and the words of texts: ``vocabulary`` if given."""
    spec = parse_recipe(text)
    options = dict(spec.options or options or {})
    kind, _, location = spec.reference.partition(":")
    takes = _OWN_OPTIONS.get(kind, ("size",))
    wrong = [name for name in options if name not in takes]
    if wrong:
        raise ValueError(f"data: {kind} takes the options {', '.join(takes)}, got {wrong[0]} in {text!r}")
    if kind == "newsgroups":
        options |= {} if vocabulary is None else {"vocabulary": vocabulary}
        texts = load_newsgroups_splits(location, splits, **options)
        return [LabelledData(part.inputs, part.labels) for part in texts], "text", texts[0].vocabulary
    if kind == "omniglot":
        characters = [load_omniglot(location, split, **options) for split in splits]
        return [LabelledData(part.inputs, part.labels) for part in characters], "image", None
    found = [load_data(spec.reference, split=split) for split in splits]
    if options.get("size") is not None:
        found = [_scaled(part, options["size"]) for part in found]
    return found, "image" if found[0].labels.dim() == 1 else "dense", None


def _scaled(data: LabelledData, size: Any) -> LabelledData:
    """Images scaled by averages over areas, label maps by the nearest pixel."""
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides):
        raise ValueError(f"data: size takes a side or [height, width] in whole pixels, got {size!r}")
    labels = data.labels
    if labels.dim() > 1:
        labels = functional.interpolate(labels[:, None].float(), size=sides, mode="nearest-exact")[:, 0].long()
    return LabelledData(functional.interpolate(data.inputs, size=sides, mode="area"), labels)


def build_network(model: str | None, data: StudyData, *, seed: int) -> nn.Module:
    """A network for ``data`` with the initial weights of ``seed``; the global generator is left as it was.

    ``model`` is ``module:factory`` or ``module:factory[KEY=VALUE,...]``; the factory gets those of ``num_classes`` (or
    ``classes``), ``channels``, ``image_size`` and ``vocabulary`` that it takes. Without, a small ResNet for images, a
    DeepLab for label maps, a GPCN for texts. A factory that takes anything needs all of it in the brackets:
    ``timm:create_model[model_name=resnet18,num_classes=10]``. Raises ``ValueError`` for what can't be called so.
    """
    spec = data.network(model)
    available: dict[str, Any] = {"num_classes": data.classes, "classes": data.classes}
    if data.kind == "text":
        available["vocabulary"] = data.vocabulary
    else:
        _, channels, height, _ = data.train.inputs.shape
        available |= {"channels": channels, "in_channels": channels, "image_size": height}
    return made_network(spec, available, seed)
