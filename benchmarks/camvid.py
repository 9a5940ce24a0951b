"""Attacks on a small U-Net for the road scenes of CamVid, beside the authors' ALMA prox; the net is trained if missing.

python benchmarks/camvid.py [--data DIR_WITH_CAMVID] [--adv-lib DIR] [--size 88 120] [--goals untargeted targeted]

``DIR_WITH_CAMVID`` holds train, trainannot, val, ... (default: camvid in the folder that CONSTROPT_DATA names).
Training takes about 10 minutes on one core at 176x240, 3 at 88x120. Then every attack runs on the same images: success
(99 % of the labelled pixels), median and mean of the linf norm times 255 (a failure counts as 255, as in Table 5.1),
model passes.
Targeted: the scene as the network sees it, but cars, pedestrians, cyclists, signs and poles become road.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers import adv_lib, official_alma_prox
from torch import Tensor

from constropt.lab.attacks.counting import PassCounter, counted
from constropt.lab.data.scenes import CAMVID_CLASSES, load_camvid
from constropt.lab.models.small import UNet, unet
from constropt.lab.models.training import predict, train_segmenter
from constropt.lab.models.weights import load_model, save_weights
from constropt.problems.attacks import alma_prox, dag, fmn, pdpgd, pgd
from constropt.problems.dense_metrics import apsr, mean_iou, pixel_accuracy
from constropt.solution import Solution

OBJECTS, ROAD = (2, 6, 8, 9, 10), 3
DATA = Path(os.environ.get("CONSTROPT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def trained_unet(
    weights: Path,
    data: Path,
    size: tuple[int, int],
    *,
    epochs: int = 80,
    lr: float = 5e-3,
    batch_size: int = 4,
    seed: int = 0,
) -> UNet:
    """The network in eval mode, from ``weights``, or trained and written there where that file does not exist."""
    if not weights.exists():
        torch.manual_seed(seed)
        model, start = unet(len(CAMVID_CLASSES)), time.perf_counter()
        train_segmenter(
            model,
            *load_camvid(data, "train", size=size),
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            seed=seed,
            progress=lambda done, total, loss: print(f"  epoch {done}/{total}: loss {loss:.3f}", flush=True),
        )
        save_weights(model, weights)
        print(f"  trained in {time.perf_counter() - start:.0f} s", flush=True)
    model = load_model("constropt.lab.models.small:unet", weights)
    assert isinstance(model, UNet)
    return model


Attack = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]


def ours(recipe: Callable[..., Solution], **options: Any) -> Attack:
    """A recipe of constropt; its rows do not depend on their batch."""
    return lambda model, x, labels, targets: recipe(model, x, labels, targets=targets, **options).x


def official(size: float, steps: int) -> Attack:
    """The authors' code, image by image: it can't take images with different numbers of labelled pixels together."""

    def attack(model: Any, x: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        classes = labels if targets is None else targets
        run = official_alma_prox(size)
        images = zip(x.split(1), classes.split(1))
        return torch.cat([run(model, image, c, c != 255, targets is not None, steps) for image, c in images])

    return attack


def attacks(steps: int) -> dict[str, Attack]:
    """Everything that is compared; the baselines with the budgets and step sizes of Sec. 5.5.5."""
    return {
        "ALMA prox": ours(alma_prox, steps=steps),
        "official, 0.001": official(1e-3, steps),
        "official, 0.005": official(5e-3, steps),
        "official, 0.02": official(2e-2, steps),
        "DAG 0.003": ours(dag, size=0.003, steps=steps),
        "DAG 0.001": ours(dag, size=0.001, steps=steps),
        "FMN": ours(fmn, steps=steps),
        "PDPGD": ours(pdpgd, steps=steps),
        "PGD CE 13x40": ours(pgd, loss="ce", steps=40),
        "PGD DLR 13x40": ours(pgd, loss="dlr", steps=40),
    }


def chosen(model: UNet, images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Evenly spaced images on which the network sees at least 1 % objects, their labels, and the targets."""
    seen = torch.where(labels == 255, 255, predict(model, images))
    objects = torch.isin(seen, torch.tensor(OBJECTS))
    rows = (objects.flatten(1).float().mean(1) >= 0.01).nonzero().flatten()
    rows = rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()]
    return images[rows], labels[rows], torch.where(objects, ROAD, seen)[rows]


def compare(model: UNet, data: tuple[Tensor, Tensor, Tensor], targeted: bool, names: list[str], steps: int) -> None:
    """One row of the table per attack."""
    images, labels, goals = data
    targets = goals if targeted else None
    for name, attack in attacks(steps).items():
        if names and not any(part in name for part in names):
            continue
        counter, start = PassCounter(), time.perf_counter()
        with counted(model, counter) as watched:
            goal = (None,) * len(images) if targets is None else targets.split(4)
            batches = zip(images.split(4), labels.split(4), goal)
            x = torch.cat([attack(watched, *batch) for batch in batches])
        seconds = time.perf_counter() - start
        rate = apsr(predict(model, x), labels, targets=targets, mask=labels != 255)
        norms = (x - images).flatten(1).abs().amax(1).mul(255).masked_fill(rate < 0.99 - 1e-9, 255.0)
        print(
            f"| {'targeted' if targeted else 'untargeted'} | {name} | {(rate >= 0.99 - 1e-9).float().mean():.2f} |"
            f" {norms.quantile(0.5):.2f} | {norms.mean():.2f} | {counter.forwards / len(images):.0f} |"
            f" {1000 * seconds / counter.forwards:.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA / "camvid")
    parser.add_argument("--adv-lib", default=None)
    parser.add_argument("--weights", type=Path, default=Path("out/camvid"))
    parser.add_argument("--train-only", action="store_true", help="stop when the network is there")
    parser.add_argument("--size", type=int, nargs=2, default=[88, 120], help="height and width")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--goals", nargs="+", choices=("untargeted", "targeted"), default=["untargeted", "targeted"])
    parser.add_argument("--attacks", nargs="*", default=[], help="only those whose name contains one of these")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    size = (arguments.size[0], arguments.size[1])
    weights = arguments.weights / f"unet-{size[0]}x{size[1]}.safetensors"
    model = trained_unet(weights, arguments.data, size, epochs=arguments.epochs)
    for split in ("train", "val", "test"):
        images, labels = load_camvid(arguments.data, split, size=size)
        predictions = predict(model, images)
        print(
            f"{split}: {len(images)} images, pixel accuracy {pixel_accuracy(predictions, labels):.4f},"
            f" mean IoU {mean_iou(predictions, labels, len(CAMVID_CLASSES)):.4f}",
            flush=True,
        )
    if arguments.train_only:
        return
    adv_lib(arguments.adv_lib)
    model.requires_grad_(False)
    data = chosen(model, *load_camvid(arguments.data, "test", size=size), arguments.images)
    height, width = size
    print(f"\n{len(data[0])} test images, {arguments.steps} steps, {height}x{width}, torch {torch.__version__}\n")
    print(
        "| goal | attack | success | median linf x 255 | mean | forwards | ms a pass |\n|---|---|---|---|---|---|---|"
    )
    for goal in arguments.goals:
        compare(model, data, goal == "targeted", arguments.attacks, arguments.steps)


if __name__ == "__main__":
    main()
