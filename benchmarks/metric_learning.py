"""What PCE and SPCE cost beside their definitions, Recall@K beside the bare matrix product, and a loss beside its peer.

    python benchmarks/metric_learning.py [pce] [recall] [losses] [--gallery 10000] [--queries n]
        [--distances cosine l2] [--classes n ...] [--repeats 5] [--device cpu]

Every figure is a ratio of two times of one run, taken in turn after one call of each (but for --repeats 1), median
(least to most); on a processor it is CPU time, which a busy machine disturbs least:

- pce: forward and backward of PCE, SPCE at n = 4096, K = 1000, d = 512 over the O(n^2 d) formulas as written, the
  classifier's probabilities given to both, and the largest relative difference of the values in float64;
- recall: Recall@1 to 1000 on ``--gallery`` x 512 over the matrix products of the same chunks;
- losses: forward and backward of each pairwise loss at n = 512 over the product ``z z^T`` and its backward alone, and
  over pytorch-metric-learning's where it has the same loss and is installed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from constropt.problems import metric_learning
from constropt.problems.metric_learning.pairwise_cross_entropy import pce_parts


def timed(call: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def ratio(call: Callable[[], object], reference: Callable[[], object], repeats: int, device: str) -> str:
    """The time of ``call`` over that of ``reference``, and the reference's in milliseconds."""
    if repeats > 1:
        call(), reference()
    pairs = [(timed(call, device), timed(reference, device)) for _ in range(repeats)]
    ratios = [a / b for a, b in pairs]
    least = min(b for _, b in pairs) * 1e3
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) | {least:.1f} ms"


def with_backward(loss: Callable[[Tensor], Tensor], z: Tensor) -> Callable[[], object]:
    """A call that computes the loss and its gradient in z."""

    def call() -> tuple[Tensor, ...]:
        x = z.detach().requires_grad_()
        return torch.autograd.grad(loss(x), x)

    return call


def pce_as_written(z: Tensor, labels: Tensor, p: Tensor, lam: float) -> Tensor:
    """Eq. 2.12 with its pairs."""
    n = len(z)
    gram = z @ z.T
    tightness = -(gram * (labels[:, None] == labels)).sum() / (2 * lam * n**2)
    soft = (p.T @ z / n).square().sum() / (2 * lam)
    return tightness + (gram @ p / (lam * n)).logsumexp(1).mean() - soft


def spce_as_written(z: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Eq. 2.15 with its pairs, the sums over a class as a product with its indicators."""
    n = len(z)
    gram = z @ z.T
    tightness = -(gram * (labels[:, None] == labels)).sum() / n**2
    indicators = torch.nn.functional.one_hot(labels, classes).to(z)
    return tightness + (gram @ indicators / n).logsumexp(1).mean()


def spce_by_sums(z: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The same, the sums over a class by adding columns, the cheapest way to keep the pairs."""
    n = len(z)
    gram = z @ z.T
    sums = gram.new_zeros(n, classes).index_add(1, labels, gram) / n
    return -sums.gather(1, labels[:, None]).mean() + sums.logsumexp(1).mean()


def pce(repeats: int, device: str) -> None:
    n, classes, dimension = 4096, 1000, 512
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(n) % classes).to(device)
    centers = torch.randn(classes, dimension, generator=generator)
    z = 5 * (centers[labels.cpu()] + 0.5 * torch.randn(n, dimension, generator=generator)).to(device)
    p = torch.randn(n, classes, generator=generator).softmax(1).to(device)
    spce = metric_learning.SPCE()
    print(f"\nn = {n}, K = {classes}, d = {dimension}, forward and backward in z\n")
    print("| loss | time over the definition's | definition | relative difference, float64 |\n|---|---|---|---|")
    rows = (
        ("PCE", lambda x, p: sum(pce_parts(x, labels, p, 1.0)), lambda x, p: pce_as_written(x, labels, p, 1.0)),
        ("SPCE", lambda x, p: spce(x, labels), lambda x, p: spce_as_written(x, labels, classes)),
        ("SPCE, definition by sums", lambda x, p: spce(x, labels), lambda x, p: spce_by_sums(x, labels, classes)),
    )
    for name, fast, written in rows:
        a, b = fast(z.double(), p.double()), written(z.double(), p.double())
        figure = ratio(
            with_backward(lambda x, f=fast: f(x, p), z), with_backward(lambda x, f=written: f(x, p), z), repeats, device
        )
        print(f"| {name} | {figure} | {float((a - b).abs() / b.abs()):.1e} |", flush=True)


