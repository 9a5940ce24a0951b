"""Reference implementations that benchmarks compare with; development only, never imported by constropt."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn


def adv_lib(path: str | None = None) -> None:
    """Make adv_lib importable (``pip install --no-deps adv-lib``, or the folder that holds it).

    It imports torchvision and visdom only for what is not used here: empty stand-ins take their place when absent.
    """
    if path is not None:
        sys.path.insert(0, str(Path(path).resolve()))
    stand_ins("visdom", "torchvision", "torchvision.models", "torchvision.transforms")


def stand_ins(*names: str) -> None:
    """Put empty modules in the place of those that a peer imports, that are absent, and that are not used here."""
    for name in names:
        try:
            __import__(name)
        except Exception:  # torchvision raises RuntimeError when it does not fit the torch at hand
            sys.modules[name] = _StandIn(name)


class _StandIn(types.ModuleType):
    """A module that has every name, all of them empty: only imported from, never called."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def official_alma(distance: str, first_step: float, ema: Callable[[int], float]) -> Callable[..., Tensor]:
    """The authors' ALMA with the paper's settings: ``attack(model, inputs, labels, steps) -> perturbed inputs``."""
    from adv_lib.attacks.augmented_lagrangian import alma

    def attack(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> Tensor:
        return alma(
            model, inputs, labels, num_steps=steps, distance=distance, init_lr_distance=first_step, α=ema(steps)
        )

    return attack


def official_ddn(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> Tensor:
    """The authors' DDN without quantisation."""
    from adv_lib.attacks.decoupled_direction_norm import ddn

    return ddn(model, inputs, labels, steps=steps, levels=None)


def official_alma_prox(size: float) -> Callable[..., Tensor]:
    """The authors' ALMA prox with a first step of ``size``: ``attack(model, inputs, classes, masks, targeted, steps)``.

    ``classes`` are the labels, or the targets if ``targeted``. Pixels out of ``masks`` may hold any class.
    """
    from adv_lib.attacks.segmentation.alma_prox import alma_prox

    def attack(model: nn.Module, inputs: Tensor, classes: Tensor, masks: Tensor, targeted: bool, steps: int) -> Tensor:
        return alma_prox(model, inputs, classes, masks=masks, targeted=targeted, num_steps=steps, lr_init=size, α=0.8)

    return attack
