"""What constraints on rates share: one score per sample, a strict rate with a surrogate's gradient, checks."""

from __future__ import annotations

import torch
from torch import Tensor

from constropt.precision import at_least_float32


def straight_through(strict: Tensor, surrogate: Tensor) -> Tensor:
    """The values of ``strict`` with the gradient of ``surrogate``, of the same shape.

    A rate is a mean of zeros and ones, without a gradient. With this as the surrogate of a constraint on it, the
    penalty is weighted by ``dP/dy`` at the rate itself, as the multipliers are, so that training comes to rest where
    the *rate* meets its bound, whatever rho is. A surrogate's own value would not do: a hinge or a logistic loss lies
    above the rate, and ``mu + rho y`` is too large by rho times the difference.

    >>> score = torch.tensor([-1.0, 2.0], requires_grad=True)
    >>> rate = straight_through((score > 0).float(), score.sigmoid())
    >>> rate.tolist(), [round(slope, 3) for slope in torch.autograd.grad(rate.sum(), score)[0].tolist()]
    ([0.0, 1.0], [0.197, 0.105])
    """
    return strict.detach() + (surrogate - surrogate.detach())


def binary_scores(output: Tensor) -> Tensor:
    """One score per sample, ``(batch,)``, positive where the positive class is decided on: of scores ``(batch,)`` or
    ``(batch, 1)``, or of logits ``(batch, 2)``, z_1 - z_0; float32 at least.

    Raises ``ValueError`` for other shapes, ``TypeError`` for what is no floating point tensor.

    >>> binary_scores(torch.tensor([[1.0, 3.0], [0.0, -1.0]]))
    tensor([ 2., -1.])
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"output: takes a tensor of floating point scores, got {got}")
    output = at_least_float32(output)
    if output.dim() == 1:
        return output
    if output.dim() == 2 and output.shape[1] == 1:
        return output.squeeze(1)
    if output.dim() == 2 and output.shape[1] == 2:
        return output[:, 1] - output[:, 0]
    raise ValueError(
        f"output: takes scores of shape (batch,) or (batch, 1), or logits of shape (batch, 2), got"
        f" {tuple(output.shape)}"
    )


def check_integers(name: str, values: Tensor, scores: Tensor, below: int) -> None:
    """Raise unless ``values`` is one integer (or boolean) in ``[0, below)`` per score.

    The range is looked at on the CPU only: elsewhere the look would wait for the device.
    """
    if not isinstance(values, Tensor) or values.is_floating_point() or values.is_complex():
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name}: takes a tensor of integers 0 to {below - 1}, got {got}; .long() makes them")
    if values.shape != scores.shape:
        raise ValueError(f"{name}: takes the shape (batch,) = {tuple(scores.shape)}, got {tuple(values.shape)}")
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = values[(values < 0) | (values >= below)]
        if len(wrong):
            raise ValueError(f"{name}: takes integers 0 to {below - 1}, got {wrong.unique().tolist()[:5]}")
