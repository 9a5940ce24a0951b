"""How a model is called: in which mode, and what is taken of its output."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from constropt.modes import evaluating

Model = Callable[[Tensor], Any]


def logits_of(output: Any) -> Tensor:
    """A model's output, if a tensor, or the ``logits`` of an output object; ``TypeError`` for anything else."""
    logits = unwrapped(output)
    if not isinstance(logits, Tensor):
        raise TypeError(f"model: must return logits or an object with them, got {type(output).__name__}")
    return logits


def of_label(values: Tensor, labels: Tensor) -> Tensor:
    """The entry of ``values`` ``(batch, K, *dims)`` at the class of ``labels``, ``(batch, *dims)``.

    >>> of_label(torch.tensor([[0.1, 0.9], [0.4, 0.6]]), torch.tensor([1, 0]))
    tensor([0.9000, 0.4000])
    """
    return values.gather(1, labels.unsqueeze(1)).squeeze(1)


def unwrapped(output: Any) -> Any:
    """The ``logits`` of an output object, any other output as it is.

    >>> unwrapped(3)
    3
    """
    return getattr(output, "logits", output)


@dataclass(frozen=True, eq=False)
class ModelCall:
    """``model`` as problems call it: in evaluation mode (modules are put back), its output unwrapped and checked.

    ``unwrap``: an output object's ``.logits`` are taken. ``logarithm``: rows of the output that are probabilities are
    replaced by their logarithms, so that attacks on logits see logits. ``check(output, x)`` raises for what is no
    output of the kind that is needed. ``TypeError`` for a model that is no callable.

    >>> ModelCall(torch.nn.Softmax(dim=1), logarithm=True)(torch.tensor([[0.0, 2.0]])).diff().round(decimals=4)
    tensor([[2.]])
    """

    model: Model
    unwrap: bool = True
    logarithm: bool = False
    check: Callable[[Any, Tensor], None] | None = None

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise TypeError(f"model: takes a callable from inputs to logits, got {type(self.model).__name__}")

    @property
    def network(self) -> bool:
        """Whether the model is a module that returns a tensor of logits, or a call of one."""
        return self.unwrap and (
            isinstance(self.model, nn.Module) or isinstance(self.model, ModelCall) and self.model.network
        )

    def __call__(self, x: Tensor) -> Any:
        with evaluating(self.model):
            output = self.model(x)
        if self.unwrap:
            output = unwrapped(output)
        if self.logarithm:
            output = with_logarithms(output)
        if self.check is not None:
            self.check(output, x)
        return output


def with_logarithms(output: Any) -> Any:
    """``(batch, K)`` with its rows of probabilities replaced by their logarithms; anything else as it is.

    >>> with_logarithms(torch.tensor([[0.5, 0.5], [1.0, 2.0]])).round(decimals=4).tolist()[1]
    [1.0, 2.0]
    """
    if not isinstance(output, Tensor) or output.dim() != 2 or not output.is_floating_point():
        return output
    precision = torch.finfo(output.dtype)
    total = output.sum(1, keepdim=True)
    likely = (output >= 0).all(1, keepdim=True) & ((total - 1).abs() <= 64 * precision.eps)
    # a probability of 0 has no logarithm: such classes are far away, and stay so
    return torch.where(likely, output.clamp_min(precision.tiny).log(), output)
