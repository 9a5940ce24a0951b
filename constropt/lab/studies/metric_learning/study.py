"""What a study of retrieval trains, by the recipe of Sec. 2.5.3, and measures: on unseen classes, by two distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from constropt.checks import require_whole
from constropt.lab.data.retrieval_sets import class_batches, classes_each
from constropt.lab.models.embedders import Embedder
from constropt.lab.runs.specs import RecipeSpec
from constropt.lab.studies.epochs import AUGMENTATIONS, OPTIMIZERS, History, TrainingSettings, run_epochs, shuffled
from constropt.lab.studies.kind import Setup
from constropt.lab.studies.metric_learning.methods import OnSphere, build_loss
from constropt.lab.studies.metric_learning.study_data import (
    Images,
    RetrievalData,
    RetrievalSettings,
    Samples,
    build_embedder,
    describe_network,
    retrieval_data,
)
from constropt.lab.studies.study import Run
from constropt.modes import evaluating
from constropt.problems.metric_learning.neighbours import SNCA, MemoryBank
from constropt.problems.metric_learning.retrieval import recall_at_k, retrieval_metrics

RECALL = "recall"  # Recall@1 on the validation part, cosine


@dataclass(frozen=True)
class RetrievalTraining(TrainingSettings):
    """The optimizer of Sec. 2.5.3.5: SGD with Nesterov's momentum, weight decay 0.0005 on weights only.

    ``lr`` 0.02 and ``momentum`` 0 are those of CUB (Cars 0.05 and 0; SOP and In-Shop 0.003 and 0.99). ``batch_size`` is
    128 (Sec. 2.5.3.2). Losses that need pairs get batches of ``per_class`` samples a class, others plain ones, as in
    the thesis; ``per_class`` None makes all of them plain.
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float | None = 0.02
    schedule: str = "constant"
    momentum: float = 0.0
    per_class: int | None = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: takes a value in [0, 1), got {self.momentum!r}")
        if self.per_class is not None:
            require_whole(2, per_class=self.per_class)
            classes_each(self.batch_size, self.per_class)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the parameters of ``model`` that have a gradient; biases and the like do not decay."""
        options = self.options()
        if self.optimizer == "sgd":
            options |= {"momentum": self.momentum, "nesterov": self.momentum > 0}
        decay = options.pop("weight_decay")
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in learned if p.dim() > 1], "weight_decay": decay},
            {"params": [p for p in learned if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return OPTIMIZERS[self.optimizer](groups, **options)


def train_embedder(
    model: nn.Module, criterion: nn.Module, data: Samples, settings: RetrievalTraining, *,
    validation: Samples | None = None, seed: int = 0, checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> History:  # fmt: skip
    """Minimise ``criterion(model(images), labels)`` over the parameters of both, in place; both end in eval mode.

    What :func:`~constropt.lab.studies.epochs.run_epochs` says of seeds and checkpoints holds. With ``validation``,
    classes that are not trained on, the history has their Recall@1 (cosine) after each epoch. A loss with a
    :class:`~constropt.problems.metric_learning.MemoryBank` is given the places of its samples, and the bank updated.
    Raises ``ValueError`` as ``run_epochs``, and for images and labels of different number.

    >>> from constropt.problems.metric_learning import MultiSimilarity
    >>> data = Samples(torch.rand(40, 1, 8, 8), torch.arange(40) % 4)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    >>> settings = RetrievalTraining(epochs=2, batch_size=16)
    >>> len(train_embedder(model, MultiSimilarity(), data, settings))
    2
    """
    if len(data.labels) != len(data.images) or not len(data.labels):
        raise ValueError(f"data: takes labelled images, got {len(data.images)} images and {len(data.labels)} labels")
    device = next(model.parameters()).device
    criterion.to(device)
    images = data.images.to(device) if isinstance(data.images, Tensor) else data.images
    labels = data.labels.to(device)
    change = AUGMENTATIONS[settings.augment]
    bank, seen = memory_bank(criterion), []

    def batches() -> Sequence[Tensor]:
        # a memory bank has the pairs, and takes a sample once a batch
        if settings.per_class is not None and bank is None and getattr(criterion, "needs_pairs", False):
            return class_batches(data.labels, settings.batch_size, settings.per_class)
        return shuffled(len(labels), settings.batch_size)

    def loss_of(rows: Tensor) -> Tensor:
        embeddings = model(change(images[rows].to(device)))
        rows = rows.to(device)
        if bank is None:
            return criterion(embeddings, labels[rows])
        seen[:] = [rows, embeddings.detach(), labels[rows]]
        return criterion(embeddings, labels[rows], indices=rows)

    def remember() -> None:
        if bank is not None:  # only now: the step's gradient came from what the bank held
            bank.update(*seen)

    def look(history: History) -> None:
        if validation is not None:
            found = recall_at_k(embed(model, validation.images), validation.labels, ks=(1,), distance="cosine")
            history.add(**{RECALL: found[1]})

    parts = {"model": model, "criterion": criterion}
    history = run_epochs(
        parts, settings.build(nn.ModuleList(parts.values())), settings, batches=batches, loss_of=loss_of, look=look,
        stepped=remember, seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    model.eval()
    criterion.eval()
    return history


def memory_bank(criterion: nn.Module) -> MemoryBank | None:
    """The memory bank of a loss; None for those without."""
    inner = criterion.loss if isinstance(criterion, OnSphere) else criterion
    return inner.bank if isinstance(inner, SNCA) else None


@torch.no_grad()
def embed(model: nn.Module, images: Images, *, batch_size: int = 256) -> Tensor:
    """The embeddings ``(samples, d)`` of ``images`` in eval mode, on the CPU; modes are put back.

    >>> embed(nn.Flatten(), torch.zeros(3, 1, 2, 2)).shape
    torch.Size([3, 4])
    """
    device = next(model.parameters(), torch.empty(0)).device
    rows = torch.arange(len(images)).split(batch_size)
    with evaluating(model):
        return torch.cat([model(images[part].to(device)).float().cpu() for part in rows])


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
