"""A study of retrieval: losses x seeds on one data set, each run in a folder of its own, and what they found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from constropt.lab.models.embedders import Embedder
from constropt.lab.studies.columns import Column, average, layout, write_results
from constropt.lab.studies.metric_learning.methods import METHODS, build_loss, parse_loss
from constropt.lab.studies.metric_learning.study_data import (
    RetrievalData,
    RetrievalSettings,
    build_embedder,
    describe_network,
    retrieval_data,
)
from constropt.lab.studies.metric_learning.training import RetrievalTraining, embed, train_embedder
from constropt.lab.studies.study import Run, Study, complete, distinct, trained
from constropt.problems.metric_learning.retrieval import retrieval_metrics

KS = (1, 2, 4, 8, 16, 32)  # CUB and Cars; SOP has 1, 10, 100, 1000, In-Shop 1, 10, ..., 50
DISTANCES = ("cosine", "l2")
_GROUPS = {  # what is held against what, the best of each
    "CE": ("ce", "ce-plain"),
    "SPCE": ("spce", "spce-t"),
    "pairwise": ("contrastive", "triplet", "ms", "snca", "snca-bank", "nca", "fastap"),
}
_MAIN = ("R@1 cos", "R@8 cos", "R@1 l2", "MAP@R cos")  # what a terminal has room for
_SHORT = {"cosine": "cos", "l2": "l2"}
NOTES = (
    "mean ± standard deviation over seeds; a seed draws the unseen classes, the initial weights and the batches, the"
    " same for all losses of one sampling; R@k in per cent on classes that no run has trained on; cos: cosine, l2:"
    " Euclidean distance of the embeddings as they are"
)


def run_study(
    losses: Sequence[str],
    seeds: Sequence[int],
    *,
    out: str | Path,
    data: RetrievalSettings,
    training: RetrievalTraining,
    model: str | None = None,
    weights: Path | None = None,
    head_norm: bool = True,
    frozen: bool = False,
    ks: Sequence[int] = KS,
    device: torch.device | str = "cpu",
    fresh: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Study:
    """Train ``model`` with each of the ``losses`` (see :func:`parse_loss`) from each of the ``seeds``, and search.

    ``weights`` is a file of the feature extractor's own (safetensors or ``torch.load(weights_only=True)``); ``frozen``
    holds its batch normalisations, ``head_norm`` adds one (:class:`~constropt.lab.models.embedders.
    Embedder`). Each run leaves its weights, the history of its epochs and its figures in ``out``; a run that is there
    is not repeated, and one that was killed continues after its last epoch. ``ks`` beyond the gallery are left out.

    Raises ``ValueError`` for unknown losses, before anything is trained, for no losses or seeds, for a folder of a
    study with other settings (``fresh`` removes it), and as :func:`retrieval_data` and :func:`train_embedder`.
    """
    specs, chosen = distinct([parse_loss(text) for text in losses], seeds)
    first = retrieval_data(data, seed=chosen[0])
    network = build_embedder(model, first, weights=weights, head_norm=head_norm, frozen=frozen, seed=0)
    for spec in specs:  # what can't be built is said before hours of training
        build_loss(spec, num_classes=first.classes, dimension=network.dimension, samples=len(first.train.labels))
    settings = {
        "data": asdict(data),
        "model": describe_network(model),
        "weights": None if weights is None else str(weights),
        "head_norm": head_norm,
        "frozen": frozen,
        "dimension": network.dimension,
        "training": asdict(training),
        "ks": list(ks),
    }

    def run(run: Run, split: RetrievalData) -> dict[str, Any]:
        network = build_embedder(model, split, weights=weights, head_norm=head_norm, frozen=frozen, seed=run.seed)
        return _run(run, split, network.to(device), training, ks)

    return complete(
        specs,
        chosen,
        out=Path(out),
        settings=settings,
        data=lambda seed: first if seed == chosen[0] else retrieval_data(data, seed=seed),
        run=run,
        fresh=fresh,
        progress=progress,
    )


def _run(
    run: Run, data: RetrievalData, network: Embedder, training: RetrievalTraining, ks: Sequence[int]
) -> dict[str, Any]:
    """Train, unless the weights are there, and measure."""
    found: dict[str, Any] = {"data": data.fingerprint(), "classes": data.classes, "samples": len(data.train.labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)  # proxies and centers are drawn
        loss = build_loss(
            run.spec, num_classes=data.classes, dimension=network.dimension, samples=len(data.train.labels)
        )
    trained(
        run,
        network,
        lambda checkpoint: train_embedder(
            network,
            loss,
            data.train,
            training,
            validation=data.validation,
            seed=run.seed,
            checkpoint=checkpoint,
            progress=run.progress,
        ),
    )
    return found | measured(network, data, ks)


def measured(network: nn.Module, data: RetrievalData, ks: Sequence[int] = KS) -> dict[str, Any]:
    """All figures of a trained network: on the unseen classes by each of :data:`DISTANCES`, and Recall@1 (cosine) on
    the validation part where there is one.
    """
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


def columns(ks: Sequence[int] = KS) -> tuple[Column, ...]:
    """The columns of a table: recalls by the cosine, then l2, and MAP@R."""
    return (
        *(Column(f"R@{k} {_SHORT[name]}", (name, f"recall@{k}")) for name in DISTANCES for k in ks),
        *(Column(f"MAP@R {_SHORT[name]}", (name, "map@r")) for name in DISTANCES),
        Column("R@1 validation", ("validation",)),
    )


def described(study: Study) -> str:
    """Data, model and training of a study in one line."""
    training = study.settings["training"]
    some = next(iter(next(iter(study.results.values())).values()), {}) if study.results else {}
    parts = [
        study.settings["data"]["data"],
        f"{some.get('classes', '?')} classes to train on",
        f"{study.settings['model']}, d = {study.settings['dimension']}",
        f"{training['epochs']} epochs of {training['optimizer']} {training['lr']:g}, {training['schedule']}",
    ]
    return ", ".join(parts)


def remarks(study: Study) -> list[str]:
    """Whether cross-entropy is within a point of the best pairwise loss, and SPCE within two of cross-entropy."""
    recall = Column("R@1", ("cosine", "recall@1"))
    means = {
        method: average([value for value in map(recall.of, runs.values()) if value is not None])
        for method, runs in study.results.items()
    }
    named = {
        name: [method for method in means if parse_loss(method).reference in names] for name, names in _GROUPS.items()
    }
    best = {name: max(found, key=means.__getitem__) for name, found in named.items() if found}
    lines = []
    for one, other, slack in (("CE", "pairwise", 1), ("SPCE", "CE", 2)):
        if one in best and other in best:
            gap = 100 * (means[best[one]] - means[best[other]])
            holds = "holds" if gap >= -slack else "does not hold"
            what = f"{other} loss ({best[other]})" if other == "pairwise" else f"{other} ({best[other]})"
            lines.append(
                f"R@1 (cos) of {one} ({best[one]}) minus that of the best {what}: {gap:+.2f} points; not below by more"
                f" than {slack} {holds}"
            )
    return lines


def main_table(study: Study) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table that a terminal has room for."""
    return layout(study, METHODS, [column for column in columns((1, 8)) if column.header in _MAIN])


def write_report(study: Study) -> list[Path]:
    """Write ``results.md``, ``results.json`` and ``results.parquet``, a row per run, into the study's folder."""
    return write_results(
        study,
        METHODS,
        columns(study.settings["ks"]),
        title="Retrieval",
        described=described(study),
        remarks=remarks(study),
        notes=NOTES,
    )
