"""Minimal l2 and l1 perturbations on MNIST, beside the authors' implementation, on a standard and a robust SmallCNN.

python benchmarks/mnist.py --data DIR_WITH_IDX_FILES [--adv-lib DIR] [--weights out/mnist] [--device cuda]

Trains the two networks of Table II-1 when ``--weights`` does not hold them (about 5 and 20 minutes on one core; the
robust one is the standard one trained on with 3-step DDN perturbations of an l2 norm about 1.5, after Eq. 3.9), then
prints one Markdown row per network, recipe and budget: success and median distance of both implementations on the
same samples at the same number of steps, and their ratio.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from peers import adv_lib, official_alma, official_ddn
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from constropt.lab.data.load import load_data
from constropt.lab.models.small import small_cnn
from constropt.lab.models.training import accuracy, train_classifier
from constropt.problems.attacks import alma, ddn
from constropt.problems.attacks.augmented_lagrangian import ema_for


def train_robust(model: nn.Module, inputs: Tensor, labels: Tensor, *, epochs: int, seed: int = 0) -> None:
    """Adversarial training in place: every batch is replaced by its DDN perturbations, as strong as 3 steps make
    them.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = -(-len(inputs) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=epochs * batches, pct_start=0.1)
    for epoch in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).to(inputs.device).split(128):
            perturbed = ddn(model, inputs[rows], labels[rows], steps=3, radius=1.5).x
            loss = nn.functional.cross_entropy(model(perturbed), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"  robust epoch {epoch + 1}/{epochs}", flush=True)


def models(
    names: list[str], weights: Path, data: str, device: str, epochs: int, robust_epochs: int
) -> dict[str, nn.Module]:
    """Both networks, trained where their weights are missing."""
    found: dict[str, nn.Module] = {}
    weights.mkdir(parents=True, exist_ok=True)
    train = test = None
    for name in names:
        torch.manual_seed(0)
        model, file = small_cnn().to(device), weights / f"small_cnn_{name}.safetensors"
        if file.exists():
            load_model(model, file, device=device)
        else:
            train = train or tuple(t.to(device) for t in load_data(f"mnist:{data}", split="train"))
            start = time.perf_counter()
            if name == "standard":
                train_classifier(model, *train, epochs=epochs, batch_size=128, lr=2e-3)
            else:
                load_model(model, weights / "small_cnn_standard.safetensors", device=device)
                train_robust(model, *train, epochs=robust_epochs)
            save_model(model, str(file))
            print(f"  trained {name} in {time.perf_counter() - start:.0f} s", flush=True)
        test = test or tuple(t.to(device) for t in load_data(f"mnist:{data}"))
        print(f"{name}: {100 * accuracy(model, *test):.2f} % on the 10,000 test images", flush=True)
        found[name] = model.eval()
    return found


def distances(model: nn.Module, inputs: Tensor, labels: Tensor, x: Tensor, p: int) -> Tensor:
    """``(batch,)``: the lp distances; infinite where a clean pass does not confirm the success."""
    with torch.no_grad():
        fooled = model(x).argmax(1) != labels
    return (x - inputs).flatten(1).norm(p=p, dim=1).masked_fill(~fooled, torch.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--adv-lib", default=None)
    parser.add_argument("--weights", type=Path, default=Path("out/mnist"))
    parser.add_argument("--networks", nargs="+", choices=("standard", "robust"), default=["standard", "robust"])
    parser.add_argument(
        "--recipes", nargs="+", choices=("ALMA l2", "ALMA l1", "DDN"), default=["ALMA l2", "ALMA l1", "DDN"]
    )
    parser.add_argument("--train-only", action="store_true", help="stop when the two networks are there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--robust-epochs", type=int, default=2)
    arguments = parser.parse_args()
    # exact float32 products: with TF32 both implementations would be re-verified on other logits than they saw
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    networks = models(
        arguments.networks,
        arguments.weights,
        arguments.data,
        arguments.device,
        arguments.epochs,
        arguments.robust_epochs,
    )
    if arguments.train_only:
        return
    adv_lib(arguments.adv_lib)
    images, labels = (t[: arguments.samples].to(arguments.device) for t in load_data(f"mnist:{arguments.data}"))
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(f"\n{arguments.samples} images, {device}, torch {torch.__version__}\n")
    print(
        "| network | recipe | steps | success | official | median | official | ratio | rows 1 % better / worse | time |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    cases = {
        "ALMA l2": (2, lambda *a, steps: alma(*a, distance="l2", steps=steps), official_alma("l2", 0.1, ema_for)),
        "ALMA l1": (1, lambda *a, steps: alma(*a, distance="l1", steps=steps), official_alma("l1", 0.5, ema_for)),
        "DDN": (2, lambda *a, steps: ddn(*a, steps=steps), official_ddn),
    }
    for name, model in networks.items():
        for recipe in arguments.recipes:
            p, ours, official = cases[recipe]
            for steps in arguments.steps:
                start = time.perf_counter()
                found = ours(model, images, labels, steps=steps).x
                middle = time.perf_counter()
                theirs = official(model, images, labels, steps)
                end = time.perf_counter()
                distance, reference = (distances(model, images, labels, x, p) for x in (found, theirs))
                better, worse = (
                    (d < 0.99 * e).float().mean() for d, e in ((distance, reference), (reference, distance))
                )
                print(
                    f"| {name} | {recipe} | {steps} | {distance.isfinite().float().mean():.3f} |"
                    f" {reference.isfinite().float().mean():.3f} | {distance.median():.4f} | {reference.median():.4f} |"
                    f" {distance.median() / reference.median():.4f} | {better:.2f} / {worse:.2f} |"
                    f" {(middle - start) / (end - middle):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
