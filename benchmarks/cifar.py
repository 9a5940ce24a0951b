"""All recipes on CIFAR-10 by distance, each with the same budget of passes, and adv_lib beside ours where it has them.

    python benchmarks/cifar.py --adv-lib DIR [--net cifar-resnet20] [--steps 100 1000] [--samples 50 20]

Every cell is a run of :func:`constropt.lab.run_evaluation` in a folder of its own, below
``OUT/NET-STEPSxSAMPLES/DISTANCE``: the same command continues where another was killed, and ``--table`` prints what is
there without running anything. ``steps`` are shared by all searches of a recipe that searches (C&W, EAD, L-BFGS: 9,
APGD: 13 radii); DeepFool and SuperDeepFool end by themselves, an iteration of FAB, ``steps / 5`` of them, takes the
gradients of nine classes. The passes that were counted at the model stand in the table.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nets import NETS, load_net, load_samples
from peer_attacks import CASES
from peers import adv_lib
from torch import nn

from constropt.lab import LabelledData, RecipeSpec, RunSettings, run_evaluation

DISTANCES = ("l0", "l1", "l2", "linf", "ciede2000", "ssim")
PEER = "adv_lib"
HEADER = ("distance", "recipe", "success", "median", "fwd / bwd", f"{PEER}: success", "median", "fwd / bwd", "ratio")


class Cell(NamedTuple):
    """A recipe at a distance, and the peer's where it has the same."""

    name: str
    distance: str
    ours: RecipeSpec
    theirs: RecipeSpec | None = None


def cells(steps: int) -> list[Cell]:
    """All cells at a budget of ``steps``."""
    each = max(steps // 9, 1)
    plain, searched = {"steps": steps}, {"steps": 9 * each}
    alone: Mapping[str, Mapping[str, dict[str, Any]]] = {
        "l0": {"brendel_bethge": plain, "cw": plain, "jsma": {}},
        "l1": {"minimal": plain, "ead": {**searched, "rule": "l1"}, "brendel_bethge": plain},
        "l2": {"minimal": plain, "brendel_bethge": plain, "lbfgs_attack": searched},
        "linf": {"minimal": plain, "alma_prox": plain, "brendel_bethge": plain, "cw": plain},
        "ciede2000": {"cw": searched},
        "ssim": {"cw": searched},
    }
    found = [Cell(n, d, RecipeSpec(n, options)) for d, recipes in alone.items() for n, options in recipes.items()]
    for case in CASES[PEER](steps, {}, each):
        options = {"peer": PEER, "case": case.name, "distance": case.distance, "steps": steps, "search_steps": each}
        theirs = RecipeSpec("peer_attacks:peer_recipe", options)
        found.append(Cell(case.name, case.distance, RecipeSpec(case.recipe, case.options), theirs))
    return sorted(found, key=lambda cell: DISTANCES.index(cell.distance))


def line(cell: Cell, ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> str:
    """A row of the table; what has not been run is a dash."""
    texts = [cell.distance, cell.name]
    for row in (ours, theirs):
        if row is None:
            texts += ["-"] * 3
            continue
        backwards = "-" if row["backwards"] is None else f"{row['backwards']:.0f}"
        texts += [f"{row['success_rate']:.3f}", f"{row['median_distance']:.4g}", f"{row['forwards']:.0f} / {backwards}"]
    medians = [row["median_distance"] for row in (ours, theirs) if row is not None]
    finite = len(medians) == 2 and all(map(math.isfinite, medians)) and medians[1] > 0
    return "| " + " | ".join([*texts, f"{medians[0] / medians[1]:.3f}" if finite else "-"]) + " |"


def figures(
    spec: RecipeSpec | None, distance: str, place: Path, model: nn.Module, data: LabelledData, *, run: bool
) -> dict[str, Any] | None:
    """The figures of a recipe in the folder ``place``, run first if they are not there and ``run``; else None."""
    if spec is None:
        return None
    try:
        found = run_evaluation(
            [spec],
            {"net": model},
            *data,
            out=place,
            settings=RunSettings(
                distances=[distance],
                batch_size=len(data.labels),
                shards=2,  # of one batch, the first: the second computes nothing
                shard=0 if run else 1,
                look_for_signs=False,
            ),
        )
    except Exception as error:  # one that fails must not end the run of the others
        print(f"{spec.label}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return None
    return found.rows[0] if found.complete else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adv-lib", default=None)
    parser.add_argument("--net", choices=[name for name in NETS if name.startswith("cifar")], default="cifar-resnet20")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--samples", type=int, nargs="+", default=[50], help="one number, or one for each of the steps")
    parser.add_argument("--distances", nargs="+", choices=DISTANCES, default=DISTANCES)
    parser.add_argument("--out", type=Path, default=Path("out/cifar"))
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    adv_lib(arguments.adv_lib)
    counts = arguments.samples * len(arguments.steps) if len(arguments.samples) == 1 else arguments.samples
    if len(counts) != len(arguments.steps):
        parser.error(f"--samples: takes one number or {len(arguments.steps)}, got {len(counts)}")
    model = load_net(arguments.net).requires_grad_(False)
    for steps, samples in zip(arguments.steps, counts):
        data = load_samples(arguments.net, samples)
        folder = arguments.out / f"{arguments.net}-{steps}x{samples}"
        print(f"\n{arguments.net}, {steps} steps, {samples} samples\n\n| {' | '.join(HEADER)} |", flush=True)
        print("|" + "---|" * len(HEADER), flush=True)
        for cell in cells(steps):
            if cell.distance in arguments.distances:
                place = folder / cell.distance / "".join(c if c.isalnum() else "-" for c in cell.name)
                ours, theirs = (
                    figures(spec, cell.distance, place / name, model, data, run=not arguments.table)
                    for name, spec in (("ours", cell.ours), (PEER, cell.theirs))
                )
                print(line(cell, ours, theirs), flush=True)


if __name__ == "__main__":
    main()
