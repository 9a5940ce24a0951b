"""What a step with CALS costs beside one with cross-entropy, and a dual pass beside a forward pass.

    python benchmarks/cals.py [--repeats 15]

Three models on random data, one thread: a ResNet-18 (64 channels, 32x32 images, batch 32, 10 classes), an MLP with
1,000 classes (512-512-1,000, batch 128), and the bare linear layer of it. Steps alternate between the two losses,
forward, backward and SGD each; printed are the ratios of the medians and of the fastest.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from timing import timed
from torch import nn

from constropt.lab.models.calibration import ResNet18
from constropt.problems.calibration import CALS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1000))
    cases = [
        ("ResNet-18, K = 10", ResNet18(10), torch.rand(32, 3, 32, 32), 10, repeats),
        ("MLP 512-512-1,000", mlp, torch.randn(128, 512), 1000, 10 * repeats),
        ("linear 512-1,000", nn.Linear(512, 1000), torch.randn(128, 512), 1000, 10 * repeats),
    ]
    print(f"torch {torch.__version__}, 1 thread\n")
    print("| model | step, CALS / CE (medians) | (fastest) | dual pass / forward pass |\n|---|---|---|---|")
    for name, model, inputs, classes, count in cases:
        labels = torch.randint(0, classes, (len(inputs),))
        entropy, cals = nn.CrossEntropyLoss(), CALS(classes, mu=0.1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def step(criterion: nn.Module, model=model, inputs=inputs, labels=labels, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()

        def forward(model=model, inputs=inputs) -> None:
            with torch.no_grad():
                model(inputs)

        def dual_pass(model=model, criterion=cals, batch=(inputs, labels)) -> None:
            criterion.update_duals(model, [batch])

        calls = [lambda: step(entropy), lambda: step(cals), forward, dual_pass]  # noqa: B023
        for call in calls:
            call()
        times = list(zip(*([timed(call) for call in calls] for _ in range(count))))
        median, fastest = ([f(series) for series in times] for f in (statistics.median, min))
        print(
            f"| {name} | {median[1] / median[0]:.3f} | {fastest[1] / fastest[0]:.3f} | {median[3] / median[2]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
