"""``minimal`` beside the published recipes, on the same samples with the same number of passes.

    python benchmarks/minimal.py [--nets mnist-standard ...] [--distances l1 l2 linf] [--steps 100 300] [--samples 200]

One Markdown row per network, distance and budget: success and median distance of ``minimal`` and of the best recipe
that succeeds on 99 % of the samples (failures count as infinite in medians), and the ratio of the medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from nets import NETS, load_net, load_samples
from torch import Tensor, nn

from constropt.problems.attacks import alma, alma_prox, ddn, fmn, minimal
from constropt.solution import Solution

Recipe = Callable[..., Solution]
PUBLISHED: dict[str, dict[str, Recipe]] = {
    "l1": {"ALMA": partial(alma, distance="l1"), "FMN": partial(fmn, distance="l1")},
    "l2": {"ALMA": partial(alma, distance="l2"), "DDN": ddn, "FMN": partial(fmn, distance="l2")},
    "linf": {"ALMA prox": alma_prox, "FMN": partial(fmn, distance="linf")},
}
P = {"l1": 1.0, "l2": 2.0, "linf": torch.inf}


def distances(model: nn.Module, inputs: Tensor, labels: Tensor, x: Tensor, p: float) -> Tensor:
    """``(batch,)``: the distances; infinite where a clean pass does not confirm the success."""
    with torch.no_grad():
        fooled = model(x).argmax(1) != labels
    return torch.linalg.vector_norm((x - inputs).flatten(1), ord=p, dim=1).masked_fill(~fooled, torch.inf)


def median(values: Tensor) -> float:
    """The mean of the two middle values, infinite where one of them is."""
    ordered = values.double().sort().values
    return ((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--distances", nargs="+", choices=P, default=list(P))
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="index of the first sample")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| net | distance | steps | success | median | best published | its success | its median | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.nets:
        model = load_net(name)
        inputs, labels = load_samples(name, arguments.samples, first=arguments.first)
        for distance in arguments.distances:
            for steps in arguments.steps:
                found: dict[str, Tensor] = {}
                for recipe, run in {"minimal": partial(minimal, distance=distance), **PUBLISHED[distance]}.items():
                    x = run(model, inputs, labels, steps=steps).x
                    found[recipe] = distances(model, inputs, labels, x, P[distance])
                own = found.pop("minimal")
                sure = {k: d for k, d in found.items() if d.isfinite().double().mean() >= 0.99} or found
                best = min(sure, key=lambda k: median(sure[k]))
                success = own.isfinite().double().mean()
                print(
                    f"| {name} | {distance} | {steps} | {success:.3f} | {median(own):.4f} | {best}"
                    f" | {sure[best].isfinite().double().mean():.3f} | {median(sure[best]):.4f} |"
                    f" {median(own) / median(sure[best]):.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
