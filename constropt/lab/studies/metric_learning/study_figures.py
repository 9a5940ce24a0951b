"""Figures of a retrieval study: a map of the unseen classes for every loss."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from constropt.lab.studies.methods import title_of
from constropt.lab.studies.metric_learning.figures import embedding_map
from constropt.lab.studies.metric_learning.methods import METHODS
from constropt.lab.studies.metric_learning.study_data import (
    RetrievalData,
    RetrievalSettings,
    build_embedder,
    retrieval_data,
)
from constropt.lab.studies.metric_learning.training import embed
from constropt.lab.studies.study import Study, outdated
from constropt.plotting import require_matplotlib
from constropt.problems.metric_learning.pairs import unit
from constropt.weights import load_weights


def write_figures(study: Study) -> list[Path]:
    """Write ``map-LOSS.png`` into the study's folder: the normalised embeddings of the unseen classes along their first
    two principal components, for the lowest seed of each loss; maps that are newer than their weights are kept.

    Raises :class:`~constropt.lab.MissingExtra` without matplotlib.
    """
    require_matplotlib()
    settings = study.settings
    given = RetrievalSettings(**{field.name: settings["data"][field.name] for field in fields(RetrievalSettings)})
    splits: dict[int, RetrievalData] = {}
    written = []
    for method, runs in study.results.items():
        seed = min(runs)
        weights = study.weights(method, seed)
        path = study.out / f"map-{weights.parent.name.rpartition('-')[0]}.png"
        written.append(path)
        if not outdated(path, [weights]):
            continue
        if seed not in splits:
            splits[seed] = retrieval_data(given, seed=seed)
        data = splits[seed]
        network = build_embedder(
            settings["model"], data, head_norm=settings["head_norm"], frozen=settings["frozen"], seed=seed
        )
        network.load_state_dict(load_weights(weights))
        embedding_map(
            unit(embed(network, data.query.images)), data.query.labels, path=path, title=title_of(method, METHODS)
        )
    return written
