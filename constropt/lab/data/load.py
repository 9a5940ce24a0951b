"""Data sets by a short specification: images as float32 in [0, 1] and integer labels, all in memory."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from constropt.lab.data import readers
from constropt.lab.data.readers import LabelledData, existing_file, require_split
from constropt.lab.data.scenes import digit_scenes, load_camvid

_SCENES = {"train": 500, "test": 100}


@dataclass(frozen=True)
class DataFormat:
    """A kind of data set: the ``form`` of its specification, what it is in a line of ``help``, and its reader.

    ``read(location, split)`` returns images ``(samples, height, width)`` or with channels, first or last, uint8 or
    floats in [0, 1], and integer labels, one per image or pixel. ``location`` is what stands after the colon of the
    specification; a ``form`` without a colon takes none.
    """

    form: str
    help: str
    read: Callable[[str, str], tuple[np.ndarray, np.ndarray]]

    @property
    def name(self) -> str:
        """What a specification of this kind begins with."""
        return self.form.partition(":")[0]


FORMATS: dict[str, DataFormat] = {}
KINDS: dict[str, str] = {}  # the help of each form


def add_format(format: DataFormat) -> DataFormat:
    """Make a kind of data known to :func:`load_data` and the command line; ``ValueError`` for a taken name."""
    if format.name in FORMATS:
        raise ValueError(f"format: the kind {format.name!r} is there already; give it another name")
    FORMATS[format.name], KINDS[format.form] = format, format.help
    return format


def load_data(spec: str, *, split: str = "test") -> LabelledData:
    """The ``split`` ("train" or "test") of the data set that ``spec`` names (see :data:`KINDS`).

    A file that holds one set only (keys ``images``/``labels``, safetensors) is returned whatever the split. Raises
    ``ValueError`` for an unknown kind (naming the known ones), a missing file (naming what was looked for) or contents
    of the wrong shape or range, and :class:`MissingExtra` where scikit-learn is needed and absent.

    >>> inputs, labels = load_data("digits")
    >>> inputs.shape, inputs.dtype, labels.shape
    (torch.Size([500, 1, 8, 8]), torch.float32, torch.Size([500]))
    """
    require_split(split)
    kind, _, location = spec.partition(":")
    if kind not in FORMATS:
        known = "; ".join(f"{name} ({text})" for name, text in KINDS.items())
        raise ValueError(f"data: unknown kind {kind!r} in {spec!r}; known are {known}")
    if bool(location) != (":" in FORMATS[kind].form):
        raise ValueError(f"data: {spec!r} should read {FORMATS[kind].form}")
    return _checked(spec, *FORMATS[kind].read(location, split))


def _idx(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = readers.find_idx(Path(location), split)
    return readers.read_idx(images), readers.read_idx(labels)


def _npz(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    path = existing_file(location)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _pick(path, arrays, split, "images", "labels")
    except (zipfile.BadZipFile, AttributeError, EOFError, TypeError) as error:
        raise ValueError(f"{path}: no npz file ({error})") from None


def _cifar10(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _npz(location, split)
    if images.ndim != 4 or sorted(images.shape[1:]) != [3, 32, 32]:
        raise ValueError(f"{location}: CIFAR-10 images are 32x32 in color, got an array of shape {images.shape}")
    return images, labels


def _safetensors(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    path = existing_file(location)
    try:
        return _pick(path, load_file(path), split, "inputs", "labels")
    except SafetensorError as error:
        raise ValueError(f"{path}: no safetensors file ({error})") from None


def _scenes(location: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    scenes = load_camvid(location, split) if location else digit_scenes(_SCENES[split], split=split)
    return scenes.inputs.numpy(), scenes.labels.numpy()


def _pick(path: Path, arrays: Mapping[str, np.ndarray], split: str, *names: str) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays under the names of the split, else under the plain ``names``."""
    tried = [f"{split}_{name}" for name in names], names
    for images, labels in tried:
        if images in arrays and labels in arrays:
            return arrays[images], arrays[labels]
    looked = ", or ".join(" and ".join(pair) for pair in tried)
    raise ValueError(f"{path}: looked for {looked}; it holds {', '.join(sorted(arrays)) or 'nothing'}")


def _checked(spec: str, images: np.ndarray, labels: np.ndarray) -> LabelledData:
    """As tensors, channels second, bytes divided by 255; everything that an evaluation relies on verified once."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = np.moveaxis(images, 3, 1)
    if images.ndim != 4:
        raise ValueError(f"data {spec!r}: images must be (N, H, W) or (N, C, H, W), got shape {images.shape}")
    if len(images) == 0 or labels.shape not in (images.shape[:1], (len(images), *images.shape[2:])):
        raise ValueError(f"data {spec!r}: takes one label per image or pixel, got {labels.shape} for {images.shape}")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"data {spec!r}: labels must be integers >= 0, got {labels.dtype} from {labels.min()}")
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    elif images.dtype.kind != "f":
        raise ValueError(f"data {spec!r}: images must be uint8 or floating point, got {images.dtype}")
    inputs = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    low, high = inputs.min().item(), inputs.max().item()
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        raise ValueError(f"data {spec!r}: images must lie in [0, 1], got values from {low:g} to {high:g}")
    return LabelledData(inputs, torch.from_numpy(labels.astype(np.int64)))


for _form, _read, _help in (
    ("digits", readers.read_digits, "the 1,797 8x8 digits embedded in scikit-learn; the last 500 are the test split"),
    ("mnist:DIR", _idx, "IDX files train-* and t10k-*, gzip or not"),
    ("fashion-mnist:DIR", _idx, "the same for Fashion-MNIST"),
    ("idx:DIR", _idx, "the same for any other set"),
    ("npz:FILE", _npz, "keys images, labels or {train,test}_images, {train,test}_labels; uint8, or floats in [0, 1]"),
    ("cifar10:FILE", _cifar10, "an npz file of 32x32 color images"),
    ("safetensors:FILE", _safetensors, "tensors inputs and labels"),
    ("scenes", _scenes, "colored digits on 64x64 backgrounds with a label per pixel, 500 to train and 100 to test"),
    ("hf:NAME", readers.load_huggingface, "a Hugging Face data set of images and labels, or a save_to_disk folder"),
    ("camvid:DIR", _scenes, "CamVid's road scenes, a label per pixel: {train,test}/*.png and {train,test}annot/*.png"),
):
    add_format(DataFormat(_form, _help, _read))
