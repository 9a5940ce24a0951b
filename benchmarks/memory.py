"""Peak memory of ALMA prox at 1024x2048 over that of one plain gradient of the model: two million constraints, batch 1.

python benchmarks/memory.py [--size 1024 2048] [--width 16] [--steps 3]

Every case runs in a process of its own; the peak is that of the resident memory, less what the process held before its
first model call (torch, the model, the image and its labels).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys

import torch

from constropt.lab.models.small import unet
from constropt.problems.attacks import alma_prox

CASES = ("plain gradient", "ALMA prox")
# glibc keeps freed blocks of up to 32 MiB; with a fixed threshold the resident memory is that of live tensors
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def resident() -> float:
    """The peak so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(case: str, height: int, width: int, channels: int, steps: int) -> float:
    """MiB on top of the model and its input."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = unet(19, width=channels).eval().requires_grad_(False)
    x, labels = torch.rand(1, 3, height, width), torch.randint(0, 19, (1, height, width))
    before = resident()
    if case == "plain gradient":
        x.requires_grad_(True)
        torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), labels), x)
    else:
        alma_prox(model, x, labels, steps=steps)
    return resident() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 2048])
    parser.add_argument("--width", type=int, default=16, help="channels of the U-Net's first level")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(measure(arguments.case, *arguments.size, arguments.width, arguments.steps))
        return
    peaks = {}
    for case in CASES:
        command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **MALLOC})
        peaks[case] = float(done.stdout.split()[-1])
    print("| case | peak, MiB | over the plain gradient |\n|---|---|---|")
    for case, peak in peaks.items():
        print(f"| {case} | {peak:.0f} | {peak / peaks['plain gradient']:.2f} |")


if __name__ == "__main__":
    main()
