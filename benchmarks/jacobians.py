"""The gradients of all classes in one batched call, beside the loops over classes that attacks are written with.

    python benchmarks/jacobians.py [--networks SmallCNN ...] [--batches 10 50 100 500] [--repeats 3]

For each network (10 classes, random weights, one thread) and batch the median, minimum and maximum over interleaved
repetitions of the time of DeepFool's and FAB's Jacobian (the nine class gaps, forward pass included), and of JSMA's
(the target's logit and the sum of the others), over the time of three loops over the ten classes:

- ``grad``: one forward pass, then ``torch.autograd.grad`` of each logit: nothing but the arithmetic;
- ``backward``: one forward pass, then ``logits.backward`` for each class, as in AutoAttack and torchattacks: it
  computes the gradients of the parameters too;
- ``forward``: a forward and a backward pass for each class, as in Foolbox.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from constropt.gradients import jacobian
from constropt.lab.models.small import small_cnn
from constropt.problems.attacks.constraints import class_gaps

CLASSES = 10
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 784-256-256-10": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES)
        ),
        (1, 28, 28),
    ),
    "MadryCNN (tiny)": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(4, 8, 5, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(392, 128),
            nn.ReLU(),
            nn.Linear(128, CLASSES),
        ),
        (1, 28, 28),
    ),
    "SmallCNN": (small_cnn, (1, 28, 28)),
}


def gaps(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """DeepFool's and FAB's: the gradients of the differences to the label's logit."""
    x = inputs.clone().requires_grad_(True)
    return jacobian(class_gaps(model(x), labels), x)


def saliency(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """JSMA's: the gradient of one logit and of the sum of the others."""
    x = inputs.clone().requires_grad_(True)
    logits = model(x)
    one = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return jacobian(torch.stack([one, logits.sum(1) - one], 1), x)


def loop_grad(model: nn.Module, inputs: Tensor) -> Tensor:
    x = inputs.clone().requires_grad_(True)
    logits = model(x)
    return torch.stack(
        [torch.autograd.grad(logits[:, k].sum(), x, retain_graph=k < CLASSES - 1)[0] for k in range(CLASSES)]
    )


def loop_backward(model: nn.Module, inputs: Tensor) -> Tensor:
    x = inputs.clone().requires_grad_(True)
    logits, gradients, mask = model(x), [], torch.zeros(len(inputs), CLASSES)
    for k in range(CLASSES):
        x.grad, mask[:, k] = None, 1
        logits.backward(mask, retain_graph=k < CLASSES - 1)
        mask[:, k] = 0
        assert isinstance(x.grad, Tensor)
        gradients.append(x.grad)
    model.zero_grad()
    return torch.stack(gradients)


def loop_forward(model: nn.Module, inputs: Tensor) -> Tensor:
    x = inputs.clone().requires_grad_(True)
    return torch.stack([torch.autograd.grad(model(x)[:, k].sum(), x)[0] for k in range(CLASSES)])


def timed(function: Callable[..., object], *arguments: object, least: float = 0.05) -> float:
    """Seconds a call, over as many calls as take ``least`` seconds."""
    start, calls = time.perf_counter(), 0
    while True:
        function(*arguments)
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= least:
            return elapsed / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batches", type=int, nargs="+", default=[10, 50, 100, 500])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loops = {"grad": loop_grad, "backward": loop_backward, "forward": loop_forward}
    print(f"one thread, torch {torch.__version__}\n")
    print("| network | batch | DeepFool, FAB / " + " | / ".join(loops) + " | JSMA / " + " | / ".join(loops) + " |")
    print("|---|---|" + 6 * "---|")
    for name in arguments.networks:
        build, shape = NETWORKS[name]
        model = build().eval()
        for batch in arguments.batches:
            inputs, labels = torch.rand(batch, *shape), torch.randint(CLASSES, (batch,))
            expected = loop_grad(model, inputs)
            rows = torch.arange(batch)
            torch.testing.assert_close(saliency(model, inputs, labels)[0], expected[labels, rows])
            first = torch.where(labels == 0, 1, 0)
            difference = expected[labels, rows] - expected[first, rows]
            torch.testing.assert_close(gaps(model, inputs, labels)[0], difference, rtol=1e-3, atol=1e-5)
            ratios: list[list[float]] = [[] for _ in range(2 * len(loops))]
            for _ in range(arguments.repeats):
                ours = [timed(own, model, inputs, labels) for own in (gaps, saliency)]
                times = [timed(loop, model, inputs) for loop in loops.values()]
                for column, (own, loop) in zip(ratios, [(o, t) for o in ours for t in times]):
                    column.append(own / loop)
            cells = (f"{statistics.median(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in ratios)
            print(f"| {name} | {batch} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
