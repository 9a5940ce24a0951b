"""Neyman-Pearson, equal rates and region sizes on real data, each beside its baselines; Markdown tables.

python benchmarks/training_problems.py [--problems neyman-pearson fairness region-size] [--seeds 3]

A seed draws the split (or, for the road scenes, the labelled pixels), the initial weights and the batches. Tables show
the mean over seeds and, after +-, the standard deviation. Every method of a table sees the same splits, the same
optimizer and the same number of steps; no setting was chosen by these results.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from nets import data_folder
from torch import Tensor, nn
from torch.nn import functional

from constropt import AugmentedLagrangian, ConstantRho
from constropt.duals import keep
from constropt.lab.data.scenes import CAMVID_CLASSES, IGNORED, load_camvid
from constropt.lab.models.small import unet
from constropt.lab.models.training import predict
from constropt.problems.dense_metrics import mean_iou, pixel_accuracy
from constropt.problems.objectives import DemographicParity, EqualOpportunity, NeymanPearson, RegionSize, size_bounds
from constropt.training import ConstrainedLoss

Figures = dict[str, float]


class Split(NamedTuple):
    """Inputs, labels and (where there are any) groups of one part of a data set."""

    x: Tensor
    labels: Tensor
    group: Tensor


def cross_entropy(output: Tensor, target: Any) -> Tensor:
    """Of one score per sample, without constraints."""
    labels = target[0] if isinstance(target, tuple) else target
    return functional.binary_cross_entropy_with_logits(output.squeeze(1), labels.float())


def fit(
    model: nn.Module,
    criterion: ConstrainedLoss,
    train: tuple[Tensor, Any],
    held_out: tuple[Tensor, Any],
    *,
    seed: int,
    rounds: int = 40,
    steps: int = 15,
    batch: int = 64,
    lr: float = 2e-2,
) -> nn.Module:
    """Adam with a cosine step size, a dual update on ``held_out`` after every ``steps``, however large the data."""
    x, target = train
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds)
    for _ in range(rounds):
        for _ in range(steps):
            rows = torch.randperm(len(x), generator=generator)[:batch]
            part = tuple(t[rows] for t in target) if isinstance(target, tuple) else target[rows]
            optimizer.zero_grad()
            criterion(model(x[rows]), part).backward()
            optimizer.step()
        schedule.step()
        if criterion.constraints:
            criterion.update_duals(model, [held_out])
    return model.eval()


# ------------------------------------------------------------------------------------------------- Neyman-Pearson


def breast_cancer(seed: int) -> list[Split]:
    """Malignant (positive) against benign tumours, 30 features: 40 % to train, 30 % held out, 30 % to test."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    x, labels = torch.tensor(data.data, dtype=torch.float32), torch.tensor(1 - data.target)  # type: ignore[attr-defined]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    parts = order.split([228, 171, 170])
    x = (x - x[parts[0]].mean(0)) / x[parts[0]].std(0)
    return [Split(x[rows], labels[rows], labels[rows]) for rows in parts]


def shirts(seed: int) -> list[Split]:
    """Shirts (positive) against T-shirts of Fashion-MNIST: 2,000 to train, 2,000 held out, the test images."""
    with np.load(data_folder() / "fashion_mnist" / "fashion_mnist_40k.npz", allow_pickle=False) as arrays:
        images, labels, test_images, test_labels = (
            torch.from_numpy(arrays[name]) for name in ("train_images", "train_labels", "test_images", "test_labels")
        )

    def chosen(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        rows = (labels == 0) | (labels == 6)
        return images[rows].flatten(1).float() / 255 - 0.3, (labels[rows] == 6).long()

    x, y = chosen(images, labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    parts = [(x[rows], y[rows]) for rows in order[:4000].split(2000)]
    return [Split(x, y, y) for x, y in [*parts, chosen(test_images, test_labels)]]


def threshold_at(scores: Tensor, labels: Tensor, alpha: float) -> float:
    """The lowest threshold with at most a rate ``alpha`` of negatives above it."""
    negatives = scores[labels == 0].sort(descending=True).values
    return negatives[int(alpha * len(negatives))].item()


def errors(scores: Tensor, labels: Tensor, threshold: float) -> Figures:
    """False alarms and misses, in per cent."""
    alarm = scores > threshold
    return {
        "false alarms": 100 * alarm[labels == 0].float().mean().item(),
        "misses": 100 * (~alarm[labels == 1]).float().mean().item(),
    }


def neyman_pearson(splits: list[Split], alpha: float, seed: int, hidden: int) -> dict[str, Figures]:
    """Every way to meet a rate of false alarms, on one split."""
    train, held_out, test = splits
    found: dict[str, Figures] = {}
    losses = {"cross-entropy": ConstrainedLoss(cross_entropy, []), "NeymanPearson": NeymanPearson(alpha)}
    for name, criterion in losses.items():
        torch.manual_seed(seed)
        model = network(train.x.shape[1], hidden)
        fit(model, criterion, (train.x, train.labels), (held_out.x, held_out.labels), seed=seed)
        with torch.no_grad():
            known, scores = model(held_out.x).squeeze(1), model(test.x).squeeze(1)
        found[f"{name}, threshold 0"] = errors(scores, test.labels, 0.0)
        moved = threshold_at(known, held_out.labels, alpha)
        found[f"{name}, threshold moved"] = errors(scores, test.labels, moved)
    return found


def network(features: int, hidden: int) -> nn.Module:
    """Linear, or with one hidden layer."""
    if not hidden:
        return nn.Linear(features, 1)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))


