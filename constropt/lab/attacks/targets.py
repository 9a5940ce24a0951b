"""Which class a targeted attack should reach: for every sample, or for every pixel of it."""

from collections.abc import Callable

import torch
from torch import Tensor

from constropt.checks import are_whole


def choose_targets(kind: str, labels: Tensor, num_classes: int, *, seed: int = 0) -> Tensor:
    """Targets ``(samples,)`` other than ``labels``: the "next" class, a "random" one, one by number, or "+k" after it.
    Raises ``ValueError`` for another ``kind``, a class that does not exist, or one that is the label of a sample.

    >>> choose_targets("next", torch.tensor([0, 1, 2]), 3)
    tensor([1, 2, 0])
    """
    if num_classes < 2:
        raise ValueError(f"targets: need a model with at least two classes, it has {num_classes}")
    if kind == "next":
        return (labels + 1) % num_classes
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        offsets = torch.randint(1, num_classes, labels.shape, generator=generator)
        return (labels + offsets.to(labels.device)) % num_classes
    if kind[:1] == "+" and kind[1:].isdecimal() and 0 < int(kind[1:]) < num_classes:
        return (labels + int(kind[1:])) % num_classes
    if not kind.isdecimal() or int(kind) >= num_classes:
        end = num_classes - 1
        raise ValueError(f"targets: takes 'next', 'random', '+1' to '+{end}' or a class from 0 to {end}, got {kind!r}")
    own = int((labels == int(kind)).sum())
    if own:
        raise ValueError(f"targets: {own} of the samples have label {kind} already; take 'next', or data without them")
    return torch.full_like(labels, int(kind))


def dense_targets(kind: str, labels: Tensor, others: Callable[[], Tensor], *, ignore_index: int = 255) -> Tensor:
    """Target label maps ``(samples, height, width)`` by name. "7": that class everywhere (:func:`constant_target`);
    "majority": each pixel's most frequent label in the maps that ``others()`` returns (:func:`majority_target`);
    "erase:7": the nearest other class in place of class 7 (:func:`nearest_neighbour_target`); "8,9=3": class 3 in place
    of classes 8 and 9. Ignored pixels stay ignored. Raises ``ValueError`` for anything else.

    >>> dense_targets("8,9=3", torch.tensor([[[8, 1], [9, 255]]]), others=list)
    tensor([[[  3,   1],
             [  3, 255]]])
    """
    erased, equals, new = kind.partition("=")
    if kind.isdecimal():
        chosen = constant_target(labels, int(kind))
    elif kind == "majority":
        chosen = repeated_target(labels, majority_target(others(), ignore_index=ignore_index))
    elif kind.startswith("erase:") and kind[6:].isdecimal():
        chosen = nearest_neighbour_target(labels, erase=int(kind[6:]), ignore_index=ignore_index)
    elif equals and new.isdecimal() and all(c.isdecimal() for c in erased.split(",")):
        classes = torch.tensor([int(c) for c in erased.split(",")], device=labels.device)
        chosen = torch.where(torch.isin(labels, classes), int(new), labels)
    else:
        raise ValueError(f"targets: dense labels take a class, 'majority', 'erase:CLASS' or 'A,B=C', got {kind!r}")
    return torch.where(labels == ignore_index, ignore_index, chosen)


def constant_target(labels: Tensor, target: int) -> Tensor:
    """Label maps like ``labels``, ``(batch, height, width)``, that are ``target`` everywhere, such as the background;
    pixels that have the label already count as reached. Raises ``ValueError`` for a negative class.

    >>> constant_target(torch.tensor([[[3, 1]]]), 0)
    tensor([[[0, 0]]])
    """
    if target < 0:
        raise ValueError(f"target: takes a class >= 0, got {target}")
    return torch.full_like(labels, target)


