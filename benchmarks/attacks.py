"""Every recipe beside the same attack of adv_lib, Foolbox and torchattacks: same network, samples, iterations, one run.

    python benchmarks/attacks.py --adv-lib DIR [--peers adv_lib ...] [--nets mnist-small ...] [--recipes fmn ...]
        [--steps 100] [--samples 50]

The peers are found in ``DIR`` or on ``PYTHONPATH``. One Markdown row per network and case (``peer_attacks.py``):
success and median distance of both (a failure counts as infinitely far), the ratio of the medians, and how many
forward and backward passes a sample took, counted at the model for both. Budgeted attacks have rows of their own:
robust accuracy at a radius, smaller is stronger.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable

import torch
from minimal import distances, median
from nets import NETS, load_net, load_samples
from peer_attacks import CASES, Case, P, adversarial_starts
from peers import adv_lib
from torch import Tensor, nn

from constropt.lab.attacks.counting import PassCounter, counted
from constropt.problems.distances import as_distance


def passes(
    model: nn.Module, attack: Callable[..., Tensor], x: Tensor, *rest: Tensor, **extra: Tensor
) -> tuple[Tensor, str]:
    """What the attack returns, and the forwards / backwards a sample."""
    counter = PassCounter()
    with counted(model, counter) as watched:
        found = attack(watched, x.clone(), *rest, **extra)  # some of theirs detach it in place
    backwards = "-" if counter.backwards is None else f"{counter.backwards / len(x):.0f}"
    return found.detach(), f"{counter.forwards / len(x):.0f} / {backwards}"


def measured(case: Case, model: nn.Module, x: Tensor, labels: Tensor, found: Tensor) -> Tensor:
    """``(batch,)``: distances, infinite for failures, out of [0, 1] and beyond the budget."""
    outside = (found.flatten(1) - found.flatten(1).clamp(0, 1)).abs().amax(1) > 1e-6
    found = torch.where(outside.view(-1, *[1] * (x.dim() - 1)), x, found)
    if case.distance in P:
        values = distances(model, x, labels, found, P[case.distance])
        return values if case.eps is None else values.masked_fill(values > case.eps * (1 + 1e-4), torch.inf)
    values = distances(model, x, labels, found, 2.0)
    return torch.where(values.isfinite(), as_distance(case.distance)(found, x), values)


def line(name: str, case: Case, model: nn.Module, x: Tensor, labels: Tensor) -> str:
    """The row of a case."""
    extra = {"starts": adversarial_starts(model, x, labels)} if case.starts else {}
    rows = []
    for attack in (case.ours, case.theirs):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs warn of failures
            perturbed, count = passes(model, attack, x, labels, **extra)
        rows.append((measured(case, model, x, labels, perturbed), count))
    (a, ours), (b, theirs) = rows
    rates = [f"{1 - d.isfinite().double().mean():.3f} robust" for d in (a, b)]
    if case.eps is None:
        rates = [f"{d.isfinite().double().mean():.3f}" for d in (a, b)]
        medians = f"{median(a):.4g} | {median(b):.4g} | {median(a) / median(b):.3f}"
    else:
        medians = f"within {case.eps:.3g} | |"
    texts = [name, case.name, case.distance, case.peer, *rates, medians, ours, theirs]
    return f"| {' | '.join(texts)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adv-lib", default=None, metavar="DIR", help="the folder that holds the peers")
    parser.add_argument("--peers", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["mnist-small", "cifar-cnn-a"])
    parser.add_argument("--recipes", nargs="*", default=[], help="only those whose name begins with one of these")
    parser.add_argument("--skip", nargs="*", default=[], help="none whose name begins with one of these")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="index of the first sample")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    adv_lib(arguments.adv_lib)
    print("| net | recipe | distance | peer | success | peer's | median | peer's | ratio | fwd / bwd | peer's |")
    print("|" + "---|" * 11)
    for name in arguments.nets:
        model = load_net(name).requires_grad_(False)
        x, labels = load_samples(name, arguments.samples, first=arguments.first)
        mnist = name.startswith("mnist")
        budgets = {"l1": 8.0, "l2": 1.5, "linf": 0.1} if mnist else {"l1": 6.0, "l2": 0.3, "linf": 4 / 255}
        for case in (case for peer in arguments.peers for case in CASES[peer](arguments.steps, budgets)):
            chosen = not arguments.recipes or case.name.startswith(tuple(arguments.recipes))
            if not chosen or case.name.startswith(tuple(arguments.skip)) or (mnist and case.distance == "ciede2000"):
                continue
            try:
                print(line(name, case, model, x, labels), flush=True)
            except Exception as error:  # one that fails must not end the run of the others
                print(f"{name}, {case.name}, {case.distance}: {error!r}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
