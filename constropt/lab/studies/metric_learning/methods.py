"""The losses by name, with the hyper-parameters of their papers."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from constropt.lab.runs.specs import RecipeSpec
from constropt.lab.studies.tables import Method, build, parse_method
from constropt.problems import metric_learning as losses
from constropt.problems.metric_learning.pairs import unit


class OnSphere(nn.Module):
    """``loss(z / ||z||, labels)``, for losses that compare embeddings as they are given.

    >>> import torch
    >>> loss = OnSphere(losses.Contrastive(margin=0.5))
    >>> bool(loss(2 * torch.eye(4), torch.tensor([0, 0, 1, 1])) == loss(torch.eye(4), torch.tensor([0, 0, 1, 1])))
    True
    """

    def __init__(self, loss: losses.SplitLoss) -> None:
        super().__init__()
        self.loss, self.needs_pairs = loss, loss.needs_pairs

    def forward(self, embeddings: Tensor, labels: Tensor, **context: Any) -> Tensor:
        return self.loss(unit(embeddings), labels, **context)


def _contrastive(margin: float = 1.0) -> OnSphere:
    return OnSphere(losses.Contrastive(margin))


def _triplet(margin: float = 0.2, mining: str = "semi-hard") -> OnSphere:
    return OnSphere(losses.Triplet(margin, mining=mining))


def _spce(temperature: float = 0.1, class_mean: bool = True, exclude_self: bool = True) -> OnSphere:
    return OnSphere(losses.SPCE(temperature, class_mean=class_mean, exclude_self=exclude_self))


def _bank(samples: int, dimension: int, sigma: float = 0.05, momentum: float = 0.5) -> losses.SNCA:
    return losses.SNCA(sigma, bank=losses.MemoryBank(samples, dimension, momentum))


METHODS: Mapping[str, Method] = {
    "ce": Method("CE (Sec. 2.5.3)", partial(losses.CrossEntropy, dropout=0.5, label_smoothing=0.1)),
    "ce-plain": Method("CE", losses.CrossEntropy), "spce": Method("SPCE", losses.SPCE),
    "spce-t": Method("SPCE (temperature)", _spce), "center": Method("Center", partial(losses.Center, weight=0.003)),
    "contrastive": Method("Contrastive", _contrastive), "triplet": Method("Triplet", _triplet),
    "ms": Method("Multi-Similarity", partial(losses.MultiSimilarity, margin=0.5, mining=0.1)),
    "snca": Method("SNCA", losses.SNCA), "snca-bank": Method("SNCA (memory bank)", _bank),
    "nca": Method("NCA", losses.NCA), "proxy-nca": Method("ProxyNCA", losses.ProxyNCA),
    "fastap": Method("FastAP", losses.FastAP),
}  # fmt: skip


def build_loss(spec: RecipeSpec | str, *, num_classes: int, dimension: int, samples: int) -> nn.Module:
    """The loss for embeddings of ``dimension`` features, of ``samples`` samples in ``num_classes`` classes, of which it
    gets what it takes. Raises ``ValueError`` for an unknown name or option and for a result that is no ``nn.Module``.

    >>> build_loss("proxy-nca", num_classes=5, dimension=8, samples=100).proxies.shape
    torch.Size([5, 8])
    """
    spec = parse_method(spec, METHODS, "loss") if isinstance(spec, str) else spec
    available = {"num_classes": num_classes, "dimension": dimension, "samples": samples}
    return build(spec, METHODS, available, what="loss")
