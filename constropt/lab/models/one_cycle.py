"""The loop of ordinary training: Adam, its step size rising and falling once, over tensors in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OneCycle:
    """``lr`` is the peak of the cycle. Raises ``ValueError`` unless all but ``seed`` are positive."""

    epochs: int
    batch_size: int
    lr: float
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size), ("lr", self.lr)):
            if not value > 0:
                raise ValueError(f"{name}: takes a positive number, got {value!r}")

    def train(
        self,
        model: nn.Module,
        samples: int,
        loss_of: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]],
        progress: Callable[[int, int, float], None] | None,
    ) -> None:
        """Minimise the first of what ``loss_of(rows, generator)`` returns for the rows of a batch, on the CPU.

        The second is the share of the batch in the mean loss that ``progress(epoch, epochs, loss)`` is told. The model
        is trained in place and ends in eval mode; the same ``seed`` and initial weights give the same result on one
        device, and the global generators are left as they were.
        """
        device = next(model.parameters()).device
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr)
        steps = self.epochs * -(-samples // self.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps)
        cuda = [device.index or 0] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            torch.manual_seed(self.seed)  # dropout draws from the global generator: seeded here, put back afterwards
            generator = torch.Generator().manual_seed(self.seed)
            model.train()
            for epoch in range(self.epochs):
                mean = torch.zeros((), dtype=torch.float64, device=device)
                for rows in torch.randperm(samples, generator=generator).split(self.batch_size):
                    loss, share = loss_of(rows, generator)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    mean += share.detach()
                if progress is not None:
                    progress(epoch + 1, self.epochs, mean.item())
        optimizer.zero_grad(set_to_none=True)
        model.eval()
