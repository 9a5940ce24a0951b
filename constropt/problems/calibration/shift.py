"""Calibration under shift: the ECE of a model whose inputs get noisier, as on ImageNet-C (Table V-3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.modes import evaluating
from constropt.problems.calibration.metrics import expected_calibration_error

# Standard deviations of ImageNet-C's Gaussian noise, of images in [0, 1], by severity (Hendrycks & Dietterich, 2019).
GAUSSIAN_NOISE = {1: 0.08, 2: 0.12, 3: 0.18, 4: 0.26, 5: 0.38}


def gaussian_noise(inputs: Tensor, severity: int, *, seed: int = 0) -> Tensor:
    """``inputs`` ``(batch, *event)`` in [0, 1] plus Gaussian noise of the ``severity``, clipped to [0, 1].

    Severities 1 to 5 are ImageNet-C's; 0 leaves the inputs as they are. The noise depends on ``seed`` alone, not on the
    device, and grows with the severity without changing its pattern; the global generator stays as it is. ImageNet-C
    also rounds to 8 bits and compresses, which is not done here. Raises ``ValueError`` for another severity, inputs
    outside of [0, 1] and NaN.

    >>> noisy = gaussian_noise(torch.full((2, 1, 50, 50), 0.5), 1)
    >>> f"{noisy.std():.2f}"
    '0.08'
    """
    if severity != 0 and severity not in GAUSSIAN_NOISE:
        raise ValueError(f"severity: takes 0 (none) to {max(GAUSSIAN_NOISE)}, got {severity!r}")
    if not inputs.is_floating_point() or not bool(((inputs >= 0) & (inputs <= 1)).all()):
        raise ValueError("inputs: takes floating point numbers in [0, 1]; normalise inside of the model")
    if severity == 0:
        return inputs
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed))
    return (inputs + GAUSSIAN_NOISE[severity] * noise.to(inputs)).clamp(0, 1)


def calibration_under_noise(
    model: Callable[[Tensor], Any],
    inputs: Tensor,
    labels: Tensor,
    *,
    severities: Sequence[int] = (0, 1, 2, 3, 4, 5),
    metric: Callable[..., Tensor] = expected_calibration_error,
    batch_size: int = 256,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """``(len(severities),)``: the ECE, or another ``metric``, on ``inputs`` with noise of each severity (Table V-3).

    ``model`` maps inputs ``(batch, *event)`` in [0, 1] to logits ``(batch, K, *dims)``; modules among it evaluate while
    this runs and are put back. ``labels`` are ``(batch, *dims)``. ``metric`` is called as
    ``metric(logits, labels, from_logits=True, **options)``, so ``bins`` and ``ignore_index`` pass through. Raises
    ``ValueError`` as :func:`gaussian_noise` and the metric do, and for a wrong ``batch_size``.

    >>> images, labels = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    >>> calibration_under_noise(lambda x: 50 * x, images, labels, severities=(0, 5)).shape
    torch.Size([2])
    """
    require_whole(batch_size=batch_size)
    errors = []
    with evaluating(model), torch.no_grad():
        for severity in severities:
            noisy = gaussian_noise(inputs, severity, seed=seed)
            logits = torch.cat([model(batch) for batch in noisy.split(batch_size)])
            errors.append(metric(logits, labels, from_logits=True, **options))
    return torch.stack(errors)
