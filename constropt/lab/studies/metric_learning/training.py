"""Train an embedding network by the recipe of Sec. 2.5.3: any loss on embeddings, validated by Recall@1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from constropt.checks import require_whole
from constropt.lab.data.retrieval_sets import class_batches, classes_each
from constropt.lab.studies.epochs import AUGMENTATIONS, OPTIMIZERS, History, TrainingSettings, run_epochs, shuffled
from constropt.lab.studies.metric_learning.methods import OnSphere
from constropt.lab.studies.metric_learning.study_data import Images, Samples
from constropt.modes import evaluating
from constropt.problems.metric_learning.neighbours import SNCA, MemoryBank
from constropt.problems.metric_learning.retrieval import recall_at_k

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