def recall(size: int, queries: int | None, distances: list[str], classes: list[int], repeats: int, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(size, 512, generator=generator), dim=1).to(device)
    asked = z if queries is None else z[torch.randperm(size, generator=generator)[:queries]]
    rows = max(16, 2 ** (24 if device == "cpu" else 27) // size)
    buffer = z.new_empty(rows, size)

    def product() -> None:
        for start in range(0, len(asked), rows):
            part = asked[start : start + rows]
            torch.mm(part, z.T, out=buffer[: len(part)])

    print(f"\n{len(asked)} queries, gallery {size} x 512, chunks of {rows} queries\n")
    print("| Recall@1, 10, 100, 1000 | time over the bare product's | product |\n|---|---|---|")
    for distance in distances:
        for count in classes or (size // 5, 100):
            labels = torch.randint(count, (size,), generator=generator).to(device)

            def call(labels: Tensor = labels, distance: str = distance) -> object:
                rest = () if queries is None else (z, labels)
                ks = (1, 10, 100, 1000)
                return metric_learning.recall_at_k(asked, labels[: len(asked)], *rest, ks=ks, distance=distance)

            print(f"| {distance}, {count} classes | {ratio(call, product, repeats, device)} |", flush=True)


def losses(repeats: int, device: str) -> None:
    n, dimension = 512, 128
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(n, dimension, generator=generator), dim=1).to(device)
    labels = (torch.arange(n) % 128).to(device)
    bare = with_backward(lambda x: (x @ x.T).square().sum(), z)
    peers = _peers()
    print(f"\nn = {n}, d = {dimension}, 4 samples a class, forward and backward\n")
    print("| loss | time over z z^T alone | z z^T | time over the peer's | peer |\n|---|---|---|---|---|")
    ours = {
        "Contrastive": metric_learning.Contrastive(),
        "SNCA": metric_learning.SNCA(0.2),
        "MultiSimilarity": metric_learning.MultiSimilarity(),
        "NCA": metric_learning.NCA(0.2, reduction="mean"),
        "FastAP": metric_learning.FastAP(),
        "Triplet, semi-hard": metric_learning.Triplet(),
        "Triplet, all": metric_learning.Triplet(mining="all"),
        "SPCE": metric_learning.SPCE(0.1, class_mean=True),
    }
    for name, loss in ours.items():
        call = with_backward(lambda x, loss=loss: loss(x, labels), z)
        beside = "- | -"
        if name in peers:
            theirs = peers[name]
            beside = ratio(call, with_backward(lambda x, theirs=theirs: theirs(x, labels), z), repeats, device)
        print(f"| {name} | {ratio(call, bare, repeats, device)} | {beside} |", flush=True)


def _peers() -> dict[str, Callable[..., Tensor]]:
    """The same losses of pytorch-metric-learning, none where it is not installed."""
    try:
        from pytorch_metric_learning import distances, losses, reducers
    except ImportError:
        return {}
    squared = distances.LpDistance(normalize_embeddings=False, power=2)
    return {
        "Contrastive": losses.ContrastiveLoss(),
        "SNCA": losses.NCALoss(5.0, distance=distances.CosineSimilarity()),
        "MultiSimilarity": losses.MultiSimilarityLoss(),
        "NCA": losses.SupConLoss(0.2),
        "FastAP": losses.FastAPLoss(),
        "Triplet, all": losses.TripletMarginLoss(0.2, distance=squared, reducer=reducers.MeanReducer()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["pce", "recall", "losses"], help="pce, recall, losses")
    parser.add_argument("--gallery", type=int, default=10_000)
    parser.add_argument("--queries", type=int, help="ask only so many, of the gallery (default: all of them)")
    parser.add_argument("--distances", nargs="+", default=["cosine", "l2"])
    parser.add_argument("--classes", nargs="+", type=int, default=[], help="default: a fifth of the gallery, and 100")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{torch.__version__}, {arguments.device}, one thread")
    if "pce" in arguments.parts:
        pce(arguments.repeats, arguments.device)
    if "recall" in arguments.parts:
        recall(
            arguments.gallery,
            arguments.queries,
            arguments.distances,
            arguments.classes,
            arguments.repeats,
            arguments.device,
        )
    if "losses" in arguments.parts:
        losses(arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
