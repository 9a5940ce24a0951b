"""What a study of retrieval trains and measures: losses on unseen classes, by two distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from constropt.lab.models.embedders import Embedder
from constropt.lab.runs.specs import RecipeSpec
from constropt.lab.studies.epochs import History
from constropt.lab.studies.kind import Setup
from constropt.lab.studies.metric_learning.methods import build_loss
from constropt.lab.studies.metric_learning.study_data import (
    RetrievalData,
    RetrievalSettings,
    build_embedder,
    describe_network,
    retrieval_data,
)
from constropt.lab.studies.metric_learning.training import RetrievalTraining, embed, train_embedder
from constropt.lab.studies.study import Run
from constropt.problems.metric_learning.retrieval import retrieval_metrics

KS = (1, 2, 4, 8, 16, 32)  # CUB and Cars; SOP has 1, 10, 100, 1000, In-Shop 1, 10, ..., 50
DISTANCES = ("cosine", "l2")


@dataclass(frozen=True, kw_only=True)
class RetrievalSetup(Setup[RetrievalData, Embedder]):
    """``data`` with unseen classes, and the network that embeds it, as :func:`build_embedder` takes it.

    ``weights`` is a file of the feature extractor's own (safetensors or ``torch.load(weights_only=True)``); ``frozen``
    holds its batch normalisations, ``head_norm`` adds one (:class:`~constropt.lab.models.embedders.Embedder`). ``ks``
    of Recall@k beyond the gallery are left out. Raises as :func:`retrieval_data` and :func:`train_embedder`.
    """

    data: RetrievalSettings
    training: RetrievalTraining
    weights: Path | None = None
    head_norm: bool = True
    frozen: bool = False
    ks: Sequence[int] = KS

    def splits(self) -> Callable[[int], RetrievalData]:
        return lambda seed: retrieval_data(self.data, seed=seed)

    def network(self, split: RetrievalData, seed: int) -> Embedder:
        norms = {"head_norm": self.head_norm, "frozen": self.frozen}
        return build_embedder(self.model, split, weights=self.weights, seed=seed, **norms)

    def loss(self, spec: RecipeSpec, split: RetrievalData, network: Embedder) -> nn.Module:
        samples = len(split.train.labels)
        return build_loss(spec, num_classes=split.classes, dimension=network.dimension, samples=samples)

    def train(self, network: Embedder, loss: nn.Module, split: RetrievalData, run: Run, checkpoint: Path) -> History:
        return train_embedder(
            network, loss, split.train, self.training, validation=split.validation, seed=run.seed,
            checkpoint=checkpoint, progress=run.progress,
        )  # fmt: skip

    def measured(self, network: Embedder, split: RetrievalData) -> dict[str, Any]:
        found = {"data": split.fingerprint(), "classes": split.classes, "samples": len(split.train.labels)}
        return found | measured(network, split, self.ks)

    def settings(self, split: RetrievalData, network: Embedder) -> dict[str, Any]:
        return {
            "data": asdict(self.data), "model": describe_network(self.model),
            "weights": None if self.weights is None else str(self.weights), "head_norm": self.head_norm,
            "frozen": self.frozen, "dimension": network.dimension, "training": asdict(self.training),
            "ks": list(self.ks),
        }  # fmt: skip

    def located(self, root: Path) -> RetrievalSetup:
        return replace(self, data=replace(self.data, data=self.data.data.format(root)))


def measured(network: nn.Module, data: RetrievalData, ks: Sequence[int] = KS) -> dict[str, Any]:
    """All figures of a network: on unseen classes by each of :data:`DISTANCES`, Recall@1 (cosine) on validation."""
    query = embed(network, data.query.images), data.query.labels
    gallery = (None, None) if data.gallery is None else (embed(network, data.gallery.images), data.gallery.labels)
    largest = len(query[0]) - 1 if gallery[0] is None else len(gallery[0])
    kept = [k for k in ks if k <= largest]
    found: dict[str, Any] = {}
    for distance in DISTANCES:
        metrics = retrieval_metrics(*query, *gallery, ks=kept, distance=distance)
        found[distance] = {f"recall@{k}": value for k, value in metrics.recall.items()}
        found[distance] |= {"map@r": metrics.map_at_r, "r-precision": metrics.r_precision}
    if data.validation is not None:
        validation = embed(network, data.validation.images), data.validation.labels
        found["validation"] = retrieval_metrics(*validation, ks=(1,)).recall[1]
    return found
