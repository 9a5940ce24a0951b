"""P(y, rho, mu) with its derivative in closed form: fewer passes over the constraints than autograd through P."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from constropt.penalties import Penalty


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(y: Tensor, rho: Tensor, mu: Tensor, form: Penalty) -> Tensor:  # type: ignore[override]
        return form.value(y, rho, mu)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        y, rho, mu, ctx.form = inputs
        ctx.save_for_backward(y, rho, mu)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        # tracked by autograd where a second derivative is wanted
        return gradient * ctx.form.slope(*ctx.saved_tensors), None, None, None


def penalised(form: Penalty, y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """P(y, rho, mu), elementwise, differentiable in ``y``; all of one dtype, float32 at least."""
    if form.slope is None or torch.compiler.is_compiling():  # a compiler merges the passes itself
        return form(y, rho, mu)
    return _ClosedForm.apply(y, rho.to(y.dtype), mu.to(y.dtype), form)  # type: ignore[return-value]
