"""The l-infinity operator on a box in a metric: ours beside the ternary search and splitting (thesis, Section 5.5.1).

    python benchmarks/prox.py [--repeats 5] [--splitting] [--sizes 512x512 1024x2048] [--batches 1 4] [--sigmas 0.1]

x ~ U(0, 1), delta ~ N(0, sigma^2), the box [-x, 1 - x], s ~ U(0, 1), one step per row from 10^U(-1, 3). Times are CPU
time of the process on one thread, interleaved within one run, medians over draws; those of the others are given as
multiples of ours. The error is that of the largest entry beta, relative to a sort of all entries in float64, the worst
of all draws and rows. With ``--splitting``, at the smallest size: dual forward-backward, its acceleration and
Douglas-Rachford, with our own unconstrained operator inside, to a relative residual of 1e-5 or 1,000 iterations.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from ternary import narrow, ternary_search
from torch import Tensor

from constropt import prox
from constropt.splitting import (
    accelerated_dual_forward_backward,
    douglas_rachford,
    dual_forward_backward,
    with_distance,
)


def sorted_beta(delta: Tensor, step: Tensor, lower: Tensor, upper: Tensor, metric: Tensor) -> Tensor:
    """The largest entry of each result, ``(batch,)``, by a sort of all entries in float64; the box contains 0."""
    delta, metric = delta.double(), metric.double()
    m, order = delta.clamp(lower, upper).abs().sort(dim=1, descending=True)
    weight = metric.gather(1, order).cumsum(1)
    level = (metric * delta.abs()).gather(1, order).cumsum(1)
    bottom = torch.cat([m[:, 1:], torch.zeros_like(m[:, :1])], 1)
    reached = level - bottom * weight >= step.double().unsqueeze(1)
    k = reached.to(torch.int8).argmax(1, keepdim=True)
    roots = (level.gather(1, k) - step.double().unsqueeze(1)) / weight.gather(1, k)
    roots = roots.maximum(bottom.gather(1, k)).minimum(m.gather(1, k)).squeeze(1)
    return torch.where(reached.any(1), roots, 0)


class Draw:
    """One problem, and the ways to solve it."""

    def __init__(self, seed: int, batch: int, n: int, sigma: float, compiled: Callable[..., tuple[Tensor, Tensor]]):
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(batch, n, generator=generator)
        self.lower, self.upper = -image, 1 - image
        self.delta = torch.randn(batch, n, generator=generator) * sigma
        self.metric = torch.rand(batch, n, generator=generator) + 1e-8
        self.step = 10 ** (4 * torch.rand(batch, generator=generator) - 1)
        self.beta = sorted_beta(self.delta, self.step, self.lower, self.upper, self.metric)
        self.out, self.compiled, self.warm = torch.empty_like(self.delta), compiled, 1.002 * self.beta.float()

    def ternary(self, step: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        column = self.step.unsqueeze(1)
        return ternary_search(self.delta, column, self.lower, self.upper, self.metric, narrow=step)

    def ours(self, *, warm: bool = False, out: bool = False) -> Tensor:
        return prox.linf(
            self.delta,
            self.step,
            lower=self.lower,
            upper=self.upper,
            metric=self.metric,
            warm=self.warm if warm else None,
            out=self.out if out else None,
        )

    def copy(self) -> Tensor:
        return self.out.copy_(self.delta)

    def split(self, method: Callable[..., object]) -> Tensor:
        def box(x: Tensor, step: Tensor, metric: Tensor | None = None) -> Tensor:
            return x.clamp(self.lower, self.upper)

        def norm(x: Tensor, step: Tensor, metric: Tensor | None = None) -> Tensor:
            return prox.linf(x, self.step * torch.as_tensor(step).reshape(-1), metric=metric)

        limits = {"tolerance": 1e-5, "max_iterations": 1000}
        if method is douglas_rachford:
            near = with_distance(box, self.delta, metric=self.metric)
            result = douglas_rachford(near, norm, self.delta, **limits)
        else:
            result = method(box, norm, self.delta, metric=self.metric, **limits)
        return result.x  # pyright: ignore[reportAttributeAccessIssue]

    def methods(self, splitting: bool) -> dict[str, Callable[[], Tensor]]:
        chosen: dict[str, Callable[[], Tensor]] = {
            "ours": self.ours,
            "ours, `out=`": lambda: self.ours(out=True),
            "ours, `warm=`": lambda: self.ours(warm=True),
            "ours, both": lambda: self.ours(warm=True, out=True),
            "one copy": self.copy,
            "ternary, eager": lambda: self.ternary(narrow),
            "ternary, compiled": lambda: self.ternary(self.compiled),
        }
        if splitting:
            chosen["DFB"] = lambda: self.split(dual_forward_backward)
            chosen["ADFB"] = lambda: self.split(accelerated_dual_forward_backward)
            chosen["Douglas-Rachford"] = lambda: self.split(douglas_rachford)
        return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--splitting", action="store_true")
    parser.add_argument("--sizes", nargs="+", default=["512x512", "1024x2048"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--sigmas", nargs="+", type=float, default=[1e-3, 1e-2, 1e-1, 1.0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compiled = torch.compile(narrow)
    for size in arguments.sizes:
        n = 3 * math.prod(int(side) for side in size.split("x"))
        for batch in arguments.batches:
            print(f"\n3x{size}, batch {batch}, torch {torch.__version__}, {arguments.repeats} draws\n")
            print("| sigma | method | time / ours | range | error of beta |\n|---|---|---|---|---|")
            for sigma in arguments.sigmas:
                ratios, errors, own = defaultdict(list), defaultdict(list), []
                for seed in range(arguments.repeats):
                    draw = Draw(seed, batch, n, sigma, compiled)
                    methods = draw.methods(arguments.splitting and size == arguments.sizes[0])
                    draw.ternary(compiled)  # compiles for this shape
                    draw.ours()
                    times = {}
                    for name, call in methods.items():
                        # the slow ones once: a draw is repeated by the next
                        rounds = []
                        for _ in range(5 if name.startswith(("ours", "one", "ternary, c")) else 1):
                            start = time.process_time()
                            result = call()
                            rounds.append(time.process_time() - start)
                        times[name] = statistics.median(rounds)
                        if name != "one copy":
                            gap = (result.abs().amax(1).double() - draw.beta).abs() / draw.beta.clamp_min(1e-30)
                            errors[name].append(gap.where(draw.beta > 0, result.abs().amax(1)).max().item())
                    own.append(times["ours"])
                    for name, taken in times.items():
                        ratios[name].append(taken / times["ours"])
                for name, values in ratios.items():
                    shown = f"{max(errors[name]):.1e}" if errors[name] else ""
                    spread = f"{min(values):.2g} to {max(values):.2g}"
                    time_ = f"1 ({1e3 * statistics.median(own):.1f} ms)" if name == "ours" else ""
                    print(
                        f"| {sigma:g} | {name} | {time_ or f'{statistics.median(values):.2g}'} | {spread} | {shown} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