def repeated_target(labels: Tensor, label_map: Tensor) -> Tensor:
    """The one ``label_map`` ``(height, width)`` for every image of ``labels`` ``(batch, height, width)``. Raises
    ``ValueError`` for a map of another size, ``TypeError`` for one that is not of integers.

    >>> repeated_target(torch.zeros(2, 1, 2, dtype=torch.long), torch.tensor([[4, 5]])).tolist()
    [[[4, 5]], [[4, 5]]]
    """
    if label_map.shape != labels.shape[1:]:
        raise ValueError(f"label_map: takes shape {tuple(labels.shape[1:])}, got {tuple(label_map.shape)}")
    if not are_whole(label_map):
        raise TypeError(f"label_map: takes integers, got {label_map.dtype}")
    return label_map.to(labels).expand_as(labels).clone()


def majority_target(label_maps: Tensor, *, ignore_index: int = 255) -> Tensor:
    """The most frequent label of each pixel, ``(height, width)``, over ``label_maps`` ``(samples, height, width)``. Of
    labels as frequent the smallest is taken; a pixel that is ``ignore_index`` in every map stays so. This is the target
    of the thesis (section 5.5.4) before its smoothing by hand. Raises ``ValueError`` without a sample.

    >>> majority_target(torch.tensor([[[1, 255]], [[2, 255]], [[2, 255]]]))
    tensor([[  2, 255]])
    """
    if label_maps.dim() != 3 or label_maps.shape[0] == 0:
        raise ValueError(f"label_maps: takes (samples, height, width), got shape {tuple(label_maps.shape)}")
    best = torch.full_like(label_maps[0], ignore_index)
    most = torch.zeros_like(best)
    for label in label_maps.unique().tolist():  # ascending, so that of equals the smaller stays
        count = (label_maps == label).sum(0)
        ahead = (count > most) & (label != ignore_index)
        best, most = torch.where(ahead, label, best), torch.where(ahead, count, most)
    return best


def nearest_neighbour_target(labels: Tensor, *, erase: int, ignore_index: int = 255) -> Tensor:
    """``labels`` ``(batch, height, width)`` without the class ``erase``: its pixels get the label of the nearest other.

    Nearest in the image plane (Euclidean, between pixel centers) among pixels of another counted class (Fischer et al.
    2017; thesis section 5.5.4); of equally near ones, that of the leftmost column, then the upper. ``ignore_index``
    stays. Takes time ``width`` x erased pixels. Raises ``ValueError`` for an image where only the erased class counts.

    >>> nearest_neighbour_target(torch.tensor([[[1, 7, 7, 7, 2, 255]]]), erase=7)
    tensor([[[  1,   1,   1,   2,   2, 255]]])
    """
    if labels.dim() != 3:
        raise ValueError(f"labels: takes (batch, height, width), got shape {tuple(labels.shape)}")
    erased = labels == erase
    sources = ~erased & (labels != ignore_index)
    empty = (erased.flatten(1).any(1) & ~sources.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"erase: images {empty[:5]} have no pixel of another class than {erase}")
    row = _nearest_row(sources)
    columns = torch.arange(labels.shape[2], device=labels.device)
    target = labels.clone()
    for pixels in erased.nonzero().split(4096):  # a pixel needs a few kilobytes
        image, y, x = pixels.unbind(1)
        candidates = row[image, y]
        squared = (candidates - y[:, None]).square() + (columns - x[:, None]).square()
        # argmin takes any of equals where torch does not promise the first: the column decides
        column = (squared * len(columns) + columns).argmin(1)
        target[image, y, x] = labels[image, candidates.gather(1, column[:, None])[:, 0], column]
    return target


def _nearest_row(sources: Tensor) -> Tensor:
    """Per pixel of ``(batch, height, width)``, the row of the nearest source in its column, the upper of two as near;
    beyond any distance inside the image where the column has none.
    """
    height, width = sources.shape[1:]
    far = 4 * (height + width)
    rows = torch.arange(height, device=sources.device)[:, None]
    above = torch.where(sources, rows, -far).cummax(1).values
    below = torch.where(sources, rows, far).flip(1).cummin(1).values.flip(1)
    return torch.where(rows - above <= below - rows, above, below)
