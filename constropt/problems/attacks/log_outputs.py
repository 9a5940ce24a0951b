"""A model whose probabilities are taken for what they are: attacks on logits see their logarithms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from constropt.problems.attacks.arguments import Model


class LogOutputs(nn.Module):
    """The model, with the rows of its output that are probabilities replaced by their logarithms.

    A module so that the model's own modules are found in it; it has no parameters. ``TypeError`` for what is no
    callable.

    >>> LogOutputs(nn.Softmax(dim=1))(torch.tensor([[0.0, 2.0]])).diff().round(decimals=4)
    tensor([[2.]])
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.training = False  # its own mode only: the model keeps the one it has
        if not callable(model):
            raise TypeError(f"model: takes a callable from inputs to logits, got {type(model).__name__}")
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        output = self.model(x)
        output = getattr(output, "logits", output)
        if not isinstance(output, Tensor) or output.dim() != 2 or not output.is_floating_point():
            return output  # the problem says what is wrong with it
        precision = torch.finfo(output.dtype)
        total = output.sum(1, keepdim=True)
        likely = (output >= 0).all(1, keepdim=True) & ((total - 1).abs() <= 64 * precision.eps)
        # a probability of 0 has no logarithm: such classes are far away, and stay so
        return torch.where(likely, output.clamp_min(precision.tiny).log(), output)
