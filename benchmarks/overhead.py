"""What the library costs beside the model, and what a million duals cost beside one elementwise pass.

    python benchmarks/overhead.py [--batch 500] [--steps 20] [--recipes alma fmn ...]

Prints ratios within one run: the wall time of an attack over that of as many forward and backward passes of SmallCNN on
the same batch, interleaved; and the time of P, of dP/dy and of a full dual update on 1e6 entries over one
elementwise pass that reads y, rho and mu and writes one result (``torch.addcmul``).
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import torch
from timing import timed
from torch import Tensor

from constropt import AugmentedLagrangian, MultiplierUpdate, PeriodicRho
from constropt.lab.models.small import small_cnn
from constropt.problems import attacks


def passes(model: torch.nn.Module, inputs: Tensor, labels: Tensor, count: int) -> None:
    """``count`` forward and backward passes of the model alone, differentiated in its inputs."""
    for _ in range(count):
        x = inputs.clone().requires_grad_(True)
        torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), labels), x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--recipes", nargs="*", default=["alma", "ddn", "minimal", "fmn", "pgd", "apgd", "pdgd", "sigma_zero"]
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = small_cnn().eval()
    inputs = torch.rand(arguments.batch, 1, 28, 28)
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    passes(model, inputs, labels, 2)
    print(f"SmallCNN, batch {arguments.batch}, {arguments.steps} steps, {torch.__version__}\n")
    print("| recipe | time / (steps x forward and backward) |\n|---|---|")
    for name in arguments.recipes:
        recipe = partial(getattr(attacks, name), **({"eps": 0.1} if name in ("pgd", "apgd") else {}))
        ratios = []
        for _ in range(arguments.repeats):
            bare = timed(lambda: passes(model, inputs, labels, arguments.steps))
            ratios.append(timed(lambda r=recipe: r(model, inputs, labels, steps=arguments.steps)) / bare)
        print(f"| {name} | {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |", flush=True)

    y = torch.randn(1_000_000)
    print("\n| 1e6 duals | P | dP/dy | update of mu and rho | dP/dy compiled | unit |\n|---|---|---|---|---|---|")
    for penalty in ("PHR", "P2", "P3"):
        schedule = PeriodicRho(every=10)
        lagrangian = AugmentedLagrangian(penalty, MultiplierUpdate(ema=0.9), schedule, mu=1.0, rho=1.0)
        duals = lagrangian.init(y)
        compiled = torch.compile(lagrangian.candidate, fullgraph=True)
        compiled(y, duals)

        def update(lagrangian: AugmentedLagrangian = lagrangian) -> None:
            state = lagrangian.init(y)
            for _ in range(10):
                state = lagrangian.update(y, state)

        rows = []
        for _ in range(20 * arguments.repeats):
            unit = timed(lambda d=duals: torch.addcmul(d.mu, d.rho, y))
            term = timed(lambda c=lagrangian, d=duals: c.term(y, d))
            slope = timed(lambda c=lagrangian, d=duals: c.candidate(y, d))
            fused = timed(lambda c=compiled, d=duals: c(y, d))
            rows.append((term / unit, slope / unit, timed(update) / 10 / unit, fused / unit))
        term, slope, step, fused = (statistics.median(column) for column in zip(*rows))
        print(f"| {penalty} | {term:.1f} | {slope:.1f} | {step:.1f} | {fused:.1f} | one addcmul |", flush=True)


if __name__ == "__main__":
    main()
