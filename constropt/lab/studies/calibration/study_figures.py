"""Figures of a study: a reliability diagram for every method, and the multipliers over the epochs of those that learn
them.
"""

from __future__ import annotations

from pathlib import Path

from constropt.lab.studies.calibration.methods import METHODS
from constropt.lab.studies.calibration.study_data import DataSettings, StudyPools, build_network, load_pools
from constropt.lab.studies.calibration.training import predict
from constropt.lab.studies.methods import title_of
from constropt.lab.studies.study import Study, outdated, read_history
from constropt.plotting import require_matplotlib
from constropt.problems.calibration.diagrams import multiplier_curves, reliability_diagram
from constropt.weights import load_weights

_BINS = 25  # of the diagrams, as in Fig. V-2


def write_figures(study: Study) -> list[Path]:
    """Write ``reliability-METHOD.png`` (Fig. V-2) and ``multipliers-METHOD.png``, the held-out ECE of every method
    beside them (Fig. 6.3 and V-1), into the study's folder, for the lowest seed of each method; those that are newer
    than the weights that they show are kept.

    Raises :class:`~constropt.lab.MissingExtra` without matplotlib.
    """
    require_matplotlib()
    written = []
    seeds = {method: min(runs) for method, runs in study.results.items()}
    weights = {method: study.weights(method, seed) for method, seed in seeds.items()}
    histories = {method: read_history(study, method, seed) for method, seed in seeds.items()}
    pools: StudyPools | None = None
    for method, seed in seeds.items():
        name = study.folder(method, seed).name.rpartition("-")[0]
        written.append(study.out / f"reliability-{name}.png")
        if outdated(written[-1], [weights[method]]):
            pools = pools or load_pools(_data(study))
            data = pools.split(seed)
            network = build_network(study.settings["model"], data, seed=seed)
            network.load_state_dict(load_weights(weights[method]))
            reliability_diagram(
                predict(network, data.test.inputs),
                data.test.labels,
                from_logits=True,
                bins=_BINS,
                ignore_index=data.ignore_index,
                path=written[-1],
                title=title_of(method, METHODS),
            )
        multipliers = histories[method].get("multipliers")
        if multipliers is not None and bool((multipliers != multipliers[0]).any()):
            written.append(study.out / f"multipliers-{name}.png")
            if outdated(written[-1], weights.values()):
                errors = {title_of(m, METHODS): history["ece"].tolist() for m, history in histories.items()}
                multiplier_curves(multipliers, path=written[-1], ece=errors)
    return written


def _data(study: Study) -> DataSettings:
    found = study.settings["data"]
    return DataSettings(**{name: found[name] for name in DataSettings.__dataclass_fields__})
