"""What a study of retrieval found: the columns of its tables, one sentence per comparison, a map for every loss."""

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path

from constropt.lab.runs.specs import parse_recipe
from constropt.lab.studies.metric_learning.figures import embedding_map
from constropt.lab.studies.metric_learning.methods import METHODS
from constropt.lab.studies.metric_learning.study import DISTANCES, KS, embed
from constropt.lab.studies.metric_learning.study_data import RetrievalSettings, build_embedder, retrieval_data
from constropt.lab.studies.study import Study, outdated
from constropt.lab.studies.tables import Column, average, title_of
from constropt.plotting import require_matplotlib
from constropt.problems.metric_learning.pairs import unit
from constropt.weights import load_weights

_GROUPS = {  # what is held against what, the best of each
    "CE": ("ce", "ce-plain"), "SPCE": ("spce", "spce-t"),
    "pairwise": ("contrastive", "triplet", "ms", "snca", "snca-bank", "nca", "fastap"),
}  # fmt: skip
_SHORT = {"cosine": "cos", "l2": "l2"}
NOTES = (
    "mean ± standard deviation over seeds; a seed draws the unseen classes, the initial weights and the batches, the"
    " same for all losses of one sampling; R@k in per cent on classes that no run has trained on; cos: cosine, l2:"
    " Euclidean distance of the embeddings as they are"
)


def columns(ks: Sequence[int] = KS) -> tuple[Column, ...]:
    """The columns of a table: recalls by the cosine, then l2, and MAP@R."""
    return (
        *(Column(f"R@{k} {_SHORT[name]}", (name, f"recall@{k}")) for name in DISTANCES for k in ks),
        *(Column(f"MAP@R {_SHORT[name]}", (name, "map@r")) for name in DISTANCES),
        Column("R@1 validation", ("validation",)),
    )


# what a terminal has room for
MAIN = [column for column in columns((1, 8)) if column.header in ("R@1 cos", "R@8 cos", "R@1 l2", "MAP@R cos")]


def described(study: Study) -> str:
    """Data, model and training of a study in one line."""
    settings, training = study.settings, study.settings["training"]
    some = next((run for runs in study.results.values() for run in runs.values()), {})
    classes, network = some.get("classes", "?"), f"{settings['model']}, d = {settings['dimension']}"
    epochs = f"{training['epochs']} epochs of {training['optimizer']} {training['lr']:g}, {training['schedule']}"
    return f"{settings['data']['data']}, {classes} classes to train on, {network}, {epochs}"


def remarks(study: Study) -> list[str]:
    """Whether cross-entropy is within a point of the best pairwise loss, and SPCE within two of cross-entropy."""
    recall = Column("R@1", ("cosine", "recall@1"))
    found = {method: [recall.of(run) for run in runs.values()] for method, runs in study.results.items()}
    means = {method: average([value for value in values if value is not None]) for method, values in found.items()}
    best: dict[str, str] = {}
    for name, names in _GROUPS.items():
        if among := [method for method in means if parse_recipe(method).reference in names]:
            best[name] = max(among, key=means.__getitem__)
    lines = []
    for one, other, what, slack in (("CE", "pairwise", "pairwise loss", 1), ("SPCE", "CE", "CE", 2)):
        if one in best and other in best:
            gap = 100 * (means[best[one]] - means[best[other]])
            claim = f"not below by more than {slack} {'holds' if gap >= -slack else 'does not hold'}"
            pair = f"R@1 (cos) of {one} ({best[one]}) minus that of the best {what} ({best[other]})"
            lines.append(f"{pair}: {gap:+.2f} points; {claim}")
    return lines


def write_figures(study: Study) -> list[Path]:
    """Write ``map-LOSS.png`` into the study's folder: the normalised embeddings of the unseen classes along their first
    two principal components, for the lowest seed of each loss; maps that are newer than their weights are kept. Raises
    :class:`~constropt.lab.MissingExtra` without matplotlib.
    """
    require_matplotlib()
    settings = study.settings
    given = RetrievalSettings(**{field.name: settings["data"][field.name] for field in fields(RetrievalSettings)})
    split = cache(lambda seed: retrieval_data(given, seed=seed))
    written = []
    for method, runs in study.results.items():
        seed = min(runs)
        weights = study.weights(method, seed)
        path = study.out / f"map-{weights.parent.name.rpartition('-')[0]}.png"
        written.append(path)
        if not outdated(path, [weights]):
            continue
        data, norms = split(seed), {name: settings[name] for name in ("head_norm", "frozen")}
        network = build_embedder(settings["model"], data, seed=seed, **norms)
        network.load_state_dict(load_weights(weights))
        embedded = unit(embed(network, data.query.images))
        embedding_map(embedded, data.query.labels, path=path, title=title_of(method, METHODS))
    return written
