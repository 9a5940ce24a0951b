"""The share of the proximal steps in ALMA prox on a segmentation network with a ResNet-18 as its body.

    python benchmarks/prox_share.py [--size 512 512] [--steps 6] [--threads 1]

CPU time of one run. The first step is left out: it holds the search of the first step size.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from constropt import solve
from constropt.problems.attacks import MinimalPerturbation
from constropt.problems.attacks.augmented_lagrangian import ALMAProx


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm; a strided one has a 1x1 convolution on its shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.shortcut(x)).relu()


class Segmenter(nn.Module):
    """ResNet-18 (11 million parameters), a 1x1 convolution, and bilinear upsampling to the size of the image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            *(Block(a, b) for a, b in zip(widths, widths[1:])),
            nn.Conv2d(512, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(self.layers(x), size=x.shape[2:], mode="bilinear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[512, 512])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = Segmenter(21).eval().requires_grad_(False)
    x, labels = torch.rand(1, 3, *arguments.size), torch.randint(0, 21, (1, *arguments.size))
    problem, solver = ALMAProx().prepare(MinimalPerturbation(model, x, labels, distance="linf"), x, 500)
    nonsmooth, spent = problem.nonsmooth, []
    assert nonsmooth is not None

    class Timed:
        """The norm and the box, with the prox under the clock."""

        def __call__(self, x: Tensor) -> Tensor:
            return nonsmooth(x)

        def prox(self, *args: Any, **kwargs: Any) -> Tensor:
            start = time.process_time()
            result = nonsmooth.prox(*args, **kwargs)
            spent.append(time.process_time() - start)
            return result

    ends: list[float] = []
    solve(
        replace(problem, nonsmooth=Timed()),  # pyright: ignore[reportArgumentType]
        solver,
        x,
        steps=arguments.steps,
        callback=lambda *_: ends.append(time.process_time()),
    )
    step = (ends[-1] - ends[0]) / (len(ends) - 1)
    prox = sum(spent[-(len(ends) - 1) :]) / (len(ends) - 1)
    print("| size | one step | its prox | share |\n|---|---|---|---|")
    height, width = arguments.size
    print(f"| 3x{height}x{width} | {1e3 * step:.0f} ms | {1e3 * prox:.1f} ms | {prox / step:.1%} |")


if __name__ == "__main__":
    main()
