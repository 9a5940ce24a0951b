"""ALMA, DDN and minimal on linear classifiers, where the exact box-aware minimal l2 perturbation is known.

python benchmarks/linear.py [--recipes ALMA DDN minimal] [--steps 100 300 1000] [--seeds 0 1 2]

256 dimensions, 10 classes, 128 rows drawn in the unit box. Prints the distance over the exact one: minimum, median,
95th percentile and maximum over the rows, and the success rate.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from constropt.problems.attacks import alma, ddn, minimal

RECIPES = {"ALMA": alma, "DDN": ddn, "minimal": minimal}


def classifier(seed: int, d: int = 256, classes: int = 10, rows: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """Weights ``(classes, d)``, biases and inputs ``(rows, d)`` from one seed."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, d, generator=generator) / d**0.5
    bias = 0.1 * torch.randn(classes, generator=generator)
    return weight, bias, torch.rand(rows, d, generator=generator)


def exact_l2(weight: Tensor, bias: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """``(rows,)``: the least over classes of the distance to ``clip(x + nu w)`` on the boundary, nu by bisection."""
    weight, bias, x = weight.double(), bias.double(), x.double()
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for other in range(len(weight)):
        w, b = weight[other] - weight[labels], bias[other] - bias[labels]
        low, high = torch.zeros_like(best), torch.full_like(best, 1e6)
        for _ in range(100):
            nu = (low + high) / 2
            reached = ((x + nu[:, None] * w).clamp(0, 1) * w).sum(1) + b >= 0
            low, high = torch.where(reached, low, nu), torch.where(reached, nu, high)
        nearest = (x + high[:, None] * w).clamp(0, 1)
        possible = ((nearest * w).sum(1) + b >= -1e-12) & (labels != other)
        best = torch.where(possible, torch.minimum(best, (nearest - x).norm(dim=1)), best)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| recipe | steps | seed | success | min | median | 95 % | max |\n|---|---|---|---|---|---|---|---|")
    for name in arguments.recipes:
        recipe = RECIPES[name]
        for steps in arguments.steps:
            for seed in arguments.seeds:
                weight, bias, x = classifier(seed)
                labels = (x @ weight.T + bias).argmax(1)
                solution = recipe(lambda t, w=weight, b=bias: t @ w.T + b, x, labels, steps=steps)
                ratio = solution.objective.double() / exact_l2(weight, bias, x, labels)
                low, median, high, worst = (ratio.quantile(q).item() for q in (0, 0.5, 0.95, 1))
                success = solution.feasible.double().mean().item()
                row = f"{success:.3f} | {low:.5f} | {median:.4f} | {high:.4f} | {worst:.4f}"
                print(f"| {name} | {steps} | {seed} | {row} |", flush=True)


if __name__ == "__main__":
    main()
