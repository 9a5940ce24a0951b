"""Calibration after training: a temperature, or a scale and a bias per class, fitted to held-out logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from constropt.checks import require_one_of, require_whole
from constropt.problems.calibration.entries import Entries, blocks, check_bins
from constropt.problems.calibration.metrics import expected_calibration_error, require_entries

_RANGE = (1e-2, 1e3)  # of the temperature: where every entry is right, or the logits say nothing, no optimum exists
_GRID = [tenth / 10 for tenth in range(1, 101)]


class TemperatureScaling(nn.Module):
    """Divides logits by one temperature T, fitted on held-out data: ``softmax(z / T)`` (Eq. 1.17; Guo et al., 2017).

    The predicted class stays the same. ``fit`` sets the buffer ``temperature`` ``()``, 1 before, by ``method``:

    - ``"nll"``: the T of least negative log-likelihood (Guo et al., 2017), which is convex in 1 / T: by Newton's method
      within a bracket, in float64. T is kept in [0.01, 1000]: data without a mistake ask for T = 0, and logits that
      say less than none for an infinite one.
    - ``"ece"``: the T of least ECE (the wording of the thesis) with ``bins`` bins, of 0.1, 0.2, ..., 10 (the tables);
      of equal ones that nearest to 1, which is among them: on this data the ECE does not grow.

    ``forward`` takes logits of any shape and leaves their dtype. Entries labelled ``ignore_index`` do not count.
    Raises ``ValueError`` for an unknown method or a wrong number of bins.

    >>> logits, labels = torch.tensor([[4.0, 0.0]]).repeat(4, 1), torch.tensor([0, 0, 0, 1])
    >>> scaling = TemperatureScaling().fit(logits, labels)      # 3 of 4 are right: confidence becomes 0.75
    >>> scaling.temperature, scaling(logits)[0].softmax(0)
    (tensor(3.6410), tensor([0.7500, 0.2500]))
    """

    temperature: Tensor

    def __init__(self, method: str = "nll", *, bins: int = 15, ignore_index: int | None = -100) -> None:
        super().__init__()
        require_one_of("method", method, ("nll", "ece"))
        check_bins(bins)
        self.method, self.bins, self.ignore_index = method, bins, ignore_index
        self.register_buffer("temperature", torch.ones(()))

    @torch.no_grad()
    def fit(self, logits: Tensor, labels: Tensor) -> TemperatureScaling:
        """Set the temperature from ``logits`` ``(batch, K, *dims)`` and ``labels`` ``(batch, *dims)``, and return self.

        Raises ``ValueError`` where no entry counts or a counted logit is not finite, and as the metrics do.
        """
        parts = _finite(logits, labels, self.ignore_index)
        self.temperature.fill_(_least_nll(parts) if self.method == "nll" else self._least_ece(logits, labels))
        return self

    def forward(self, logits: Tensor) -> Tensor:
        """``logits / temperature``, whatever their shape."""
        return logits / self.temperature

    def extra_repr(self) -> str:
        return f"method={self.method!r}, temperature={float(self.temperature):.4g}"

    def _least_ece(self, logits: Tensor, labels: Tensor) -> float:
        """The temperature of the grid with the least ECE."""

        def error(temperature: float) -> float:
            # divided as forward does, so that confidences on edges of bins lie in the same one
            scaled, ignored = logits / self.temperature.new_tensor(temperature), self.ignore_index
            ece = expected_calibration_error(scaled, labels, from_logits=True, bins=self.bins, ignore_index=ignored)
            return float(ece)

        return min(_GRID, key=lambda temperature: (error(temperature), abs(math.log(temperature))))


class VectorScaling(nn.Module):
    """Multiplies each class' logit by a scale and adds a bias, fitted on held-out data (Guo et al., 2017).

    ``fit`` minimises the negative log-likelihood, convex in both, by L-BFGS in float64 from scale 1 and bias 0; the
    buffers ``scale`` and ``bias`` are ``(num_classes,)``, the latter of mean 0, as a constant changes nothing. At most
    ``steps`` steps are made: without a label of some class the bias of that class has no optimum but minus infinity,
    so give data in which every class occurs, or take one temperature. Predictions may change, unlike by a temperature.
    Raises ``ValueError`` for wrong numbers of classes or steps.

    >>> logits, labels = torch.tensor([[4.0, 0.0]]).repeat(4, 1), torch.tensor([0, 0, 0, 1])
    >>> VectorScaling(2).fit(logits, labels)(logits)[0].softmax(0)
    tensor([0.7500, 0.2500])
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, num_classes: int, *, steps: int = 500, ignore_index: int | None = -100) -> None:
        super().__init__()
        require_whole(2, num_classes=num_classes)
        require_whole(steps=steps)
        self.steps, self.ignore_index = steps, ignore_index
        self.register_buffer("scale", torch.ones(num_classes))
        self.register_buffer("bias", torch.zeros(num_classes))

    @torch.no_grad()
    def fit(self, logits: Tensor, labels: Tensor) -> VectorScaling:
        """Set scale and bias, as :meth:`TemperatureScaling.fit` does its temperature, and return self."""
        parts = _finite(logits, labels, self.ignore_index)
        self._check_classes(logits)
        count = sum(len(part.labels) for part in parts)
        weights = torch.zeros(2, len(self.scale), dtype=torch.float64, device=logits.device)
        weights[0] = 1
        budget = {"max_iter": self.steps, "max_eval": 2 * self.steps, "tolerance_grad": 1e-8, "tolerance_change": 1e-11}
        optimizer = torch.optim.LBFGS([weights], **budget, history_size=20, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            sums = torch.stack([_loss_and_gradient(part, weights[0], weights[1]) for part in parts]).sum(0)
            weights.grad = sums[1:].reshape_as(weights) / count
            return sums[0] / count

        optimizer.step(closure)
        self.scale.copy_(weights[0])
        self.bias.copy_(weights[1] - weights[1].mean())
        return self

    def forward(self, logits: Tensor) -> Tensor:
        """``scale * logits + bias``, classes in dimension 1, in the dtype of the logits."""
        self._check_classes(logits)
        shape = (-1, *[1] * (logits.dim() - 2))
        return logits * self.scale.to(logits.dtype).reshape(shape) + self.bias.to(logits.dtype).reshape(shape)

    def extra_repr(self) -> str:
        return f"num_classes={len(self.scale)}"

    def _check_classes(self, logits: Tensor) -> None:
        if logits.dim() < 2 or logits.shape[1] != len(self.scale):
            raise ValueError(f"logits: takes (batch, {len(self.scale)}, *dims), got {tuple(logits.shape)}")


def _finite(logits: Tensor, labels: Tensor, ignore_index: int | None) -> list[Entries]:
    """The entries that count; ``ValueError`` unless there are some and all their logits are finite."""
    parts = list(blocks(logits, labels, from_logits=True, ignore_index=ignore_index, name="logits"))
    if not all(bool(part.scores.isfinite().all()) for part in parts):
        raise ValueError("logits: takes finite numbers to fit to, got infinite ones; label their entries ignore_index")
    require_entries(sum(len(part.labels) for part in parts))
    return parts


def _least_nll(parts: list[Entries]) -> float:
    """The temperature of least NLL: the root of its slope in b = 1 / T, which grows with b."""

    def slope(b: float) -> list[float]:
        return torch.stack([_slope_and_curvature(part, b) for part in parts]).sum(0).tolist()

    b, (value, curvature) = 1.0, slope(1.0)
    if value == 0:  # constant logits too: leave them as they are
        return 1.0
    low, high = 1 / _RANGE[1], 1 / _RANGE[0]
    end = low if value > 0 else high
    if (slope(end)[0] > 0) == (value > 0):
        return 1 / end
    last = math.inf
    while value != 0 and last > 1e-8 * b:  # Newton's next error is the square of that
        low, high = (low, b) if value > 0 else (b, high)
        moved = b - value / curvature if curvature > 0 else math.inf
        if not low <= moved <= high or abs(moved - b) > last / 2:  # steps must halve, so that this ends
            moved = math.sqrt(low * high)
        last, b = abs(moved - b), moved
        value, curvature = slope(b)
    return 1 / b


def _slope_and_curvature(entries: Entries, b: float) -> Tensor:
    """``(2,)``: the first and second derivative in b of the sum over entries of ``-log softmax(b z)_label``."""
    logits = entries.scores.double()
    z = logits - logits.amax(1, keepdim=True)  # the largest of each entry is 0: sums of large ones lose nothing then
    p = (b * z).softmax(1)
    mean = (p * z).sum(1, keepdim=True)
    slope = mean - z.gather(1, entries.labels[:, None])
    return torch.stack([slope.sum(), (p * (z - mean).square()).sum()])


def _loss_and_gradient(entries: Entries, scale: Tensor, bias: Tensor) -> Tensor:
    """``(1 + 2 K,)``: the sum over entries of ``-log softmax(scale z + bias)_label`` and its gradient in both."""
    z = entries.scores.double()
    label = entries.labels[:, None]
    log_p = (scale * z + bias).log_softmax(1)
    residual = log_p.exp().scatter_add_(1, label, -torch.ones_like(label, dtype=torch.float64))
    loss = -log_p.gather(1, label).sum()
    return torch.cat([loss[None], (residual * z).sum(0), residual.sum(0)])