# ------------------------------------------------------------------------------------------------------- fairness


def diabetes() -> Split:
    """Progression above the median, from 9 features without sex, which is the group."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    x = torch.tensor(data.data, dtype=torch.float32)  # type: ignore[attr-defined]
    labels = torch.tensor(data.target > np.median(data.target)).long()  # type: ignore[attr-defined]
    return Split(torch.cat([x[:, :1], x[:, 2:]], 1), labels, (x[:, 1] - 1).long())


def gap(decisions: Tensor, group: Tensor, among: Tensor) -> float:
    """The difference between the groups' rates of positive decisions, in points of per cent."""
    rates = [decisions[(group == g) & among].float().mean().item() for g in (0, 1)]
    return 100 * abs(rates[0] - rates[1])


def fairness(data: Split, kind: str, held: bool, eps: float, seed: int, hidden: int, folds: int = 3) -> Figures:
    """Decisions on all of the data, each by a network that has not seen the sample: cross-validation."""
    fold = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed)) % folds
    everyone, positive = torch.ones_like(data.labels, dtype=torch.bool), data.labels == 1
    unseen, seen, accuracy = torch.zeros_like(everyone), [], []
    for k in range(folds):
        test, known = fold == k, fold != k
        x = (data.x - data.x[known].mean(0)) / data.x[known].std(0)
        train = known & (fold != (k + 1) % folds) if held else known
        held_out = known & ~train if held else known
        criterion = {
            "none": ConstrainedLoss(cross_entropy, []),
            "parity": DemographicParity(2, eps),
            "opportunity": EqualOpportunity(2, eps),
        }[kind]
        torch.manual_seed(seed)
        model = network(x.shape[1], hidden)
        parts = [(x[rows], (data.labels[rows], data.group[rows])) for rows in (train, held_out)]
        fit(model, criterion, parts[0], parts[1], seed=seed)
        with torch.no_grad():
            decided = model(x).squeeze(1) > 0
        unseen[test] = decided[test]
        seen.append([gap(decided, data.group, train), gap(decided, data.group, train & positive)])
        accuracy.append(100 * (decided == positive)[train].float().mean().item())
    parity, opportunity = torch.tensor(seen).mean(0).tolist()
    return {
        "accuracy, train": sum(accuracy) / folds,
        "accuracy, unseen": 100 * (unseen == positive).float().mean().item(),
        "parity gap, train": parity,
        "parity gap, unseen": gap(unseen, data.group, everyone),
        "opportunity gap, train": opportunity,
        "opportunity gap, unseen": gap(unseen, data.group, positive),
    }


# ---------------------------------------------------------------------------------------------------- region sizes


