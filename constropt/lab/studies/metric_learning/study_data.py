"""Data of a retrieval study: classes to train on, to look at between epochs, and unseen ones to search at the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from constropt.checks import require_number, require_positive, require_whole
from constropt.lab.data.load import load_data
from constropt.lab.data.omniglot import load_omniglot
from constropt.lab.data.retrieval_sets import LAYOUTS, ImageFiles, ImageList
from constropt.lab.models.embedders import Embedder, dimension_of, small_embedder
from constropt.lab.runs.folder import fingerprint
from constropt.lab.runs.specs import known, made_network, parse_recipe, reference_of
from constropt.weights import fill_weights, load_weights

_NETWORK = reference_of(small_embedder)
_JITTERED, _RATIO_KEPT = ("cub", "cars"), ("cub",)  # Sec. 2.5.3.3
Images = Tensor | ImageFiles


@dataclass(frozen=True)
class Samples:
    """``images``, float32 ``(samples, channels, height, width)`` in [0, 1] or files of them; ``labels`` int64."""

    images: Images
    labels: Tensor

    def fingerprint(self) -> str:
        """Of all tensors, or of the paths: equal exactly where two are."""
        if isinstance(self.images, Tensor):
            return fingerprint(self.images, self.labels)
        names = "\n".join(str(path) for path in self.images.paths).encode()
        return fingerprint(torch.frombuffer(bytearray(names), dtype=torch.uint8), self.labels)


@dataclass(frozen=True)
class RetrievalData:
    """Disjoint classes: ``train`` (labels from 0), ``validation``, ``query`` to search for in ``gallery`` or itself."""

    train: Samples
    validation: Samples | None
    query: Samples
    gallery: Samples | None = None

    @property
    def classes(self) -> int:
        """How many are trained on."""
        return int(self.train.labels.max()) + 1

    def fingerprint(self) -> str:
        """Of all parts."""
        parts = [part.fingerprint() for part in (self.train, self.validation, self.query, self.gallery) if part]
        return fingerprint(torch.frombuffer(bytearray("".join(parts).encode()), dtype=torch.uint8))


@dataclass(frozen=True)
class RetrievalSettings:
    """``data``: ``omniglot:DIR``, ``cub:DIR``, ``cars:DIR``, ``sop:DIR`` or ``in-shop:DIR``, else as
    :func:`~constropt.lab.load_data` takes it; in brackets the side of the images, ``omniglot:DIR[size=28]``.

    Classes that no one has seen in training are searched. ``unseen`` is the fraction of the groups for that, drawn by
    the seed of a run: alphabets of Omniglot, classes elsewhere; the four image sets have a split of their own.
    ``validation`` is the fraction of the remaining groups that is not trained on either but looked at after each epoch.
    """

    data: str = "digits"
    unseen: float = 0.4
    validation: float = 0.0

    def __post_init__(self) -> None:
        require_number(0, 1, unseen=self.unseen, validation=self.validation)
        require_positive(unseen=self.unseen)


def retrieval_data(settings: RetrievalSettings, *, seed: int = 0) -> RetrievalData:
    """The split of ``settings`` that belongs to ``seed``. Raises ``ValueError`` for data that is not there or has
    another form, an option that it does not take, and fractions that leave fewer than two classes to train on or to
    search.

    >>> data = retrieval_data(RetrievalSettings("digits"))
    >>> data.classes, sorted(set(data.query.labels.tolist()))
    (6, [0, 1, 2, 3])
    """
    spec = parse_recipe(settings.data)
    kind, _, location = spec.reference.partition(":")
    for option in spec.options:
        known(f"data: option of {kind}", option, {"size": None})
    size = spec.options.get("size")
    if kind in LAYOUTS:
        return _of_files(kind, location, settings, seed, 224 if size is None else size)
    if kind == "omniglot":
        characters = load_omniglot(location, "all", **({} if size is None else {"size": size}))
        names = [name.rpartition("/")[0] for name in characters.classes]
        numbers = {name: number for number, name in enumerate(sorted(set(names)))}
        groups = torch.tensor([numbers[name] for name in names])
        return _divided(Samples(characters.inputs, characters.labels), groups, settings, seed)
    parts = [load_data(spec.reference, split=split) for split in ("train", "test")]
    if size is not None:
        raise ValueError(f"data: {kind} takes no options, got size={size!r}")
    if parts[0].labels.dim() != 1:
        raise ValueError(f"data: takes images with one class each, {kind} has one per pixel")
    same = parts[0].labels.equal(parts[1].labels) and parts[0].inputs.equal(parts[1].inputs)
    found = parts[:1] if same else parts
    labels = torch.cat([part.labels for part in found])
    whole = Samples(torch.cat([part.inputs for part in found]), labels)
    return _divided(whole, torch.arange(int(labels.max()) + 1), settings, seed)


def _divided(samples: Samples, groups: Tensor, settings: RetrievalSettings, seed: int) -> RetrievalData:
    """Whole groups of classes to each part; ``groups[class]`` is the group of a class."""
    order = torch.randperm(int(groups.max()) + 1, generator=torch.Generator().manual_seed(seed))
    unseen = max(1, round(settings.unseen * len(order)))
    held_out = _share(settings.validation, len(order) - unseen)
    parts = order[:unseen], order[unseen : unseen + held_out], order[unseen + held_out :]
    query, validation, train = (_of_classes(samples, torch.isin(groups, part).nonzero().flatten()) for part in parts)
    return _checked(RetrievalData(train, validation if held_out else None, query), settings)


def _share(fraction: float, count: int) -> int:
    """So many of ``count``: at least one, unless the fraction is 0."""
    return max(1, round(fraction * count)) if fraction else 0


def _of_classes(samples: Samples, classes: Tensor) -> Samples:
    """The samples of some ``classes``, numbered from 0 in their order."""
    rows = torch.isin(samples.labels, classes).nonzero().flatten()
    return Samples(samples.images[rows], torch.searchsorted(classes, samples.labels[rows]))


def _of_files(kind: str, location: str, settings: RetrievalSettings, seed: int, size: Any) -> RetrievalData:
    require_whole(**{"data: size": size})
    found = LAYOUTS[kind](location)
    looks: dict[str, Any] = {"size": size, "resize": round(size * 256 / 224), "keep_ratio": kind in _RATIO_KEPT}

    def samples(part: ImageList, rows: Tensor, **more: Any) -> Samples:
        labels = part.labels[rows].unique(return_inverse=True)[1]
        return Samples(ImageFiles([part.paths[row] for row in rows.tolist()], **looks, **more), labels)

    train = found.train
    order = torch.randperm(int(train.labels.max()) + 1, generator=torch.Generator().manual_seed(seed))
    held_out = torch.isin(train.labels, order[: _share(settings.validation, len(order))])
    data = RetrievalData(
        samples(train, (~held_out).nonzero().flatten(), random=True, jitter=kind in _JITTERED),
        samples(train, held_out.nonzero().flatten()) if bool(held_out.any()) else None,
        Samples(ImageFiles(found.query.paths, **looks), found.query.labels),
        None if found.gallery is None else Samples(ImageFiles(found.gallery.paths, **looks), found.gallery.labels),
    )
    return _checked(data, settings)


def _checked(data: RetrievalData, settings: RetrievalSettings) -> RetrievalData:
    for name, part in (("train", data.train), ("validation", data.validation), ("query", data.query)):
        classes = 2 if part is None else len(part.labels.unique())
        if classes < 2:
            found = f"{settings.data} leaves {classes} class for {name}, and at least 2 are needed"
            cure = f"change unseen = {settings.unseen} or validation = {settings.validation}"
            raise ValueError(f"unseen, validation: {found}; {cure}")
    return data


def build_embedder(
    model: str | None, data: RetrievalData, *, weights: Path | None = None, head_norm: bool = True,
    frozen: bool = False, seed: int = 0,
) -> Embedder:  # fmt: skip
    """The network of a run with the initial weights of ``seed``; the global generator is left as it was.

    ``model`` is ``module:factory`` or ``module:factory[KEY=VALUE,...]`` of a feature extractor, as
    ``timm:create_model[model_name=resnet50,pretrained=true,num_classes=0]``; the factory gets ``channels`` and
    ``image_size`` where it takes them. Default: :func:`~constropt.lab.models.embedders.small_embedder`. ``weights`` is
    a file for it. Raises ``ValueError`` for what can't be called so, and weights that do not fit.
    """
    spec = parse_recipe(model or _NETWORK)
    image = data.train.images[torch.arange(1)][0]
    available = {"channels": image.shape[0], "in_channels": image.shape[0], "image_size": image.shape[-1]}
    features = made_network(spec, available, seed)
    if weights is not None:
        fill_weights(features, load_weights(weights), f"weights: {weights} does not fit {spec.label}")
    return Embedder(features, dimension_of(features, image), head_norm=head_norm, frozen=frozen)


def describe_network(model: str | None) -> str:
    """The canonical text of the network that :func:`build_embedder` makes."""
    return str(parse_recipe(model or _NETWORK))
