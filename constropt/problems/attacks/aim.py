"""What is attacked, one object: checked before the first model call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from constropt.checks import got, require_rows
from constropt.modes import normal

# The label of pixels without a class in most segmentation data.
IGNORE_INDEX = 255

# The fraction of the pixels of a dense prediction that must be fooled (Sec. 5.5.3).
NU = 0.99


def check_inputs(inputs: Tensor, bounds: tuple[float, float]) -> None:
    """``TypeError``/``ValueError`` unless the inputs are finite floats within the bounds."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() < 2:
        takes = f"a floating point tensor of shape (batch, *event), got {got(inputs)}"
        raise TypeError(f"inputs: takes {takes}; divide 8-bit images by 255")
    lower, upper = bounds
    if not lower < upper:
        raise ValueError(f"bounds: takes (lower, upper) with lower < upper, got {bounds}")
    require_rows(inputs.isfinite().flatten(1).all(1), "inputs: takes finite values, got NaN or infinity")
    low, high = float(inputs.min()), float(inputs.max())
    if low < lower or high > upper:
        cure = "put any normalisation inside the model, or pass bounds=(lower, upper)"
        raise ValueError(f"inputs: must lie within bounds={bounds}, got values from {low:.6g} to {high:.6g}; {cure}")


@dataclass(frozen=True, eq=False)
class Aim:
    """What is attacked: true classes, classes to be reached (or None), and which entries count (None: all).

    For a classifier ``labels`` is ``(batch,)``, for dense predictions ``(batch, *pixels)``. Where an entry does not
    count, labels and targets are 0, so that they can index logits everywhere. ``largest`` is the largest class named,
    ``nu`` the fraction of a row's counted entries that must be fooled.
    """

    labels: Tensor
    targets: Tensor | None
    counted: Tensor | None
    largest: int
    nu: float = 1.0

    @property
    def dense(self) -> bool:
        return self.labels.dim() > 1

    @classmethod
    def of(
        cls,
        inputs: Tensor,
        labels: Tensor,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        nu: float | None = None,
    ) -> Aim:
        """The aim, its arguments checked; ``nu`` is 0.99 by default for dense predictions, 1 for one entry a row.

        Raises ``ValueError`` for labels, targets or a mask of a wrong type, shape, device or sign; for targets that
        equal the labels; and for rows of which no entry counts.
        """
        for name, classes in (("labels", labels), ("targets", targets)):
            if classes is not None:
                _check_classes(name, classes, inputs, labels, ignore_index)
        labels, targets = normal(labels), None if targets is None else normal(targets)
        if labels.dim() == 1:
            if mask is not None:
                raise ValueError("mask: is for dense labels, (batch, *pixels); leave rows of a classifier out instead")
            if targets is not None:
                what = "targets: must differ from labels, got the label itself"
                require_rows(targets != labels, what, "labels are always the true classes")
            return cls(labels, targets, None, _largest(labels, targets), 1.0 if nu is None else nu)
        counted = _counted(labels, targets, mask, ignore_index)
        if targets is not None:
            what, cure = "targets: equal the labels at every counted pixel", "leave these rows out, or choose others"
            require_rows((counted & (targets != labels)).flatten(1).any(1), what, cure)
            targets = torch.where(counted, targets, 0)
        labels = torch.where(counted, labels, 0)
        return cls(labels, targets, counted, _largest(labels, targets), NU if nu is None else nu)

    def per_label(self, value: Any, name: str) -> Tensor:
        """``value``; ``ValueError`` unless it is one per label."""
        if not isinstance(value, Tensor) or value.shape != self.labels.shape:
            raise ValueError(f"{name}: must return one value per label, {tuple(self.labels.shape)}, got {got(value)}")
        return value

    def check(self, logits: Any, x: Tensor) -> None:
        """``ValueError`` unless the model's output at ``x``, perhaps some rows, is floats ``(batch, K, *pixels)``."""
        rows, pixels = x.shape[0], self.labels.shape[1:]
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
        if len(shape) < 2 or shape[1] < 2 or (shape[0], *shape[2:]) != (rows, *pixels):
            takes, cure = f"(batch, classes) = ({rows}, >= 2)", ""
            if self.dense:
                takes = f"(batch, classes, *pixels) = ({rows}, >= 2, {', '.join(map(str, pixels))})"
                cure = "; wrap it in constropt.problems.adapters.DenseLogits"
            raise ValueError(f"model: must return logits of shape {takes}, got {got(logits)}{cure}")
        if not logits.is_floating_point():
            raise ValueError(f"model: must return floating point logits, got {logits.dtype}")
        if self.largest >= logits.shape[1]:
            cure = "; give void pixels the ignore_index, or leave them out by mask" if self.dense else ""
            found = f"class {self.largest} among labels or targets, but the model has {logits.shape[1]} classes"
            raise ValueError(f"labels: {found}{cure}")


def _check_classes(name: str, classes: Tensor, inputs: Tensor, labels: Tensor, ignore_index: int) -> None:
    fits = isinstance(classes, Tensor) and classes.dtype == torch.int64 and classes.shape[:1] == inputs.shape[:1]
    if not fits or classes.dim() > 1 and inputs.shape[2:] != classes.shape[1:] or classes.shape != labels.shape:
        dense = f" (or {(inputs.shape[0], *inputs.shape[2:])} for dense predictions)" if inputs.dim() > 2 else ""
        shape = f"(batch,) = ({inputs.shape[0]},){dense}"
        raise ValueError(f"{name}: takes int64 class indices of shape {shape}, got {got(classes)}")
    if classes.device != inputs.device:
        raise ValueError(f"{name}: must be on the device of the inputs, {inputs.device}, got {classes.device}")
    wrong = (classes < 0) & (classes != ignore_index) if classes.dim() > 1 else classes < 0
    if bool(wrong.any()):
        raise ValueError(f"{name}: takes class indices >= 0, got {int(classes.min())}")


def _counted(labels: Tensor, targets: Tensor | None, mask: Tensor | None, ignore_index: int) -> Tensor:
    """Which pixels count: those of the mask whose label (and target) is not ``ignore_index``."""
    counted = labels != ignore_index
    if targets is not None:
        counted &= targets != ignore_index
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != labels.shape:
            raise ValueError(f"mask: takes booleans of the labels' shape {tuple(labels.shape)}, got {got(mask)}")
        counted = counted & normal(mask).to(labels.device)
    cure = f"all are left out by the mask or labelled ignore_index={ignore_index}; leave these rows out"
    require_rows(counted.flatten(1).any(1), "mask: no pixel counts", cure)
    return counted


def _largest(labels: Tensor, targets: Tensor | None) -> int:
    # read once: the number of classes is known only from the first output, and a step must not synchronise
    return max(int(classes.max()) for classes in (labels, targets) if classes is not None)