def labelled_points(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Of each image and class ``per_class`` pixels keep their label."""
    generator = torch.Generator().manual_seed(seed)
    sparse = torch.full_like(labels, IGNORED)
    for full, kept in zip(labels.flatten(1), sparse.flatten(1)):
        for k in full[full != IGNORED].unique().tolist():
            pixels = (full == k).nonzero().flatten()
            kept[pixels[torch.randperm(len(pixels), generator=generator)[:per_class]]] = k
    return sparse


def quadratic(weight: float, pixels: int) -> RegionSize:
    """Kervadec's penalty, ``weight max(0, a - V)^2 / pixels`` for sizes V in pixels, as their code divides it.

    That is PHR with rho = 2 weight pixels for sizes in fractions, and a multiplier that stays at (next to) nothing.
    """
    fixed = AugmentedLagrangian("PHR", schedule=ConstantRho(), mu=1e-12, rho=2 * weight * pixels)
    return RegionSize(len(CAMVID_CLASSES), ignore_index=IGNORED, lagrangian=fixed, rule=keep)


def region_size(name: str, per_class: int, seed: int, *, images: int, epochs: int, size: tuple[int, int]) -> Figures:
    """A small U-Net trained on a few labelled pixels of CamVid, measured on complete label maps."""
    folder, classes = data_folder() / "camvid", len(CAMVID_CLASSES)
    x, full = (part[:images] for part in load_camvid(folder, "train", size=size))
    test = load_camvid(folder, "test", size=size)
    sparse, bounds = labelled_points(full, per_class, seed), size_bounds(full, classes, ignore_index=IGNORED)
    criterion = {
        "no sizes": lambda: RegionSize(classes, lower=0.0, ignore_index=IGNORED),  # always met
        "quadratic penalty, weight 0.01": lambda: quadratic(0.01, size[0] * size[1]),
        "RegionSize": lambda: RegionSize(classes, ignore_index=IGNORED),
    }[name]()
    torch.manual_seed(seed)
    model, generator = unet(classes, width=8), torch.Generator().manual_seed(seed)
    batches = math.ceil(images / 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, epochs * batches)
    paired = name != "no sizes"
    for _ in range(epochs):
        for rows in torch.randperm(images, generator=generator).split(8):
            mirrored = torch.rand(len(rows), generator=generator) < 0.5
            inputs = torch.where(mirrored[:, None, None, None], x[rows].flip(3), x[rows])
            labels = torch.where(mirrored[:, None, None], sparse[rows].flip(2), sparse[rows])
            optimizer.zero_grad()
            criterion(model(inputs), (labels, bounds[rows]) if paired else labels).backward()
            optimizer.step()
            cycle.step()
        if paired:
            parts = zip(x.split(20), sparse.split(20), bounds.split(20))
            criterion.update_duals(model, [(inputs, (labels, limits)) for inputs, labels, limits in parts])
    model.eval()
    with torch.no_grad():
        sizes = torch.cat([model(part).softmax(1).mean((2, 3)) for part in x.split(20)])
    outside = (bounds[..., 0] - sizes).clamp_min(0) + (sizes - bounds[..., 1]).clamp_min(0)
    seen, unseen = predict(model, x), predict(model, test.inputs)
    return {
        "mIoU, train": 100 * mean_iou(seen, full, classes),
        "mIoU, test": 100 * mean_iou(unseen, test.labels, classes),
        "pixels right, test": 100 * pixel_accuracy(unseen, test.labels),
        "outside the bounds, % of an image": 100 * outside.sum(1).mean().item(),
    }


# --------------------------------------------------------------------------------------------------------- tables


def table(title: str, rows: dict[str, list[Figures]]) -> None:
    """Mean and standard deviation over seeds, a line per method."""
    names = list(next(iter(rows.values()))[0])
    print(f"\n{title}\n\n| method | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for method, seeds in rows.items():
        cells = []
        for name in names:
            values = torch.tensor([figures[name] for figures in seeds])
            cells.append(f"{values.mean():.1f} +- {values.std(correction=min(1, len(values) - 1)):.1f}")
        print(f"| {method} | {' | '.join(cells)} |", flush=True)


def gathered(runs: Iterable[dict[str, Figures]]) -> dict[str, list[Figures]]:
    """The seeds of each method."""
    rows: dict[str, list[Figures]] = {}
    for run in runs:
        for method, figures in run.items():
            rows.setdefault(method, []).append(figures)
    return rows


def show_neyman_pearson(seeds: range) -> None:
    sets: list[tuple[str, Callable[[int], list[Split]], float, int]] = [
        ("breast cancer, linear", breast_cancer, 0.05, 0),
        ("breast cancer, linear", breast_cancer, 0.02, 0),
        ("shirts against T-shirts, linear", shirts, 0.05, 0),
        ("shirts against T-shirts, 32 hidden units", shirts, 0.05, 32),
    ]
    for name, load, alpha, hidden in sets:
        rows = gathered(neyman_pearson(load(seed), alpha, seed, hidden) for seed in seeds)
        table(f"Neyman-Pearson, {name}: false alarms at most {100 * alpha:g} %; test data, in per cent", rows)


def show_fairness(seeds: range) -> None:
    data, eps = diabetes(), 0.05
    for name, hidden in (("logistic regression", 0), ("16 hidden units", 16)):
        rows: dict[str, list[Figures]] = {}
        for kind in ("none", "parity", "opportunity"):
            for held in (False,) if kind == "none" else (False, True):
                where = "" if kind == "none" else ", duals on held-out data" if held else ", duals on training data"
                label = f"{'no constraint' if kind == 'none' else kind}{where}"
                rows[label] = [fairness(data, kind, held, eps, seed, hidden) for seed in seeds]
        table(f"Diabetes, groups by sex, {name}: gaps at most {100 * eps:g} points; in per cent", rows)


def show_region_size(seeds: range, per_class: int, images: int, epochs: int, size: tuple[int, int]) -> None:
    rows = {
        name: [region_size(name, per_class, seed, images=images, epochs=epochs, size=size) for seed in seeds]
        for name in ("no sizes", "quadratic penalty, weight 0.01", "RegionSize")
    }
    table(f"CamVid {size[0]}x{size[1]}, {images} images, {per_class} labelled pixel(s) per class and image", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    problems = ("neyman-pearson", "fairness", "region-size")
    parser.add_argument("--problems", nargs="+", choices=problems, default=problems)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", type=int, default=1, help="labelled pixels per class and image")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=40, help="of the segmentation")
    parser.add_argument("--size", type=int, nargs=2, default=[60, 80], help="height and width")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(arguments.seeds)
    if "neyman-pearson" in arguments.problems:
        show_neyman_pearson(seeds)
    if "fairness" in arguments.problems:
        show_fairness(seeds)
    if "region-size" in arguments.problems:
        height, width = arguments.size
        show_region_size(seeds, arguments.points, arguments.images, arguments.epochs, (height, width))


if __name__ == "__main__":
    main()
