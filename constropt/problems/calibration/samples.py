"""What calibration is fitted and measured on: a part held out for the duals, long-tailed subsets, noisier inputs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from constropt.checks import are_whole, got, require_number, require_whole
from constropt.modes import evaluating
from constropt.problems.calibration.metrics import expected_calibration_error


class HeldOut(NamedTuple):
    """Rows of the data, int64, ascending, on the CPU: ``train`` fits the weights, ``held_out`` what else is fitted."""

    train: Tensor
    held_out: Tensor


def held_out(labels: Tensor, *, fraction: float | None = None, per_class: int | None = None, seed: int = 0) -> HeldOut:
    """A random part of every class, to be held out from the data with these ``labels`` ``(samples,)``.

    Give one of ``fraction``, of each class, rounded, but at least one sample held out and one kept wherever a class has
    two, and ``per_class``, the same number of each class, which balances the part whatever the data. With one seed the
    part of a larger ``fraction`` contains that of a smaller one. All-zero labels give a plain random split, as
    for label maps. The global generators are not touched.

    Raises ``ValueError`` for labels that are not a vector of integers >= 0, unless exactly one of the two is given,
    ``0 < fraction < 1`` and ``per_class >= 1``, and where a class has no more than ``per_class`` samples.

    >>> train, rest = held_out(torch.tensor([0, 0, 0, 0, 1, 1]), fraction=0.5)
    >>> len(train), len(rest)
    (3, 3)
    """
    counts = _class_counts(labels)
    if fraction is not None and per_class is None:
        require_number(0, 1, fraction=fraction)
        if fraction == 0:
            raise ValueError("fraction: takes a number > 0, got 0; without a part held out there is nothing to split")
        quota = (counts.double() * fraction).round().long()
        quota = quota.clamp_min(1).minimum((counts - 1).clamp_min(0))
    elif per_class is not None and fraction is None:
        require_whole(per_class=per_class)
        small = ((counts > 0) & (counts <= per_class)).nonzero().flatten().tolist()
        if small:
            has = f"class {small[0]} has {int(counts[small[0]])}"
            raise ValueError(f"per_class: takes fewer than the samples of every class, got {per_class}, but {has}")
        quota = torch.full_like(counts, per_class)
    else:
        raise ValueError(f"fraction and per_class: takes exactly one, got {fraction!r} and {per_class!r}")
    chosen = _rank_in_class(labels, counts, seed) < quota[labels.cpu()]
    return HeldOut(train=(~chosen).nonzero().flatten(), held_out=chosen.nonzero().flatten())


def long_tailed(labels: Tensor, *, ratio: float = 100.0, seed: int = 0) -> Tensor:
    """Rows, int64 and ascending, of a random subset whose classes shrink exponentially, as CIFAR-LT (Cui et al. 2019).

    Of class ``k``, out of the ``K = labels.max() + 1``, remain ``n_k = n_max ratio^(-k / (K - 1))`` samples, rounded
    down but at least one; ``ratio`` is that of the largest class to the smallest (ImageNet-LT: 256). ``n_max`` is the
    largest number for which every class has enough. The global generators are not touched. Raises ``ValueError`` for
    labels that are no vector of integers >= 0, classes without a sample and ``ratio < 1``.

    >>> labels = torch.arange(3).repeat_interleave(100)
    >>> labels[long_tailed(labels, ratio=100)].bincount()
    tensor([100,  10,   1])
    """
    counts = _class_counts(labels)
    require_number(1, ratio=ratio)
    if (counts == 0).any():
        raise ValueError(f"labels: class {int((counts == 0).nonzero()[0])} of {len(counts)} has no sample")
    share = ratio ** -torch.linspace(0, 1, len(counts), dtype=torch.float64)
    most = (counts / share + 1e-9).floor().min()  # 1e-9: 500 / 100 is 5, not 4.99...
    quota = (most * share + 1e-9).floor().long().clamp_min(1)
    return (_rank_in_class(labels, counts, seed) < quota[labels.cpu()]).nonzero().flatten()


def _class_counts(labels: Tensor) -> Tensor:
    """How many samples each class has, ``(K,)`` on the CPU."""
    if labels.dim() != 1 or labels.numel() == 0 or not are_whole(labels):
        raise ValueError(f"labels: takes integers (samples,), got {got(labels)}")
    if labels.min() < 0:
        raise ValueError(f"labels: takes classes >= 0, got {int(labels.min())}")
    return labels.cpu().bincount()


def _rank_in_class(labels: Tensor, counts: Tensor, seed: int) -> Tensor:
    """The place of every sample in a random order of its class, from 0; ``(samples,)`` on the CPU."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = labels.cpu()[shuffled].argsort(stable=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    ranks = torch.empty_like(shuffled)
    ranks[shuffled[by_class]] = torch.arange(len(labels)) - starts
    return ranks


# Standard deviations of ImageNet-C's Gaussian noise, of images in [0, 1], by severity (Hendrycks & Dietterich, 2019).
GAUSSIAN_NOISE = {1: 0.08, 2: 0.12, 3: 0.18, 4: 0.26, 5: 0.38}


def gaussian_noise(inputs: Tensor, severity: int, *, seed: int = 0) -> Tensor:
    """``inputs`` ``(batch, *event)`` in [0, 1] plus Gaussian noise of the ``severity``, clipped to [0, 1].

    Severities 1 to 5 are ImageNet-C's; 0 leaves the inputs as they are. The noise depends on ``seed`` alone, not on the
    device, and grows with the severity without changing its pattern; the global generator stays as it is. ImageNet-C
    also rounds to 8 bits and compresses. Raises ``ValueError`` for another severity, inputs outside [0, 1] and NaN.

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
