"""Model passes counted from outside, so that what a solver reports of its own work can be checked, and timed."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from constropt.problems.model_calls import logits_of


@dataclass
class PassCounter:
    """Rows that went through the model: ``forwards``, and ``backwards`` for gradients taken through its logits. A
    batched call (``is_grads_batched``) counts as often as it has gradients. ``backwards`` is ``None`` once a call was
    made under ``torch.func`` transforms, which allow no hooks.
    """

    forwards: int = 0
    backwards: int | None = 0

    def see(self, output: Any) -> None:
        """Count one forward pass that returned ``output``, and each later gradient through it."""
        logits = logits_of(output)
        rows = logits.shape[0]
        self.forwards += rows
        if not logits.requires_grad:
            return

        def backward(gradient: Tensor) -> None:
            if self.backwards is not None:
                self.backwards += rows * _directions(gradient)

        try:
            logits.register_hook(backward)
        except RuntimeError:
            self.backwards = None


def _directions(gradient: Tensor) -> int:
    """How many gradients a hook sees at once: those of ``is_grads_batched``, else one."""
    private: Any = torch  # what autograd makes of such a call, and nothing public tells
    if private._C._functorch.is_legacy_batchedtensor(gradient):
        return private._remove_batch_dim(gradient, 1, 1, 0).shape[0]
    return 1


@contextmanager
def counted(model: Callable[[Tensor], Any], counter: PassCounter) -> Iterator[Callable[[Tensor], Any]]:
    """A callable that behaves as ``model`` and counts its passes in ``counter`` until the block ends; an ``nn.Module``
    stays itself, since recipes look at its mode and parameters: a forward hook counts.

    >>> counter = PassCounter()
    >>> with counted(nn.Linear(2, 3), counter) as model:
    ...     x = torch.zeros(4, 2, requires_grad=True)
    ...     (gradient,) = torch.autograd.grad(model(x).sum(), x)
    >>> counter
    PassCounter(forwards=4, backwards=4)
    """
    if isinstance(model, nn.Module):
        handle = model.register_forward_hook(lambda _, __, output: counter.see(output))
        try:
            yield model
        finally:
            handle.remove()
    else:

        def call(*args: Any, **kwargs: Any) -> Any:
            output = model(*args, **kwargs)
            counter.see(output)
            return output

        yield call


def synchronize(device: torch.device) -> None:
    """Wait for the work queued on ``device``: a clock that is read without this measures the queueing only."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_pass(model: Callable[[Tensor], Any], inputs: Tensor, *, repeats: int = 3, warm_up: bool = False) -> float:
    """Seconds of one forward and one backward pass (logits to inputs) on the batch: the median of ``repeats``."""
    seconds = []
    for repeat in range(repeats + warm_up):
        synchronize(inputs.device)
        start = time.perf_counter()
        with torch.enable_grad():
            x = inputs.detach().requires_grad_()
            torch.autograd.grad(logits_of(model(x)).sum(), x, allow_unused=True)
        synchronize(inputs.device)
        if repeat or not warm_up:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
