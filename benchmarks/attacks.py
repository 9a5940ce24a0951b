"""Every recipe beside adv_lib's implementation of it: the same network, samples and iterations, in one run.

    python benchmarks/attacks.py --adv-lib DIR [--nets mnist-small ...] [--recipes fmn ...] [--steps 100] [--samples 50]

One Markdown row per network and case: success and median distance of both (a failure counts as infinitely far), the
ratio of the medians, and how many forward and backward passes a sample took. Budgeted attacks have rows of their own:
robust accuracy at a radius, smaller is stronger.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from minimal import distances, median
from nets import NETS, load_net, load_samples
from peers import adv_lib
from torch import Tensor, nn

from constropt.evaluation.counting import PassCounter, counted
from constropt.problems import attacks
from constropt.problems.attacks.alma import ema_for
from constropt.problems.distances import as_distance

P = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": torch.inf}
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A recipe with options that adv_lib has too. ``eps``: None for a minimal attack."""

    recipe: str
    distance: str
    ours: Attack
    theirs: Attack
    eps: float | None = None


def own(recipe: str, **options: Any) -> Attack:
    """A recipe of constropt as a function to perturbed inputs."""
    return lambda model, x, labels: getattr(attacks, recipe)(model, x, labels, **options).x


def cases(steps: int, budgets: dict[str, float]) -> list[Case]:
    """All pairs; the searches of C&W share ``9 steps``."""
    import adv_lib.attacks as peer

    first = {name: as_distance(name).first_step for name in ("l1", "l2", "ssim")}

    def official(function: str, *args: Any, **options: Any) -> Attack:
        return lambda model, x, labels: getattr(peer, function)(model, x, labels, *args, **options)

    found = [Case("ddn", "l2", own("ddn", steps=steps), official("ddn", steps=steps, levels=None))]
    for name in ("l1", "l2", "ssim"):
        theirs = official("alma", num_steps=steps, distance=name, init_lr_distance=first[name], α=ema_for(steps))
        found.append(Case("alma", name, own("alma", distance=name, steps=steps), theirs))
    for name, p in P.items():
        found.append(Case("fmn", name, own("fmn", distance=name, steps=steps), official("fmn", p, steps=steps)))
    for name in ("l2", "linf"):
        p = P[name]
        found += [
            Case("deepfool", name, own("deepfool", distance=name, steps=50), official("df", steps=50, norm=p)),
            Case(
                "trust_region",
                name,
                own("trust_region", distance=name, steps=steps),
                official("tr", iter=steps, p=p, adaptive=True),
            ),
        ]
    for name in ("l1", "l2", "linf"):
        p, few = P[name], max(steps // 5, 1)
        found += [
            Case("fab", name, own("fab", distance=name, steps=few), official("fab", p, n_iter=few)),
            Case("pdpgd", name, own("pdpgd", distance=name, steps=steps), official("pdpgd", p, num_steps=steps)),
        ]
    found += [
        Case("pdgd", "l2", own("pdgd", steps=steps), official("pdgd", num_steps=steps)),
        Case("sigma_zero", "l0", own("sigma_zero", steps=steps), official("sigma_zero", num_steps=steps)),
        Case("superdeepfool (accumulate)", "l2", own("superdeepfool", accumulate=True), official("sdf")),
        Case(
            "cw",
            "l2",
            own("cw", steps=9 * steps, searches=9),
            official("carlini_wagner_l2", max_iterations=steps, initial_const=1e-3),
        ),
    ]
    for name, eps in budgets.items():
        for loss in ("ce", "dlr"):
            ours = own("apgd", eps=eps, distance=name, loss=loss, steps=steps)
            theirs = official("apgd", eps, norm=P[name], n_iter=steps, loss_function=loss, use_large_reps=name == "l1")
            found.append(Case(f"apgd {loss}", name, ours, theirs, eps))
    return found


def passes(model: nn.Module, attack: Attack, x: Tensor, labels: Tensor) -> tuple[Tensor, str]:
    """What the attack returns, and the forwards / backwards a sample."""
    counter = PassCounter()
    with counted(model, counter) as watched:
        found = attack(watched, x.clone(), labels)  # theirs detaches it in place
    backwards = "-" if counter.backwards is None else f"{counter.backwards / len(x):.0f}"
    return found, f"{counter.forwards / len(x):.0f} / {backwards}"


def measured(case: Case, model: nn.Module, x: Tensor, labels: Tensor, found: Tensor) -> Tensor:
    """``(batch,)``: distances, infinite for failures and beyond the budget."""
    if case.distance in P:
        values = distances(model, x, labels, found, P[case.distance])
        return values if case.eps is None else values.masked_fill(values > case.eps * (1 + 1e-4), torch.inf)
    values = distances(model, x, labels, found, 2.0)
    return torch.where(values.isfinite(), as_distance(case.distance)(found, x), values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adv-lib", default=None)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["mnist-small", "cifar-cnn-a"])
    parser.add_argument("--recipes", nargs="*", default=[], help="only those whose name begins with one of these")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="index of the first sample")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    adv_lib(arguments.adv_lib)
    print("| net | recipe | distance | success | adv_lib | median | adv_lib | ratio | fwd / bwd | adv_lib |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.nets:
        model = load_net(name).requires_grad_(False)
        x, labels = load_samples(name, arguments.samples, first=arguments.first)
        mnist = name.startswith("mnist")
        budgets = {"l1": 8.0, "l2": 1.5, "linf": 0.1} if mnist else {"l1": 6.0, "l2": 0.3, "linf": 4 / 255}
        for case in cases(arguments.steps, budgets):
            if arguments.recipes and not case.recipe.startswith(tuple(arguments.recipes)):
                continue
            rows = []
            for attack in (case.ours, case.theirs):
                torch.manual_seed(0)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # theirs warns of failures
                    perturbed, count = passes(model, attack, x, labels)
                rows.append((measured(case, model, x, labels, perturbed), count))
            (a, ours), (b, theirs) = rows
            rates = [f"{1 - d.isfinite().double().mean():.3f} robust" for d in (a, b)]
            if case.eps is None:
                rates = [f"{d.isfinite().double().mean():.3f}" for d in (a, b)]
                medians = f"{median(a):.4g} | {median(b):.4g} | {median(a) / median(b):.3f}"
            else:
                medians = f"within {case.eps:.3g} | |"
            print(
                f"| {name} | {case.recipe} | {case.distance} | {' | '.join(rates)} | {medians} | {ours} | {theirs} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
